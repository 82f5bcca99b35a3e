"""Named rules that turn a rating into quality in [0, 1]: what a rule does not know is marked, never guessed.

A 1 is the best grade on one scale and the worst on another: where many rows have a grade off the scale that they are read on,
the others' means something else as well, and the log is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from training.logs.cells import blank
from training.logs.outcomes import OutcomeError, Outcomes

BAD: Any = object()
NAMES = "unit, boolean, thumbs, stars, ten, percent, minmax:WORST:BEST, categorical:LABEL=QUALITY,..."

_YES = frozenset({"true", "yes", "y", "1", "1.0", "pass", "passed", "correct"})
_NO = frozenset({"false", "no", "n", "0", "0.0", "fail", "failed", "incorrect"})
# 0 is not among them: it is "down" where up is 1, and "no opinion" where down is -1.
_UP = frozenset({"up", "thumbs_up", "thumbs-up", "thumbsup", "thumbs up", "like", "+1", "1", "1.0", "true", "👍"})
_DOWN = frozenset(
    {"down", "thumbs_down", "thumbs-down", "thumbsdown", "thumbs down", "dislike", "-1", "-1.0", "false", "👎"}
)
_SPANS = {"unit": (0.0, 1.0), "stars": (1.0, 5.0), "ten": (1.0, 10.0), "percent": (0.0, 100.0)}


OUTSIDE, MISFIT = "quality outside [0, 1]", "quality does not fit "
_MOST_SHARE, _FEWEST = 0.2, 3  # rows off the scale that are taken for slips of the pen: more than neither
# (worst, best) and the rule that reads such a scale, the narrowest first.
_KNOWN = (
    (-1.0, 1.0, "minmax:-1:1"),
    (1.0, 5.0, "stars"),
    (1.0, 10.0, "ten"),
    (0.0, 10.0, "minmax:0:10"),
    (0.0, 100.0, "percent"),
)


@dataclass(frozen=True)
class Rule:
    """`name` as it was given, what it `expects` in words, and how it reads one cell; for a numeric rule its `span`
    (worst, best), for a categorical one the quality of its `labels`."""

    name: str
    expects: str
    convert: Callable[[Any], Any]
    span: tuple[float, float] | None = None
    labels: Mapping[str, float] = field(default_factory=dict)

    def quality(self, cell: Any) -> Any:
        """Quality in [0, 1], None for an empty cell, `BAD` for one that the rule does not know."""
        if isinstance(cell, np.generic):
            cell = cell.item()
        return None if blank(cell) else self.convert(cell)


def rule(text: str) -> Rule:
    """The rule of a name (`NAMES`); raises OutcomeError when there is none of it."""
    name, _, rest = text.strip().partition(":")
    if name in _SPANS and not rest:
        return _numeric(name, *_SPANS[name])
    if name == "boolean" and not rest:
        return Rule(name, "true or false, yes or no, 1 or 0", lambda cell: _word(cell, _YES, _NO))
    if name == "thumbs" and not rest:
        return Rule(name, "up or down, +1 or -1, true or false", lambda cell: _word(cell, _UP, _DOWN))
    if name == "minmax":
        return _minmax(text, rest)
    if name == "categorical":
        return categorical(text, _labels(text, rest))
    raise OutcomeError(f"rule {text!r} is not known; expected one of: {NAMES}")


def categorical(name: str, labels: Mapping[str, float]) -> Rule:
    """A rule that reads labels, in any case, as the quality that each stands for."""
    known = {label.strip().lower(): quality for label, quality in labels.items()}
    return Rule(name, f"one of {', '.join(labels)}", lambda cell: known.get(_spelt(cell), BAD), labels=labels)


def _numeric(name: str, worst: float, best: float) -> Rule:
    def convert(cell: Any) -> Any:
        value = _as_number(cell)
        if value is None or not min(worst, best) <= value <= max(worst, best):
            return BAD
        return (value - worst) / (best - worst)

    return Rule(name, f"a number from {worst:g} (worst) to {best:g} (best)", convert, span=(worst, best))


def _minmax(text: str, rest: str) -> Rule:
    bounds = [_as_number(part) for part in rest.split(":")]
    if len(bounds) != 2 or bounds[0] is None or bounds[1] is None or bounds[0] == bounds[1]:
        raise OutcomeError(f"rule {text!r}: expected minmax:WORST:BEST with two different numbers, as in minmax:0:10")
    return _numeric(text, bounds[0], bounds[1])


def _labels(text: str, rest: str) -> dict[str, float]:
    labels: dict[str, float] = {}
    for part in rest.split(","):
        label, equals, quality = part.rpartition("=")
        value = _as_number(quality)
        if not equals or not label.strip() or value is None or not 0 <= value <= 1:
            raise OutcomeError(
                f"rule {text!r}: expected categorical:LABEL=QUALITY,... with qualities in [0, 1], "
                "as in categorical:good=1,fair=0.5,bad=0"
            )
        labels[label.strip()] = value
    return labels


def _as_number(cell: Any) -> float | None:
    """A finite number, also one written as text; None for anything else. Booleans are no numbers."""
    if isinstance(cell, bool) or not isinstance(cell, int | float | str) or (isinstance(cell, str) and "_" in cell):
        return None
    try:
        value = float(cell)
    except (ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def _spelt(cell: Any) -> str:
    return str(cell).strip().lower() if isinstance(cell, str | int | float) else ""


def _word(cell: Any, good: frozenset[str], bad: frozenset[str]) -> Any:
    word = _spelt(cell)
    return 1.0 if word in good else 0.0 if word in bad else BAD


def fitting(parts: Iterable[Outcomes], source: str) -> Iterator[Outcomes]:
    """The parts of a source; raises OutcomeError at their end when over a fifth of its grades are off the scale."""
    within = outside = 0
    low, high = math.inf, -math.inf
    for part in parts:
        graded = part.frame.loc[part.frame["status"] != "error", "quality"].dropna()
        within += len(graded)
        reasons = part.skipped["reason"]
        off = _numbers(part.skipped.loc[(reasons == OUTSIDE) | reasons.str.startswith(MISFIT), "value"])
        outside += len(off)
        if off:
            raw = graded if (reasons == OUTSIDE).any() else ()  # by a rule they are on another scale now
            low, high = min(low, *off, *raw), max(high, *off, *raw)
        yield part
    if outside >= _FEWEST and outside > _MOST_SHARE * (within + outside):
        raise OutcomeError(
            f"{source}: {outside:,} of {within + outside:,} grades are off the scale they are read on"
            f": they go from {low:g} to {high:g}. {_looks_like(low, high)} Say which scale it is: --map quality=COLUMN:RULE, "
            f"with the name of the grades' column and one of these rules: {NAMES}"
        )


def _numbers(cells: Iterable[str]) -> list[float]:
    found = []
    for cell in cells:
        try:
            value = float(cell.strip("'\""))
        except ValueError:
            continue
        if math.isfinite(value):
            found.append(value)
    return found


def _looks_like(low: float, high: float) -> str:
    rule = next((rule for worst, best, rule in _KNOWN if worst <= low and high <= best), f"minmax:{low:g}:{high:g}")
    return f"That looks like {rule}."
