"""The rows of a spool, and what is done with them in a transaction: kept, combined, and the oldest let go above the bounds.

Clients write thumbs as they like, so these have bounds of their own, and go before anything else does.
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
    if row.thumb is not None and not _is_its_own(file, row.thumb):
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
    elif row.thumb is not None and not _has_room(file, row.thumb):
        counts.add("thumbs_dropped")
    else:
        file.execute(
            "insert into told (destination, name, body, at, due) values (?, ?, ?, ?, ?)",
            (row.destination, row.name, row.body, now, row.due),
        )


def _combined(combine: Callable[[bytes, bytes], bytes], there: bytes, coming: bytes) -> bytes:
    try:
        return combine(there, coming)
    except Exception as error:  # noqa: BLE001 - one row that cannot be read does not keep the others from being written
        logger.warning("a row of the spool could not be read (%s), what is new takes its place", type(error).__name__)
        return coming


def _is_its_own(file: sqlite3.Connection, thumb: Thumb) -> bool:
    """Whether the decision was made for the thumb's key, or for whom is not known here yet."""
    owner = file.execute("select key from owner where decision_id = ?", (thumb.decision,)).fetchone()
    return owner is None or owner[0] == thumb.key


def _has_room(file: sqlite3.Connection, thumb: Thumb) -> bool:
    """Whether one more thumb of its key is within the bounds."""
    of_key = "select count(*) from told where destination = ? and name > ? and name < ?"
    own = file.execute(of_key, (THUMBS, f"{thumb.key} ", f"{thumb.key}!")).fetchone()[0]
    if own >= MOST_OF_A_KEY:
        return False
    return int(file.execute("select count(*) from told where destination = ?", (THUMBS,)).fetchone()[0]) < MOST_THUMBS


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
