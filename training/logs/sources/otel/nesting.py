"""One call of an LLM that was recorded twice: by the client, and by the framework or gateway around it.

A generation within a generation (other spans may stand between them) is the same call where both were asked the same and the
outer one's time covers the inner one's. Then the innermost counts, for it is what was sent and billed, unless it lacks the
model or the token counts that the outer one has. Generations that were asked something else are calls of their own.

A log is read once for who stands around whom, 33 bytes a span, and again for what was asked only where that is in question.
"""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np

from training.logs.outcomes import Unreadable

# Clocks of two machines differ, and a span is ended a little after its answer.
_SLACK_SECONDS = 5.0
_DEEPEST = 64
_SPACE = re.compile(r"\s+")
REASON, EXPECTED_ONCE = "same call as a generation around or within it", "each call once"


class Pair(NamedTuple):
    """A generation and the nearest one around it, by key."""

    outer: int
    inner: int


@dataclass(frozen=True)
class Nested:
    """The keys of generations that are passed over, and by the key of one that counts, of which others it is the call."""

    passed: frozenset[int] = frozenset()
    stands_for: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def quality(self, key: int, judged: Mapping[int, Any]) -> Any:
        """What was said of a generation's call where it was passed over; None where nothing was."""
        return next((judged[one] for one in self.stands_for.get(key, ()) if one in judged), None)


def key_of(*parts: str | None) -> int:
    """A 64-bit key of an identifier."""
    text = "\0".join(part or "" for part in parts)
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little", signed=True)


def passed_over(row: int = 0) -> Unreadable:
    """Why such a generation is no outcome."""
    return Unreadable(row, REASON, "", EXPECTED_ONCE)


def digest(prompt: Any, messages: Any) -> bytes | None:
    """What was asked, whoever recorded it: the texts without roles, fields and white space; None where there is none."""
    texts = _texts(messages) if isinstance(messages, Sequence) and not isinstance(messages, str) else [prompt]
    said = _SPACE.sub(" ", " ".join(text for text in texts if isinstance(text, str))).strip()
    return blake2b(said.encode("utf-8", "surrogatepass"), digest_size=16).digest() if said else None


def _texts(value: Any, depth: int = 0) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return _texts([value.get("content"), value.get("text"), value.get("parts")], depth)
    if isinstance(value, Sequence) and depth < _DEEPEST:
        return [text for item in value for text in _texts(item, depth + 1)]
    return []


class Spans:
    """The spans of a log as they come, of which only what is needed here is kept."""

    def __init__(self) -> None:
        self._keys, self._parents = array("q"), array("q")
        self._told = array("b")
        self._started, self._ended = array("d"), array("d")

    def add(self, key: int, parent: int | None, told: int | None, started: float, ended: float) -> None:
        """A span; `told` is None unless it is a generation, then 2 for its model and 1 for its token counts."""
        self._keys.append(key)
        self._parents.append(key if parent is None else parent)
        self._told.append(-1 if told is None else told)
        self._started.append(started)
        self._ended.append(ended)

    def pairs(self) -> list[Pair]:
        """Every generation that stands within another one whose time covers its own."""
        keys = np.array(self._keys, dtype=np.int64)
        if not len(keys):
            return []
        self._order = np.argsort(keys, kind="stable")
        sorted_keys = keys[self._order]
        generation = np.array(self._told, dtype=np.int8)[self._order] >= 0
        parents = np.array(self._parents, dtype=np.int64)[self._order]
        above = np.searchsorted(sorted_keys, parents)
        above = np.where(above < len(keys), above, 0)
        above = np.where(sorted_keys[above] == parents, above, -1)
        places = np.flatnonzero(generation)
        at = above[places]
        for _ in range(_DEEPEST):
            climbing = (at >= 0) & ~generation[at] & (sorted_keys[at] != sorted_keys[places])
            if not climbing.any():
                break
            at = np.where(climbing, np.where(above[at] == at, -1, above[at]), at)
        inside = (at >= 0) & generation[at] & (sorted_keys[at] != sorted_keys[places])
        started, ended = (np.array(cells)[self._order] for cells in (self._started, self._ended))
        outer, inner = at[inside], places[inside]
        with np.errstate(invalid="ignore"):
            outside = (started[inner] < started[outer] - _SLACK_SECONDS) | (
                ended[inner] > ended[outer] + _SLACK_SECONDS
            )
        found = zip(sorted_keys[outer[~outside]].tolist(), sorted_keys[inner[~outside]].tolist(), strict=True)
        return [Pair(*pair) for pair in found]

    def nested(self, pairs: Iterable[Pair], asked: Mapping[int, bytes | None]) -> Nested:
        """Which generations are passed over, given the digests of what those in `pairs` were asked."""
        within: defaultdict[int, list[int]] = defaultdict(list)
        same = [pair for pair in pairs if (said := asked.get(pair.outer)) is not None and said == asked.get(pair.inner)]
        for pair in same:
            within[pair.outer].append(pair.inner)
        involved = {key for pair in same for key in pair}
        places = {key: place for place, key in enumerate(self._keys) if key in involved}
        passed, stands_for = set[int](), defaultdict[int, list[int]](list)
        for top in within.keys() - {pair.inner for pair in same}:
            self._settle(top, within, places, passed, stands_for)
        return Nested(frozenset(passed), {key: tuple(others) for key, others in stands_for.items()})

    def _settle(
        self,
        key: int,
        within: Mapping[int, Sequence[int]],
        places: Mapping[int, int],
        passed: set[int],
        stands_for: defaultdict[int, list[int]],
        depth: int = 0,
    ) -> list[int]:
        """The generations that count of a call and what stands within it."""
        inner = [
            one
            for below in within.get(key, ())
            for one in (
                self._settle(below, within, places, passed, stands_for, depth + 1) if depth < _DEEPEST else [below]
            )
        ]
        if not inner:
            return [key]
        if self._told[places[key]] > max(self._told[places[one]] for one in inner):
            passed.update(inner)
            stands_for[key] += [other for one in inner for other in (one, *stands_for.pop(one, ()))]
            return [key]
        passed.add(key)
        last = max(inner, key=lambda one: self._started[places[one]])
        stands_for[last].append(key)
        return inner
