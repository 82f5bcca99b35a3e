"""The options about scores from their text on a command line."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

from training.outcomes import OutcomeError
from training.traffic.options import ImportOptions


def score_options(
    name: str | None = None, range: str | None = None, mapping: Sequence[str] = (), trace_scores: str = "last"
) -> ImportOptions:
    """A range is written worst:best (1:5), each entry of a mapping label=quality (good=1), trace_scores last or all.

    Raises OutcomeError, which names the option, what it holds and what was expected.
    """
    if trace_scores not in ("last", "all"):
        raise OutcomeError(f"--trace-scores is {trace_scores!r}; expected last or all")
    return ImportOptions(
        score_name=name,
        score_range=None if range is None else _range(range),
        score_mapping=dict(_entry(entry) for entry in mapping),
        trace_scores="all" if trace_scores == "all" else "last",
    )


def _range(text: str) -> tuple[float, float]:
    worst, _, best = text.partition(":")
    bounds = _number(worst), _number(best)
    if not isfinite(bounds[0] - bounds[1]) or bounds[0] == bounds[1]:
        raise OutcomeError(f"--score-range is {text!r}; expected two different numbers, worst:best, such as 1:5")
    return bounds


def _entry(text: str) -> tuple[str, float]:
    label, _, quality = text.rpartition("=")
    value = _number(quality)
    if not label.strip() or not 0 <= value <= 1:
        raise OutcomeError(
            f"--score-mapping is {text!r}; expected label=quality with a quality in [0, 1], such as good=1"
        )
    return label.strip(), value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
