"""Outcomes that several logs tell: the router's own store, LiteLLM's logs and Langfuse, put together by the decision's id.

Each outcome counts once, as the first of these three has it that tells it, whichever log was given first. What that row lacks,
a quality with its source or a cost, comes from the others; nothing that it has is replaced but a weak quality by a judgement.
For this every row is learned before the first is settled: 24 bytes for an outcome, 16 for each value that was told of it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.dataset.label import judged_quality
from training.logs.outcomes import Outcomes
from training.logs.repeated.known import Hashes, Known, hashes_of
from training.logs.typed import Mask

_STORE, _LITELLM, _LANGFUSE, _OTHER = 3, 2, 1, 0
_RANKS = {"decisions": _STORE, "litellm": _LITELLM, "litellm-spend": _LITELLM, "langfuse": _LANGFUSE}

Floats = NDArray[np.float64]


def overlap(formats: Collection[str]) -> bool:
    """Whether logs of these formats may tell the same outcomes."""
    ranks = {_RANKS.get(name, _OTHER) for name in formats}
    return len(ranks) > 1 and (_STORE in ranks or ranks >= {_LITELLM, _LANGFUSE})


@dataclass(frozen=True)
class _Told:
    """What the logs of one rank tell of outcomes, by their hashes; numbers are held as their bits."""

    outcomes: Known = field(default_factory=Known)
    judged: Known = field(default_factory=Known)
    weak: Known = field(default_factory=Known)
    judged_source: Known = field(default_factory=Known)
    weak_source: Known = field(default_factory=Known)
    cost: Known = field(default_factory=Known)


class Told:
    """What all logs together tell of each outcome, and by that which of their rows count.

    A decision's id is the request's in all of them; that a log of another kind has the same candidate on the same request
    says nothing, unless the store has it.
    """

    def __init__(self) -> None:
        self._ranks = {rank: _Told() for rank in sorted(_RANKS.values(), reverse=True)} | {_OTHER: _Told()}
        self._filled = Known()
        self._sources: list[str] = []
        self._undecided = 0
        self._store = False

    def learn(self, part: Outcomes) -> None:
        """Takes in some rows of a log."""
        rank, frame = _rank(part.formats), part.frame
        told, outcomes = self._ranks[rank], _outcomes(frame)
        self._store = self._store or rank == _STORE
        if rank == _LANGFUSE:
            self._undecided += int(_undecided(part).sum())
        _add(told.outcomes, outcomes, np.zeros(len(frame), dtype=np.uint64))
        answered = ~_errors(frame)
        judged, quality = _numbers(judged_quality(frame)), _numbers(frame["quality"])
        weak = np.isnan(judged) & ~np.isnan(quality)
        for values, sources, of, which in (
            (told.judged, told.judged_source, judged, ~np.isnan(judged)),
            (told.weak, told.weak_source, quality, weak),
        ):
            rows = answered & which
            _add(values, outcomes[rows], of[rows].view(np.uint64))
            _add(sources, outcomes[rows], self._codes(frame["quality_source"][rows]))
        cost = _numbers(frame["cost_usd"])
        rows = answered & ~np.isnan(cost)
        _add(told.cost, outcomes[rows], cost[rows].view(np.uint64))

    def settle(self, part: Outcomes) -> tuple[Mask, Outcomes]:
        """(n,) rows whose outcome counts as another log has it, and the part with what its other rows lacked."""
        rank, outcomes = _rank(part.formats), _outcomes(part.frame)
        elsewhere = np.zeros(len(outcomes), dtype=np.bool_)
        for better, told in self._ranks.items():
            if better > rank and (better == _STORE or rank != _OTHER):
                elsewhere |= told.outcomes.find(outcomes)[0]
        part = replace(part, frame=self._filled_in(part.frame, outcomes, ~elsewhere, rank))
        return elsewhere, replace(part, notes=(*part.notes, *self._notes(rank)))

    def _notes(self, rank: int) -> tuple[str, ...]:
        if rank != _LANGFUSE or not self._undecided or not self._store:
            return ()
        return (
            f"langfuse: {self._undecided} rows have no decision id; those that the router's store has too may be counted twice",
        )

    def _filled_in(self, frame: pd.DataFrame, outcomes: Hashes, kept: Mask, rank: int) -> pd.DataFrame:
        """The rows with what the logs of lower rank know better; of several tries of an outcome the first that answered."""
        others = [told for other, told in self._ranks.items() if _OTHER < other < rank]
        if not others:
            return frame
        rows = kept & ~_errors(frame) & ~self._filled.find(outcomes)[0]
        rows &= ~pd.Series(np.where(rows, outcomes, np.uint64(0))).duplicated().to_numpy()
        _add(self._filled, outcomes[rows], outcomes[rows])
        judged, quality = _numbers(judged_quality(frame)), _numbers(frame["quality"])
        source, cost = frame["quality_source"].astype(object).to_numpy().copy(), _numbers(frame["cost_usd"])
        for known, values, sources in (
            (judged, [told.judged for told in others], [told.judged_source for told in others]),
            (quality, [told.weak for told in others], [told.weak_source for told in others]),
        ):
            for value, code in zip(values, sources, strict=True):
                found, bits = value.find(outcomes)
                new = rows & found & np.isnan(known) & np.isnan(judged)
                said = bits.view(np.float64)
                known[new] = quality[new] = said[new]
                codes = code.find(outcomes)[1]
                source[new] = [self._sources[one - 1] if one else None for one in codes[new].tolist()]
        for told in others:
            found, bits = told.cost.find(outcomes)
            new = rows & found & np.isnan(cost)
            cost[new] = bits.view(np.float64)[new]
        typed = pd.Series(source, index=frame.index, dtype=frame["quality_source"].dtype)
        return frame.assign(quality=quality, quality_source=typed, cost_usd=cost)

    def _codes(self, sources: pd.Series[Any]) -> Hashes:
        """(n,) the place of each word in `_sources`, counted from 1; 0 for none."""
        words = [one if isinstance(one, str) else None for one in sources]
        self._sources += sorted({one for one in words if one is not None} - set(self._sources))
        places = {word: place + 1 for place, word in enumerate(self._sources)}
        return np.array([0 if one is None else places[one] for one in words], dtype=np.uint64)


def told_by(parts: Sequence[Outcomes]) -> Told:
    """What tables that are all at hand tell together."""
    told = Told()
    if overlap({name for part in parts for name in part.formats}):
        for part in parts:
            told.learn(part)
    return told


def _rank(formats: Collection[str]) -> int:
    return max((_RANKS.get(name, _OTHER) for name in formats), default=_OTHER)


def _undecided(part: Outcomes) -> Mask:
    """(n,) Langfuse's rows whose request is named by the trace or by the generation, for nothing says which decision it was."""
    empty = pd.Series([None] * len(part.frame), dtype=object)
    columns = (part.frame["request_id"], part.beside.get("trace_id", empty), part.beside.get("try_id", empty))
    rows = zip(*(column.astype(object) for column in columns), strict=True)
    return np.array([one == own or one.startswith(f"{trace}/") for one, trace, own in rows], dtype=np.bool_)


def _outcomes(frame: pd.DataFrame) -> Hashes:
    return hashes_of(frame[["request_id", "candidate"]])


def _errors(frame: pd.DataFrame) -> Mask:
    return np.asarray((frame["status"] == "error").fillna(False).to_numpy(dtype=np.bool_))


def _numbers(column: pd.Series[Any]) -> Floats:
    return np.array(column.to_numpy(dtype=np.float64, na_value=np.nan))


def _add(known: Known, keys: Hashes, values: Hashes) -> None:
    new = ~known.find(keys)[0]
    known.add(keys[new], values[new])
