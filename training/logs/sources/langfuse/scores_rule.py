"""From the scores that a tracing tool keeps (numbers, yes or no, words) to quality in [0, 1], by one named score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from training.logs.cells import shown
from training.logs.outcomes import OutcomeError
from training.logs.sources.importer import ImportOptions

_SHOWN = 40
_LISTED = 20


@dataclass
class Tally:
    """What a log has under one score name: how many numbers, their range, and how often each label occurs."""

    numbers: int = 0
    lowest: float = float("inf")
    highest: float = float("-inf")
    labels: Counter[str] = field(default_factory=Counter)

    def add(self, value: float | str) -> None:
        """Count one score: a number, or a label."""
        if isinstance(value, str):
            self.labels[value] += 1
            return
        self.numbers += 1
        self.lowest, self.highest = min(self.lowest, value), max(self.highest, value)

    def __str__(self) -> str:
        numbers = [f"{self.numbers:,} numbers from {self.lowest:g} to {self.highest:g}"] if self.numbers else []
        labels = [f"{count:,} {shown(label, phrase=True)}" for label, count in self.labels.most_common(_LISTED)]
        return ", ".join([*numbers, *labels])


@dataclass(frozen=True)
class ScoreRule:
    """One score as quality: a number by its place between `worst` and `best`, a label, in any case, by `mapping`."""

    name: str
    worst: float = 0.0
    best: float = 1.0
    mapping: Mapping[str, float] = field(default_factory=dict)

    def quality(self, value: float | str) -> float | None:
        """Quality of one score; outside [0, 1] where a number is outside the range, None for an unmapped label."""
        if isinstance(value, str):
            return self.mapping.get(value.strip().lower())
        return (value - self.worst) / (self.best - self.worst)


def choose(tallies: Mapping[str, Tally], options: ImportOptions, source: str) -> ScoreRule | None:
    """The rule for the chosen score, or for the only one there is; None when `source` has no score.

    Raises OutcomeError, with every score and its counts, when the choice or the scale is not clear.
    """
    name = _name(tallies, options, source)
    if name is None:
        return None
    tally = tallies[name]
    if tally.labels and not options.score_mapping:
        raise OutcomeError(
            f"{source}: the score {name!r} has labels ({tally}); "
            "say what each is worth, in [0, 1]: --score-rule categorical:LABEL=QUALITY,LABEL=QUALITY"
        )
    if options.score_range is None and tally.numbers and not 0 <= tally.lowest <= tally.highest <= 1:
        raise OutcomeError(
            f"{source}: the score {name!r} is not in [0, 1] ({tally}); say which values mean 0 and 1: "
            "--score-rule minmax:WORST:BEST, such as minmax:1:5"
        )
    worst, best = options.score_range or (0.0, 1.0)
    if worst == best:
        raise OutcomeError(f"{source}: the range of scores is {worst:g}:{best:g}; expected two different numbers")
    return ScoreRule(name, worst, best, {label.strip().lower(): q for label, q in options.score_mapping.items()})


def _name(tallies: Mapping[str, Tally], options: ImportOptions, source: str) -> str | None:
    if options.score_name in tallies:
        return options.score_name
    listed = "; ".join(f"{name[:_SHOWN]} ({tally})" for name, tally in sorted(tallies.items())[:_LISTED])
    if options.score_name is not None:
        raise OutcomeError(f"{source}: has no score {options.score_name!r}; --score-name can be: {listed or 'nothing'}")
    if len(tallies) > 1:
        raise OutcomeError(
            f"{source}: has {len(tallies)} scores and one of them is quality: {listed}; say which: --score-name NAME"
        )
    return next(iter(tallies), None)
