"""Rates of API keys that hold for all replicas together: the windows are in Redis.

Redis is never the reason that a call fails or waits: while it does not answer each process counts by itself, as without it,
and lets nobody through whom Redis has said to wait. How long it takes is measured on its connection: that this process has
much to do says nothing of Redis.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from limits import RateLimitItem
from limits.storage import RedisStorage
from limits.strategies import MovingWindowRateLimiter

from serving.state.rates import NeverFitsError, Rates
from serving.state.replays import Asker, AwayError
from serving.state.rulebook import Key
from serving.store.engine import StoreError

logger = logging.getLogger(__name__)

_SCHEMES = ("redis", "rediss", "redis+unix")
_WAIT_SECONDS = 0.1
# With the time that a question waits for a thread. What is full is not asked about again for `_FULL_SECONDS`.
_LONGEST_SECONDS = 1.0
_FULL_SECONDS = 1.0
_PREFIX = "outcome-router"


class _Full(NamedTuple):
    """A window that had no room for `more`, when Redis said so, and when it has again; by `time.monotonic`."""

    more: int
    said: float
    until: float


class _Odd:
    """Redis answers, and does not count a key."""


class RedisRates(Rates):
    """As `Rates`, of every process on one Redis. What is counted there is counted here too, and goes on when Redis goes."""

    def __init__(self, keys: Mapping[str, Key], url: str) -> None:
        super().__init__(keys)
        self._storage = _storage(url)
        self._limiter = MovingWindowRateLimiter(self._storage)
        self._asker = Asker("rates in Redis", _LONGEST_SECONDS)
        self._full: dict[str, _Full] = {}
        self._odd: set[str] = set()  # keys whose windows Redis does not count

    @property
    def unshared(self) -> bool:
        return self._asker.failing or bool(self._odd)

    def follow(self, keys: Mapping[str, Key]) -> None:
        super().follow(keys)
        self._full, self._odd = {}, set()

    def keep(self, key: str, requests: int = 1, counted: int = 0) -> float | None:
        rate = self._rate_of(key, requests)
        if rate is None:
            return None
        if (wait := self._known_full(key, requests - counted, lately=True)) is not None and not counted:
            return wait
        try:
            came = self._asker.ask(partial(self._kept, key, rate, requests, counted))
        except AwayError:
            return self._alone(key, requests, counted)
        return self._counted(came, key, requests, counted)

    async def kept(self, key: str, requests: int = 1, counted: int = 0) -> float | None:
        rate = self._rate_of(key, requests)
        if rate is None:
            return None
        if (wait := self._known_full(key, requests - counted, lately=True)) is not None and not counted:
            return wait
        try:
            came = await self._asker.answer(partial(self._kept, key, rate, requests, counted))
        except AwayError:
            return self._alone(key, requests, counted)
        return self._counted(came, key, requests, counted)

    def _rate_of(self, key: str, requests: int) -> RateLimitItem | None:
        rate = self._rates.get(key)
        if rate is not None and requests > rate.amount:
            raise NeverFitsError(requests, rate)
        return rate

    def _counted(self, came: float | _Odd | None, key: str, requests: int, counted: int) -> float | None:
        if isinstance(came, _Odd):
            return self._alone(key, requests, counted)
        if came is None:
            super().keep(key, requests, counted)
        return came

    def _alone(self, key: str, requests: int, counted: int) -> float | None:
        """By what this process knows: what Redis said last of a full window holds until the window has room."""
        wait = self._known_full(key, requests - counted)
        if wait is None:
            return super().keep(key, requests, counted)
        with self._lock:  # none of them is counted then
            taken = self._windows[key]
            for _ in range(min(counted, len(taken))):
                taken.pop()
        return wait

    def _known_full(self, key: str, more: int, *, lately: bool = False) -> float | None:
        """The seconds until a window has room again that had none for as many, as Redis said, `lately` or ever."""
        full, now = self._full.get(key), time.monotonic()
        if full is None or more < full.more or now >= full.until or (lately and now >= full.said + _FULL_SECONDS):
            return None
        return full.until - now

    def _kept(self, key: str, rate: RateLimitItem, requests: int, counted: int) -> float | _Odd | None:
        """The same by Redis alone, in a thread."""
        from redis.exceptions import ResponseError

        more = requests - counted
        if not counted and (wait := self._known_full(key, more, lately=True)) is not None:
            return wait  # others of the same burst were told so while this one waited for a thread
        try:
            wait = self._by_redis(key, rate, more, counted)
        except (
            ResponseError
        ) as error:  # it answers, but not for this key: nobody else is to be counted otherwise for that
            if key not in self._odd:
                self._odd.add(key)
                logger.warning("Redis does not count the rate of %s (%s); each process does", key, type(error).__name__)
            return _Odd()
        self._odd.discard(key)
        return wait

    def _by_redis(self, key: str, rate: RateLimitItem, more: int, counted: int) -> float | None:
        if more <= 0 or self._limiter.hit(rate, key, cost=more):
            return None
        begins, taken = self._storage.get_moving_window(rate.key_for(key), rate.amount, rate.get_expiry())
        # At the least: they fit once so many of the oldest have left, of which the first is known.
        wait = max(begins + rate.get_expiry() - time.time(), 0.0) if taken else 0.0
        if counted:
            # The youngest are taken back; whoever's they are, as many are left.
            self._storage.storage.lpop(self._storage.prefixed_key(rate.key_for(key)), counted)
        else:
            now = time.monotonic()
            self._full[key] = _Full(more, now, now + wait)
        return wait

    def close(self) -> None:
        self._asker.close()


def _storage(url: str) -> RedisStorage:
    """Raises StoreError, without what may be a password."""
    parsed = urlsplit(url)
    if parsed.scheme not in _SCHEMES:
        raise StoreError(
            "ROUTER_REDIS: expected redis://host:6379/0 or rediss://host:6379/0, and something else arrived"
        )
    try:
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        # What was counted and not answered must not be counted again.
        once: Any = Retry(NoBackoff(), 0)
        return RedisStorage(
            url, key_prefix=_PREFIX, socket_timeout=_WAIT_SECONDS, socket_connect_timeout=_WAIT_SECONDS, retry=once
        )
    except ModuleNotFoundError:
        raise StoreError("ROUTER_REDIS needs outcome-router's extra `redis`: pip install '.[redis]'") from None
    except (ValueError, TypeError) as error:  # its message may have the URL in it
        raise StoreError(f"ROUTER_REDIS: {type(error).__name__}: expected redis://host:6379/0") from None
