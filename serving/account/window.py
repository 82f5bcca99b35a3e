"""Which decisions an account of savings is of, as somebody asks for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from math import isfinite

DAY = 86_400.0
USUAL_DAYS, MOST_DAYS = 30, 366
_EXPECTED = (
    "expected seconds since 1970, or ISO 8601 as 2026-03-01 or 2026-03-01T12:00:00Z (UTC where it names no zone)"
)
# What a "+" in a URL's query comes to.
_LOST_SIGN = re.compile(r" (\d\d:?\d\d)$")


class By(StrEnum):
    """What there is a line for."""

    WORKFLOW = "workflow"
    KEY = "key"
    CANDIDATE = "candidate"
    DAY = "day"


class WindowError(ValueError):
    """A window that is none; `field` is "from" or "to", and what is to be done is in the message."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Window:
    """Which decisions, made from `since` to before `until` (epoch seconds), of one `key` or of all, and a line for what."""

    by: By
    since: float
    until: float
    key: str | None = None

    @classmethod
    def asked(cls, by: By, since: str | None, until: str | None, now: float, key: str | None = None) -> Window:
        """The window between two times as they are written: up to now, and from 30 days before. Raises WindowError."""
        end = now if until is None else _moment("to", until)
        begin = max(end - USUAL_DAYS * DAY, 0.0) if since is None else _moment("from", since)
        if begin >= end:
            raise WindowError("from", f"has to be before `to`, which is {iso(end)}; {iso(begin)} arrived")
        if end - begin > MOST_DAYS * DAY:
            days = (end - begin) / DAY
            raise WindowError("from", f"at most {MOST_DAYS} days may be asked for at once; {days:.0f} arrived")
        return cls(by, begin, end, key)


def iso(at: float) -> str:
    """A time (epoch seconds) in UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def _moment(field: str, text: str) -> float:
    """The epoch seconds of a time between 1970 and 9999; raises WindowError."""
    text = text.strip()
    try:
        at = float(text)
    except ValueError:
        at = _of_iso(field, text)
    if not isfinite(at) or not 0 <= at < 253_402_300_799:
        raise WindowError(field, f"{_EXPECTED}, of the years 1970 to 9999")
    return at


def _of_iso(field: str, text: str) -> float:
    try:
        at = datetime.fromisoformat(_LOST_SIGN.sub(r"+\1", text) if "T" in text else text)
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise WindowError(field, _EXPECTED) from None
