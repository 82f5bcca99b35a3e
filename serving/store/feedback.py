"""What came of one decision, as the store keeps it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Feedback:
    """One row of the feedback table; what is None was not told.

    `quality` is in [0, 1], and 0 where the call failed (`error`); `candidate` is who answered, if a fallback did; `cost_usd` in
    USD, `latency_ms` in milliseconds.
    """

    decision_id: str
    quality: float | None = None
    candidate: str | None = None
    cost_usd: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    latency_ms: float | None = None
    error: bool = False
