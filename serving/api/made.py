"""What anybody may ask for as often as they like, made no oftener than it changes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from anyio import to_thread

from serving.bundle.manifest import Manifest

T = TypeVar("T")


class MadeOnce:
    """What `make` gives of a manifest, until another manifest takes its place."""

    def __init__(self, make: Callable[[Manifest], bytes]) -> None:
        self._make = make
        self._known: tuple[Manifest, bytes] | None = None

    def of(self, manifest: Manifest) -> bytes:
        known = self._known
        if known is None or known[0] is not manifest:
            known = self._known = manifest, self._make(manifest)
        return known[1]


class Together(Generic[T]):
    """What `make` gives in a thread, made once at a time: all who ask meanwhile get together what is made next.

    So nobody gets what was begun before they asked. It is for one event loop.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._now: asyncio.Task[T] | None = None
        self._next: asyncio.Task[T] | None = None

    async def value(self) -> T:
        if self._next is None:
            self._next = asyncio.create_task(self._made(self._now))
        return await asyncio.shield(self._next)  # one who leaves does not take it from the others

    async def _made(self, before: asyncio.Task[T] | None) -> T:
        if before is not None:
            await asyncio.wait([before])
        self._now, self._next = self._next, None
        return await to_thread.run_sync(self._make)
