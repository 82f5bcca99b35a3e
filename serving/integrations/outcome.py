"""What became of one decision: the call that followed it, as a gateway's log tells it, with the attempts it took.

It crosses processes and restarts as JSON. It has no text of a prompt or of an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import orjson


@dataclass(frozen=True)
class Attempt:
    """One try of a call: the candidate asked, whether it failed, and as what class of error."""

    model: str
    error: str | None = None  # the error's class, never its text; None: it answered
    started: float | None = None  # epoch seconds
    ended: float | None = None
    cost_usd: float | None = None


@dataclass(frozen=True)
class ToldOutcome:
    """The outcome of one decision. `started` and `ended` are epoch seconds, `model` is the candidate that answered."""

    decision_id: str
    trace_id: str | None
    observation_id: str | None
    call_id: str | None
    model: str | None
    started: float
    ended: float
    cost_usd: float | None
    input_tokens: int | None
    output_tokens: int | None
    latency_ms: float | None
    error: bool
    attempts: tuple[Attempt, ...] = ()
    decision: Mapping[str, Any] = field(default_factory=dict)  # model, ranks, confidence, reason, bundle, ...

    def to_json(self) -> bytes:
        """The outcome as one JSON object. What JSON does not hold is null: numbers that are not finite, or above 2**53."""
        try:
            return orjson.dumps(self, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_STRICT_INTEGER)
        except TypeError:
            return orjson.dumps(_plain(asdict(self)))

    @classmethod
    def from_json(cls, text: bytes | str) -> ToldOutcome:
        """What `to_json` wrote. Unknown fields are passed over, as a newer version's; raises OutcomeFormatError."""
        try:
            found = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise OutcomeFormatError(f"an outcome: expected a JSON object; arrived: {error}") from None
        known = _read(found, _KINDS, _REQUIRED)
        known["attempts"] = tuple(
            Attempt(**_read(attempt, _OF_ATTEMPT, frozenset({"model"}), f"attempts[{place}]."))
            for place, attempt in enumerate(known["attempts"] or ())
        )
        return cls(**{**known, "error": bool(known["error"]), "decision": known["decision"] or {}})


MOST = 2**53  # of an integer: above it JSON's readers differ
_DEEPEST = 8


def _plain(value: object, depth: int = 0) -> object:
    """What JSON can hold of a value: texts without halves of surrogate pairs, integers to 2**53; null for the rest."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if abs(value) <= MOST else None
    if depth == _DEEPEST:
        return None
    if isinstance(value, Mapping):
        return {str(_plain(str(name))): _plain(one, depth + 1) for name, one in value.items()}
    return [_plain(one, depth + 1) for one in value] if isinstance(value, list | tuple) else None


class Sink(Protocol):
    """Where outcomes go beside the router itself."""

    async def send(self, told: Sequence[ToldOutcome]) -> None:
        """Deliver every outcome, some of them perhaps again; raises SinkError, which means: keep them all for later.

        An outcome that is refused for what it is does not raise: it would be refused for ever, and those behind it wait.
        """


class SinkError(Exception):
    """What was to be sent is not known to have arrived: keep all of it. Nothing that could identify a key is in the message.

    `retry_after_seconds`: how long to wait at least, where that is known. `retryable` is False where a repetition cannot
    help before somebody changes the configuration (keys that are not taken, a wrong address).
    """

    def __init__(self, message: str, *, retry_after_seconds: float | None = None, retryable: bool = True) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.retryable = retryable


class OutcomeFormatError(ValueError):
    """A stored outcome that cannot be read: the message names the field, what arrived and what was expected."""


_TEXT, _NUMBER, _COUNT = (str,), (int, float), (int,)
_KINDS: Mapping[str, tuple[type, ...]] = {
    "decision_id": _TEXT, "trace_id": _TEXT, "observation_id": _TEXT, "call_id": _TEXT, "model": _TEXT,
    "started": _NUMBER, "ended": _NUMBER, "cost_usd": _NUMBER, "latency_ms": _NUMBER,
    "input_tokens": _COUNT, "output_tokens": _COUNT, "error": (bool,), "attempts": (list,), "decision": (dict,),
}  # fmt: skip
_OF_ATTEMPT: Mapping[str, tuple[type, ...]] = {
    "model": _TEXT, "error": _TEXT, "started": _NUMBER, "ended": _NUMBER, "cost_usd": _NUMBER,
}  # fmt: skip
_REQUIRED = frozenset({"decision_id", "started", "ended"})


def _read(
    found: Any, kinds: Mapping[str, tuple[type, ...]], required: frozenset[str], where: str = ""
) -> dict[str, Any]:
    """The known fields of an object, None where they are absent; raises OutcomeFormatError for one of another kind."""
    if not isinstance(found, dict):
        raise OutcomeFormatError(f"{where or 'an outcome'}: expected a JSON object; arrived: {type(found).__name__}")
    known = {name: found.get(name) for name in kinds}
    for name, value in known.items():
        if value is None and name not in required:
            continue
        if not isinstance(value, kinds[name]) or (isinstance(value, bool) and bool not in kinds[name]):
            expected = " or ".join(each.__name__ for each in kinds[name])
            raise OutcomeFormatError(f"{where}{name}: expected {expected}; arrived: {type(value).__name__}")
    return known
