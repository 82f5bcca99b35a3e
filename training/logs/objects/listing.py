"""The objects below a folder as one listing found them, and whether the imports among them are whole.

An import on an object store is written in parts, each under a name that only this import gives, and then its account, which
names them. Until then its mark is there. So what is read is never a part of an import, nor parts of two.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from training.logs.objects.address import Address, ObjectStoreError
from training.logs.objects.store import Found

ACCOUNT, MARK = "_account.json", "_importing-"
_WORD = re.compile(r"\w+")  # of a file's name; one of them is the token of the import that it is of
# What JSON calls what Python reads of it.
_KINDS = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "a boolean", type(None): "null"}


@dataclass(frozen=True, eq=False)
class Listing:
    """The objects whose keys begin with `prefix`, by key, in the keys' order."""

    prefix: str
    objects: Mapping[str, Found]

    @classmethod
    def of(cls, prefix: str, found: Iterable[Found]) -> Listing:
        """Without what some programs leave as a folder's own entry."""
        return cls(
            prefix, {one.key: one for one in sorted(found, key=lambda one: one.key) if not one.key.endswith("/")}
        )

    def below(self, prefix: str) -> Listing:
        """Those of them below another folder."""
        if prefix == self.prefix:
            return self
        first, last = bisect_left(self._keys, prefix), bisect_left(self._keys, prefix + "\U0010ffff")
        return Listing(prefix, {key: self.objects[key] for key in self._keys[first:last]})

    @cached_property
    def _keys(self) -> list[str]:
        return list(self.objects)

    def whole(self, address: Address, read: Callable[[str], bytes]) -> Iterator[str]:
        """The keys of what may be read: in a folder that was imported into, what its account names.

        Raises ObjectStoreError where there is no account yet, or something else than it names.
        """
        named, tokens = dict[str, frozenset[str]](), dict[str, set[str]]()
        for folder, name in (_parted(key) for key in self.objects if _is_of_an_import(key)):
            if folder not in named:
                named[folder] = self._named(address._replace(key=folder), read)
            if name.startswith(MARK):
                tokens.setdefault(folder, set()).add(name.removeprefix(MARK))
        for key in self.objects:
            folder, name = _parted(key)
            while folder not in named and folder:
                folder, _ = _parted(folder[:-1])
            if folder not in named or key.removeprefix(folder) in named[folder]:
                yield key
            elif not name.startswith(("_", ".")) and tokens.get(folder, set()).isdisjoint(_WORD.findall(name)):
                at = address._replace(key=key)
                raise ObjectStoreError(
                    f"{at}: is not of the import in its folder, as {ACCOUNT} says. Move or remove it"
                )

    def _named(self, folder: Address, read: Callable[[str], bytes]) -> frozenset[str]:
        """What an import consists of, all of which is there."""
        if folder.key + ACCOUNT not in self.objects:
            raise ObjectStoreError(
                f"{folder}: an import into it has not come to its end, and what is there may be a part. Wait for it; if it "
                f"does not run any more, remove what is below {folder} and import again"
            )
        found = files_of(read(folder.key + ACCOUNT), folder)
        if missing := sorted(name for name in found if folder.key + name not in self.objects):
            raise ObjectStoreError(f"{folder}: {missing[0]} of the import is not there. Import the log again")
        return found


def _parted(key: str) -> tuple[str, str]:
    """The folder that a key is in, with its slash, and its name there."""
    folder, slash, name = key.rpartition("/")
    return folder + slash, name


def _is_of_an_import(key: str) -> bool:
    name = key.rpartition("/")[2]
    return name == ACCOUNT or name.startswith(MARK)


def files_of(account: bytes, at: Address) -> frozenset[str]:
    """The files that an account names; raises ObjectStoreError where it is none: whoever writes there may make one."""
    try:
        told = json.loads(account)
    except ValueError:
        raise _no_account(at, "JSON was expected, and it is none") from None
    except RecursionError:
        raise _no_account(at, "it is nested deeper than JSON can be read") from None
    if not isinstance(told, dict):
        raise _no_account(at, f"a JSON object was expected, and it is {_KINDS[type(told)]}")
    files = told.get("files")
    if not isinstance(files, dict):
        arrived = _KINDS[type(files)] if "files" in told else "not there"
        raise _no_account(at, f"`files` was expected to be an object with the rows of each file, and is {arrived}")
    return frozenset(files)


def _no_account(at: Address, why: str) -> ObjectStoreError:
    return ObjectStoreError(f"{at}{ACCOUNT}: is no account of an import: {why}. Remove it, or import the log again")
