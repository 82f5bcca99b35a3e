"""What came of one decision, and how what is told later is merged with what was told before.

A quality has a source. Somebody's verdict (`JUDGEMENTS`) is one that can be measured on; what only hints that an answer was bad
(`WEAK`: the user asked again, or went to a stronger model; the answer broke its schema, was empty or was cut) is none. A weak
quality never displaces a judgement, not even with `replace`, and a judgement displaces a weak one without a conflict. Of two
weak ones the lower stays, whichever came first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.account.told import JUDGEMENTS

# What feedback may tell. A call that did not fail is what a row holds until somebody tells of a failure.
TOLD = (
    "quality", "candidate", "cost_usd", "input_tokens", "output_tokens", "latency_ms", "error", "judge_cost_usd",
)  # fmt: skip
# Where a quality is from, the surer first, `JUDGEMENTS` before all of these. Without a source it was judged.
WEAK = ("schema", "empty", "cut", "switched", "retried")


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

    `quality` is in [0, 1], and 0 where the call failed (`error`), `source` where it is from: one of `JUDGEMENTS` or `WEAK`,
    None as judged; `candidate` is who answered, if a fallback did, or who was asked too: then this is about that one's answer.
    `cost_usd` and what judging the answer cost are in USD, `latency_ms` in milliseconds. With `replace` it takes the place of
    what was told before.
    """

    decision_id: str
    quality: float | None = None
    source: str | None = None
    candidate: str | None = None
    cost_usd: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    latency_ms: float | None = None
    error: bool | None = None
    replace: bool = False
    judge_cost_usd: float | None = None

    @property
    def weak(self) -> bool:
        """Whether its quality is no judgement."""
        return self.source in WEAK

    def row(self, at: float) -> dict[str, Any]:
        """The row of the first feedback on a decision, told at `at` (epoch seconds)."""
        told: dict[str, Any] = {name: getattr(self, name) for name in TOLD}
        return {
            "decision_id": self.decision_id,
            "at": at,
            **told,
            "quality_source": self.source,
            "error": bool(self.error),
        }


def merged(known: Mapping[str, Any], said: Feedback) -> tuple[dict[str, Any], frozenset[str]]:
    """A row of feedback with what is now said as well, and the fields of it that are new or other than before.

    Raises ConflictError where a field was told before, has another value, and is not to be replaced. Said twice it changes
    nothing, and the order in which two say different fields does not matter. A quality that was weak and is judged now is new,
    whatever its value.
    """
    told = {name: getattr(said, name) for name in TOLD if getattr(said, name) is not None}
    failed = known["error"] and known["quality"] == 0.0
    if failed and said.error is False and (said.quality is None or said.weak):
        known = {
            **known,
            "quality": None,
            "quality_source": None,
        }  # it was said of the failure, which there was none of
    was = known["quality_source"]
    quality, source = _holding(known, said)
    told |= {} if quality is None else {"quality": quality}
    changed = {name: value for name, value in told.items() if known[name] != value}
    free = {"quality"} if was in WEAK else set[str]()
    again = tuple(
        name for name in changed if name not in free and known[name] is not None and (name != "error" or known["error"])
    )
    if again and not said.replace:
        raise ConflictError(said.decision_id, again)
    if source != was:
        changed["quality_source"] = source
        if was in WEAK and source not in WEAK:
            changed["quality"] = quality
    return {**known, **changed}, frozenset(changed)


def _holding(known: Mapping[str, Any], said: Feedback) -> tuple[float | None, str | None]:
    """The quality that holds now, and where it is from."""
    standing: tuple[float | None, str | None] = (known["quality"], known["quality_source"])
    was, source = standing
    if said.quality is None:
        return standing
    new = (said.quality, said.source)
    if was is None or (source in WEAK and not said.weak):
        return new
    if said.weak:
        lower = said.quality < was or (said.quality == was and _rank(said.source) < _rank(source))
        return new if source in WEAK and (said.replace or lower) else standing
    return standing if said.quality == was and _rank(source) <= _rank(said.source) else new


def _rank(source: str | None) -> int:
    """The surer, the lower."""
    return (*JUDGEMENTS, *WEAK).index(source or JUDGEMENTS[0])
