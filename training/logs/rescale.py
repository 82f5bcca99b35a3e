"""Named rules that turn a rating into quality in [0, 1]: what a rule does not know is marked, never guessed.

A 1 is the best grade on one scale and the worst on another: where many rows have a grade off the scale that they are read on,
the others' means something else as well, and the log is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
_NO_OPINION = frozenset({"neutral", "none", "null", "n/a"})
_SPANS = {"unit": (0.0, 1.0), "stars": (1.0, 5.0), "ten": (1.0, 10.0), "percent": (0.0, 100.0)}

# Reasons for which a row is left out that are about the scale of its grade.
OUTSIDE, NO_NUMBER, MISFIT = "quality outside [0, 1]", "quality is not a number", "quality does not fit "
_MOST_SHARE, _FEWEST = 0.2, 3  # grades off the scale that are taken for slips of the pen: more than neither
_EXAMPLES = 5
# (worst, best) and the rule that reads such a scale, the narrowest first.
_SCALES = (("stars", 5), ("ten", 10), ("percent", 100))
_KNOWN = (
    (-1.0, 1.0, "minmax:-1:1"),
    (1.0, 5.0, "stars"),
    (0.0, 5.0, "minmax:0:5"),
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
        return Rule(name, "up or down, +1 or -1, true or false, neutral", _thumb)
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


def _thumb(cell: Any) -> Any:
    return None if _spelt(cell) in _NO_OPINION else _word(cell, _UP, _DOWN)


def too_many(outside: int, within: int) -> bool:
    """Whether so many grades are off a scale that they are no slips of the pen."""
    return outside >= _FEWEST and outside > _MOST_SHARE * (within + outside)


@dataclass
class _Grades:
    """How many grades were within the scale that they were read on, how many of these were 1, and what was off it."""

    within: int = 0
    ones: int = 0
    outside: int = 0
    low: float = math.inf
    high: float = -math.inf
    whole: bool = True
    ruled: str = ""
    examples: dict[str, None] = field(default_factory=dict)

    def add(self, part: Outcomes) -> None:
        graded = part.frame.loc[part.frame["status"] != "error", "quality"].dropna()
        self.within += len(graded)
        self.ones += int((graded == 1).sum())
        reasons = part.skipped["reason"]
        ruled = reasons.str.startswith(MISFIT)
        off = part.skipped.loc[ruled | reasons.isin((OUTSIDE, NO_NUMBER)), "value"]
        if off.empty:
            return
        self.outside += len(off)
        self.ruled = reasons[ruled].iloc[0].removeprefix(MISFIT) if ruled.any() else self.ruled
        numbers = [value for value in map(_as_number, off.str.strip("'\"")) if value is not None]
        self.whole &= len(numbers) == len(off) and all(value >= 2 and value.is_integer() for value in numbers)
        if numbers and not self.ruled:  # by a rule, those within are on another scale now
            self.low, self.high = min(self.low, *numbers, *graded), max(self.high, *numbers, *graded)
        for cell in off.unique()[:_EXAMPLES]:
            if len(self.examples) < _EXAMPLES:
                self.examples[cell] = None

    @property
    def misread(self) -> bool:
        """Too many are off for slips of the pen; or all that are within are 1 and the others whole numbers above: stars."""
        stars = self.whole and self.ones == self.within
        return too_many(self.outside, self.within) or (stars and self.outside >= _FEWEST)

    def said(self, source: str) -> str:
        on = f"the scale of {self.ruled}" if self.ruled else "the scale they are read on, 0 to 1"
        looks = "" if self.low > self.high else f" All go from {self.low:g} to {self.high:g}: {self._like()}."
        if not looks and not self.ruled and (labels := graded_by(list(self.examples))):
            looks = f" That looks like {labels}."
        empty = " If it stands for not judged, leave it empty." if len(self.examples) == 1 else ""
        return (
            f"{source}: {self.outside:,} of {self.within + self.outside:,} grades are off {on}, as {', '.join(self.examples)}."
            f"{looks}{empty} Say which scale it is: --map quality=COLUMN:RULE, with the name of the grades' column and one of "
            f"these rules: {NAMES}"
        )

    def _like(self) -> str:
        """A scale that they fill to its best end; else only that the two ends have to be given."""
        spans = (rule for worst, best, rule in _KNOWN if worst <= self.low and best == self.high)
        low, high = f"{self.low:g}", f"{self.high:g}"
        asked = f"if {high} is the best, that is minmax:{low}:{high}, and minmax:{high}:{low} if it is the worst"
        return next((f"that looks like {rule}" for rule in spans), asked)


def graded_by(cells: Sequence[Any]) -> str:
    """The rule that such grades look like, "" for numbers up to 1 and for what looks like none."""
    if any(isinstance(cell, bool) for cell in cells):
        return "boolean" if all(isinstance(cell, bool) for cell in cells) else ""
    numbers = [_as_number(cell) for cell in cells]
    if not cells or any(number is None for number in numbers):
        named = [rule(name) for name in ("boolean", "thumbs")]
        return next((one.name for one in named if cells and all(one.quality(cell) is not BAD for cell in cells)), "")
    known = [number for number in numbers if number is not None]
    if min(known) < 0:
        return "thumbs" if set(known) <= {-1.0, 0.0, 1.0} else ""
    return next((name for name, best in _SCALES if 1 < max(known) <= best), "")


def fitting(parts: Iterable[Outcomes], source: str) -> Iterator[Outcomes]:
    """The parts of a source; raises OutcomeError at their end when its grades are on another scale than they are read on."""
    grades = _Grades()
    for part in parts:
        grades.add(part)
        yield part
    if grades.misread:
        raise OutcomeError(grades.said(source))
