"""The same call twice: who sends an Idempotency-Key again is answered by the same bytes, and nothing is decided anew.

A call is claimed in the store before it is decided, so one of several replicas decides it, and its answer is kept there before
it is sent. What is asked of a server while a request waits is asked through `Asker`, for which nobody waits longer than said.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import partial
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar

import orjson
from sqlalchemy import ColumnElement, Engine, func, select
from sqlalchemy.exc import SQLAlchemyError

from serving.store.tables import REPLAYS, insert_new
from serving.store.transaction import begin

logger = logging.getLogger(__name__)

T = TypeVar("T")
LONGEST_KEY = 255
# After a server did not answer it is not asked for so long, and why is said once in so long.
_AWAY_SECONDS, _SAY_AGAIN_SECONDS = 1.0, 60.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.25
# Who has claimed a call and has not answered it in so many times the longest wait was killed, and somebody else may decide it.
_WAITS = 3
_PRUNE_SECONDS, _PRUNED_AT_ONCE = 60.0, 5000


class AwayError(RuntimeError):
    """A server that did not answer in time, or failed, now or a moment ago."""


class Asker:
    """Asks a server in threads of its own: nobody waits longer than `seconds`, whatever the server does. Raises AwayError.

    One that failed or took longer is not asked for a second, and then by one alone until it answers: what hangs costs one
    wait a second, not one a request. Who waits with the one that finds out that it hangs waits no longer than that one.
    """

    def __init__(self, name: str, seconds: float, threads: int = 4) -> None:
        self.seconds = seconds
        self._name = name
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._again = self._said = float("-inf")
        self._lock = threading.Lock()
        self._open: set[Future[Any]] = set()  # what somebody waits for
        self.failing = False  # whether it did not answer the last time

    @property
    def away(self) -> bool:
        """Whether it is not asked at present."""
        return time.monotonic() < self._again

    def ask(self, question: Callable[[], T]) -> T:
        """The answer, for a thread that may wait."""
        came, asked = self._asked(question)
        try:
            return self._came(came.result(self.seconds))
        except Exception as error:
            if isinstance(error, TimeoutError) and came.done() and came.exception() is None:
                return self._came(came.result())
            raise self._gone(asked, error) from error
        finally:
            self._open.discard(came)

    async def answer(self, question: Callable[[], T], late: Callable[[T], object] | None = None) -> T:
        """The answer; `late` is given, in a thread, what comes when nobody waits for it any more.

        What has come counts, however long the event loop was too busy to see it.
        """
        came, asked = self._asked(question)
        try:
            async with asyncio.timeout(self.seconds):
                return self._came(await asyncio.wrap_future(came))
        except BaseException as error:
            if isinstance(error, TimeoutError) and came.done() and came.exception() is None:
                return self._came(came.result())
            if late is not None:
                asked.add_done_callback(partial(_came_late, late))
            if not isinstance(error, Exception):
                raise
            raise self._gone(asked, error) from error
        finally:
            self._open.discard(came)

    def close(self) -> None:
        """Asks nothing any more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _asked(self, question: Callable[[], T]) -> tuple[Future[T], Future[T]]:
        """What somebody waits for, and what is done for it in a thread, which goes on when nobody waits any more."""
        came: Future[T] = Future()
        came.set_running_or_notify_cancel()  # who stops waiting must not keep the thread from telling
        with self._lock:
            if self.away or (self.failing and self._open):
                raise AwayError(f"{self._name} did not answer a moment ago")
            self._open.add(came)
        try:
            asked = self._pool.submit(self._unless_away, question)
        except RuntimeError as error:
            self._open.discard(came)
            raise AwayError("the service is stopping") from error
        asked.add_done_callback(partial(self._tell, came))
        return came, asked

    def _unless_away(self, question: Callable[[], T]) -> T:
        if self.away:  # what waited for a thread while others found that out
            raise AwayError(f"{self._name} did not answer a moment ago")
        return question()

    def _tell(self, came: Future[T], asked: Future[T]) -> None:
        with self._lock:
            if came.done():
                return
            error = AwayError("not asked") if asked.cancelled() else asked.exception()
            if error is None:
                came.set_result(asked.result())
            else:
                came.set_exception(error)

    def _came(self, came: T) -> T:
        self.failing = False
        return came

    def _gone(self, asked: Future[T], error: Exception) -> AwayError:
        asked.cancel()
        if isinstance(error, AwayError):
            return AwayError(str(error))
        now = time.monotonic()
        with self._lock:
            self._again, self.failing = now + _AWAY_SECONDS, True
            others = [one for one in self._open if not one.done()] if isinstance(error, TimeoutError) else []
            for one in others:
                one.set_exception(AwayError(f"{self._name} did not answer"))
        kind = type(getattr(error, "orig", None) or error).__name__
        if now - self._said >= _SAY_AGAIN_SECONDS:
            self._said = now
            logger.warning(
                "%s: no answer in %g s (%s); what this process knows has to do", self._name, self.seconds, kind
            )
        return AwayError(f"{self._name}: {kind}")


def _came_late(late: Callable[[T], object], asked: Future[T]) -> None:
    if not asked.cancelled() and asked.exception() is None:
        late(asked.result())


class OtherBodyError(ValueError):
    """An Idempotency-Key that came with another body, or to another endpoint, before."""

    def __init__(self) -> None:
        super().__init__(
            "This Idempotency-Key came with another body, or elsewhere, before; send a new key with a new body."
        )


class UnderWayError(RuntimeError):
    """The first call with an Idempotency-Key has no answer yet."""

    def __init__(self) -> None:
        super().__init__("The first call with this Idempotency-Key is still being answered; send it again.")


class _Found(Enum):
    CLAIMED = auto()  # nobody has decided it, and nobody else will now
    OTHER_BODY = auto()
    UNDER_WAY = auto()


class Named(NamedTuple):
    """The id of a decision, and when it is made, in epoch seconds."""

    id: str
    at: float


@dataclass(frozen=True, slots=True)
class Call:
    """A call with an Idempotency-Key by its hashes, and when it was claimed, in epoch seconds.

    What a body said cannot be tried against `body` without the key, which is written nowhere.
    """

    id: str
    body: str
    at: float = 0.0
    turn: int = 0  # how often somebody else was killed who had claimed it

    @classmethod
    def of(cls, caller: str | None, header: str, path: str, body: bytes) -> Call:
        """The call of an API key; two API keys' calls of one Idempotency-Key are two.

        The endpoint is as much of it as the body: the same body elsewhere is another one.
        """
        identifier = blake2b(orjson.dumps([caller, header]), digest_size=32).hexdigest()
        key = blake2b(header.encode()).digest()
        said = b"\0".join([path.encode(), body])
        return cls(identifier, blake2b(said, digest_size=32, key=key).hexdigest())

    def named(self, place: int = 0) -> Named:
        """Its decision, or the one in a `place` of its batch: whoever decides it, that is one.

        The id is a UUID of version 7, as are those that are drawn.
        """
        hashed = blake2b(f"{self.id} {self.body} {self.at!r} {place}".encode(), digest_size=10).digest()
        drawn = int.from_bytes(int(self.at * 1e3).to_bytes(6, "big") + hashed, "big")
        return Named(f"{drawn & ~(0xF << 76 | 3 << 62) | 7 << 76 | 2 << 62:032x}", self.at)


# Decides a call, or one that nothing is known of (None); the answer, and whether it is to be kept.
Make = Callable[[Call | None], Awaitable[tuple[bytes, bool]]]


class Replays:
    """Answers to calls with an Idempotency-Key, kept in the store for `seconds`; `clock` gives epoch seconds.

    A store that does not answer in `wait_seconds` must not keep a call from its LLM: it is decided without being claimed.
    """

    def __init__(self, engine: Engine, seconds: float, wait_seconds: float, clock: Callable[[], float]) -> None:
        self._engine, self._seconds, self._clock = engine, seconds, clock
        self._asker = Asker("idempotency keys", wait_seconds)
        self._lease = _WAITS * wait_seconds
        self._pruned = time.monotonic()

    async def once(self, caller: str | None, header: str, path: str, body: bytes, make: Make) -> bytes:
        """What `make` gives, or gave for the same call before.

        Raises OtherBodyError, UnderWayError, and what `make` raises: a refusal decides nothing, and is not kept.
        """
        try:
            call, found = await self._claimed(partial(Call.of, caller, header, path, body))
        except AwayError:
            return (await make(None))[0]
        if found is not None:
            return found
        try:
            content, kept = await make(call)
        except Exception:
            await self._told(partial(self._let_go, call))
            raise
        await self._told(partial(self._keep, call, content) if kept else partial(self._let_go, call))
        return content

    async def _claimed(self, called: Callable[[], Call]) -> tuple[Call, bytes | None]:
        """The call, which is now this one's to decide, or its answer; waits for one that is under way elsewhere."""

        def first() -> tuple[Call, bytes | _Found]:
            return self._claim(called())

        ends, pause = time.monotonic() + self._asker.seconds, _FIRST_PAUSE
        call, found = await self._asker.answer(first, self._unclaimed)
        while found is _Found.UNDER_WAY:
            left = ends - time.monotonic()
            if left <= 0:
                raise UnderWayError
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)
            call, found = await self._asker.answer(partial(self._claim, call), self._unclaimed)
        if found is _Found.OTHER_BODY:
            raise OtherBodyError
        return call, found if isinstance(found, bytes) else None

    async def _told(self, what: Callable[[], None]) -> None:
        """Tells the store; where it is away the claim ends by itself."""
        with suppress(AwayError):
            await self._asker.answer(what)

    # --- in a thread ---

    def _claim(self, call: Call) -> tuple[Call, bytes | _Found]:
        """The call, claimed if nobody had it, and what was found of it."""
        now = self._clock()
        claimed = replace(call, at=now)
        row = {"id": call.id, "at": now, "body_hash": call.body, "answer": None, "status": None}
        this = REPLAYS.c.id == call.id
        with begin(self._engine) as connection:
            if connection.execute(insert_new(self._engine, REPLAYS).returning(REPLAYS.c.id), row).first() is not None:
                return claimed, _Found.CLAIMED
            known = connection.execute(select(REPLAYS).where(this).with_for_update()).mappings().first()
            if known is None:  # it has just been let go
                return call, _Found.UNDER_WAY
            age = now - known["at"]
            if age < self._seconds:
                if known["body_hash"] != call.body:
                    return call, _Found.OTHER_BODY
                if known["answer"] is not None:
                    return call, bytes(known["answer"])
                turn = int(max(age, 0.0) / self._lease)
                if turn <= (known["status"] or 0):
                    return call, _Found.UNDER_WAY
                # As of when it was claimed first: the same decision, if who was killed had come to one.
                claimed, row = replace(call, at=known["at"], turn=turn), {**known, "status": turn}
            connection.execute(REPLAYS.update().where(this).values({name: row[name] for name in row if name != "id"}))
            return claimed, _Found.CLAIMED

    def _keep(self, call: Call, content: bytes) -> None:
        with begin(self._engine) as connection:
            connection.execute(REPLAYS.update().where(*_mine(call)).values(answer=content, status=200))

    def _let_go(self, call: Call) -> None:
        with begin(self._engine) as connection:
            connection.execute(REPLAYS.delete().where(*_mine(call)))

    def _unclaimed(self, came: tuple[Call, bytes | _Found]) -> None:
        """Lets a call go that was claimed when nobody waited for it any more."""
        call, found = came
        if found is _Found.CLAIMED:
            with suppress(SQLAlchemyError):  # it ends by itself
                self._let_go(call)

    def prune(self) -> None:
        """Now and then deletes what is too old."""
        if time.monotonic() < self._pruned + _PRUNE_SECONDS:
            return
        self._pruned = time.monotonic()
        old = select(REPLAYS.c.id).where(REPLAYS.c.at < self._clock() - self._seconds).limit(_PRUNED_AT_ONCE)
        while True:
            with begin(self._engine) as connection:
                if connection.execute(REPLAYS.delete().where(REPLAYS.c.id.in_(old))).rowcount < _PRUNED_AT_ONCE:
                    return

    def close(self) -> None:
        self._asker.close()


def _mine(call: Call) -> tuple[ColumnElement[bool], ...]:
    """Whether nobody else has claimed a call since."""
    r = REPLAYS.c
    return r.id == call.id, r.at == call.at, r.answer.is_(None), func.coalesce(r.status, 0) == call.turn
