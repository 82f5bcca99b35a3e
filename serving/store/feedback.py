"""What came of one decision, and how what is told later is merged with what was told before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# What feedback may tell. A call that did not fail is what a row holds until somebody tells of a failure.
TOLD = ("quality", "candidate", "cost_usd", "input_tokens", "output_tokens", "latency_ms", "error")


class UnknownDecisionError(LookupError):
    """There is no such decision, or it is another key's."""

    def __init__(self, decision_id: str) -> None:
        self.decision_id = decision_id
        super().__init__("there is no decision of this id; it may not have been stored, or it is another key's")


class ConflictError(ValueError):
    """Feedback tells something else than earlier feedback on the same decision did; `fields` are what they differ in."""

    def __init__(self, decision_id: str, fields: tuple[str, ...]) -> None:
        self.decision_id, self.fields = decision_id, fields
        names = " and ".join(", ".join(fields).rsplit(", ", 1))
        super().__init__(
            f"earlier feedback on this decision has another {names}; leave that out, or send replace: true"
        )


@dataclass(frozen=True, slots=True)
class Feedback:
    """Feedback on one decision; what is None was not told.

    `quality` is in [0, 1], and 0 where the call failed (`error`); `candidate` is who answered, if a fallback did, or who was
    asked too: then this is about that one's answer. `cost_usd` in USD, `latency_ms` in milliseconds. With `replace` it takes
    the place of what was told before in the same fields.
    """

    decision_id: str
    quality: float | None = None
    candidate: str | None = None
    cost_usd: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    latency_ms: float | None = None
    error: bool | None = None
    replace: bool = False

    def row(self, at: float) -> dict[str, Any]:
        """The row of the first feedback on a decision, told at `at` (epoch seconds)."""
        told: dict[str, Any] = {name: getattr(self, name) for name in TOLD}
        return {"decision_id": self.decision_id, "at": at, **told, "error": bool(self.error)}


def merged(known: Mapping[str, Any], said: Feedback) -> tuple[dict[str, Any], frozenset[str]]:
    """A row of feedback with what is now said as well, and the fields of it that are new or other than before.

    Raises ConflictError where a field was told before, has another value, and is not to be replaced. Said twice it changes
    nothing, and the order in which two say different fields does not matter.
    """
    told = {name: getattr(said, name) for name in TOLD if getattr(said, name) is not None}
    if known["error"] and said.error is False and said.quality is None and known["quality"] == 0.0:
        known = {**known, "quality": None}  # it was said of the failure, which there was none of
    changed = {name: value for name, value in told.items() if known[name] != value}
    again = tuple(name for name in changed if known[name] is not None and (name != "error" or known["error"]))
    if again and not said.replace:
        raise ConflictError(said.decision_id, again)
    return {**known, **changed}, frozenset(changed)
