"""What stands in a row of the spool: an outcome as far as it is known, or something else that is said of a decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from enum import IntEnum
from typing import Any

import orjson

from serving.integrations.outcome import OutcomeFormatError, ToldOutcome


class Sure(IntEnum):
    """How far an outcome is known: what is surer takes the place of what is less so."""

    ATTEMPT_FAILED = 0  # a retry may yet answer
    ANSWERED = 1  # the client has the answer; the log event, with the last word on its cost, has still to come
    FAILED = 2  # LiteLLM gave the request up
    LOGGED = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """An outcome, as sure as that."""

    told: ToldOutcome
    sure: Sure

    def to_json(self) -> bytes:
        return orjson.dumps({"sure": int(self.sure), "told": orjson.Fragment(self.told.to_json())})


@dataclass(frozen=True, slots=True)
class Said:
    """Something that is said of a decision: a document of POST /v1/feedback, by whoever has this key (None: the plug-in)."""

    document: Mapping[str, Any]
    key: str | None = None

    def to_json(self) -> bytes:
        return orjson.dumps({"document": dict(self.document), "key": self.key})


def read(body: bytes) -> Outcome | Said:
    """What `to_json` wrote; raises OutcomeFormatError."""
    try:
        found = orjson.loads(body)
        if "document" in found:
            return Said(dict(found["document"]), found.get("key"))
        return Outcome(ToldOutcome.from_json(orjson.dumps(found["told"])), Sure(found["sure"]))
    except (KeyError, TypeError, ValueError) as error:
        raise OutcomeFormatError(f"a row of the spool: expected an outcome or feedback; arrived: {error}") from None


def combined(there: bytes, coming: bytes) -> bytes:
    """Two bodies of one row as one: the surer one, with what the other alone knows of the same end of the call."""
    try:
        first, second = read(there), read(coming)
    except OutcomeFormatError:
        return coming
    if not isinstance(first, Outcome) or not isinstance(second, Outcome):
        return coming
    last, other = (second, first) if second.sure >= first.sure else (first, second)
    known: dict[str, Any] = {}
    if last.told.error is other.told.error:
        names = ("cost_usd", "input_tokens", "output_tokens", "latency_ms", "trace_id", "observation_id", "call_id")
        ours, theirs = asdict(last.told), asdict(other.told)
        known = {name: theirs[name] for name in names if ours[name] is None}
    if len(other.told.attempts) > len(last.told.attempts):
        known["attempts"] = other.told.attempts
    return Outcome(replace(last.told, **known), last.sure).to_json()
