"""What reading and writing logs asks of an object store, and the faults of one that are told apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from training.logs.objects.address import ObjectStoreError

# A store that does not answer is given up within a minute: so many times, each so long for a connection and for an answer.
TRIES, CONNECT_S, ANSWER_S = 3, 4.0, 14.0


@dataclass(frozen=True)
class Found:
    """An object as it was found: its size in bytes, which version of its content it is, and when that was written."""

    key: str
    size: int
    version: str
    changed: datetime


class ThereAlreadyError(ObjectStoreError):
    """An object that was to be new."""


class Store(Protocol):
    """A kind of object store. Everything raises ObjectStoreError where the store cannot be asked or refuses."""

    def find(self, bucket: str, key: str) -> Found | None:
        """The object with this key, None where there is none."""

    def below(self, bucket: str, prefix: str, *, deep: bool = True) -> Iterator[Found | str]:
        """The objects whose keys begin with the prefix, by key; not `deep`: up to the next /, what begins there as text."""

    def part(self, bucket: str, found: Found, start: int, end: int) -> bytes:
        """The bytes from `start` to before `end`, of this version; which may be gone.

        Of a longer answer one byte more, of a shorter one what arrived: whoever asks has to look.
        """

    def put(self, bucket: str, key: str, data: bytes, *, new: bool = False) -> None:
        """Writes an object whole; one that is to be `new` and is not: ThereAlreadyError, and it stays as it was."""

    def remove(self, bucket: str, key: str) -> None:
        """Removes an object, if it is there."""


def vanished(url: str) -> ObjectStoreError:
    """The error of an object that is gone."""
    return ObjectStoreError(f"{url}: was removed while it was read. Read it again when nothing changes it any more")


def replaced(url: str) -> ObjectStoreError:
    """The error of an object that has other content than it had."""
    return ObjectStoreError(
        f"{url}: was replaced by another of the same name while it was read. Read it again when nothing changes it any more"
    )
