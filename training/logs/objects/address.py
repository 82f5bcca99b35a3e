"""URLs of objects: `s3://bucket/key` and `gs://bucket/key`, and how a URL that may hold a secret is shown."""

from __future__ import annotations

import re
from typing import NamedTuple

from training.errors import TrainingError

# By their schemes, with what reads and writes them.
SCHEMES = ("gs", "s3")
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)://(?P<rest>.*)", re.DOTALL)
# Also what `Path` makes of such a URL, so that no local folder of this name is ever meant by one.
_NAMED = re.compile(rf"(?P<scheme>{'|'.join(SCHEMES)}):(?P<slashes>/*)(?P<rest>.*)", re.DOTALL | re.IGNORECASE)
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")
_HIDDEN = "***"


class ObjectStoreError(TrainingError):
    """An object store, bucket or object that cannot be read or written as asked; what is said holds no secret.

    What a terminal would act on is escaped in it: anybody who may write an object may have made up its name.
    """

    def __init__(self, message: str) -> None:
        super().__init__(escaped(message))


class Address(NamedTuple):
    """Where an object, or with a key that is "" or ends in / a folder of objects, is. Keys are taken literally."""

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"


def is_object_url(named: object) -> bool:
    """Whether a name is a URL of an object store, however it is written, and so no local file."""
    return isinstance(named, str) and _NAMED.match(named) is not None


def parse(url: str) -> Address:
    """The address that a URL names; raises ObjectStoreError, also for one that holds a user, a password or parameters.

    Nothing is decoded: `%20`, `#`, `//` and `..` are parts of the key, as they are for the stores' own programs. A `?` in a
    key is refused in a URL, where it may be the signature of one that was shared; an object with it is read with its folder.
    """
    found = _NAMED.match(url)
    if found is None or len(found["slashes"]) < 2:
        raise ObjectStoreError(f"{shown(url)}: expected {' or '.join(f'{one}://bucket/folder' for one in SCHEMES)}")
    authority, _, key = (found["slashes"][2:] + found["rest"]).partition("/")
    if "@" in authority or ":" in authority or "?" in url:
        raise ObjectStoreError(
            f"{shown(url)}: a URL of an object store has no user, password or parameters. Credentials are taken from where "
            "the store's own programs find them (docs/logs.md), an address of a store from AWS_ENDPOINT_URL"
        )
    if not _BUCKET.fullmatch(authority):
        raise ObjectStoreError(
            f"{shown(url)}: {authority!r} is no name of a bucket; expected {found['scheme']}://bucket/folder"
        )
    return Address(found["scheme"].lower(), authority, key)


def escaped(text: str) -> str:
    """The text with whatever cannot be printed, such as control characters, as Python writes it (`\\x1b`)."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode("ascii") for one in text)


def shown(url: str) -> str:
    """The URL without its user, its password and its parameters."""
    found = _URL.fullmatch(url)
    if found is None:
        scheme, colon, rest = url.partition(":")
        return f"{scheme}:{_HIDDEN}" if colon and ("@" in rest or "?" in rest) else url
    bare, question, _ = found["rest"].partition("?")
    authority = bare.partition("/")[0]
    if "@" in authority or ":" in authority:  # a secret key may have a / in it, or an @
        bare = f"{_HIDDEN}@{bare.rpartition('@')[2]}" if "@" in bare else _HIDDEN
    return f"{found['scheme']}://{bare}{question}{_HIDDEN if question else ''}"
