"""What Langfuse answers: taken, in part, refused for what it is, or not now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import orjson

from serving.integrations.outcome import SinkError

# Refused for what was sent: another time makes no difference, a smaller part may.
REFUSED = frozenset({400, 413, 422})
_LATER = frozenset({408, 425, 429})
_KEYS = frozenset({401, 403})
_SHOWN = 200


@dataclass(frozen=True)
class Reply:
    """A status, and what the body says where it is JSON."""

    status: int
    body: Mapping[str, Any] = field(default_factory=dict)
    retry_after: float | None = None

    @property
    def done(self) -> bool:
        """Whether it was taken in, as a whole or in part."""
        return 200 <= self.status < 300

    @property
    def shown(self) -> str:
        """The status and the beginning of what is said about it."""
        said = next(
            (self.body[name] for name in ("partialSuccess", "errors", "message", "error") if name in self.body), ""
        )
        return f"{self.status} {said}"[:_SHOWN].strip()

    @property
    def rejected_spans(self) -> int:
        """How many spans of a batch were not taken (OTLP's partial success)."""
        partial = self.body.get("partialSuccess")
        return _count(partial.get("rejectedSpans")) if isinstance(partial, Mapping) else 0

    @property
    def rejected_scores(self) -> int:
        """How many scores of a list were not taken (207)."""
        return _count(self.body.get("rejected"))

    @property
    def failed_events(self) -> tuple[int, int]:
        """How many events of a batch were refused, and how many may be taken later (207)."""
        statuses = [_count(one.get("status")) for one in self._rows("errors")]
        later = sum(status >= 500 or status in _LATER for status in statuses)
        return len(statuses) - later, later

    @property
    def identifiers(self) -> set[str]:
        """The ids of the rows of a page."""
        return {str(row.get("id")) for row in self._rows("data")}

    @property
    def cursor(self) -> str | None:
        """Where the next page begins, None on the last one."""
        meta = self.body.get("meta")
        found = meta.get("cursor") if isinstance(meta, Mapping) else None
        return found if isinstance(found, str) and found else None

    def _rows(self, name: str) -> list[Mapping[str, Any]]:
        rows = self.body.get(name)
        return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def reply_of(answer: httpx.Response) -> Reply:
    """What an answer says."""
    try:
        body = orjson.loads(answer.content)
    except orjson.JSONDecodeError:
        body = {}
    return Reply(
        answer.status_code, body if isinstance(body, dict) else {}, _seconds(answer.headers.get("Retry-After"))
    )


def raise_for(reply: Reply, path: str) -> None:
    """Raises SinkError unless it was taken in."""
    if reply.done:
        return
    if reply.status in _KEYS:
        raise SinkError(
            f"Langfuse: {path} answered {reply.shown}: check that LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY are of a project "
            "on LANGFUSE_HOST, and that its ingestion is not suspended",
            retryable=False,
        )
    if reply.status in _LATER or reply.status >= 500:
        raise SinkError(f"Langfuse: {path} answered {reply.shown}", retry_after_seconds=reply.retry_after)
    raise SinkError(
        f"Langfuse: {path} answered {reply.shown}: check LANGFUSE_HOST, expected the server's final address without a path",
        retryable=False,
    )


def _seconds(text: str | None) -> float | None:
    """Retry-After: seconds, or a date."""
    if text is None:
        return None
    try:
        return max(0.0, min(float(text), 3600.0))
    except ValueError:
        pass
    try:
        return max(0.0, min((parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds(), 3600.0))
    except (ValueError, TypeError):
        return None


def _count(cell: Any) -> int:
    """A whole number, also as text (OTLP's JSON writes 64-bit numbers so)."""
    try:
        return max(0, int(cell))
    except (TypeError, ValueError, OverflowError):
        return 0
