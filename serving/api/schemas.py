"""The HTTP contract: request bodies as they arrive, response documents as they leave.

Bodies are read leniently where OpenAI's chat completions vary (unknown fields are ignored, so that a body made for an
LLM can be sent as it is) and strictly in the fields that are used. Responses are documented by these models and
written straight from the decision, without a second validation.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, Self

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    RootModel,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic.config import JsonDict
from pydantic_core import InitErrorDetails, PydanticCustomError
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from serving.bundle.catalogue import Candidate
from serving.bundle.manifest import Objective
from serving.bundle.request import RouteRequest
from serving.decide.decision import Decision, Reason
from serving.decide.eligibility import Rule
from serving.decide.policy import Capability, Policy
from serving.store.feedback import Feedback

# What names a branch of a union in an error's location; a client sees only the path in its own document.
BRANCH = "<"

_PROMPT: JsonDict = {
    "prompt": "Summarise this ticket in one line: the invoice of May was charged twice.",
    "workflow": "support",
}
_CHAT: JsonDict = {
    "messages": [
        {"role": "system", "content": "You write SQL."},
        {"role": "user", "content": "Monthly revenue per region, last year."},
    ],
    "deny": ["acme/*"],
    "quality_target": 0.9,
    "max_output_tokens": 500,
}
_DECISION: JsonDict = {
    "id": "0b0f5a3c9f1e4a6d8c7b2a1908f7e6d5",
    "model": "acme/small",
    "confidence": 0.93,
    "expected_cost_usd": 0.00021,
    "fallbacks": ["acme/large"],
    "reason": "best_value",
    "operating_point": "balanced",
    "quality_target": 0.9,
    "certificate": {"alpha": 0.1, "delta": 0.1, "bound": 0.086, "requests": 412},
    "knob": 12.5,
    "propensity": 1.0,
    "novelty": 0.87,
    "bundle": "2026-01-31-1",
    "warnings": [],
    "candidates": [
        {
            "model": "acme/small",
            "confidence": 0.93,
            "expected_cost_usd": 0.00021,
            "expected_quality": 0.9,
            "expected_latency_ms": 480.0,
            "expected_latency_p95_ms": 1310.0,
            "ruled_out": None,
        },
        {
            "model": "acme/large",
            "confidence": 0.97,
            "expected_cost_usd": 0.0043,
            "expected_quality": 0.95,
            "expected_latency_ms": None,
            "expected_latency_p95_ms": None,
            "ruled_out": None,
        },
    ],
}
_PROBLEM: JsonDict = {
    "type": "urn:outcome-router:invalid-request",
    "title": "Invalid request",
    "status": 422,
    "detail": "messages.0.content: content must be a string, a list of parts or null",
    "instance": "/v1/route",
    "errors": [{"field": "messages.0.content", "message": "content must be a string, a list of parts or null"}],
}

Name = Annotated[str, Field(min_length=1, max_length=256)]


def _content_branch(content: Any) -> str | None:
    if isinstance(content, str):
        return "<text>"
    return "<parts>" if isinstance(content, list) else None


def _part_branch(part: Any) -> str | None:
    if isinstance(part, str):
        return "<text>"
    return "<part>" if isinstance(part, dict) else None


Part = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[dict[str, Any], Tag("<part>")],
    Discriminator(
        _part_branch,
        custom_error_type="part_type",
        custom_error_message="a content part must be an object or a string",
    ),
]
Content = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[Part], Tag("<parts>")],
    Discriminator(
        _content_branch,
        custom_error_type="content_type",
        custom_error_message="content must be a string, a list of parts or null",
    ),
]


class ChatMessage(TypedDict):
    """An OpenAI chat message. Text is read from `content`; other keys are kept and not looked at."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)  # type: ignore[misc]

    role: NotRequired[str]
    content: NotRequired[Content | None]


class ResponseFormat(TypedDict):
    """OpenAI's `response_format`; the type `json_schema` asks for a candidate that can keep to a schema."""

    __pydantic_config__ = ConfigDict(extra="ignore", strict=True)  # type: ignore[misc]

    type: str


class Privacy(BaseModel):
    """Demands on where a request may go. What the catalogue does not say of a candidate counts as no."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True, extra="forbid", frozen=True)

    zero_retention: bool = Field(default=False, description="Only where nothing of the request is kept.")
    self_hosted: bool = Field(default=False, description="Only candidates that we host ourselves.")
    no_training: bool = Field(default=False, description="Only where requests are not trained on.")
    regions: list[Name] = Field(
        default=[], max_length=64, description="Only candidates that answer from these regions."
    )


_NO_DEMANDS = Privacy()


def _no_demands() -> Privacy:
    """The same for every request that names none: pydantic would copy a default each time, and this is frozen."""
    return _NO_DEMANDS


class RouteBody(BaseModel):
    """One request to route: exactly one of `prompt` and `messages`. Unknown fields are ignored."""

    model_config = ConfigDict(
        strict=True, hide_input_in_errors=True, json_schema_extra={"examples": [_PROMPT, _CHAT]}, title="RouteBody"
    )

    prompt: str | None = Field(default=None, description="The prompt, when it is a single text. May be empty.")
    messages: list[ChatMessage] | None = Field(
        default=None, min_length=1, description="The conversation so far, as OpenAI chat messages."
    )
    workflow: str | None = Field(
        default=None, description="The kind of work, as logs tag it. One the bundle does not know counts as none."
    )
    session_id: str | None = Field(default=None, description="The conversation that this request belongs to.")
    allow: list[Name] = Field(
        default_factory=list,
        max_length=256,
        description="Globs over candidate names; only a match may be chosen. Empty: all.",
    )
    deny: list[Name] = Field(
        default_factory=list,
        max_length=256,
        description="Globs over candidate names that may not be chosen. Wins over `allow`.",
    )
    quality_target: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="1 - alpha: in at most alpha of the requests may the chosen candidate fail where the reference would "
        "not have. Picks the bundle's operating point with the lowest target that is at least as high; above the highest "
        "one, the reference candidate is used.",
    )
    cost_quality: float | None = Field(
        default=None,
        ge=0,
        le=10,
        description="Instead of a target: a place between 0, the cheapest, and 10, quality alone. Nothing is certified there.",
    )
    max_cost_usd: float | None = Field(default=None, ge=0, description="Highest expected cost of the request, in USD.")
    max_latency_ms: float | None = Field(
        default=None,
        gt=0,
        description="Highest expected 95th percentile of latency; one that is not known is too high.",
    )
    requires: list[Capability] = Field(
        default_factory=list,
        max_length=3,
        description="What the candidate has to be known for; an OpenAI body says it by its shape.",
    )
    privacy: Privacy = Field(
        default_factory=_no_demands, description="What has to be known of how the candidate treats the data."
    )
    objective: Objective | None = Field(
        default=None,
        description="Maximise the chance of an acceptable answer, or expected quality; null: as trained for.",
    )
    tools: list[dict[str, Any]] | None = Field(
        default=None, description="OpenAI tools. If there are any, the candidate has to be able to call them."
    )
    response_format: ResponseFormat | None = Field(default=None, description="OpenAI response format.")
    max_output_tokens: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000_000,
        validation_alias=AliasChoices("max_output_tokens", "max_completion_tokens", "max_tokens"),
        description="Room to leave for the answer; also read from `max_completion_tokens` and `max_tokens`.",
    )

    @model_validator(mode="after")
    def _one_of_prompt_and_messages(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            arrived = "neither" if self.prompt is None else "both"
            # An error of the model as a whole has no field to name, one that is located does.
            message = "give exactly one of prompt and messages; {arrived} arrived"
            error = PydanticCustomError("one_of", message, {"arrived": arrived})
            located = InitErrorDetails(type=error, loc=("prompt",), input=None)
            raise ValidationError.from_exception_data("RouteBody", [located], hide_input=True)
        if self.quality_target is not None and self.cost_quality is not None:
            error = PydanticCustomError("one_of", "give at most one of quality_target and cost_quality; both arrived")
            located = InitErrorDetails(type=error, loc=("cost_quality",), input=None)
            raise ValidationError.from_exception_data("RouteBody", [located], hide_input=True)
        return self

    def request(self) -> RouteRequest:
        """What the router looks at."""
        return RouteRequest(
            prompt=self.prompt,
            messages=self.messages,
            workflow=self.workflow,
            session_id=self.session_id,
            tools=bool(self.tools),
            json_schema=self.response_format is not None and self.response_format["type"] == "json_schema",
            max_output_tokens=self.max_output_tokens,
        )

    def policy(self) -> Policy:
        """What the caller asks of the decision."""
        return Policy(
            allow=(tuple(self.allow),) if self.allow else (),
            deny=tuple(self.deny),
            requires=frozenset(self.requires),
            zero_retention=self.privacy.zero_retention,
            self_hosted=self.privacy.self_hosted,
            no_training=self.privacy.no_training,
            regions=(frozenset(self.privacy.regions),) if self.privacy.regions else (),
            max_cost_usd=self.max_cost_usd,
            max_latency_ms=self.max_latency_ms,
            quality_target=self.quality_target,
            cost_quality=self.cost_quality,
            objective=self.objective,
        )


class BatchBody(BaseModel):
    """Requests to route together; each carries its own policy."""

    model_config = ConfigDict(
        strict=True, hide_input_in_errors=True, json_schema_extra={"examples": [{"requests": [_PROMPT, _CHAT]}]}
    )

    requests: list[RouteBody] = Field(min_length=1, description="At least 1; the most is a setting (256 by default).")


class FeedbackBody(BaseModel):
    """What came of one decision. Sent again with the same id it changes nothing."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True, extra="forbid", allow_inf_nan=False)

    decision_id: str = Field(min_length=1, max_length=64, pattern=r"^[!-~]+$", description="The decision's `id`.")
    quality: float | None = Field(
        default=None, ge=0, le=1, description="How good the answer was, if somebody judged it."
    )
    accepted: bool | None = Field(default=None, description="Instead of a quality: true is 1, false is 0.")
    cost_usd: float | None = Field(default=None, ge=0, le=1e9, description="What the call cost.")
    input_tokens: int | None = Field(default=None, ge=0, le=10**12)
    output_tokens: int | None = Field(default=None, ge=0, le=10**12)
    latency_ms: float | None = Field(default=None, ge=0, description="How long the call took.")
    error: bool = Field(default=False, description="Whether the call failed; its quality is then 0.")
    model: Name | None = Field(default=None, description="Who answered, if a fallback did.")

    @model_validator(mode="after")
    def _one_judgement(self) -> Self:
        if self.quality is not None and self.accepted is not None:
            error = PydanticCustomError("one_of", "give at most one of quality and accepted; both arrived")
            located = InitErrorDetails(type=error, loc=("accepted",), input=None)
            raise ValidationError.from_exception_data("FeedbackBody", [located], hide_input=True)
        return self

    def feedback(self) -> Feedback:
        """What the store keeps of it."""
        judged = self.quality if self.accepted is None else float(self.accepted)
        return Feedback(
            decision_id=self.decision_id,
            quality=0.0 if self.error else judged,
            candidate=self.model,
            cost_usd=self.cost_usd,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            latency_ms=self.latency_ms,
            error=self.error,
        )


class FeedbackBatchBody(BaseModel):
    """Feedback on several decisions."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True, extra="forbid")

    feedback: list[FeedbackBody] = Field(
        min_length=1, description="At least 1; the most is a setting (256 by default)."
    )


class FeedbackOneOrMany(RootModel[FeedbackBody | FeedbackBatchBody]):
    """What POST /v1/feedback takes: feedback on one decision, or a list of it."""


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


class RouteResponse(_Document):
    """The decision."""

    model_config = ConfigDict(json_schema_extra={"examples": [_DECISION]})

    id: str = Field(description="The decision's id, which feedback refers to.")
    model: str = Field(description="The candidate to send the request to.")
    confidence: float | None = Field(description="Its calibrated P(acceptable).")
    expected_cost_usd: float | None = Field(description="Its expected cost on this request, in USD.")
    fallbacks: list[str] = Field(description="The other eligible candidates, best first.")
    reason: Reason = Field(description="Why it was chosen.")
    operating_point: str | None = Field(description="The operating point that was used.")
    quality_target: float | None = Field(description="That point's quality target, where it has one.")
    certificate: CertificateResponse | None = Field(
        description="What that point was certified for; null where it was not, where the reference is always used, and where "
        "a rule of this request changed the choice."
    )
    knob: float | None = Field(description="Acceptability given up per USD saved; null is infinity (the cheapest).")
    propensity: float = Field(
        description="The probability with which this candidate was chosen; below 1 if it explores."
    )
    novelty: float | None = Field(
        description="How unlike the training prompts the prompt is: these are near 1 on average."
    )
    bundle: str = Field(description="Version of the bundle that decided.")
    warnings: list[str] = Field(description="Budgets that are spent and only warn, as `<scope>/<period>`.")
    candidates: list[CandidateEstimate] = Field(description="Every candidate, in the bundle's order.")


class FieldError(_Document):
    """One thing wrong with a request body."""

    field: str = Field(description="Path of the field, with dots: messages.0.content. Empty: the body as a whole.")
    message: str


class Problem(_Document):
    """An error, as RFC 9457 (application/problem+json) writes it."""

    model_config = ConfigDict(json_schema_extra={"examples": [_PROBLEM]})

    type: str = Field(description="`about:blank`, or a URN that names the kind of problem.")
    title: str
    status: int
    detail: str
    instance: str = Field(description="Path of the request; in a batch, with `#` and the place in it.")
    errors: list[FieldError] | None = Field(default=None, description="Only for an invalid request.")
    ruled_out: dict[str, Rule] | None = Field(
        default=None, description="Only if no candidate is eligible: each candidate's rule."
    )


class BatchResponse(_Document):
    """One result for each request, in order: a decision, or a problem if no candidate was eligible for it."""

    results: list[RouteResponse | Problem]


class FeedbackResponse(_Document):
    """What became of feedback: stored now, or known before. Either way it is on disk."""

    recorded: int
    repeated: int


class ReloadResponse(_Document):
    """Whether another bundle is served now, and which."""

    changed: bool
    bundle: str


class ShadowComparison(_Document):
    """Live against shadow over some decisions. Costs are means per decision, over those where both are known."""

    workflow: str | None = Field(description="Null: requests without a workflow, and in `total` all of them.")
    decisions: int
    agreement: float = Field(description="Share of decisions where the shadow would have chosen the same candidate.")
    live_cost_usd: float | None = Field(description="Expected cost of what was chosen.")
    shadow_cost_usd: float | None = Field(description="Expected cost of what the shadow would have chosen.")
    live_confidence: float | None
    shadow_confidence: float | None


class ShadowResponse(_Document):
    """The shadow bundle's would-be decisions against the live ones, from the store of decisions.

    Compared are decisions that the two bundles made by themselves: not those that a session, a budget or exploration made,
    nor those that were made without a bundle's estimates.
    """

    bundle: str = Field(description="The version that is served.")
    shadow: str = Field(description="The version of the shadow.")
    hours: float = Field(description="How far back this looks.")
    total: ShadowComparison | None = Field(description="Null while nothing is there to compare.")
    workflows: list[ShadowComparison] = Field(description="The busiest first.")


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


def decision_example(candidates: int) -> dict[str, Any]:
    """A decision's document as the documentation shows it, with so many candidates."""
    rows = _DECISION["candidates"]
    assert isinstance(rows, list)
    return {**_DECISION, "candidates": (rows * candidates)[:candidates]}


_CERTIFIED = tuple(CertificateResponse.model_fields)


def decision_document(identifier: str, decision: Decision) -> dict[str, object]:
    """A decision as `RouteResponse` describes it."""
    certificate = decision.certificate
    return {
        "id": identifier,
        "model": decision.candidate,
        "confidence": decision.confidence,
        "expected_cost_usd": decision.expected_cost_usd,
        "fallbacks": decision.fallbacks,
        "reason": decision.reason,
        "operating_point": decision.operating_point,
        "quality_target": decision.quality_target,
        "certificate": None if certificate is None else {name: getattr(certificate, name) for name in _CERTIFIED},
        "knob": decision.knob,
        "propensity": decision.propensity,
        "novelty": decision.novelty,
        "bundle": decision.bundle,
        "warnings": decision.warnings,
        "candidates": [
            {
                "model": seen.candidate,
                "confidence": seen.confidence,
                "expected_cost_usd": seen.expected_cost_usd,
                "expected_quality": seen.expected_quality,
                "expected_latency_ms": seen.expected_latency_ms,
                "expected_latency_p95_ms": seen.expected_latency_p95_ms,
                "ruled_out": seen.ruled_out,
            }
            for seen in decision.alternatives
        ],
    }
