"""What comes of a case: its frontier, its operating points without their certificates, and what next month costs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pandas as pd

from serving.bundle.manifest import Estimated, Manifest, OperatingPoint
from training.dataset.matrix import workflow_names
from training.dataset.volume import Volume
from training.evaluate.bands import COMPLETE, Mark, Outcomes, Tradeoff
from training.evaluate.evaluation import Evaluation

# Where the figures are of workflows with less than this share of the requests, they say nothing of a month.
_COVERED = 0.9
_NAMED = 5
VOID = "The certificates are not about this: every figure here is an estimate, until `router-train run` certifies anew."


@dataclass(frozen=True)
class Outcome:
    """What was found on `requests`, and what it takes to say it: `shares` of the requests and of the `spending` by candidate at
    the default point, `nobody` the share of requests that no candidate may answer, `left_out` who may answer none.

    `here` is the place that was asked for, an `estimate` where no certificate is about it. `lacking` has the workflows that no
    request of the figures is of, with their shares of the requests. `saving` of every mark is against
    sending everything to the bundle's reference, at the prices that hold here, whether it may still answer or not.
    """

    manifest: Manifest
    tradeoff: Tradeoff
    shares: dict[str, float]
    spending: dict[str, float]
    volume: Volume
    requests: int
    nobody: float
    on: str
    in_sample: bool
    changes: tuple[str, ...] = ()
    stays: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    here: Mark | None = None
    estimate: bool = False
    lacking: dict[str, float] = field(default_factory=dict)

    @property
    def default(self) -> Mark | None:
        """What the default operating point gives; None where that is not known."""
        return self.tradeoff.points.get(self.manifest.default_point)

    @property
    def bundle(self) -> Manifest:
        """The bundle as it would be: with what was found here in place of what was certified, once something is changed."""
        if not self.changes:
            return self.manifest
        points = tuple(self._point(point) for point in self.manifest.operating_points)
        return self.manifest.model_copy(update={"operating_points": points})

    @property
    def evaluation(self) -> Evaluation:
        """The same for what draws evaluations."""
        return Evaluation(
            test_requests=self.requests,
            complete_requests=self.tradeoff.requests if self.tradeoff.basis == COMPLETE else 0,
            shares=self.shares,
            tradeoff=self.tradeoff,
            volume=self.volume if self.representative else replace(self.volume, requests_a_month=None),
            why_not="No request has a known outcome of every candidate." if self.tradeoff.why_not else None,
        )

    @property
    def representative(self) -> bool:
        """Whether the workflows that the figures are of have so much of the traffic that a month may be told by them."""
        return 1.0 - sum(self.lacking.values()) >= _COVERED

    @property
    def month(self) -> dict[str, float] | None:
        """A month at the log's volume, in USD, by what was found on these requests; None without a volume or figures,
        and where these are not `representative`.

        Requests a month times the mean cost of a request: of all to the reference, and at the default point; `saved_usd` is the
        difference, without an interval: that of the saved share leaves out how uncertain the reference's cost is.
        """
        requests, mark = self.volume.requests_a_month, self.default
        if requests is None or mark is None or not self.representative:
            return None
        if math.isnan(mark.saving):
            return None
        reference = mark.cost_usd / (1.0 - mark.saving) if mark.saving < 1.0 else 0.0
        return {
            "requests": requests,
            "reference_usd": requests * reference,
            "routed_usd": requests * mark.cost_usd,
            "routed_low": requests * mark.cost_low,
            "routed_high": requests * mark.cost_high,
            "saved_usd": requests * reference * mark.saving,
        }

    @property
    def said(self) -> tuple[str, ...]:
        """What has to be known to read the figures, a sentence each."""
        sentences = [f"On {self.on}."]
        if self.in_sample:
            sentences.insert(0, "IN SAMPLE: do not take these figures for a test.")
        if self.changes:
            sentences += [f"What is otherwise: {'; '.join(self.changes)}.", VOID]
        sentences += [f"Note: {one}." for one in self.stays]
        sentences += self._used()
        if self.manifest.reference in self.left_out:
            sentences.append(
                f"The reference {self.manifest.reference} may answer nothing here; savings and violations are still told "
                "against what it costs and does today."
            )
        if self.nobody > 0:
            sentences.append(f"Of {self.nobody:.1%} of the requests nobody may answer; they are left out.")
        if self.tradeoff.why_not:
            sentences.append(f"No frontier: {self.tradeoff.why_not}.")
        return tuple(sentences)

    @property
    def told(self) -> tuple[str, ...]:
        """The figures at the place that was asked for, else at the default operating point, and what `said` says."""
        mark = self.here or self.default
        if mark is None:
            return self.said
        saves = (
            "what all to the reference costs is not known"
            if math.isnan(mark.saving)
            else f"{mark.saving:.1%} less than all to the reference (95% {mark.saving_low:.1%} … {mark.saving_high:.1%})"
        )
        broken = "" if mark.violation_rate is None else f"; {mark.violation_rate:.1%} fail where the reference does not"
        figures = (
            f"1,000 requests cost {1000 * mark.cost_usd:,.3f} USD, {saves}, at a quality of {mark.quality:.1%} "
            f"({mark.quality_low:.1%} … {mark.quality_high:.1%}){broken}."
        )
        busiest = sorted(mark.shares.items(), key=lambda one: -one[1])
        return (
            figures,
            "Where they go: " + ", ".join(f"{name} {part:.1%}" for name, part in busiest if part),
            *self.said,
        )

    def _used(self) -> list[str]:
        """Which of the requests the figures are of, where it is not all of them."""
        used, of_all = self.tradeoff.requests, f"of the {self.requests:,}"
        if self.tradeoff.basis is None or used == self.requests:
            return []
        if self.tradeoff.basis != COMPLETE:
            others = "of the others it is not known how likely their answers were to be asked for"
            return [f"The figures are estimated on {used:,} {of_all}; {others}."]
        sentences = [f"The figures are of the {used:,} {of_all} for which every candidate's outcome is known."]
        if self.lacking:
            named = ", ".join(f"{name} ({share:.1%})" for name, share in list(self.lacking.items())[:_NAMED])
            more = f" and {len(self.lacking) - _NAMED} more" if len(self.lacking) > _NAMED else ""
            sentences.append(f"None of them is of {named}{more}: of these workflows they say nothing.")
        if not self.representative:
            sentences.append(
                f"The workflows that they are of have {1.0 - sum(self.lacking.values()):.1%} of the requests, fewer than "
                f"{_COVERED:.0%}, so no month is told by them: send a share of every workflow to all candidates."
            )
        return sentences

    def _point(self, point: OperatingPoint) -> OperatingPoint:
        mark = self.tradeoff.points.get(point.name)
        none = {"certificate": None, "quality": None, "cost_usd": None, "saving": None, "estimated": None}
        if mark is None:
            return point.model_copy(update=none)
        guess = Estimated(knob=point.knob, violation_rate=mark.violation_rate or 0.0)
        if not math.isnan(mark.saving):
            span = {"saving": mark.saving, "saving_low": mark.saving_low, "saving_high": mark.saving_high}
            guess = guess.model_copy(update=span)
        found = {"quality": mark.quality, "cost_usd": mark.cost_usd, "saving": guess.saving, "estimated": guess}
        return point.model_copy(update=none | found)


@dataclass(frozen=True)
class Budget:
    """What so many requests cost, in USD: the expected sum with its 95% interval, and `by_candidate` (requests, usd)."""

    requests: float
    usd: float
    low: float
    high: float
    by_candidate: pd.DataFrame


def budget_next_month(outcome: Outcome, requests: float | None = None) -> Budget | None:
    """Next month at the default point, by so many requests or the log's own volume; None where either is not known, and where
    the figures are not `representative`.

    The interval is that of the mean cost of a request: how many requests will come is taken as told.
    """
    count, mark = requests if requests is not None else outcome.volume.requests_a_month, outcome.default
    if count is None or mark is None or not outcome.representative:
        return None
    total = count * mark.cost_usd
    rows = [
        {"candidate": name, "requests": count * share, "usd": total * outcome.spending[name]}
        for name, share in outcome.shares.items()
    ]
    table = pd.DataFrame(rows).sort_values("usd", ascending=False, ignore_index=True)
    return Budget(count, total, count * mark.cost_low, count * mark.cost_high, table)


def lacking(known: Outcomes, basis: str | None) -> dict[str, float]:
    """The share of the requests by workflow, of those of which none is among the complete ones that the figures are of."""
    if basis != COMPLETE:
        return {}
    names = workflow_names(known.workflow)
    told, shares = set(names[known.complete].tolist()), Counter(names.tolist())
    return {name: count / len(names) for name, count in shares.most_common() if name not in told}


def compared(outcomes: Mapping[str, Outcome]) -> pd.DataFrame:
    """A row for each outcome, at the place that was asked for, else at its default operating point; `knob` is where that is."""
    rows: list[dict[str, str | float | None]] = []
    for name, outcome in outcomes.items():
        mark, requests = outcome.here or outcome.default, outcome.volume.requests_a_month
        if mark is None:
            rows.append({"case": name, "note": outcome.tradeoff.why_not or "not known"})
            continue
        rows.append(
            {
                "case": name,
                "USD per 1,000": 1000 * mark.cost_usd,
                "USD a month": requests * mark.cost_usd if requests is not None and outcome.representative else None,
                "quality": mark.quality,
                "quality from": mark.quality_low,
                "quality to": mark.quality_high,
                "saving": mark.saving,
                "saving from": mark.saving_low,
                "saving to": mark.saving_high,
                "violations": mark.violation_rate,
                "mostly to": max(mark.shares, key=mark.shares.__getitem__),
                "knob": mark.knob,
                "note": "an estimate" if outcome.changes or outcome.estimate else "",
            }
        )
    return pd.DataFrame(rows)
