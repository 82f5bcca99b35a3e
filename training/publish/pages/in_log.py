"""What the log itself says, in words for the first screen: who answered in it, and how well the reference did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.account.intervals import wilson
from serving.bundle.manifest import Certificate
from training.publish.pages.written import count, percent, span

_MOST_NAMED = 3


def share_of(document: Mapping[str, Any], candidate: str) -> float | None:
    """The share of the log's own calls that this candidate answered; None where the log does not tell."""
    shares: Mapping[str, float] = (document.get("log") or {}).get("candidates_logged") or {}
    return shares.get(candidate)


def answers_everything(document: Mapping[str, Any], candidate: str) -> str:
    """That it does, beside what it answered in the log."""
    share = share_of(document, candidate)
    if share is None:
        return f"{candidate} answers everything"
    before = "as in the log" if share >= 1 else f"in the log it answered {percent(share)}"
    return f"{candidate} answers everything{', ' if share >= 1 else '; '}{before}"


def quality_of(document: Mapping[str, Any], candidate: str) -> tuple[float, str] | None:
    """The share of its judged answers that were acceptable, and the interval of it in words; None if none was judged."""
    one = next((one for one in document.get("profiles", ()) if one["candidate"] == candidate), None)
    if one is None or one["quality"] is None or not one["judged"]:
        return None
    low, high = wilson(one["quality"] * one["judged"], one["judged"])
    return one[
        "quality"
    ], f"{span(low, high)}, of {count(one['judged'])} judged answers of {candidate} in the whole log"


def above_the_limit(proof: Certificate) -> tuple[str, ...]:
    """Workflows that failed more often than a certificate allows on average, the worst first."""
    rates = {name: one.violation_rate for name, one in proof.workflows.items()}
    found = {name: rate for name, rate in rates.items() if rate is not None and rate > proof.alpha}
    return tuple(sorted(found, key=lambda name: -found[name]))


def above_in_words(proof: Certificate) -> str | None:
    """One line about these workflows; None without any."""
    names = above_the_limit(proof)
    if not names:
        return None
    told = [
        f"{name} failed {percent(proof.workflows[name].violation_rate)} of {count(proof.workflows[name].requests)}"
        for name in names[:_MOST_NAMED]
    ]
    more = f", and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return (
        f"The limit of {percent(proof.alpha)} holds on average, not in each workflow: {', '.join(told)} calibration "
        f"requests{more}."
    )
