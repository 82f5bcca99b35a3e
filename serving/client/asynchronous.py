"""The client for programs that await."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import httpx

from serving.client.answers import Route, problem_of, results_of, route_of, unavailable
from serving.client.breaker import Breaker
from serving.client.errors import FeedbackError, RouteRefusedError, RouterFailedError
from serving.client.exchange import Answer, Exchange, encoded

logger = logging.getLogger(__name__)

# The router's own bound on a list of feedback, unless a setting changes it.
MOST_IN_A_BATCH = 256
_REFUSALS = (402, 403, 422)
# The answers to a list that may be one item's fault, or its length's.
_OF_THE_LIST = (400, 413, 422)
_LOG_SECONDS = 60.0
# Feedback as the body of POST /v1/feedback has it: one, or several.
Said = Mapping[str, Any] | Sequence[Mapping[str, Any]]


class AsyncRouterClient:
    """Asks a router where a request should go, and tells it what came of it.

    `fallback` is the LLM that answers where the router does not: it is away, slower than `timeout_seconds` in all, fails, or
    answers something that is no decision. After that the router is not asked for `retry_after_seconds`, and after each further
    failure for twice as long, up to a minute; one request at a time then sees whether it is back. So a router that hangs costs
    one time-out, not one a request. An answer without a decision that concerns this request or this key alone (401, 429, 413)
    falls back too, but the next request asks again. Why a fallback was given is logged, at most once a minute. A request whose
    connection is lost is sent once more within the same time, with the same Idempotency-Key: it is decided and charged once.

    Feedback has its own limit in time, `feedback_timeout_seconds` for each 256: the router answers it when it is on disk.
    `http` is for certificates, proxies and tests; without it connections are this client's own. One client may be used from
    several threads and event loops.
    """

    def __init__(
        self,
        url: str,
        *,
        fallback: str,
        api_key: str | None = None,
        timeout_seconds: float = 0.5,
        retry_after_seconds: float = 5.0,
        feedback_timeout_seconds: float = 15.0,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        if not fallback:
            raise ValueError("fallback: expected the name of the LLM that answers without the router, got an empty one")
        limits = {"timeout_seconds": timeout_seconds, "retry_after_seconds": retry_after_seconds}
        for name, seconds in {**limits, "feedback_timeout_seconds": feedback_timeout_seconds}.items():
            if not 0 < seconds < float("inf"):
                raise ValueError(f"{name}: expected seconds above 0, got {seconds}")
        self.fallback = fallback
        self.timeout_seconds = timeout_seconds
        self._feedback_seconds = feedback_timeout_seconds
        self._exchange = Exchange(url, api_key, http)
        self._breaker = Breaker(retry_after_seconds)
        self._fallbacks = _Fallbacks(self._exchange.where, fallback, self._instead)

    @property
    def is_open(self) -> bool:
        """Whether the router has failed and is not asked at present, except to see whether it is back."""
        return self._breaker.is_open

    async def route(self, body: Mapping[str, Any] | str) -> Route:
        """Where the request of this body (of POST /v1/route, or of a chat completion) should go; a text is a prompt.

        Raises RouteRefusedError where the router says that the rules let nobody answer, or that the body is not valid;
        TypeError or ValueError where the body cannot be written as JSON.
        """
        content = encoded({"prompt": body} if isinstance(body, str) else body)
        with self._breaker.attempt() as attempt:
            if attempt is None:
                return self._fallbacks.given("it failed a moment ago")
            try:
                answer = await self._exchange.post("/v1/route", content, self.timeout_seconds, once=True)
                if answer.status == 200:
                    route = route_of(answer.content)
                    attempt.alive = True
                    return route
                problem = problem_of(answer.content, answer.status) if answer.status in _REFUSALS else None
            except RouterFailedError as error:
                attempt.alive = False
                return self._fallbacks.given(str(error))
            if problem is not None:
                attempt.alive = True
                raise RouteRefusedError(answer.status, problem)
            # What is refused for its own sake is refused quickly, by a router that is there.
            attempt.alive = 400 <= answer.status < 500 and answer.status not in _REFUSALS
            return self._fallbacks.given(f"it answered {answer.status}")

    async def feedback(self, said: Said) -> list[str | Mapping[str, Any]]:
        """What became of each feedback, one or several: "recorded", "repeated", or a problem document. None is not said.

        A problem is about that item alone: its decision is not known (404), it contradicts what was told before (409), or it is
        not valid (422). Raises FeedbackError as soon as some is not known to be stored: nothing is tried twice, except that a
        list that is refused as a whole is sent in halves, down to the item that is at fault.
        """
        items = [_item(one) for one in ([said] if isinstance(said, Mapping) else said)]
        waiting = [items[start : start + MOST_IN_A_BATCH] for start in range(0, len(items), MOST_IN_A_BATCH)][::-1]
        results: list[str | Mapping[str, Any]] = []
        while waiting:
            batch = waiting.pop()
            body = b'{"feedback":[' + b",".join(batch) + b"]}"
            try:
                answer = await self._exchange.post("/v1/feedback", body, self._feedback_seconds)
                if answer.status in _OF_THE_LIST and len(batch) > 1:
                    half = len(batch) // 2
                    waiting += [batch[half:], batch[:half]]
                    continue
                results += _taken(answer, len(batch))
            except RouterFailedError as error:
                raise FeedbackError(str(error), results=results) from error
            except FeedbackError as error:
                error.results = results
                raise
        return results

    def _instead(self) -> str:
        """Who answers where the router does not, as the log has it."""
        return f"{self.fallback} answers instead"

    async def close(self) -> None:
        """Closes the connections of the running event loop."""
        await self._exchange.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def _item(said: Mapping[str, Any]) -> bytes:
    return encoded({name: value for name, value in said.items() if value is not None})


def _taken(answer: Answer, sent: int) -> list[str | Mapping[str, Any]]:
    """The results of a list; raises FeedbackError or RouterFailedError where they are not known."""
    if answer.status == 200:
        return results_of(answer.content, sent)
    problem = problem_of(answer.content, answer.status)
    if problem is not None and answer.status in _OF_THE_LIST:
        return [problem]
    detail = f"it answered {answer.status}" + ("" if problem is None else f": {problem.get('detail')}")
    raise FeedbackError(detail, status=answer.status, retry_after_seconds=answer.retry_after_seconds)


class _Fallbacks:
    """Gives the fallback, and says why, at most once a minute."""

    def __init__(self, where: str, fallback: str, instead: Callable[[], str]) -> None:
        self._where = where
        self._fallback = fallback
        self._instead = instead
        self._lock = threading.Lock()
        self._silent_until = float("-inf")
        self._unsaid = 0

    def given(self, why: str) -> Route:
        with self._lock:
            self._unsaid += 1
            now = time.monotonic()
            count = self._unsaid if now >= self._silent_until else 0
            if count:
                self._silent_until, self._unsaid = now + _LOG_SECONDS, 0
        if count:
            logger.warning(
                "outcome-router: the router at %s gave no decision (%s): %s, %d request%s since the last such line",
                self._where, why, self._instead(), count, "" if count == 1 else "s",
            )  # fmt: skip
        return unavailable(self._fallback)
