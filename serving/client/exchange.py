"""One request and its answer, within a time and a size, over any event loop."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import httpx

from serving.client.errors import RouterFailedError

# A decision has about 200 bytes for each candidate.
MOST_ANSWER_BYTES = 4 * 1024 * 1024
# Less than servers keep a connection that nothing comes on, so that none is closed as it is used again.
_KEPT_SECONDS = 2.0
# A host and its port, which are read as a scheme and a path. What stands before an @ may be a password.
_WITHOUT_SCHEME = re.compile(r"[\w.-]+(:\d{1,5})?(/[\w./-]*)?", re.ASCII)
# The connection was, or could not be made: whether the router has decided is not known.
_LOST = (httpx.NetworkError, httpx.RemoteProtocolError)
_FAILURES = (httpx.HTTPError, httpx.StreamError, OSError, RuntimeError, ValueError)


@dataclass(frozen=True)
class Answer:
    """An answer that arrived whole."""

    status: int
    content: bytes
    headers: httpx.Headers

    @property
    def retry_after_seconds(self) -> float | None:
        """What the router asks to wait, where it says it in seconds."""
        said = self.headers.get("retry-after", "")
        return float(said) if said.isascii() and said.isdigit() and len(said) < 10 else None


class Exchange:
    """Sends bodies to a router and reads its answers. Connections are kept for each event loop that asks."""

    def __init__(self, url: str, api_key: str | None, http: httpx.AsyncClient | None) -> None:
        self._url = _checked(url)
        self._headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if api_key is not None:
            if not api_key or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
                raise ValueError("api_key: expected printable ASCII without spaces, and something else arrived")
            self._headers["authorization"] = f"Bearer {api_key}"
        self._given = http
        self._own: WeakKeyDictionary[asyncio.AbstractEventLoop, httpx.AsyncClient] = WeakKeyDictionary()
        self._closed = False

    @property
    def where(self) -> str:
        """The router's address, without what may be a password in it."""
        return f"{self._url.scheme}://{self._url.netloc.decode()}"

    async def post(self, path: str, content: bytes, seconds: float, *, once: bool = False) -> Answer:
        """The answer to a body; raises RouterFailedError where none has come whole after so many seconds in all.

        What is to be done `once` is sent again where the connection was lost, with the same Idempotency-Key: behind the address
        may be several routers, of which one has gone.
        """
        http = self._http()
        named = {"idempotency-key": uuid.uuid4().hex} if once else {}
        try:
            async with asyncio.timeout(seconds):
                if once:
                    with suppress(*_LOST):
                        return await self._post(http, path, content, named)
                return await self._post(http, path, content, named)
        except TimeoutError:
            raise RouterFailedError(f"no whole answer within {seconds:g} s") from None
        except _FAILURES as error:
            said = str(error).partition("\n")[0][:200]
            raise RouterFailedError(f"{error.__class__.__name__}: {said}") from error

    async def _post(self, http: httpx.AsyncClient, path: str, content: bytes, named: Mapping[str, str]) -> Answer:
        headers = {**self._headers, **named}
        request = http.build_request(
            "POST", f"{str(self._url).rstrip('/')}{path}", content=content, headers=headers, timeout=None
        )
        response = await http.send(request, stream=True, follow_redirects=False)
        try:
            if response.headers.get("content-encoding", "identity") != "identity":
                raise RouterFailedError("its answer is compressed, which was not asked for")
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MOST_ANSWER_BYTES:
                    raise RouterFailedError(f"its answer is longer than {MOST_ANSWER_BYTES} bytes")
            return Answer(response.status_code, bytes(body), response.headers)
        finally:
            await response.aclose()

    def _http(self) -> httpx.AsyncClient:
        if self._closed:
            raise RuntimeError("this client is closed")
        if self._given is not None:
            return self._given
        loop = asyncio.get_running_loop()
        http = self._own.get(loop)
        if http is None:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=_KEPT_SECONDS)
            http = self._own[loop] = httpx.AsyncClient(limits=limits)
        return http

    async def close(self) -> None:
        """Closes the connections of the running event loop; a client that was handed in stays open."""
        self._closed = True
        http = self._own.pop(asyncio.get_running_loop(), None)
        if http is not None:
            await http.aclose()


async def content_of(http: httpx.AsyncClient, path: str) -> bytes:
    """What stands there; raises ValueError where it is compressed, or longer than an answer of the router may be."""
    content = bytearray()
    async with http.stream("GET", path, headers={"accept-encoding": "identity"}) as response:
        response.raise_for_status()
        if response.headers.get("content-encoding", "identity") != "identity":
            raise ValueError("compressed, which was not asked for")
        async for chunk in response.aiter_bytes():
            content += chunk
            if len(content) > MOST_ANSWER_BYTES:
                raise ValueError(f"longer than {MOST_ANSWER_BYTES} bytes")
    return bytes(content)


def encoded(body: object) -> bytes:
    """A body as JSON; raises TypeError or ValueError where it cannot be written as that, NaN included."""
    return json.dumps(body, allow_nan=False, separators=(",", ":")).encode()


def _checked(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"url: expected http://host:port, and what arrived is no URL: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        near = f", as http://{url}" if _WITHOUT_SCHEME.fullmatch(url) else ""
        raise ValueError(
            f"url: expected http://host:port{near}, got the scheme {parsed.scheme!r} and the host {parsed.host!r}"
        )
    return parsed
