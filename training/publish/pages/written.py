"""Figures as people read them."""

from __future__ import annotations

import math
from datetime import datetime

from training.charts.theme import usd

NOT_KNOWN = "not known"


def percent(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{100 * value:.1f}%"


def usd_per_thousand(value: float | None) -> str:
    """USD per 1,000 requests, without a sign."""
    return "" if value is None or math.isnan(value) else f"{1000 * value:.3f}"


def figure(value: float | None, digits: int = 3) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def interval(bounds: tuple[float | None, float | None]) -> str:
    low, high = bounds
    return "" if low is None or high is None or math.isnan(low) else f"{low:+.4f} … {high:+.4f}"


def money(value: float | None) -> str:
    """$0.40, $1,234, -$3.20."""
    return usd(value).replace("-", "−") or NOT_KNOWN


def thousand(value: float | None) -> str:
    """What 1,000 requests cost, of the cost of one."""
    return "" if value is None or not math.isfinite(value) else money(1000 * value)


def span(low: float | None, high: float | None) -> str:
    """A 95% interval of a share; empty where it is not known."""
    return "" if low is None or high is None else f"95% {percent(low)} … {percent(high)}"


def signed_percent(value: float | None) -> str:
    """A difference of two shares, in percentage points."""
    return "" if value is None or math.isnan(value) else f"{100 * value:+.1f}".replace("-", "−")


def signed_money(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return ""
    return money(value) if value < 0 else f"+{money(value)}"


def count(value: float | None) -> str:
    return NOT_KNOWN if value is None else f"{value:,.0f}"


def day(moment: str) -> str:
    """The day of an ISO time."""
    at = datetime.fromisoformat(moment)
    return f"{at.day} {at:%b %Y}"
