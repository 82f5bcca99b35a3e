"""Rates of API keys that hold for all replicas together: the windows are in Redis.

Redis is never the reason that a call fails or waits: while it does not answer each process counts by itself, as without it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from limits import RateLimitItem
from limits.storage import RedisStorage
from limits.strategies import MovingWindowRateLimiter

from serving.state.rates import NeverFitsError, Rates
from serving.state.replays import Asker, AwayError
from serving.state.rulebook import Key
from serving.store.engine import StoreError

_SCHEMES = ("redis", "rediss", "redis+unix")
_WAIT_SECONDS = 0.1
_PREFIX = "outcome-router"


class RedisRates(Rates):
    """As `Rates`, of every process on one Redis. What is counted there is counted here too, and goes on when Redis goes."""

    def __init__(self, keys: Mapping[str, Key], url: str) -> None:
        super().__init__(keys)
        self._storage = _storage(url)
        self._limiter = MovingWindowRateLimiter(self._storage)
        self._asker = Asker("rates in Redis", _WAIT_SECONDS)

    @property
    def unshared(self) -> bool:
        return self._asker.failing

    def keep(self, key: str, requests: int = 1, counted: int = 0) -> float | None:
        rate = self._rate_of(key, requests)
        if rate is None:
            return None
        try:
            wait = self._asker.ask(partial(self._kept, key, rate, requests, counted))
        except AwayError:
            return super().keep(key, requests, counted)
        return self._counted(wait, key, requests, counted)

    async def kept(self, key: str, requests: int = 1, counted: int = 0) -> float | None:
        rate = self._rate_of(key, requests)
        if rate is None:
            return None
        try:
            wait = await self._asker.answer(partial(self._kept, key, rate, requests, counted))
        except AwayError:
            return super().keep(key, requests, counted)
        return self._counted(wait, key, requests, counted)

    def _rate_of(self, key: str, requests: int) -> RateLimitItem | None:
        rate = self._rates.get(key)
        if rate is not None and requests > rate.amount:
            raise NeverFitsError(requests, rate)
        return rate

    def _counted(self, wait: float | None, key: str, requests: int, counted: int) -> float | None:
        if wait is None:
            super().keep(key, requests, counted)
        return wait

    def _kept(self, key: str, rate: RateLimitItem, requests: int, counted: int) -> float | None:
        """The same by Redis alone, in a thread."""
        more = requests - counted
        if more <= 0 or self._limiter.hit(rate, key, cost=more):
            return None
        begins, taken = self._storage.get_moving_window(rate.key_for(key), rate.amount, rate.get_expiry())
        if counted:
            # The youngest are taken back; whoever's they are, as many are left.
            self._storage.storage.lpop(self._storage.prefixed_key(rate.key_for(key)), counted)
        # At the least: they fit once so many of the oldest have left, of which the first is known.
        return max(begins + rate.get_expiry() - time.time(), 0.0) if taken else 0.0

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
