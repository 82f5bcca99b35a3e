"""Which conversation a request belongs to, which candidate that was on, and what other processes know of it."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import Select, select

from serving.bundle.catalogue import Candidate
from serving.bundle.request import ReadRequest, RouteRequest
from serving.settings import Settings
from serving.state.replays import Asker, AwayError
from serving.state.sessions import Marks, Sessions, derived_id, given_id, goes_on
from serving.store.tables import SESSIONS
from serving.store.writer import DecisionStore, NotStoredError

# How long a prompt stays in a candidate's cache where the catalogue does not say: what providers promise at the least.
CACHE_SECONDS = 300.0
# A row may be written so much later than what it tells happened.
_LATE_SECONDS = 2.0
_ROWS_AT_ONCE = 5000
# How often what nobody remembers any more is deleted.
_FORGET_SECONDS = 600.0
_NOTHING = Marks(0, b"")
# A store that was not told in time is not waited for in the next so many seconds.
_SLOW_SECONDS = 1.0
# By so much a turn is later than the one before at the least: the clock of who took that one may be ahead.
_LATER = 1e-3


@dataclass(frozen=True, slots=True)
class Before:
    """Where a conversation was last, and how many counted tokens of a prompt each candidate may have in its cache."""

    candidate: str | None = None
    cached: Mapping[str, float] = field(default_factory=dict)


_NEVER = Before()


class Conversations:
    """Remembers conversations by keyed hashes, without text. Safe to share between threads; `clock` gives epoch seconds.

    They are shared through the store where others may use it: workers, or services on one PostgreSQL. There a turn that is sent
    after the answer to the one before finds its conversation, whoever answered that: the store is told before an answer
    (`settle`), and asked before a decision (`look_up`), both in a thread that may wait and for at most `session_wait_ms`.
    Without `settings.hash_secret` the hashes' key is drawn here, and nobody else's hashes are these.
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
        wait = settings.session_wait_ms / 1e3
        self._asker = Asker("sessions of other replicas", wait) if postgresql and wait else None
        self._told: Future[None] | None = None
        self._slow_until = float("-inf")
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
        if session is None or not _may_go_on(request.request):
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

    def tells(self, session: str | None) -> bool:
        """Whether others are asked and told of a conversation at once, for which `look_up` and `settle` wait."""
        return session is not None and self._asker is not None

    def look_up(self, asked: Sequence[tuple[str | None, RouteRequest]]) -> None:
        """Takes over what others have told of these conversations. What the store does not say in time is not known."""
        names = {session for session, request in asked if session is not None and _may_go_on(request)}
        if not names or self._asker is None:
            return
        try:
            rows = self._asker.ask(partial(self._rows, select(SESSIONS).where(SESSIONS.c.id.in_(sorted(names)))))
        except AwayError:
            return
        self._take(rows)

    def settle(self) -> None:
        """Waits until the others can find what they were told so far; not long."""
        told = self._told
        if told is None or self._asker is None or self._store is None:
            return
        if told.done() or self._store.failing or time.monotonic() < self._slow_until:
            return
        try:
            told.result(self._asker.seconds)
        except TimeoutError:
            self._slow_until = time.monotonic() + _SLOW_SECONDS
        except NotStoredError:  # they hear nothing of it
            pass

    def went(self, session: str, data: bytes, candidate: str, *, private: bool) -> None:
        """Remembers where a prompt (UTF-8) went, and tells the others; not how it begins, where that is `private`."""
        marks, now = Marks.of(self._key, data), self._clock()
        if self._asker is not None and (known := self.sessions.get(session)) is not None:
            now = max(now, known.at + _LATER)
        self.sessions.put(session, candidate, now, marks)
        if self._store is None:
            return
        row = {"id": session, "candidate": candidate, "at": now, "marks": (_NOTHING if private else marks).packed()}
        if self._asker is None:
            self._store.session(row)
            return
        told: Future[None] = Future()
        told.set_running_or_notify_cancel()
        if self._store.session(row, told):
            self._told = told

    def hear(self) -> None:
        """Takes over what the others have told since the last time, and now and then deletes what is too old."""
        if self._store is None:
            return
        now = self._clock()
        if now - self._forgot > _FORGET_SECONDS:
            self._forgot = now
            with self._store.engine.begin() as connection:
                connection.execute(SESSIONS.delete().where(SESSIONS.c.at < now - self._seconds))
        since = self._heard - _LATE_SECONDS
        while True:
            rows = self._rows(
                select(SESSIONS).where(SESSIONS.c.at > since).order_by(SESSIONS.c.at).limit(_ROWS_AT_ONCE)
            )
            self._take(rows)
            if rows:
                since = rows[-1]["at"]
                # Another's clock may be ahead of this one.
                self._heard = max(self._heard, min(since, self._clock()))
            if len(rows) < _ROWS_AT_ONCE:
                return

    def close(self) -> None:
        """Asks nobody any more."""
        if self._asker is not None:
            self._asker.close()

    def _rows(self, asked: Select[Any]) -> Sequence[Mapping[str, Any]]:
        assert self._store is not None
        # Without a transaction, which would be two more ways to the server.
        with self._store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            return [dict(row) for row in connection.execute(asked).mappings()]

    def _take(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            self.sessions.heard(row["id"], row["candidate"], row["at"], Marks.unpacked(row["marks"]))


def _may_go_on(request: RouteRequest) -> bool:
    """Whether there may be a turn before this one."""
    return request.session_id is not None or goes_on(request.messages or ())
