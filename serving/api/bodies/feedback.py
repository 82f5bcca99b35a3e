"""The bodies of feedback, on one decision or on several."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Discriminator, Field, RootModel, Tag, model_validator

from serving.api.bodies.fields import MOST_IN_A_BATCH, Name, refused
from serving.store.feedback import Feedback

Source = Literal["judged", "thumb", "retried", "switched", "schema", "empty", "cut"]


class FeedbackBody(BaseModel):
    """What came of one decision. What is not given is not said, and may be sent later; the same again changes nothing."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True, extra="forbid", allow_inf_nan=False)

    decision_id: str = Field(min_length=1, max_length=64, pattern=r"^[!-~]+$", description="The decision's `id`.")
    quality: float | None = Field(
        default=None, ge=0, le=1, description="How good the answer was, if somebody judged it."
    )
    accepted: bool | None = Field(default=None, description="Instead of a quality: true is 1, false is 0.")
    source: Source | None = Field(
        default=None,
        description="Where the quality is from. `judged` (as without it) and `thumb`, a user's verdict, are judgements. What "
        "only hints at a bad answer is weak: `retried` (the user asked the same again), `switched` (went to a stronger model), "
        "`schema` (the answer does not fit its schema), `empty`, `cut`. A weak one never takes a judgement's place, and a "
        "judgement takes a weak one's; of two weak ones the lower stays.",
    )
    cost_usd: float | None = Field(default=None, ge=0, le=1e4, description="What the call cost.")
    input_tokens: int | None = Field(default=None, ge=0, le=10**12)
    output_tokens: int | None = Field(default=None, ge=0, le=10**12)
    latency_ms: float | None = Field(default=None, ge=0, description="How long the call took.")
    error: bool | None = Field(default=None, description="Whether the call failed; its quality is then 0.")
    judge_cost_usd: float | None = Field(
        default=None, ge=0, le=1e4, description="What judging the answer cost, by an LLM or by people."
    )
    model: Name | None = Field(
        default=None,
        description="Who answered, if a fallback did; or the decision's `also.model`: this is about that one's answer.",
    )
    replace: bool = Field(
        default=False, description="Whether this takes the place of what was said before; without it that is a 409."
    )

    @model_validator(mode="after")
    def _one_judgement(self) -> Self:
        if self.quality is not None and self.accepted is not None:
            raise refused("accepted", "one_of", "give at most one of quality and accepted; both arrived")
        if self.source is not None and self.quality is None and self.accepted is None and not self.error:
            raise refused(
                "source", "of_quality", f"{self.source} is where a quality is from; give quality or accepted with it"
            )
        return self

    def feedback(self) -> Feedback:
        """What the store keeps of it."""
        judged = self.quality if self.accepted is None else float(self.accepted)
        return Feedback(
            decision_id=self.decision_id,
            quality=0.0 if self.error else judged,
            source=None if self.error else self.source,
            candidate=self.model,
            cost_usd=self.cost_usd,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            latency_ms=self.latency_ms,
            error=self.error,
            judge_cost_usd=self.judge_cost_usd,
            replace=self.replace,
        )


class FeedbackBatchBody(BaseModel):
    """Feedback on several decisions."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True, extra="forbid")

    feedback: list[FeedbackBody] = Field(
        min_length=1,
        max_length=MOST_IN_A_BATCH,
        fail_fast=True,
        description="At least 1; the most is a setting (256 by default).",
    )


def _feedback_branch(document: Any) -> str:
    return "<many>" if isinstance(document, dict) and "feedback" in document else "<one>"


_OneOrMany = Annotated[
    Annotated[FeedbackBody, Tag("<one>")] | Annotated[FeedbackBatchBody, Tag("<many>")], Discriminator(_feedback_branch)
]


class FeedbackOneOrMany(RootModel[_OneOrMany]):
    """What POST /v1/feedback takes: feedback on one decision, or a list of it."""

    model_config = ConfigDict(hide_input_in_errors=True)

    @property
    def several(self) -> bool:
        """Whether it came as a list, of one perhaps."""
        return isinstance(self.root, FeedbackBatchBody)

    @property
    def bodies(self) -> list[FeedbackBody]:
        return self.root.feedback if isinstance(self.root, FeedbackBatchBody) else [self.root]
