"""The rows of a spool, and what is done with them in a transaction: kept, combined, and the oldest let go above the bounds.

Clients write thumbs as they like, so these have bounds of their own, and go before anything else does. What costs a client
nothing, a thumb on a decision that is not known here, has a smaller one apart: it takes no place of a thumb on a key's own
decision, of which each was a call.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from serving.integrations.litellm.told.tally import Tally

logger = logging.getLogger(__name__)

THUMBS = "thumbs"
MOST_THUMBS, MOST_OF_A_KEY = 10_000, 500
MOST_UNKNOWN, MOST_UNKNOWN_OF_A_KEY = 1_000, 50
# How many thumbs of a key there are, and of all keys, which are counted under no key's name.
ROOM = (
    "select coalesce((select rows from thumbs_of where key = ? and known = ?), 0),"
    " coalesce((select rows from thumbs_of where key = '' and known = ?), 0)"
)
_MOST_OWNERS = 200_000


@dataclass(frozen=True, slots=True)
class Thumb:
    """What a row is where a client says it: of which decision, by which key's hash."""

    decision: str
    key: str


@dataclass(frozen=True, slots=True)
class Kept:
    """One row to keep: `name` is its own in its destination, `due` is when it may be delivered (epoch seconds)."""

    destination: str
    name: str
    body: bytes
    due: float
    thumb: Thumb | None = None


def thumb_row(thumb: Thumb, body: bytes, due: float) -> Kept:
    """A thumb's row, which no other key's takes the place of."""
    return Kept(THUMBS, f"{thumb.key} {thumb.decision}", body, due, thumb)


@dataclass(frozen=True, slots=True)
class Leased:
    """A row that this process may deliver: it was told at `at`, and `tries` deliveries of it came to nothing."""

    id: int
    name: str
    body: bytes
    at: float
    tries: int
    revision: int
    lease: str


def keep(
    file: sqlite3.Connection, row: Kept, now: float, combine: Callable[[bytes, bytes], bytes], counts: Tally
) -> None:
    """Writes a row, or combines it with the one of its name. A thumb may be let go instead, which is counted."""
    owner = None if row.thumb is None else _owner(file, row.thumb.decision)
    if row.thumb is not None and owner not in (None, row.thumb.key):
        return counts.add("nobodys")
    there = file.execute(
        "select id, body from told where destination = ? and name = ?", (row.destination, row.name)
    ).fetchone()
    if there is not None:
        body = _combined(combine, there[1], row.body)
        file.execute(
            "update told set body = ?, due = min(due, ?), revision = revision + 1 where id = ?",
            (body, row.due, there[0]),
        )
    elif row.thumb is not None and not _has_room(file, row.thumb.key, known=owner is not None):
        counts.add("thumbs_dropped")
    else:
        key = None if row.thumb is None else row.thumb.key
        file.execute(
            "insert into told (destination, name, body, at, due, key, known) values (?, ?, ?, ?, ?, ?, ?)",
            (row.destination, row.name, row.body, now, row.due, key, owner is not None),
        )


def _combined(combine: Callable[[bytes, bytes], bytes], there: bytes, coming: bytes) -> bytes:
    try:
        return combine(there, coming)
    except Exception as error:  # noqa: BLE001 - one row that cannot be read does not keep the others from being written
        logger.warning("a row of the spool could not be read (%s), what is new takes its place", type(error).__name__)
        return coming


def _owner(file: sqlite3.Connection, decision: str) -> str | None:
    """For which key a decision was made; None where that is not known here yet."""
    owner = file.execute("select key from owner where decision_id = ?", (decision,)).fetchone()
    return None if owner is None else str(owner[0])


def _has_room(file: sqlite3.Connection, key: str, *, known: bool) -> bool:
    """Whether one more thumb of the key, on a decision that is known or on one that is not, is within the bounds."""
    most, of_a_key = (MOST_THUMBS, MOST_OF_A_KEY) if known else (MOST_UNKNOWN, MOST_UNKNOWN_OF_A_KEY)
    own, all_of_them = file.execute(ROOM, (key, known, known)).fetchone()
    return bool(own < of_a_key and all_of_them < most)


def bound(file: sqlite3.Connection, most_rows: int, most_bytes: int) -> tuple[int, int]:
    """Lets the oldest rows go above the bounds, thumbs before all others; how many thumbs and how many others went."""
    rows, size, owners = file.execute("select rows, bytes, owners from total").fetchone()
    if owners > _MOST_OWNERS:
        oldest = "select decision_id from owner order by at limit ?"
        file.execute(f"delete from owner where decision_id in ({oldest})", (owners - _MOST_OWNERS,))
    thumbs = others = 0
    none_left = False
    while rows > most_rows or (size > most_bytes and rows):
        surplus = rows - most_rows if rows > most_rows else 1 + rows // 100
        which = "" if none_left else "where destination = ?"
        oldest = f"select id from told {which} order by id limit ?"
        gone = file.execute(
            f"delete from told where id in ({oldest})", (surplus,) if none_left else (THUMBS, surplus)
        ).rowcount
        thumbs, others = (thumbs, others + gone) if none_left else (thumbs + gone, others)
        none_left = none_left or gone == 0
        rows, size = file.execute("select rows, bytes from total").fetchone()
    return thumbs, others
