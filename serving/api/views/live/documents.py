"""What `/v1/live` answers, as a document."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.account.savings import Method
from serving.api.documents import BudgetLine
from serving.decide.decision import Reason


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LiveCosts(_Document):
    """Sums in USD over the decisions since a time."""

    expected_usd: float = Field(description="Expected of all decisions of which something is expected.")
    reference_expected_usd: float = Field(description="Expected of the reference, had it answered these.")
    costed: int = Field(description="Decisions whose cost feedback has told.")
    actual_usd: float = Field(description="What these cost.")
    expected_of_costed_usd: float | None = Field(
        description="What was expected of these, to hold against it; null where it is not known."
    )
    since: float | None = Field(description="Epoch seconds; null: since the service was started.")
    as_of: float = Field(description="When it was summed: seldom, where summing takes long.")


class LiveSaved(_Document):
    """What was saved over the same time."""

    usd: float = Field(description="Negative where routing cost more than it saved.")
    low: float | None
    high: float | None = Field(
        description="Between these: with 95% confidence if `method` is the reference's own answers, else without a level. "
        "Null: nothing says how much at most."
    )
    method: Method = Field(description="What the reference's cost is worked out from.")
    counterfactual: str = Field(description="Against what, and by what that is known.")
    as_of: float = Field(description="When it was summed: seldom, where summing takes long.")


class LiveThresholds(_Document):
    """From where on a figure of drift is worth a warning."""

    psi: float
    novel_share: float
    calibration_error: float


class LiveDrift(_Document):
    """Drift, of all workers of this server, the worst of each; null until enough was seen."""

    psi: float | None
    novel_share: float | None
    calibration_error: float | None
    thresholds: LiveThresholds
    scope: Literal["this server"]


class LiveDecision(_Document):
    """One decision that was made without what is usual. No text is shown."""

    id: str
    at: float
    workflow: str | None
    reason: Reason
    model: str


class LiveLatency(_Document):
    """Milliseconds of a decision, of this server since it was started; null before there is one."""

    p50: float | None
    p99: float | None


class LiveMinute(_Document):
    """The decisions made in one minute, and their costs as far as they are known now."""

    minute: float = Field(description="When it begins, in epoch seconds.")
    decisions: int
    expected_usd: float
    actual_usd: float | None = Field(description="Of those whose cost feedback has told; null where of none.")
    reference_usd: float = Field(description="Expected of the reference.")


class LiveResponse(_Document):
    """What goes on now. All times are epoch seconds.

    From the store: of all services that share it, or of the caller's own key alone, which sees nothing of the server. Without
    a store: from this server's metrics, all its workers' together, since it was started.
    """

    at: float
    of: Literal["store", "metrics"] = Field(alias="from")
    note: str | None = Field(description="What is missing and why, for people to read; or null.")
    scope: Literal["all", "key"] = Field(description="`key`: the decisions of the caller's own key alone.")
    window_seconds: float = Field(description="What decisions_per_minute is over.")
    decisions_per_minute: float | None = Field(description="Null until two looks at the metrics tell.")
    total_decisions: int | None = Field(description="Null while it is counted for the first time.")
    shares: dict[str, float] = Field(description="Of each candidate, over the last 15 minutes.")
    reasons: dict[str, int] = Field(description="Decisions of each reason, over the same time.")
    cost: LiveCosts | None = Field(description="Over the last day; null while it is summed for the first time.")
    saved: LiveSaved | None = Field(
        description="Null while nothing can be compared, or it is summed for the first time."
    )
    budgets: list[BudgetLine]
    drift: LiveDrift | None
    abstentions: list[LiveDecision] = Field(description="The latest 10 of the last day in which the router held back.")
    faults: list[LiveDecision] = Field(description="The latest 10 of the last day that were made without estimates.")
    problems: dict[str, int] | None = Field(description="Requests answered with each status, since the server's start.")
    latency_ms: LiveLatency | None
    series: list[LiveMinute] = Field(description="The last hour, the newest last.")
    queue_rows: int | None = Field(description="Rows that wait to be written.")
    bundle: str
    shadow: str | None


class LiveEnd(_Document):
    """The last event of a stream, `event: end`."""

    why: str
