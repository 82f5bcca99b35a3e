"""What `explanation` of an answer is. These models document it; it is written straight from what was found."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from serving.decide.eligibility import Rule


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NearOutcome(_Document):
    """What came of one candidate's answer to a logged request; null is what the log does not know."""

    model: str
    acceptable: bool | None = Field(description="Whether its quality was enough; null: nobody judged it.")
    quality: float | None
    cost_usd: float | None
    error: bool = Field(description="The call failed.")


class NearRequest(_Document):
    """A logged request like this one."""

    id: str | None = Field(description="Its id in the log, for a key that may administer.")
    workflow: str | None = Field(description="Its workflow; null: it had none.")
    similarity: float = Field(
        description="The cosine of the two embeddings; to one decimal, but for a key that may administer."
    )
    text: str | None = Field(description="The beginning of its text, where it was kept, for a key that may administer.")
    outcomes: list[NearOutcome] = Field(description="Of the candidates that were tried, in the bundle's order.")


class Flip(_Document):
    """A stretch of `cost_quality` in which this request goes to one candidate, its rules applied.

    By what is known of the request alone: no session, no budget, nothing explored or held back.
    """

    from_cost_quality: float
    to_cost_quality: float = Field(description="As far as that; 0 and 10 themselves may be stretches of their own.")
    knob_low: float | None = Field(description="The knob at the upper end of the stretch, 1/USD.")
    knob_high: float | None = Field(description="The knob at its lower end; null is infinity (the cheapest).")
    model: str
    certified: bool = Field(
        description="Whether a certificate reaches this choice; only where a rule demands a quality target."
    )


class PointChoice(_Document):
    """What this request would go to under one of the bundle's operating points."""

    name: str
    quality_target: float | None = Field(description="The target that asks for it; null: it is the default.")
    model: str
    certificate: bool = Field(description="Whether the point's certificate reaches this choice.")


class Counterfactual(_Document):
    """What the reference candidate would be expected to cost on this request, beside what was chosen."""

    model: str
    expected_cost_usd: float | None
    saving_usd: float | None = Field(description="That less the chosen one's expected cost; negative: it is dearer.")
    saving: float | None = Field(description="The same as a share of the reference's cost.")


class RuledOut(_Document):
    """A candidate that a rule excludes, and where that rule was set."""

    model: str
    rule: Rule
    scopes: list[str] = Field(
        description="`request` for what it asks or needs itself; of the rule file `default`, `workflow:<name>`, `key:<name>`."
    )


class Explanation(_Document):
    """What a decision rests on."""

    nearest: list[NearRequest] = Field(description="The logged requests most like this one, the nearest first.")
    searched: int = Field(description="Among so many of the bundle's logged requests.")
    of: int = Field(description="From so many of the log these were taken.")
    why_none: str | None = Field(description="Why there is none to show, if so.")
    flips: list[Flip] = Field(description="What is chosen at each `cost_quality` from 0 to 10, without a gap.")
    points: list[PointChoice] = Field(description="What is chosen under each target that can be asked for.")
    overrides: list[str] = Field(
        description="The reasons for which the choice is another one than by value and cost: `novel`, `session`, `budget`..."
    )
    counterfactual: Counterfactual
    rules: list[RuledOut]
    seconds: float = Field(description="How long this took to find, beside the decision.")
