"""What the user says about a log that the log does not say itself; every importer is given it and takes its part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from training.outcomes import OutcomeError


@dataclass(frozen=True)
class ImportOptions:
    """How judgements that were logged beside the answers become quality.

    `score_name`: which of the logged scores (None: the only one there is). `score_range`: the values of a numeric
    score that mean 0 and 1, worst first (None: it is already in [0, 1]). `score_mapping`: quality by label, for
    scores that are words. `trace_scores`: a score of a whole trace counts for its "last" generation or for "all".
    """

    score_name: str | None = None
    score_range: tuple[float, float] | None = None
    score_mapping: tuple[tuple[str, float], ...] = ()
    trace_scores: Literal["last", "all"] = "last"


NO_OPTIONS = ImportOptions()


def import_options(
    score_name: str | None = None,
    score_range: str | None = None,
    score_mapping: Sequence[str] = (),
    trace_scores: str = "last",
) -> ImportOptions:
    """The options from their text on a command line: a range as 1:5, each entry of a mapping as good=1.

    Raises OutcomeError, which names the option, what it holds and what was expected.
    """
    if trace_scores not in ("last", "all"):
        raise OutcomeError(f"--trace-scores is {trace_scores!r}; expected last or all")
    return ImportOptions(
        score_name=score_name,
        score_range=None if score_range is None else _range(score_range),
        score_mapping=tuple(_entry(entry) for entry in score_mapping),
        trace_scores="all" if trace_scores == "all" else "last",
    )


def _range(text: str) -> tuple[float, float]:
    worst, _, best = text.partition(":")
    try:
        bounds = float(worst), float(best)
    except ValueError:
        bounds = 0.0, 0.0
    width = bounds[1] - bounds[0]
    if not width or not -float("inf") < width < float("inf"):  # NaN and infinite bounds fail here as well
        raise OutcomeError(f"--score-range is {text!r}; expected two different numbers, worst:best, such as 1:5")
    return bounds


def _entry(text: str) -> tuple[str, float]:
    label, _, quality = text.rpartition("=")
    try:
        value = float(quality)
    except ValueError:
        value = -1.0
    if not label.strip() or not 0 <= value <= 1:
        raise OutcomeError(f"--score-mapping is {text!r}; expected label=quality with a quality in [0, 1], such as good=1")
    return label.strip(), value
