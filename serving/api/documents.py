"""The documents that are answered. These models document them; they are written straight from the decision, without a
second validation.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.api.bodies.examples import DECISION, PROBLEM
from serving.api.evidence.documents import Explanation
from serving.bundle.catalogue import Candidate
from serving.bundle.manifest import Certificate
from serving.decide.decision import Also, Decision, HeldBack, Reason
from serving.decide.eligibility import Rule


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")


class CandidateEstimate(_Document):
    """One candidate, as this request saw it."""

    model: str = Field(description="The candidate's name.")
    confidence: float | None = Field(description="Calibrated P(acceptable).")
    expected_cost_usd: float | None = Field(description="Expected cost of this request, in USD.")
    expected_quality: float | None = Field(description="Expected quality; where logged quality is 0/1, the confidence.")
    expected_latency_ms: float | None = Field(description="Expected latency; null where none was logged.")
    expected_latency_p95_ms: float | None = Field(description="95th percentile of latency; null where none was logged.")
    ruled_out: Rule | None = Field(description="The rule that excludes it from this request, or null.")


class CertificateResponse(_Document):
    """With confidence 1 - delta: in at most alpha of the requests the chosen candidate fails and the reference would not."""

    alpha: float
    delta: float
    bound: float = Field(description="The upper confidence bound on calibration data; at most alpha.")
    requests: int = Field(description="How many calibration requests it rests on.")


class AlsoResponse(_Document):
    """Who is to be sent the same request too, so that both outcomes are known. The answer to use is the decision's model's."""

    model: str = Field(description="The candidate's name, which feedback on its outcome has as `model`.")
    propensity: float = Field(description="The probability with which this candidate was asked too.")
    expected_cost_usd: float = Field(description="Its expected cost on this request, in USD.")


class HeldBackResponse(_Document):
    """Whom the router would have chosen, where the decision was held back."""

    model: str
    confidence: float | None = Field(description="Its calibrated P(acceptable).")
    expected_cost_usd: float | None = Field(description="Its expected cost on this request, in USD.")


class RouteResponse(_Document):
    """The decision."""

    model_config = ConfigDict(json_schema_extra={"examples": [DECISION]})

    id: str = Field(description="The decision's id, which feedback refers to.")
    model: str = Field(description="The candidate to send the request to; if it is held back, who answers otherwise.")
    confidence: float | None = Field(description="Its calibrated P(acceptable).")
    expected_cost_usd: float | None = Field(description="Its expected cost on this request, in USD.")
    fallbacks: list[str] = Field(
        description="The other eligible candidates, best first, or as OpenRouter's fields order them."
    )
    reason: Reason = Field(description="Why it was chosen.")
    operating_point: str | None = Field(description="The operating point that was used.")
    quality_target: float | None = Field(description="That point's quality target, where it has one.")
    certificate: CertificateResponse | None = Field(
        description="What that point was certified for; null where it was not, where the reference is always used, and where "
        "a rule of this request changed the choice."
    )
    knob: float | None = Field(description="Acceptability given up per USD saved; null is infinity (the cheapest).")
    propensity: float = Field(
        description="The probability with which this candidate was chosen; below 1 if it explores or holds back."
    )
    novelty: float | None = Field(
        description="How unlike the training prompts the prompt is: these are near 1 on average."
    )
    bundle: str = Field(description="Version of the bundle that decided.")
    warnings: list[str] = Field(
        description="Budgets that are spent and only warn, as `<scope>/<period>`; whom the rules exclude because the catalogue "
        "does not say enough of them, where one candidate is left; and fields that were ignored, where they are spelt "
        "nearly like one that is read: `quality_traget: did you mean quality_target?`"
    )
    also: AlsoResponse | None = Field(
        description="Null, or who is to be asked too, for what there is to learn: the rule file's `[also]`."
    )
    held_back: HeldBackResponse | None = Field(
        description="Null, or whom the router would have chosen: a share below 1 has `otherwise` answer instead."
    )
    candidates: list[CandidateEstimate] = Field(description="Every candidate, in the bundle's order.")
    explanation: Explanation | None = Field(
        default=None,
        description="Only if `explain` asks for it: what this rests on; null where that could not be found out.",
    )
    unexplained: str | None = Field(
        default=None, description="Only where `explanation` is null though it was asked for: why that is."
    )
    dry_run: bool | None = Field(default=None, description="Only if `dry_run` asks for it: nothing was recorded.")


class FieldError(_Document):
    """One thing wrong with a request body."""

    field: str = Field(description="Path of the field, with dots: messages.0.content. Empty: the body as a whole.")
    message: str


class Problem(_Document):
    """An error, as RFC 9457 (application/problem+json) writes it."""

    model_config = ConfigDict(json_schema_extra={"examples": [PROBLEM]})

    type: str = Field(description="`about:blank`, or a URN that names the kind of problem.")
    title: str
    status: int
    detail: str
    instance: str = Field(description="Path of the request; in a batch, with `#` and the place in it.")
    errors: list[FieldError] | None = Field(default=None, description="Only for an invalid request.")
    ruled_out: dict[str, Rule] | None = Field(
        default=None, description="Only if no candidate is eligible: each candidate's rule."
    )
    fields: list[str] | None = Field(
        default=None, description="Only if feedback says otherwise than earlier feedback did: the fields that differ."
    )


class BatchResponse(_Document):
    """One result for each request, in order: a decision, or a problem if no candidate was eligible for it."""

    results: list[RouteResponse | Problem]


class FeedbackResponse(_Document):
    """What became of feedback; what is recorded or repeated is on disk."""

    recorded: int = Field(description="How many said something new.")
    repeated: int = Field(description="How many said what was known.")
    results: list[Literal["recorded", "repeated"] | Problem] = Field(
        description="One for each, in order: a problem where the decision is not known or a field has another value."
    )


class WorkerReloaded(_Document):
    """What one worker has after a reload."""

    worker: int = Field(description="The number of its process.")
    bundle: str
    shadow: str | None = Field(description="Null: there is no shadow bundle.")


class ReloadResponse(_Document):
    """Whether anything is another one now (bundle, shadow bundle or rules), and what each worker has."""

    changed: bool
    bundle: str
    workers: list[WorkerReloaded]


class ShadowComparison(_Document):
    """Live against shadow over some decisions. Costs are means per decision, over those where both are known."""

    workflow: str | None = Field(description="Null: requests without a workflow, and in `total` all of them.")
    decisions: int
    agreement: float = Field(description="Share of decisions where the shadow would have chosen the same candidate.")
    live_cost_usd: float | None = Field(description="Mean expected cost of what was chosen.")
    shadow_cost_usd: float | None = Field(description="Mean expected cost of what the shadow would have chosen.")
    live_confidence: float | None = Field(description="Mean confidence.")
    shadow_confidence: float | None = Field(description="Mean confidence of the shadow.")


class SpentResponse(_Document):
    """What calls cost that were held back, and what they would have: sums over the same decisions.

    What is left between the two is what routing would have saved.
    """

    decisions: int = Field(description="Decisions whose cost feedback has told, and where the other is known.")
    cost_usd: float = Field(description="What they cost together, by feedback.")
    expected_cost_usd: float = Field(description="What was expected of whom the router would have chosen, summed.")


class HeldBackComparison(ShadowComparison):
    """Who answered (live) against whom the router would have chosen (shadow)."""

    agreement: float | None = Field(  # type: ignore[assignment]
        description="Share of them where the router would have chosen the same; null where no answerer is a candidate."
    )
    spent: SpentResponse | None = Field(description="Null while the cost of none is known.")


class HeldBackComparisons(_Document):
    """Who answered the decisions that were held back (live) against whom the router would have chosen (shadow).

    Who answers otherwise need be no candidate: means and agreement are over the decisions where they are known.
    """

    total: HeldBackComparison | None = Field(description="Null while none was held back.")
    workflows: list[HeldBackComparison] = Field(description="The busiest first.")


class ShadowResponse(_Document):
    """The shadow bundle's would-be decisions against the live ones, from the store of decisions.

    Compared are decisions that the two bundles made by themselves: not those that a session, a budget or exploration made,
    nor those that were made without a bundle's estimates.
    """

    bundle: str = Field(description="The version that is served.")
    shadow: str | None = Field(description="The version of the shadow; null where there is none.")
    hours: float = Field(description="How far back this looks.")
    total: ShadowComparison | None = Field(description="Null while nothing is there to compare.")
    workflows: list[ShadowComparison] = Field(description="The busiest first.")
    held_back: HeldBackComparisons


class BudgetLine(_Document):
    """One budget in its current period."""

    scope: str = Field(description="`default`, `workflow:<name>` or `key:<name>`.")
    period: Literal["day", "month"]
    limit_usd: float
    spent_usd: float = Field(description="Settled by feedback.")
    reserved_usd: float = Field(description="Expected of decisions without feedback yet.")
    left_usd: float
    resets_at: str = Field(description="When the next period begins, UTC.")
    at_limit: Literal["cheapest", "reject", "warn"]
    pace: float = Field(description="What is added to the knob, so that the budget lasts, 1/USD; 0 without pacing.")


class BudgetsResponse(_Document):
    """Every budget that the rules name."""

    budgets: list[BudgetLine]


class CandidateInfo(Candidate):
    """A candidate of the bundle, and where its expected cost comes from: tokens x price, or logged costs."""

    cost_from: str


class CandidatesResponse(_Document):
    """The candidates of the bundle."""

    reference: str = Field(description="The candidate that savings are measured against.")
    candidates: list[CandidateInfo]


class BundleResponse(BaseModel):
    """The bundle's manifest, without its candidates (see /v1/candidates) and its files."""

    format_version: int
    version: str
    created: str
    data_fingerprint: str
    simulated: bool = Field(description="Whether it was trained on simulated traffic.")
    reference: str
    acceptable: float = Field(description="The quality from which on an answer counts as acceptable.")
    encoder: dict[str, Any]
    head: dict[str, Any]
    operating_points: list[dict[str, Any]]
    default_point: str
    knobs: list[float | None]
    metrics: dict[str, Any]


class HealthResponse(_Document):
    """The process answers; `bundle` is the version it serves, null while there is none."""

    status: Literal["ok"]
    bundle: str | None


_CERTIFIED = tuple(CertificateResponse.model_fields)


def said(value: float | None) -> float | None:
    """With six significant digits: an estimate has no more, and float32 looks as if it had seventeen."""
    return None if value is None else float("%.6g" % value)  # noqa: UP031 - in half the time


def _certified(certificate: Certificate) -> dict[str, object]:
    values = {name: getattr(certificate, name) for name in _CERTIFIED}
    return values | {"bound": said(certificate.bound)}


def _asked_too(also: Also) -> dict[str, object]:
    cost = said(also.expected_cost_usd)
    return {"model": also.candidate, "propensity": also.propensity, "expected_cost_usd": cost}


def _would_have_been(own: HeldBack) -> dict[str, object]:
    known = {"confidence": said(own.confidence), "expected_cost_usd": said(own.expected_cost_usd)}
    return {"model": own.candidate, **known}


def decision_document(identifier: str, decision: Decision, misspelt: tuple[str, ...] = ()) -> dict[str, object]:
    """A decision as `RouteResponse` describes it; `misspelt` is what the request may have meant otherwise."""
    certificate, also = decision.certificate, decision.also
    return {
        "id": identifier,
        "model": decision.candidate,
        "confidence": said(decision.confidence),
        "expected_cost_usd": said(decision.expected_cost_usd),
        "fallbacks": decision.fallbacks,
        "reason": decision.reason,
        "operating_point": decision.operating_point,
        "quality_target": decision.quality_target,
        "certificate": None if certificate is None else _certified(certificate),
        "knob": said(decision.knob),
        "propensity": decision.propensity,
        "novelty": said(decision.novelty),
        "bundle": decision.bundle,
        "warnings": (*decision.warnings, *misspelt),
        "also": None if also is None else _asked_too(also),
        "held_back": None if decision.held_back is None else _would_have_been(decision.held_back),
        "candidates": [
            {
                "model": seen.candidate,
                "confidence": said(seen.confidence),
                "expected_cost_usd": said(seen.expected_cost_usd),
                "expected_quality": said(seen.expected_quality),
                "expected_latency_ms": said(seen.expected_latency_ms),
                "expected_latency_p95_ms": said(seen.expected_latency_p95_ms),
                "ruled_out": seen.ruled_out,
            }
            for seen in decision.alternatives
        ],
    }
