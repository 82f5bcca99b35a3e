"""A folder of an object store that a log is imported into: parts first, under names of this import alone, the account last."""

from __future__ import annotations

import json
import logging
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from training.logs.objects.address import ObjectStoreError
from training.logs.objects.kinds import store_of
from training.logs.objects.listing import ACCOUNT, MARK, files_of
from training.logs.objects.path import ObjectPath
from training.logs.objects.store import ThereAlreadyError

logger = logging.getLogger(__name__)


class ObjectDraft:
    """Where files are made before they are sent, one at a time, and what has been sent of them.

    `token` is in the name of every file that is sent but the account, and no other import has it.
    """

    def __init__(self, into: ObjectPath, folder: Path) -> None:
        self.folder, self.token = folder, secrets.token_hex(6)
        self._into, self._store, self._sent = into, store_of(into.address.scheme), list[str]()

    def begin(self) -> None:
        """Marks the folder as one that is imported into; raises ObjectStoreError where it is not empty."""
        self._require_nothing()
        told = {"begun": datetime.now(UTC).isoformat(timespec="seconds"), "on": socket.gethostname()}
        self._put(MARK + self.token, json.dumps(told).encode())
        self._require_nothing()  # of two that begin at once, at least the later sees the other

    def send(self, file: Path) -> None:
        """Writes a file of the import, and removes it here."""
        self._put(file.name, file.read_bytes())
        file.unlink()

    def end(self, account: bytes) -> None:
        """Writes the account, which makes it an import, if nobody has meanwhile; raises ObjectStoreError."""
        sent, self._sent = self._sent, []  # nothing is taken back while it may be an import
        try:
            self._store.put(self._into.address.bucket, self._key(ACCOUNT), account, new=True)
        except ObjectStoreError as error:
            if not self._is_ours():  # it is where the answer to a first attempt was lost
                self._sent = sent
                if not isinstance(error, ThereAlreadyError):
                    raise
                raise ObjectStoreError(
                    f"{self._into}: another import into it came to its end before this one, and is kept. Give another --out"
                ) from None
        try:
            self._remove(MARK + self.token)
        except ObjectStoreError as error:  # what has an account is whole, with the mark or without
            logger.warning("%s", error)

    def take_back(self) -> None:
        """Removes what was sent."""
        try:
            for name in reversed(self._sent):  # the mark last: until then nothing of it is read
                self._remove(name)
        except ObjectStoreError as error:
            logger.warning("what was written below %s could not be removed, and is to be: %s", self._into, error)

    def _is_ours(self) -> bool:
        """Whether the account that is there names parts of this import; raises ObjectStoreError where that cannot be told."""
        there = self._into / ACCOUNT
        return there.is_file() and any(self.token in name for name in files_of(there.read_bytes(), self._into.address))

    def _require_nothing(self) -> None:
        there = {key.removeprefix(self._key("")): one for key, one in self._into.listed().objects.items()}
        others = {name: one for name, one in there.items() if name != MARK + self.token}
        if ACCOUNT in others:
            raise ObjectStoreError(
                f"{self._into} exists already; an import is never overwritten. Remove it, or give another --out"
            )
        if begun := [one for name, one in others.items() if name.startswith(MARK)]:
            raise ObjectStoreError(
                f"{self._into}: an import into it began at {begun[0].changed:%Y-%m-%d %H:%M} UTC and has not come to its "
                "end. Wait for it, or give another --out; if it does not run any more, remove what is there first: an import "
                "begins anew"
            )
        if others:
            raise ObjectStoreError(
                f"{self._into}: holds {min(others)} already, which is of no import. Give an --out with nothing below it"
            )

    def _put(self, name: str, data: bytes) -> None:
        self._sent.append(name)
        # Always as a new one: a store that cannot do that refuses at the mark, and not at the account.
        try:
            self._store.put(self._into.address.bucket, self._key(name), data, new=True)
        except ThereAlreadyError:  # of this name it is ours: the answer to a first attempt was lost
            if (self._into / name).stat().st_size != len(data):
                raise

    def _remove(self, name: str) -> None:
        self._store.remove(self._into.address.bucket, self._key(name))

    def _key(self, name: str) -> str:
        return (self._into / name).address.key


@contextmanager
def imported_into(folder: ObjectPath) -> Iterator[ObjectDraft]:
    """A draft for the block, which ends with `end`. Of one that raises nothing stays that was sent; of one that was killed its
    parts stay, which nothing reads."""
    with TemporaryDirectory(prefix="router-import-") as aside:
        draft = ObjectDraft(folder, Path(aside))
        try:
            draft.begin()
            yield draft
        except BaseException:
            draft.take_back()
            raise
