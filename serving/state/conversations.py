"""Which conversation a request belongs to, which candidate that was on, and what other processes know of it."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from serving.bundle.catalogue import Candidate
from serving.bundle.request import ReadRequest, RouteRequest
from serving.settings import Settings
from serving.state.sessions import Marks, Sessions, derived_id, given_id, goes_on
from serving.store.writer import DecisionStore

# How long a prompt stays in a candidate's cache where the catalogue does not say: what providers promise at the least.
CACHE_SECONDS = 300.0
# A row may be written so much later than what it tells happened.
_LATE_SECONDS = 2.0
_ROWS_AT_ONCE = 5000
# How often what nobody remembers any more is deleted.
_FORGET_SECONDS = 600.0
_NOTHING = Marks(0, b"")


@dataclass(frozen=True, slots=True)
class Before:
    """Where a conversation was last, and how many counted tokens of a prompt each candidate may have in its cache."""

    candidate: str | None = None
    cached: Mapping[str, float] = field(default_factory=dict)


_NEVER = Before()


class Conversations:
    """Remembers conversations by keyed hashes, without text. Safe to share between threads; `clock` gives epoch seconds.

    They are shared through the store where others may use it: workers, or services on one PostgreSQL. Without
    `settings.hash_secret` the hashes' key is drawn here, and nobody else's hashes are these.
    """

    def __init__(
        self, settings: Settings, store: DecisionStore | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.sessions = Sessions(settings.session_bytes, settings.session_seconds, clock)
        self._derives = settings.derived_sessions
        self._key = hashlib.sha256((settings.hash_secret or secrets.token_hex()).encode()).digest()
        self._clock = clock
        postgresql = store is not None and store.engine.dialect.name == "postgresql"
        self._store = store if settings.workers > 1 or postgresql else None
        self._seconds = settings.session_seconds
        self._forgot = clock()
        self._heard = self._forgot - self._seconds

    @property
    def shared(self) -> bool:
        """Whether others are told, and heard."""
        return self._store is not None

    def id_of(self, request: RouteRequest, caller: str | None, *, private: bool) -> str | None:
        """The id of a request's conversation under the name of an API key: of its `session_id`, or else of how it begins.

        A `private` request has one only if it brings a `session_id`.
        """
        if request.session_id is not None:
            return given_id(self._key, caller, request.session_id)
        if private or not self._derives or request.messages is None:
            return None
        return derived_id(self._key, caller, request.messages, request.definitions)

    @staticmethod
    def kept(session: str | None, *, aside: bool) -> str | None:
        """The id under which it is remembered where a conversation is or, `aside`, would be if it were not held back.

        Apart, so that a prompt counts for read by nobody who was not asked once it is held back no more.
        """
        return f"{session}~" if aside and session is not None else session

    def before(self, session: str | None, request: ReadRequest, candidates: Sequence[Candidate]) -> Before:
        """Where the conversation was, and what of this prompt is cached; nothing where it begins and has no `session_id`."""
        asked = request.request
        if session is None or (asked.session_id is None and not goes_on(asked.messages or ())):
            return _NEVER
        known = self.sessions.get(session)
        if known is None:
            return _NEVER
        now = self._clock()
        catalogue = {one.name: one for one in candidates}
        per_byte = request.counted / max(len(request.data), 1)
        cached = {
            one.candidate: one.marks.common(self._key, request.data) * per_byte
            for one in known.read
            if one.candidate in catalogue and now - one.at <= (catalogue[one.candidate].cache_seconds or CACHE_SECONDS)
        }
        return Before(known.candidate, cached)

    def went(self, session: str, data: bytes, candidate: str, *, private: bool) -> None:
        """Remembers where a prompt (UTF-8) went, and tells the others; not how it begins, where that is `private`."""
        marks, now = Marks.of(self._key, data), self._clock()
        self.sessions.put(session, candidate, now, marks)
        if self._store is not None:
            told = (_NOTHING if private else marks).packed()
            self._store.session({"id": session, "candidate": candidate, "at": now, "marks": told})

    def hear(self) -> None:
        """Takes over what the others have told since the last time, and now and then deletes what is too old."""
        if self._store is None:
            return
        now = self._clock()
        if now - self._forgot > _FORGET_SECONDS:
            self._forgot = now
            self._store.forget_sessions(now - self._seconds)
        since = self._heard - _LATE_SECONDS
        while True:
            rows = self._store.sessions_since(since, _ROWS_AT_ONCE)
            for row in rows:
                self.sessions.heard(row["id"], row["candidate"], row["at"], Marks.unpacked(row["marks"]))
            if rows:
                since = rows[-1]["at"]
                # Another's clock may be ahead of this one.
                self._heard = max(self._heard, min(since, self._clock()))
            if len(rows) < _ROWS_AT_ONCE:
                return
