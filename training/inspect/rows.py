"""The rows of a log as numbers: what has to be known of all of them at once, without a text, some 25 bytes each.

Requests, conversations and texts are held as 64-bit hashes (`training.logs.repeated.repeats` says how rarely two are the same).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from serving.bundle.arrays import Bools, Columns, Floats
from serving.bundle.manifest import NO_WORKFLOW
from serving.bundle.request import RouteRequest, text_of
from training.dataset.label import judged_quality, label_kinds
from training.dataset.split import TELLING_WORDS
from training.inspect.counts import Counts, count
from training.logs.outcomes import Outcomes
from training.logs.pairing import named_by_prompt
from training.logs.repeated.known import Hashes, Known, hashes_of
from training.logs.stored.memory import give_back

# What is known of a row beside its numbers.
ANSWERED, JUDGED, CERTIFYING, LEARNING, HELD_OUT = 1, 2, 4, 8, 16
NOT_A_TIME = np.iinfo(np.int64).min

Whole = NDArray[np.integer[Any]]


class _Places:
    """Where each hash came first among the different ones."""

    def __init__(self) -> None:
        self._known = Known()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def close(self) -> None:
        self._known = Known()

    def of(self, hashes: Hashes) -> tuple[Columns, Columns]:
        """(n,) the place of each, and which rows have the new ones first."""
        known, places = self._known.find(hashes)
        rows = np.flatnonzero(~known)
        code, new = pd.factorize(hashes[rows])
        found = places.astype(np.intp)
        found[rows] = self._count + code
        self._known.add(new, np.arange(self._count, self._count + len(new), dtype=np.uint64))
        self._count += len(new)
        return found, rows[np.unique(code, return_index=True)[1]]


@dataclass(frozen=True)
class _First:
    """Of requests, what their first rows say: hashes of text and conversation (0: none), whether the text has enough words to
    tell conversations apart, microseconds since 1970, and whether the id was made from the prompt."""

    text: Hashes
    telling: Bools
    session: Hashes
    stamp: Whole
    by_prompt: Bools


@dataclass
class Rows:
    """What was read so far of a log, partition by partition, under the names that were logged.

    A row is of a `cell`, which is a candidate and a workflow; `counts` are by cell.
    """

    formats: dict[str, None] = field(default_factory=dict)
    notes: dict[str, None] = field(default_factory=dict)
    rows_read: int = 0
    rows_used: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, Any] = field(default_factory=dict)  # the first row of each reason
    labels: Counter[str] = field(default_factory=Counter)
    cells: dict[tuple[str, str], int] = field(default_factory=dict)
    counts: list[Counts] = field(default_factory=list)
    _requests: _Places = field(default_factory=_Places)
    _sessions: _Places = field(default_factory=_Places)
    _columns: tuple[list[NDArray[Any]], ...] = field(default_factory=lambda: ([], [], [], [], []))
    _firsts: list[_First] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return len(self._requests)

    @property
    def sessions(self) -> int:
        return len(self._sessions)

    def add(self, part: Outcomes) -> None:
        """Takes in a partition, none of whose rows repeats one before."""
        self.formats |= dict.fromkeys(part.formats)
        self.notes |= dict.fromkeys(part.notes)
        self.rows_read += part.rows_read
        self.rows_used += len(part.frame)
        for row in part.skipped.drop_duplicates("reason").itertuples(index=False):
            self.skipped.setdefault(str(row.reason), row)
        self.reasons.update(part.reasons)
        if not len(part.frame):
            return
        self.labels.update(label_kinds(part.frame))
        judgement = judged_quality(part.frame)
        cell = self._cells_of(part.frame, judgement)
        request, first = self._requests.of(hashes_of(part.frame["request_id"]))
        session = _hashes(part.frame["session_id"])
        self._sessions.of(session[session > 0])
        stamp = _stamps(part.frame["timestamp"])
        self._firsts.append(_first(part.frame.iloc[first], session[first], stamp[first]))
        propensity = part.frame["propensity"].to_numpy(dtype=np.float64, na_value=np.nan)
        added = (request.astype(np.int32), cell, propensity, stamp, _flags(part.frame, judgement))
        for column, values in zip(self._columns, added, strict=True):
            column.append(values)

    def close(self) -> None:
        """Forgets what only further partitions would be compared with, and joins what they told, so that it is held once."""
        self._requests.close()
        self._sessions.close()
        for column in self._columns:
            column[:] = [np.concatenate(column)]
        self._firsts[:] = [self.first()]
        give_back()

    def request(self) -> Whole:
        """(n,) the request of each row, numbered in order of first appearance."""
        return self._column(0)

    def cell(self) -> Whole:
        return self._column(1)

    def propensity(self) -> Floats:
        return np.asarray(self._column(2), dtype=np.float64)

    def stamp(self) -> Whole:
        """(n,) microseconds since 1970."""
        return self._column(3)

    def flags(self) -> Whole:
        return self._column(4)

    def first(self) -> _First:
        """What the first rows of all requests say."""
        if len(self._firsts) == 1:
            return self._firsts[0]
        return _First(
            *(
                np.concatenate([getattr(one, name) for one in self._firsts])
                for name in ("text", "telling", "session", "stamp", "by_prompt")
            )
        )

    def _column(self, place: int) -> Whole:
        column = self._columns[place]
        return column[0] if len(column) == 1 else np.concatenate(column)

    def _cells_of(self, frame: pd.DataFrame, judgement: pd.Series[Any]) -> Whole:
        """(n,) the cell of each row; the rows are counted there."""
        candidate, names = pd.factorize(frame["candidate"])
        workflow, kinds = pd.factorize(frame["workflow"].fillna(NO_WORKFLOW))
        code, pairs = pd.factorize(candidate * max(len(kinds), 1) + workflow)
        here = []
        for pair in pairs.tolist():
            name, kind = divmod(pair, len(kinds))
            here.append(self.cells.setdefault((str(names[name]), str(kinds[kind])), len(self.cells)))
        self.counts += [Counts()] * (len(self.cells) - len(self.counts))
        for place, counted in zip(here, count(frame, judgement, code, len(pairs)), strict=True):
            self.counts[place] += counted
        return np.array(here, dtype=np.int32)[code]


def _first(frame: pd.DataFrame, session: Hashes, stamp: Whole) -> _First:
    requests = zip(frame["prompt"], frame["messages"], strict=True)
    texts = [text_of(RouteRequest(_text(prompt), _messages(messages))) for prompt, messages in requests]
    words = [text.split() for text in texts]
    return _First(
        hashes_of(pd.Series([" ".join(one).casefold() for one in words], dtype=object)),
        np.fromiter((len(one) >= TELLING_WORDS for one in words), np.bool_, len(words)),
        session,
        stamp,
        named_by_prompt(frame["request_id"]),
    )


def _text(prompt: Any) -> str | None:
    return prompt if isinstance(prompt, str) else None


def _messages(messages: Any) -> list[Any] | None:
    return messages if isinstance(messages, list) else None


def _hashes(column: pd.Series[Any]) -> Hashes:
    """(n,) hashes of a column's texts, 0 where there is none."""
    found = np.zeros(len(column), dtype=np.uint64)
    known = column.notna().to_numpy()
    found[known] = np.maximum(hashes_of(column[known].astype(object)), 1)
    return found


def _stamps(column: pd.Series[Any]) -> Whole:
    stamps = pd.to_datetime(column, utc=True).dt.tz_localize(None).to_numpy().astype("datetime64[us]")
    return stamps.astype(np.int64)


def _flags(frame: pd.DataFrame, judgement: pd.Series[Any]) -> Whole:
    purpose = frame["purpose"].to_numpy(dtype=object)
    told = (
        (ANSWERED, frame["status"].to_numpy(dtype=object) != "error"),
        (JUDGED, judgement.notna().to_numpy()),
        (CERTIFYING, purpose == "certify"),
        (LEARNING, purpose == "learn"),
        (HELD_OUT, frame["split"].to_numpy(dtype=object) == "test"),
    )
    flags = np.zeros(len(frame), dtype=np.uint8)
    for bit, which in told:
        flags[np.asarray(which, dtype=np.bool_)] |= bit
    return flags
