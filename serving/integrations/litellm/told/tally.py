"""Counts of what became of outcomes: for this process as numbers, and in Prometheus's default registry."""

from __future__ import annotations

from collections import Counter

from serving.integrations.litellm import counters


class Tally:
    """Counts by name; it may be added to from several threads."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, what: str, count: int = 1) -> None:
        if count:
            self._counts[what] += count
            counters.OUTCOMES.labels(what).inc(count)

    def __getitem__(self, what: str) -> int:
        return self._counts[what]

    def as_dict(self) -> dict[str, int]:
        """Every count that is not zero."""
        return dict(self._counts)
