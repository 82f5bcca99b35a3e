"""`GET /v1/live`: what goes on now, as server-sent events; and `/v1/live/snapshot`, the same once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable

import orjson
from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from serving.api.auth import caller, may_administer, taken_away
from serving.api.endpoints import service_of
from serving.api.views.live.documents import LiveResponse
from serving.api.views.live.feed import UNREADABLE, LiveFeed, Stream
from serving.api.views.table import REFUSED, View

logger = logging.getLogger(__name__)

# In the scope's extensions: an `asyncio.Event` that is set when the server is about to stop.
STOPPING = "outcome_router.stopping"
RETRY_MS = 2_000
BEAT_SECONDS = 15.0
# A client that takes nothing for so long has gone.
_SEND_SECONDS = 30.0
_HEADERS = {"X-Accel-Buffering": "no"}


async def live(request: Request) -> Response:
    """What goes on now, again and again: `event: snapshot`, whose data is the document of /v1/live/snapshot.

    The first comes at once, the others every ROUTER_LIVE_SECONDS. `event: fault` says why there is none (`why`), `event: end`
    is the last one and says why. A key that may not administer sees its own decisions alone. Opening it counts once against
    the key's rate.
    """
    service = service_of(request)
    viewer, key = await _viewer(request)
    if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
        raise HTTPException(400, "A body arrived; send none with GET /v1/live.", {"Connection": "close"})
    feed = _feed(request)
    stream = feed.join(viewer, None if request.client is None else request.client.host)
    if stream is None:
        most = service.settings.live_streams
        detail = f"Too many watch already: {most} on a worker (ROUTER_LIVE_STREAMS), a quarter of them by one key or address."
        raise HTTPException(503, detail, {"Retry-After": "5"})
    admin = viewer is None
    return _Events(feed, stream, lambda: taken_away(request, service, key, admin=admin))


async def snapshot(request: Request) -> Response:
    """What goes on now, once. What takes long to find out is not looked up anew for each request."""
    viewer, _ = await _viewer(request)
    feed = _feed(request)
    try:
        document = await feed.ask(lambda: feed.figures.snapshot(viewer))
    except SQLAlchemyError as error:
        logger.warning("live figures cannot be read from the store: %s", type(error).__name__)
        raise HTTPException(503, UNREADABLE, {"Retry-After": "5"}) from None
    return Response(orjson.dumps(document), media_type="application/json")


async def _viewer(request: Request) -> tuple[str | None, str | None]:
    """Whose decisions the caller sees, None for all; and its key."""
    service = service_of(request)
    key = await caller(request, service)
    if may_administer(service, key):
        return None, key
    if service.store is None:
        why = "nothing is stored (ROUTER_STORE is empty), and the metrics are not apart by key"
        raise HTTPException(403, f"The key {key} may not administer: {why}.")
    return key, key


def _feed(request: Request) -> LiveFeed:
    feed: LiveFeed = request.app.state.live
    return feed


class _Events(StreamingResponse):
    """A stream's events, until its reader goes, its key is taken away or the server stops."""

    media_type = "text/event-stream"

    def __init__(self, feed: LiveFeed, stream: Stream, refused: Callable[[], str | None]) -> None:
        super().__init__(self._events(), headers=_HEADERS)
        self._feed, self._stream, self._refused = feed, stream, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def in_time(message: Message) -> None:
            async with asyncio.timeout(_SEND_SECONDS):
                await send(message)

        stopping: asyncio.Event | None = scope.get("extensions", {}).get(STOPPING)
        watch = None if stopping is None else asyncio.create_task(self._end(stopping))
        try:
            await super().__call__(scope, receive, in_time)
        except TimeoutError:
            logger.debug("a stream's reader takes nothing")
        finally:
            if watch is not None:
                watch.cancel()
            self._feed.leave(self._stream)

    async def _end(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self._stream.end("The service is being stopped.")

    async def _events(self) -> AsyncIterator[bytes]:
        yield b"retry: %d\n\n" % RETRY_MS
        while True:
            came = await self._stream.next(BEAT_SECONDS)
            why = self._stream.ended or self._refused()
            if why is not None:
                yield b"event: end\ndata: %s\n\n" % orjson.dumps({"why": why})
                return
            yield b": beat\n\n" if came is None else came


_ERRORS = (
    *REFUSED,
    (403, "The key may not administer, and nothing is stored by key."),
    (503, "Too many watch already, the store cannot be read, or no bundle is loaded yet."),
)
STREAM = View(
    "/v1/live",
    live,
    LiveResponse,
    "operations",
    ((400, "A body arrived."), *_ERRORS),
    media="text/event-stream",
    streams=True,
)
SNAPSHOT = View("/v1/live/snapshot", snapshot, LiveResponse, "operations", _ERRORS)
