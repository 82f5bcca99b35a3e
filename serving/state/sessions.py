"""Which candidate a conversation is on, and how much of what it says now that candidate has read before.

No text is held: a conversation is known by a keyed hash, and a prompt by keyed hashes of its beginnings, which tell how long a
beginning two prompts have in common. Who has the hashes and not the key cannot try texts against them.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from cachetools import TLRUCache

from serving.bundle.request import Message

_MARK = 8  # bytes of a hash of a beginning
_STEP = 256  # bytes from one beginning to the next; of long ones a sixteenth of what stands before
_SHORTEST_PART = 16
_MOST_CANDIDATES = 3
# What a session takes in memory beside its hashes, about: its id, its objects, and its place in the map.
_ENTRY = 700


@dataclass(frozen=True, slots=True)
class Marks:
    """Keyed hashes of a prompt's beginnings, and of all of it: `size` bytes. At most a few hundred, however long it is."""

    size: int
    hashes: bytes

    @classmethod
    def of(cls, key: bytes, data: bytes) -> Marks:
        """The marks of a prompt, in UTF-8."""
        return cls(len(data), b"".join(mark for _, mark in _beginnings(key, data, len(data))))

    def common(self, key: bytes, data: bytes) -> int:
        """How many bytes of another prompt are known to be the beginning of this one: never more than there are."""
        shared = 0
        for place, (end, mark) in enumerate(_beginnings(key, data, self.size)):
            if mark != self.hashes[place * _MARK : (place + 1) * _MARK]:
                break
            shared = end
        return shared

    def packed(self) -> bytes:
        """As bytes, for the store."""
        return self.size.to_bytes(8, "big") + self.hashes

    @classmethod
    def unpacked(cls, packed: bytes) -> Marks:
        return cls(int.from_bytes(packed[:8], "big"), packed[8:])


def _beginnings(key: bytes, data: bytes, size: int) -> Iterator[tuple[int, bytes]]:
    """(length, hash) of the beginnings of `data` at which a prompt of `size` bytes has marks, the shortest first."""
    hashed, view = blake2b(digest_size=_MARK, key=key), memoryview(data)
    start = 0
    while start < size:
        end = min(start + max(_STEP, start // _SHORTEST_PART // _STEP * _STEP), size)
        if end > len(data):
            return
        hashed.update(view[start:end])
        yield end, hashed.copy().digest()
        start = end


def given_id(key: bytes, caller: str | None, session: str) -> str:
    """A session's id, of the one that a caller gave: two API keys' sessions of one name are two."""
    return _hashed(key, "given", caller, session)


def derived_id(key: bytes, caller: str | None, messages: Sequence[Message], tools: object) -> str | None:
    """The id of a conversation that brings none, by API key, system prompt, tools and first user turn; None without that."""
    first = next((place for place, one in enumerate(messages) if one.get("role") == "user"), None)
    if first is None:
        return None
    system = [one.get("content") for one in messages[:first] if one.get("role") in ("system", "developer")]
    return _hashed(key, "derived", caller, system, tools, messages[first].get("content"))


def goes_on(messages: Sequence[Message]) -> bool:
    """Whether a candidate has answered in this conversation already."""
    return any(one.get("role") == "assistant" for one in messages)


def _hashed(key: bytes, *parts: object) -> str:
    text = json.dumps(parts, default=str)
    return blake2b(text.encode(), digest_size=16, key=key).hexdigest()


@dataclass(frozen=True, slots=True)
class Read:
    """A prompt that a candidate has read at a time, in epoch seconds."""

    candidate: str
    marks: Marks
    at: float


@dataclass(frozen=True, slots=True)
class Session:
    """The candidate that a conversation was last on, in epoch seconds, and what it and those before it have read."""

    candidate: str
    at: float
    read: tuple[Read, ...]

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        return _ENTRY + sum(_ENTRY // 2 + len(one.marks.hashes) for one in self.read)


class Sessions:
    """Sessions by their ids, for `seconds` after their last request, in at most `most_bytes`; the least recently used go.

    Safe to share between threads; `clock` gives epoch seconds.
    """

    def __init__(self, most_bytes: int, seconds: float, clock: Callable[[], float] = time.time) -> None:
        self._known: TLRUCache[str, Session] = TLRUCache(
            most_bytes, lambda _, session, __: session.at + seconds, clock, getsizeof=lambda session: session.size
        )
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    @property
    def bytes(self) -> int:
        """What the sessions take, about."""
        return int(self._known.currsize)

    def get(self, session: str) -> Session | None:
        with self._lock:
            found: Session | None = self._known.get(session)
            return found

    def put(self, session: str, candidate: str, at: float, marks: Marks) -> None:
        """Says that a conversation's prompt went to a candidate at a time; what is known of a later one stays."""
        with self._lock:
            known: Session | None = self._known.get(session)
            if known is None or known.at <= at:
                self._put(session, known, Read(candidate, marks, at))

    def heard(self, session: str, candidate: str, at: float, marks: Marks) -> None:
        """As `put`, of another process; what this one knows of the same time stays."""
        with self._lock:
            known: Session | None = self._known.get(session)
            if known is None or known.at < at:
                self._put(session, known, Read(candidate, marks, at))

    def _put(self, session: str, known: Session | None, last: Read) -> None:
        before = () if known is None else tuple(one for one in known.read if one.candidate != last.candidate)
        now = Session(last.candidate, last.at, (last, *before)[:_MOST_CANDIDATES])
        if now.size <= self._known.maxsize:
            self._known[session] = now
