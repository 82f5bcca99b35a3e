"""A log file as a stream of bytes: gzip unpacked as it is read, the byte order mark left out, damage kept track of."""

from __future__ import annotations

import io
import zlib
from typing import BinaryIO

from training.logs.objects.path import LogPath
from training.logs.outcomes import OutcomeError

_CHUNK = 1 << 16
_BUFFER = 1 << 20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Unpacked(io.RawIOBase):
    """The bytes of a file, unpacked where its name ends in .gz (members in a row are one file).

    `given` counts the bytes so far. `damage` is "" until gzip ends too early or turns out broken; then it says what
    arrived, and the stream ends with the bytes before. Reading raises OutcomeError when nothing could be unpacked.
    """

    damage: str
    given: int

    def __init__(self, path: LogPath) -> None:
        super().__init__()
        self._path = path
        self._gzip = path.suffix.lower() == ".gz"
        self._file: BinaryIO = path.open("rb")
        self.rewind()

    def rewind(self) -> None:
        """Starts again from the first byte."""
        self._file.seek(0)
        self._unpacker = zlib.decompressobj(wbits=31)
        self._packed = b""
        self._ready = memoryview(b"")
        self.damage, self.given = "", 0

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        self._file.close()
        super().close()

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if not self._ready:
            self._ready = memoryview(self._next() if self.given else self._first())
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _first(self) -> bytes:
        head = self._next()
        while 0 < len(head) < len(_BYTE_ORDER_MARK) and (more := self._next()):
            head += more
        # A file that is its mark alone is empty: nothing comes after it either.
        return head.removeprefix(_BYTE_ORDER_MARK) or self._next()

    def _next(self) -> bytes:
        """The next bytes, unpacked; empty at the end."""
        found = self._unpack() if self._gzip else self._file.read(_BUFFER)
        self.given += len(found)
        return found

    def _unpack(self) -> bytes:
        while not self.damage:
            self._packed = self._packed or self._file.read(_CHUNK)
            if not self._packed:
                if not self._unpacker.eof:
                    self._damaged()
                break
            if self._unpacker.eof:
                self._unpacker = zlib.decompressobj(wbits=31)
            try:
                found = self._unpacker.decompress(self._packed)
            except zlib.error:
                self._damaged()
                break
            self._packed = self._unpacker.unused_data
            if found:
                return found
        return b""

    def _damaged(self) -> None:
        packed = self._path.stat().st_size
        if not self.given:
            raise OutcomeError(
                f"{self._path}: expected gzip, got {packed} bytes that are not; rename it or pack it again"
            )
        self.damage = f"{packed} packed bytes without an end"
