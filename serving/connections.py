"""uvicorn's HTTP/1.1 connections with bounds: how long a request's head may be, how long it may take to arrive, and how long
an answer may wait to be read. Where there are as many connections as there may be, one that asks for nothing makes room.

What comes before a body is read by uvicorn alone, which takes however much there is. Bodies are `serving.api.arrival`'s.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from serving.api.views.live.events import STOPPING

# As much as most servers and proxies take; a chunk that is read at once may hold somewhat more.
MOST_HEAD_BYTES = 64 * 1024
HEAD_SECONDS = 30.0
# Requests that may wait on one connection for the answers to those before them.
MOST_PIPELINED = 8
# Connections that were idle for so many seconds make room: those that never asked for anything first, then the others.
MUTE_SECONDS, IDLE_SECONDS = 1.0, 5.0
# Answered whatever else there is: a process that has many connections is alive, and killing it helps nobody.
ALIVE = b"/healthz"
# Within it a client has read all but a little of what was sent, or has gone.
UNREAD_SECONDS = 60.0


class BoundedHttp(HttpToolsProtocol):
    """Closes a connection whose next request has a head that is too long (431), or not whole in time, and one that is not read.

    What answers is told when the server is about to stop: an answer that never ends by itself would be waited for.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head_bytes = 0
        self._in_head = True
        self._mute, self._idle_since = True, self.loop.time()
        self._late: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        self._answered: RequestResponseCycle | None = None
        self._stopping = asyncio.Event()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unset_late()
        self._unset_unread()
        super().connection_lost(exc)
        self._leave()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.transport.is_closing():
            self._leave()
            self._wait_for_reader()
            return
        if not self._in_head:
            return
        self._head_bytes += len(data)
        if self._head_bytes > MOST_HEAD_BYTES:
            self._refuse(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {STOPPING: self._stopping}  # type: ignore[dict-item]
        self._in_head = True
        if self._late is None:
            self._wait_for_head()

    def on_headers_complete(self) -> None:
        self._unset_late()
        self._in_head, self._head_bytes = False, 0
        if len(self.pipeline) >= MOST_PIPELINED:
            # What the parser's callback raises ends the parsing of this chunk, and uvicorn closes the connection.
            raise OverflowError(f"more than {MOST_PIPELINED} requests wait on one connection")
        self._mute, limit = False, self.limit_concurrency
        if self.url == ALIVE or self._has_room():
            self.limit_concurrency = None  # uvicorn counts those too that are being closed
        super().on_headers_complete()
        self.limit_concurrency = limit

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._idle_since = self.loop.time()
        self._wait_for_reader()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._wait_for_reader()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        self._unset_unread()
        super().resume_writing()
        self._wait_for_reader()

    def shutdown(self) -> None:
        self._stopping.set()
        super().shutdown()
        self._wait_for_reader()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def _leave(self) -> None:
        """Tells what is being answered that nobody is there: uvicorn tells the request that arrived last, which may wait."""
        if self._answered is not None and not self._answered.response_complete:
            self._answered.disconnected = True
            self._answered.message_event.set()

    def _has_room(self) -> bool:
        limit = self.limit_concurrency
        if limit is None or len(self.connections) < limit:
            return False  # uvicorn decides
        staying = sum(not one.transport.is_closing() for one in self.connections if isinstance(one, BoundedHttp))
        return staying < limit and len(self.tasks) < limit

    def _make_room(self) -> None:
        """Closes the connection that has asked for nothing for the longest time; none, where all are in use."""
        others = [one for one in self.connections if isinstance(one, BoundedHttp) and one is not self]
        idle = [one for one in others if one.idle_seconds >= (MUTE_SECONDS if one.mute else IDLE_SECONDS)]
        if idle:
            max(idle, key=lambda one: (one.mute, one.idle_seconds)).transport.close()

    @property
    def mute(self) -> bool:
        """Whether no request has come yet."""
        return self._mute

    @property
    def idle_seconds(self) -> float:
        """How long it has asked for nothing; -1 while it is answered, or is closed already."""
        answered = self.cycle is None or self.cycle.response_complete
        if not answered or self.pipeline or self.transport.is_closing():
            return -1.0
        return self.loop.time() - self._idle_since

    def _wait_for_head(self) -> None:
        self._late = self.loop.call_later(HEAD_SECONDS, self._refuse, b"408 Request Timeout")

    def _unset_late(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _wait_for_reader(self) -> None:
        """Gives a client that long to read what keeps a full or a closing connection; once begun, it runs on."""
        if self._unread is None and (self.flow.write_paused or self.transport.is_closing()):
            self._unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def _unset_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _refuse(self, status: bytes) -> None:
        self._unset_late()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:  # else these would be bytes of another answer
            self.transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        self.transport.close()
        self._leave()
        self._wait_for_reader()
