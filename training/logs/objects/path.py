"""An object, or a folder of them, with what of `pathlib.Path` reading a log asks for: importers need not tell the two apart."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, NamedTuple, cast

from training.logs.objects.address import Address, ObjectStoreError, is_object_url, parse
from training.logs.objects.kinds import store_of
from training.logs.objects.listing import Listing
from training.logs.objects.store import Found, vanished

# What is read of an object at once: little where it is looked at here and there, more where it is read through.
_LEAST, _MOST = 1 << 20, 8 << 20
_KEPT = 16


class Stat(NamedTuple):
    """What `Path.stat` has that is asked for."""

    st_size: int
    st_mtime_ns: int


@dataclass(frozen=True, order=True)
class ObjectPath:
    """Where an object or a folder of objects is. What one listing found stays as it was found: a change is an error when read.

    Everything that asks the store raises ObjectStoreError.
    """

    address: Address
    listing: Listing | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return str(self.address)

    def __truediv__(self, name: str) -> ObjectPath:
        return replace(self, address=self.address._replace(key=self._below + name))

    @property
    def _below(self) -> str:
        """What the keys of all that is in it begin with, as a folder."""
        key = self.address.key
        return key if not key or key.endswith("/") else f"{key}/"

    @property
    def name(self) -> str:
        return self.address.key.rstrip("/").rpartition("/")[2]

    @property
    def _named(self) -> PurePosixPath:
        return PurePosixPath(self.name)

    @property
    def suffix(self) -> str:
        return self._named.suffix

    @property
    def suffixes(self) -> list[str]:
        return self._named.suffixes

    @property
    def stem(self) -> str:
        return self._named.stem

    @cached_property
    def parent(self) -> ObjectPath:
        above, slash, _ = self.address.key.rstrip("/").rpartition("/")
        return replace(self, address=self.address._replace(key=above + slash))

    def with_name(self, name: str) -> ObjectPath:
        return self.parent / name

    def with_suffix(self, suffix: Literal[""]) -> ObjectPath:
        """Without its last suffix."""
        assert suffix == ""
        return self.parent / self._named.stem

    def resolve(self) -> ObjectPath:
        return self

    @cached_property
    def found(self) -> Found | None:
        """The object as it is, or as the listing found it; None where there is none."""
        scheme, bucket, key = self.address
        if not key or key.endswith("/"):
            return None
        if self.listing is not None and key.startswith(self.listing.prefix):
            return self.listing.objects.get(key)
        return store_of(scheme).find(bucket, key)

    def is_file(self) -> bool:
        return self.found is not None

    def is_dir(self) -> bool:
        """Whether there are objects below it; not where it is an object itself, unless a / is behind its name."""
        return not self.is_file() and next(self._all(), None) is not None

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def stat(self) -> Stat:
        found = self._there()
        return Stat(found.size, int(found.changed.timestamp() * 1e9))

    def iterdir(self) -> Iterator[ObjectPath]:
        """What is directly in it, of what begins there the name only."""
        for name in self._names:
            yield self / name

    def rglob(self, pattern: str) -> Iterator[ObjectPath]:
        """The objects below it whose names fit, as they were listed; raises ObjectStoreError where an import among them is not
        whole."""
        listing = self.listed()
        for key in listing.whole(self.address, self._read):
            at = replace(self, address=self.address._replace(key=key), listing=listing)
            if fnmatchcase(at.name, pattern):
                yield at

    def as_listed(self) -> ObjectPath:
        """The same folder, of which from now on what is there now counts."""
        return replace(self, listing=self.listed())

    def listed(self) -> Listing:
        """All objects below it."""
        if self.listing is not None and self._below.startswith(self.listing.prefix):
            return self.listing.below(self._below)
        return Listing.of(self._below, (one for one in self._all() if isinstance(one, Found)))

    def open(self, _mode: Literal["rb"] = "rb") -> BinaryIO:
        """The object's bytes, from the store as they are asked for."""
        return cast(BinaryIO, io.BufferedReader(_Reading(self.address, self._there()), _LEAST))

    def read_bytes(self) -> bytes:
        with self.open() as file:
            return file.read()

    @cached_property
    def _names(self) -> tuple[str, ...]:
        if self.listing is not None and self._below.startswith(self.listing.prefix):
            keys: Iterator[str] = iter(self.listing.below(self._below).objects)
        else:
            found = store_of(self.address.scheme).below(self.address.bucket, self._below, deep=False)
            keys = (one.key if isinstance(one, Found) else one for one in found)
        return tuple(dict.fromkeys(name for key in keys if (name := key.removeprefix(self._below).partition("/")[0])))

    def _all(self) -> Iterator[Found | str]:
        if self.listing is not None and self._below.startswith(self.listing.prefix):
            return iter(self.listing.below(self._below).objects.values())
        return store_of(self.address.scheme).below(self.address.bucket, self._below)

    def _there(self) -> Found:
        if self.found is None:
            raise vanished(str(self))
        return self.found

    def _read(self, key: str) -> bytes:
        """The bytes of another object of the bucket."""
        return replace(self, address=self.address._replace(key=key), listing=None).read_bytes()


# A log on disk or on an object store.
LogPath = Path | ObjectPath


def in_order(found: Iterable[Path] | Iterable[ObjectPath]) -> list[LogPath]:
    """The paths, sorted by their names."""
    paths: list[Any] = sorted(found)
    return paths


def log_path(named: str | Path | ObjectPath) -> LogPath:
    """The place that a name or a URL of an object store stands for; raises ObjectStoreError for a URL that is none."""
    if isinstance(named, str):
        return ObjectPath(parse(named)) if is_object_url(named) else Path(named)
    return named


def for_parquet(path: LogPath) -> Path | BinaryIO:
    """What pyarrow reads: the path, or the bytes of an object."""
    return path.open("rb") if isinstance(path, ObjectPath) else path


class _Reading(io.RawIOBase):
    """An object's bytes, of one version, fetched a block at a time, a longer one each time that it is read on."""

    def __init__(self, address: Address, found: Found) -> None:
        super().__init__()
        self._address, self._found = address, found
        self._at, self._start, self._block, self._length = 0, 0, b"", _LEAST

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._found.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if self._at >= self._found.size or not len(buffer):
            return 0
        if not self._start <= self._at < self._start + len(self._block):
            self._fetch(len(buffer))
        begun = self._at - self._start
        found = self._block[begun : begun + len(buffer)]
        buffer[: len(found)] = found
        self._at += len(found)
        return len(found)

    def _fetch(self, wanted: int) -> None:
        read_on = self._at == self._start + len(self._block)
        self._length = min(2 * self._length, _MOST) if read_on and self._block else _LEAST
        end = min(self._at + max(self._length, min(wanted, _MOST)), self._found.size)
        # Importers look at the head and at the end of a file one after the other: those are kept for a while.
        looked_at = end - self._at <= _LEAST and (self._at == 0 or end == self._found.size)
        self._block = (_kept if looked_at else _part)(self._address, self._found, self._at, end)
        self._start = self._at


def _part(address: Address, found: Found, start: int, end: int) -> bytes:
    arrived, expected = store_of(address.scheme).part(address.bucket, found, start, end), end - start
    if len(arrived) != expected:
        said = f"more than {expected:,}" if len(arrived) > expected else f"{len(arrived):,}"
        raise ObjectStoreError(
            f"{address}: the store answered with {said} bytes, expected were the {expected:,} from {start:,} on that were "
            f"asked for, of {found.size:,}. Read it again; if it stays so, see whether the store, and a proxy before it, "
            "answer ranges"
        )
    return arrived


_kept = lru_cache(maxsize=_KEPT)(_part)
