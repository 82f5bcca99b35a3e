"""Globs over candidates' names, read as `fnmatch` reads them and by case: `*`, `?`, `[seq]` and `[!seq]`.

They are matched character by character. `fnmatch` compiles a regular expression for each, which takes milliseconds for a long
one and keeps 32,768 of them: a client that sends a hundred new globs with every request would hold up all others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

# A star, any character, a set (a `]` that stands first in it belongs to it), plain text, or a bracket that opens no set.
_TOKEN = re.compile(r"\*|\?|\[!?+\]?+[^\]]*+\]|[^*?\[]+|\[", re.DOTALL)
# What is kept of globs seen before; those of the rule file come with every request and stay.
_MOST_KEPT = 1024


@dataclass(frozen=True, slots=True)
class _Set:
    """`[seq]`: whether a character is one of those in it or lies in one of its ranges, or in none of them if `negated`."""

    characters: frozenset[str]
    ranges: tuple[tuple[str, str], ...]
    negated: bool

    def holds(self, character: str) -> bool:
        found = character in self.characters or any(low <= character <= high for low, high in self.ranges)
        return found != self.negated


# A character, any character, or one of a set.
_Element = str | None | _Set
# What stands between two stars: plain text, or elements of which one is no character.
_Segment = str | tuple[_Element, ...]


def matches(name: str, glob: str) -> bool:
    """Whether a name matches a glob; the time is at most that of their lengths' product, without backtracking."""
    first, *others = _segments(glob)
    if not others:
        return len(name) == len(first) and _stands(first, name, 0)
    *middle, last = others
    at, end = len(first), len(name) - len(last)
    if end < at or not _stands(first, name, 0) or not _stands(last, name, end):
        return False
    for segment in middle:
        found = _find(segment, name, at, end)
        if found < 0:
            return False
        at = found + len(segment)
    return True


def _find(segment: _Segment, name: str, at: int, end: int) -> int:
    """Where a segment stands first in `name[at:end]`, -1 if nowhere. The first place leaves most room for the next segments."""
    if isinstance(segment, str):
        return name.find(segment, at, end)
    return next((start for start in range(at, end - len(segment) + 1) if _stands(segment, name, start)), -1)


def _stands(segment: _Segment, name: str, at: int) -> bool:
    """Whether a segment stands in `name` at a place from which on it is long enough."""
    if isinstance(segment, str):
        return name.startswith(segment, at)
    return all(
        element is None or (element.holds(name[place]) if isinstance(element, _Set) else element == name[place])
        for place, element in enumerate(segment, at)
    )


@lru_cache(_MOST_KEPT)
def _segments(glob: str) -> tuple[_Segment, ...]:
    """What stands between the stars, and before the first and after the last."""
    if "?" not in glob and "[" not in glob:
        return tuple(glob.split("*"))
    segments: list[list[_Element]] = [[]]
    for token in _TOKEN.findall(glob):
        if token == "*":
            segments.append([])
        elif token == "?":
            segments[-1].append(None)
        elif len(token) > 1 and token[0] == "[":
            segments[-1].append(_set_of(token[1:-1]))
        else:
            segments[-1].extend(token)
    return tuple(_plain(one) for one in segments)


def _plain(elements: list[_Element]) -> _Segment:
    plain = [element for element in elements if isinstance(element, str)]
    return "".join(plain) if len(plain) == len(elements) else tuple(elements)


def _set_of(inside: str) -> _Set:
    negated = inside.startswith("!")
    text = inside.removeprefix("!")
    characters: set[str] = set()
    ranges: dict[tuple[str, str], None] = {}
    place = 0
    while place < len(text):
        if text[place + 1 : place + 2] == "-" and place + 2 < len(text):
            ranges[text[place], text[place + 2]] = None
            place += 3
        else:
            characters.add(text[place])
            place += 1
    return _Set(frozenset(characters), tuple(ranges), negated)
