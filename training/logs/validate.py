"""A raw log table, cell types unknown -> checked outcomes: typed columns, and a reason for each row left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from serving.bundle.arrays import Floats
from training.config import JUDGEMENTS, WEAK
from training.logs import typed
from training.logs.cells import blank
from training.logs.failures import Failure, failed, report
from training.logs.outcomes import (
    ALIASES,
    BESIDE,
    COLUMNS,
    Outcomes,
    Unreadable,
    origin,
    require_usable,
    unreadable_rows,
)
from training.logs.repeated.repeats import unrepeated
from training.logs.rescale import OUTSIDE
from training.logs.typed import Mask

_TEXTS = ("request_id", "candidate", "session_id", "workflow")
_NUMBERS = ("quality", "cost_usd", "input_tokens", "output_tokens", "latency_ms", "propensity")
_TOKENS = ("input_tokens", "output_tokens")
_WORDS = {
    "status": ("success", "error"),
    "split": ("train", "test"),
    "purpose": ("certify", "learn"),
    "quality_source": (*JUDGEMENTS, *WEAK),
}
# float64 holds every whole number up to here, so reading a count as a float loses nothing.
_MAX_TOKENS = 2**53


def validate(
    raw: pd.DataFrame,
    *,
    source: str,
    format: str,
    rows: Sequence[int] | None = None,
    unreadable: Sequence[Unreadable] = (),
    partition: bool = False,
) -> Outcomes:
    """Check a raw log table of n rows, cell types unknown, and keep the rows that can be used.

    `rows` are the 1-based row or line numbers in the source, shape (n,) (default: 1 to n); `unreadable` are the rows
    that never became part of `raw`. `model` stands for `candidate` where that is absent; other unknown columns are
    ignored, and missing ones are null. A row with messages and a prompt keeps the messages, which say more. An error
    row has quality 0. Raises OutcomeError when no row is usable. In a `partition` of a source there need be none, and
    repeats stay in it: which row is the first only `unrepeated` can tell, which sees all partitions.
    """
    arrived = [str(name).strip() for name in raw.columns]
    table = _select(raw, arrived)
    numbers = np.asarray(range(1, len(raw) + 1) if rows is None else rows, dtype="int64")
    coerced, failures = _coerce(table)
    failures += _check(coerced)
    failures.sort(key=lambda failure: COLUMNS.index(failure.field))
    good = ~failed(failures, len(raw))
    skipped = report(table, failures, source, numbers)
    if unreadable:
        skipped = pd.concat([unreadable_rows(source, unreadable), skipped])
    part = Outcomes(
        frame=coerced[good].reset_index(drop=True).astype(dict.fromkeys(_TOKENS, "Int64")),
        skipped=skipped.sort_values("row", kind="stable", ignore_index=True),
        rows_read=len(raw) + len(unreadable),
        formats=(format,),
        origin=origin(source, numbers[good]),
        beside=_beside(raw, arrived)[good].reset_index(drop=True),
    )
    if partition:
        return part
    (part,) = unrepeated([part])
    require_usable([part], source=source, format=format, arrived=arrived)
    return replace(part, skipped=part.skipped.sort_values("row", kind="stable", ignore_index=True))


def refused(source: str, rows: Iterable[Unreadable]) -> Outcomes:
    """No outcome at all, only rows that could not be read."""
    skipped = unreadable_rows(source, rows)
    nothing = validate(pd.DataFrame(), source=source, format="", partition=True)
    return replace(nothing, skipped=skipped, rows_read=len(skipped), formats=())


def _select(raw: pd.DataFrame, arrived: list[str]) -> pd.DataFrame:
    """Exactly `COLUMNS`, cells untouched, null where the column did not arrive; the first of two namesakes counts."""
    names = [ALIASES.get(name, name) if ALIASES.get(name) not in arrived else name for name in arrived]
    position = {name: place for place, name in reversed(list(enumerate(names)))}
    nothing = pd.Series([None] * len(raw), dtype=object)
    columns = {
        name: raw.iloc[:, position[name]].reset_index(drop=True) if name in position else nothing for name in COLUMNS
    }
    return pd.DataFrame(columns, index=pd.RangeIndex(len(raw)))


def _beside(raw: pd.DataFrame, arrived: list[str]) -> pd.DataFrame:
    """The columns of `BESIDE` that arrived, as text; what is no text is null, for no row is skipped over it."""
    columns = {name: _text_beside(raw.iloc[:, arrived.index(name)]) for name in BESIDE if name in arrived}
    return pd.DataFrame(columns, index=pd.RangeIndex(len(raw)))


def _text_beside(column: pd.Series[Any]) -> pd.Series[Any]:
    """Text as it is, "" too: an answer without text is one that can be judged, unlike an answer that was not logged."""
    empty = np.array([isinstance(cell, str) and blank(cell) for cell in column.astype(object)], dtype=bool)
    return typed.text(column, strip=False).values.mask(empty, "")


def _coerce(table: pd.DataFrame) -> tuple[pd.DataFrame, list[Failure]]:
    """Typed columns and what could not be read; tokens stay float64 until the bad ones are gone."""
    columns: dict[str, pd.Series[Any]] = {}
    failures: list[Failure] = []

    def keep(name: str, coerced: typed.Coerced, reason: str) -> Mask:
        columns[name] = coerced.values
        failures.append(Failure(name, reason, coerced.bad))
        return coerced.bad

    for name in _TEXTS:
        keep(name, typed.text(table[name]), f"{name} is not text")
    bad = keep("prompt", typed.text(table["prompt"], strip=False, numbers=False), "prompt is not text")
    bad = bad | keep("messages", typed.messages(table["messages"]), "messages is not a list of messages")
    for name in _NUMBERS:
        keep(name, typed.number(table[name], booleans=name == "quality"), f"{name} is not a number")
    keep("timestamp", typed.instant(table["timestamp"]), "timestamp is not a date")
    keep("status", typed.text(table["status"]), "status is neither success nor error")
    keep("split", typed.text(table["split"]), "split is neither train nor test")
    keep("purpose", typed.text(table["purpose"]), "purpose is neither certify nor learn")
    keep("quality_source", typed.text(table["quality_source"]), _none_of("quality_source"))

    frame = pd.DataFrame({name: columns[name] for name in COLUMNS})
    frame["prompt"] = frame["prompt"].mask(frame["messages"].notna())
    frame["status"] = status_words(frame["status"])
    for name in ("split", "purpose", "quality_source"):
        frame[name] = frame[name].str.lower()
    erred = (frame["status"] == "error").to_numpy()
    frame["quality"] = frame["quality"].mask(erred, 0.0)
    frame["quality_source"] = frame["quality_source"].mask(erred | frame["quality"].isna())
    # Whatever an error row says about quality, its quality is 0.
    failures = [f._replace(mask=f.mask & ~erred) if f.field.startswith("quality") else f for f in failures]
    empty = (frame["prompt"].isna() & frame["messages"].isna()).to_numpy() & ~bad
    return frame, [*failures, Failure("prompt", "no prompt", empty)]


def _none_of(name: str) -> str:
    *allowed, last = _WORDS[name]
    return f"{name} is neither {', '.join(allowed)} nor {last}"


def status_words(column: pd.Series[Any]) -> pd.Series[Any]:
    """Words in lower case; an HTTP status is a success below 400 and an error from there on."""
    words = column.str.lower().fillna("success")
    strange = ~words.isin(_WORDS["status"])
    if not strange.any():
        return words
    codes = pd.to_numeric(words.where(strange), errors="coerce")
    return words.mask(codes.between(200, 399), "success").mask(codes.between(400, 599), "error")


def _check(frame: pd.DataFrame) -> list[Failure]:
    """What a column of the coerced table may not hold; each reason is the one that a row is skipped for."""
    failures = [Failure(name, f"no {name}", frame[name].isna().to_numpy()) for name in ("request_id", "candidate")]

    def refuse(name: str, reason: str, wrong: Callable[[Floats], Mask]) -> None:
        failures.append(Failure(name, reason, wrong(frame[name].to_numpy())))  # no comparison holds of a NaN

    refuse("quality", OUTSIDE, lambda cells: (cells < 0) | (cells > 1))
    refuse("propensity", "propensity outside (0, 1]", lambda cells: (cells <= 0) | (cells > 1))
    bought = frame["purpose"].notna() & frame["propensity"].isna()
    failures.append(Failure("propensity", "a bought answer without its propensity", bought.to_numpy()))
    for name in ("cost_usd", "latency_ms", *_TOKENS):
        refuse(name, f"{name} is negative", lambda cells: cells < 0)
    for name in _TOKENS:
        refuse(name, f"{name} is too large", lambda cells: cells > _MAX_TOKENS)
        refuse(name, f"{name} is not a whole number", lambda cells: np.mod(cells, 1) > 0)
    for name, allowed in _WORDS.items():
        strange = frame[name].notna() & ~frame[name].isin(allowed)
        failures.append(Failure(name, _none_of(name), strange.to_numpy()))
    return [failure for failure in failures if failure.mask.any()]
