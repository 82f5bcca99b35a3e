"""Dates that are written in a form of their own: how a mapping says which, and which one a date looks like."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pandas as pd

from training.logs.cells import blank

# Tried in this order; where a day could be a month, the day is taken to be first as most of the world writes it.
_DAYS = ("%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%Y/%m/%d", "%Y.%m.%d", "%d %b %Y", "%d %B %Y", "%b %d, %Y")
_TIMES = (" %H:%M", " %H:%M:%S", ", %H:%M", ", %H:%M:%S", " %I:%M %p", " %I:%M:%S %p", "")
EXAMPLE = "%d.%m.%Y %H:%M"


def split(field: str) -> tuple[str, str]:
    """A field and the form of its dates behind it, `asked_at:%d.%m.%Y %H:%M`; "" where there is none."""
    bare, colon, form = field.partition(":")
    return (bare.rstrip(), form.strip()) if colon and "%" in form else (field, "")


def wrong(form: str) -> bool:
    """Whether a form cannot be read by: a sign in it has no meaning, or it has no year."""
    try:
        return datetime.strptime(datetime(2026, 9, 21, 18, 25).strftime(form), form).year != 2026
    except ValueError:
        return True


def read(cells: pd.Series[Any], form: str) -> tuple[pd.Series[Any], pd.Series[bool]]:
    """Moments in UTC, null where a cell says nothing, and which cells are not of the form."""
    empty = cells.map(blank).astype(bool)
    texts = cells.where(~empty).astype(str).str.strip()
    moments = pd.to_datetime(texts.where(~empty), format=form, errors="coerce", utc=True)
    return moments.astype(object).where(moments.notna(), None), moments.isna() & ~empty


def looks_like(*texts: str) -> str:
    """The first of the usual forms that all these dates are of, or ""."""
    forms = (day + time for day in _DAYS for time in _TIMES)
    return next((form for form in forms if all(_fits(text.strip(), form) for text in texts)), "")


def _fits(text: str, form: str) -> bool:
    try:
        datetime.strptime(text, form)
    except ValueError:
        return False
    return True
