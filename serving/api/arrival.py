"""Bodies as they arrive: how long one may be, how long it may take, and how much of all of them is held at once."""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api.problems import problem, problem_response

_SMALL = 32 * 1024  # bytes of a body that is taken whatever else is held


class BodyLimits:
    """Middleware: a body longer than `max_bytes` is refused with 413, by its header, or as it is read.

    One that is not whole after `seconds` is refused with 408, and a large one that comes while `most_held` bytes of bodies are
    held, arrived and not yet answered, with 503: neither slow clients nor many large bodies take the memory of the rest.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, seconds: float, most_held: int) -> None:
        self._app = app
        self._max_bytes, self._seconds, self._most_held = max_bytes, seconds, most_held
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
        if length.isdigit() and int(length) > self._max_bytes:
            document = problem(413, self._too_long(), scope["path"])
            await problem_response(document)(scope, receive, send)
            return
        arrived, whole, ends = 0, False, asyncio.get_running_loop().time() + self._seconds

        async def limited() -> Message:
            nonlocal arrived, whole
            if whole:  # what follows is the client's leaving, which may take its time
                return await receive()
            message = await self._within(receive, ends)
            size = len(message.get("body", b""))
            arrived += size
            self._held += size
            whole = not message.get("more_body", False)
            if arrived > self._max_bytes:  # a chunked body announces no length
                raise HTTPException(413, self._too_long())
            if self._held > self._most_held and arrived > _SMALL:
                raise HTTPException(503, "Too many large bodies at once; send it again.", {"Retry-After": "1"})
            return message

        try:
            await self._app(scope, limited, send)
        finally:
            self._held -= arrived

    async def _within(self, receive: Receive, ends: float) -> Message:
        try:
            async with asyncio.timeout_at(ends):
                return await receive()
        except TimeoutError:
            detail = f"The body was not whole after {self._seconds:g} s (ROUTER_BODY_SECONDS)."
            raise HTTPException(408, detail, {"Connection": "close"}) from None

    def _too_long(self) -> str:
        return f"The body is longer than {self._max_bytes} bytes (ROUTER_MAX_BODY_BYTES)."
