"""What a gateway sees of quality without anybody judging it: hints that an answer was bad.

A user asks the same again, or goes to a stronger model; an answer does not fit its schema, is empty or was cut. None of these
is a judgement: a person may ask again for a second version, and a caller may cut on purpose. So they are told as weak sources,
of quality 0, and the training does not use them unless it is told to.

Of a session and a prompt only keyed hashes are kept, under a key that this process drew and nobody knows, and only so many.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from serving.integrations.litellm.signals.schema import fits

# The last requests of a session that one may repeat: some run in parallel.
_REMEMBERED = 4
_BAD = 0.0
_SIZE = 16


@dataclass(frozen=True, slots=True)
class Signal:
    """A hint that the answer of a decision was bad: the weak `source` and the `quality` to be told of it."""

    source: str
    quality: float
    decision_id: str


@dataclass(slots=True)
class _Asked:
    """A request of a session, and whether its answer has come."""

    decision_id: str
    prompt: bytes
    candidate: str
    at: float
    answered: bool = False
    told: bool = False


def prompt_digest(messages: Any) -> bytes:
    """A digest of a prompt, whole: messages, or a text. What cannot be written as JSON counts by its Python text."""
    return blake2b(json.dumps(messages, sort_keys=True, default=str).encode(), digest_size=_SIZE).digest()


class Signals:
    """Finds signals among the requests and answers that pass. Safe to share between threads.

    Sessions are kept for `seconds` after their last request, `most_sessions` of them at most, the latest.
    """

    def __init__(
        self, most_sessions: int = 10_000, seconds: float = 600.0, clock: Callable[[], float] = time.time
    ) -> None:
        self._most, self._seconds, self._clock = most_sessions, seconds, clock
        self._key = secrets.token_bytes(_SIZE)
        self._lock = threading.Lock()
        self._sessions: OrderedDict[bytes, list[_Asked]] = OrderedDict()
        self._open: OrderedDict[str, _Asked] = OrderedDict()

    def __len__(self) -> int:
        """How many sessions are remembered."""
        return len(self._sessions)

    def asked(
        self,
        session: str | None,
        decision_id: str | None,
        prompt_digest: bytes,
        candidate: str,
        rank_of_strength: Mapping[str, float] | Callable[[str], float | None],
        *,
        named: bool | None = None,
    ) -> list[Signal]:
        """A request that comes in, and what it says of earlier ones of its session.

        `candidate` is who answers it, `rank_of_strength` how strong each is, the higher the stronger. A request that names its
        model itself (`named`; without a decision it is one) says `switched` of the session's last answer, if that was a weaker
        candidate's. One with the same prompt says `retried`. Nothing is said of a request without a session, of what has not
        been answered yet (then nobody has seen it: the proxy or the client tries again, or asks in parallel), of one that the
        same decision is about, or twice of one decision.
        """
        if session is None:
            return []
        now, place = self._clock(), self._hash(session.encode("utf-8", "surrogatepass"))
        prompt = self._hash(prompt_digest)
        with self._lock:
            kept = [one for one in self._sessions.pop(place, []) if now - one.at <= self._seconds]
            if any(one.decision_id == decision_id for one in kept):
                self._sessions[place] = kept
                return []
            seen = [one for one in kept if one.answered and not one.told]
            by_name = decision_id is None if named is None else named
            found = self._told_of(seen, prompt, candidate, rank_of_strength, by_name=by_name)
            if decision_id is not None:
                kept.append(_Asked(decision_id, prompt, candidate, now))
                self._open[decision_id] = kept[-1]
            if kept:
                self._sessions[place] = kept[-_REMEMBERED:]
            self._forget(now)
        return found

    def answered(
        self,
        decision_id: str,
        text: str | None,
        finish_reason: str | None,
        tool_calls: bool,
        schema: Mapping[str, Any] | None,
    ) -> list[Signal]:
        """An answer, and what it says of itself: `empty`, `cut`, `schema`; `schema` is the request's `response_format`.

        An answer of tool calls needs no text. One that a content filter stopped says nothing: it would be the same elsewhere.
        """
        with self._lock:
            asked = self._open.pop(decision_id, None)
            if asked is not None:
                asked.answered = True
        if finish_reason == "content_filter":
            return []
        sources = []
        empty = text is None or not text.strip()
        if empty and not tool_calls:
            sources.append("empty")
        elif text is not None and not empty and schema is not None and fits(text, schema) is False:
            sources.append("schema")
        if finish_reason == "length":
            sources.append("cut")
        return [Signal(source, _BAD, decision_id) for source in sources]

    def _told_of(
        self,
        seen: list[_Asked],
        prompt: bytes,
        candidate: str,
        rank_of_strength: Mapping[str, float] | Callable[[str], float | None],
        *,
        by_name: bool,
    ) -> list[Signal]:
        rank = rank_of_strength.get if isinstance(rank_of_strength, Mapping) else rank_of_strength
        found = []
        if by_name and seen:
            ours, theirs = rank(candidate), rank(seen[-1].candidate)
            if ours is not None and theirs is not None and ours > theirs:
                found.append(("switched", seen[-1]))
        found += [("retried", one) for one in seen[::-1] if one.prompt == prompt][:1]
        signals: dict[str, Signal] = {}
        for source, one in found:
            one.told = True
            signals.setdefault(one.decision_id, Signal(source, _BAD, one.decision_id))
        return list(signals.values())

    def _forget(self, now: float) -> None:
        """Lets go of what is too much or too old. The lock is held."""
        while self._sessions and (
            len(self._sessions) > self._most or now - next(iter(self._sessions.values()))[-1].at > self._seconds
        ):
            self._sessions.popitem(last=False)
        while self._open and (
            len(self._open) > self._most * _REMEMBERED or now - next(iter(self._open.values())).at > self._seconds
        ):
            self._open.popitem(last=False)

    def _hash(self, value: bytes) -> bytes:
        return blake2b(value, digest_size=_SIZE, key=self._key).digest()
