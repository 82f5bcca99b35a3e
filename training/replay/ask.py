"""One attempt at an answer: by HTTP where an endpoint speaks OpenAI's protocol, by LiteLLM everywhere else.

Neither repeats anything by itself, and no reply quotes what a server said of an error: that may hold the request, or the key.
"""

from __future__ import annotations

import importlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import httpx

from training.logs.cells import parse_json
from training.replay.answers import Reply, read_reply, status_fault
from training.replay.providers import Endpoint

_MOST_BYTES = 32 << 20
_CONNECT_S = 30.0
_GRACE_S = 2.0
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.ProxyError)
_TIMED_OUT, _BROKEN, _UNREACHED = "no answer in time", "the connection broke", "no connection"


class Asker:
    """Asks endpoints; any thread may."""

    def __init__(self, litellm: Any, timeout_s: float) -> None:
        # A connection that was kept may be closed by the server just when the next request is on its way: nobody could tell
        # whether that was billed.
        self._client = httpx.Client(
            timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_S)),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )
        self._litellm, self._timeout_s = litellm, timeout_s

    def __call__(self, endpoint: Endpoint, body: dict[str, Any], max_tokens: int, idempotency_key: str) -> Reply:
        """One attempt, and how long it took."""
        started = time.monotonic()
        ask = self._post if endpoint.url else self._complete
        reply = self._in_time(lambda: ask(endpoint, body, max_tokens, idempotency_key))
        return replace(reply, latency_ms=round(1000 * (time.monotonic() - started), 1))

    def _in_time(self, attempt: Callable[[], Reply]) -> Reply:
        """The attempt's reply, or that it took too long: a time limit of each read alone never ends what drips.

        What is given up goes on in a thread of its own, which ends with the process; what it brings is not looked at.
        """
        reply: Future[Reply] = Future()

        def run() -> None:
            try:
                reply.set_result(attempt())
            except Exception as error:  # noqa: BLE001, for who asked to raise
                reply.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        try:
            return reply.result(timeout=self._timeout_s + _GRACE_S)
        except TimeoutError:
            return Reply("doubt", _TIMED_OUT, passing=True)

    def close(self) -> None:
        self._client.close()

    def _post(self, endpoint: Endpoint, body: dict[str, Any], max_tokens: int, idempotency_key: str) -> Reply:
        url = httpx.URL(endpoint.url or "")
        limit = "max_completion_tokens" if url.host.endswith(("openai.com", "openai.azure.com")) else "max_tokens"
        sent = json.dumps({"model": endpoint.model, **body, limit: max_tokens, "stream": False}).encode()
        headers = {
            "content-type": "application/json",
            "idempotency-key": idempotency_key,
            "accept-encoding": "identity",
        }
        if endpoint.key is not None:
            headers["authorization"] = f"Bearer {endpoint.key}"
        ends = time.monotonic() + self._timeout_s
        try:
            with self._client.stream("POST", url, content=sent, headers=headers) as response:
                if response.status_code != 200:
                    return status_fault(response.status_code, response.headers.get("retry-after"))
                content = bytearray()
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > _MOST_BYTES:
                        return Reply("doubt", f"a response of more than {_MOST_BYTES >> 20} MB")
                    if time.monotonic() > ends:
                        return Reply("doubt", _TIMED_OUT, passing=True)
        except httpx.HTTPError as error:
            return _fault(error)
        return read_reply(endpoint.without_key(_plainly(bytes(content))))

    def _complete(self, endpoint: Endpoint, body: dict[str, Any], max_tokens: int, idempotency_key: str) -> Reply:
        openai = importlib.import_module("openai")
        # What LiteLLM makes of a response that it cannot read is one of the others.
        faults = (openai.OpenAIError, ValueError, TypeError, KeyError, AttributeError, httpx.HTTPError)
        marked = {"extra_headers": {"Idempotency-Key": idempotency_key}} if endpoint.takes_headers else {}
        try:
            response = self._litellm.completion(
                model=endpoint.model,
                **body,
                **endpoint.settings,
                **marked,
                **({"api_key": endpoint.key} if endpoint.key is not None else {}),
                max_tokens=max_tokens,
                timeout=self._timeout_s,
                max_retries=0,
            )
            document = json.dumps(response.model_dump(), default=str)
        except faults as error:
            return _fault(error)
        return read_reply(endpoint.without_key(_plainly(document.encode())))


def _plainly(content: bytes) -> bytes:
    """JSON with every character as itself, so that a key is found however it was written; as it is where it is none."""
    try:
        return json.dumps(parse_json(content), ensure_ascii=False).encode("utf-8", "replace")
    except (ValueError, RecursionError):
        return content


def _fault(error: Exception) -> Reply:
    """What an error says of the attempt, by what it was raised from: the response, or the connection."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, httpx.HTTPStatusError):
            return status_fault(cause.response.status_code, cause.response.headers.get("retry-after"))
    if any(isinstance(cause, _NOT_SENT) for cause in causes):
        return Reply("free", _UNREACHED, passing=True)
    status = getattr(error, "status_code", None)
    timed_out = any(isinstance(cause, httpx.TimeoutException) for cause in causes) or status == 408
    if timed_out:
        return Reply("doubt", _TIMED_OUT, passing=True)
    if any(isinstance(cause, httpx.HTTPError) for cause in causes):
        return Reply("doubt", _BROKEN, passing=True)
    if isinstance(status, int) and 400 <= status < 500:  # LiteLLM's own refusal: nothing was sent
        return Reply("free", f"{type(error).__name__} ({status})", fatal=status in (401, 403, 404))
    return Reply("doubt", f"the response cannot be read ({type(error).__name__})", passing=True)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
