"""Who watches live, and the one thread that looks for all of them. While nobody watches, nothing is asked."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import orjson
from anyio import CapacityLimiter, to_thread
from sqlalchemy.exc import SQLAlchemyError

from serving.api.views.live.figures import Figures
from serving.runtime.pipeline import Service

logger = logging.getLogger(__name__)

T = TypeVar("T")

# Of the streams there may be, one key that may not administer has this part at most, and so has one address of those who see
# everything: the others can still watch.
_PART = 4
_AT_ONCE = 4  # requests for figures that are worked on at a time
UNREADABLE = "The store cannot be read now."
_SNAPSHOT, _FAULT = b"snapshot", b"fault"


@dataclass(frozen=True)
class Frame:
    """One event, as it is sent."""

    number: int
    content: bytes


class Stream:
    """One who watches: gets the newest event, and misses those before it where it is slow. All but `put` is the loop's."""

    def __init__(self, viewer: str | None, source: str | None = None) -> None:
        self.viewer, self.source = viewer, source
        self.ended: str | None = None
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._frame: Frame | None = None
        self._last = -1

    def put(self, frame: Frame) -> None:
        """Takes an event, from any thread."""
        self._call(self._take, frame)

    def end(self, why: str) -> None:
        """Has the stream end, from any thread."""
        self._call(self._finish, why)

    async def next(self, seconds: float) -> bytes | None:
        """The next event; None where there is none in time, or the stream ends."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return None
        frame, self._frame = self._frame, None
        if self.ended is None:
            self._news.clear()
        return None if frame is None or self.ended is not None else frame.content

    def _take(self, frame: Frame) -> None:
        if frame.number != self._last:
            self._last, self._frame = frame.number, frame
            self._news.set()

    def _finish(self, why: str) -> None:
        self.ended = self.ended or why
        self._news.set()

    def _call(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:  # the loop is closed, and with it the stream
            logger.debug("a stream's loop is closed")


class LiveFeed:
    """The live figures of one process. `join` and `leave` are for the event loop, `close` for any thread."""

    def __init__(self, service: Service) -> None:
        self.figures = Figures(service)
        self._seconds = service.settings.live_seconds
        self._most = service.settings.live_streams
        self._streams: list[Stream] = []
        self._frames: dict[str | None, tuple[float, Frame]] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._limiter = CapacityLimiter(_AT_ONCE)

    @property
    def watching(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    @property
    def looking(self) -> bool:
        """Whether the thread that looks is there."""
        return self._thread is not None

    def join(self, viewer: str | None, source: str | None = None) -> Stream | None:
        """A stream of what a viewer may see, the first event of which comes at once; None where there are too many.

        `source` is the address that it is for. Those who see everything are told apart by it alone, keys by their names.
        """
        with self._lock:
            alike = [one for one in self._streams if one.viewer == viewer]
            own = sum(viewer is not None or one.source == source for one in alike)
            if self._closed or len(self._streams) >= self._most or own >= max(self._most // _PART, 1):
                return None
            stream = Stream(viewer, source)
            self._streams.append(stream)
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="live", daemon=True)
                self._thread.start()
        self._wake.set()
        return stream

    def leave(self, stream: Stream) -> None:
        """Gives a stream's place back."""
        with self._lock:
            if stream in self._streams:
                self._streams.remove(stream)
            if not self._streams:
                self._wake.set()  # the thread has nobody to look for

    async def ask(self, find: Callable[[], T]) -> T:
        """What `find` gives in a thread, of which few are at it at a time."""
        return await to_thread.run_sync(find, limiter=self._limiter)

    def close(self, why: str = "The service is being stopped.") -> None:
        """Ends all streams; there are no others after it."""
        with self._lock:
            self._closed = True
            streams = list(self._streams)
        for one in streams:
            one.end(why)
        self._wake.set()

    def _look(self) -> None:
        while True:
            self._wake.clear()
            with self._lock:
                viewers = {one.viewer for one in self._streams}
                if not viewers or self._closed:
                    self._thread, self._frames = None, {}
                    return
                self._frames = {viewer: known for viewer, known in self._frames.items() if viewer in viewers}
            for viewer in viewers:
                frame = self._frame(viewer)
                with self._lock:
                    streams = [one for one in self._streams if one.viewer == viewer]
                for one in streams:
                    one.put(frame)
            self._wake.wait(self._seconds)

    def _frame(self, viewer: str | None) -> Frame:
        """The event of now; the one before it, if that is not old yet: somebody joined, and gets it too."""
        now = time.monotonic()
        made, frame = self._frames.get(viewer, (float("-inf"), None))
        if frame is None or now - made >= 0.9 * self._seconds:
            frame = self._made(viewer)
            self._frames[viewer] = now, frame
        return frame

    def _made(self, viewer: str | None) -> Frame:
        kind, number = _SNAPSHOT, next(self._numbers)
        try:
            data = orjson.dumps(self.figures.snapshot(viewer))
        except SQLAlchemyError as error:
            logger.warning("live figures cannot be read from the store: %s", type(error).__name__)
            kind, data = _FAULT, orjson.dumps({"why": UNREADABLE})
        except Exception:  # the next look may succeed, and the thread has to live on
            logger.exception("live figures could not be made")
            kind, data = _FAULT, orjson.dumps({"why": "The figures could not be made; the log says why."})
        return Frame(number, b"event: %s\nid: %d\ndata: %s\n\n" % (kind, number, data))
