"""The outcome table: one row per logged attempt of one candidate on one request.

A row that cannot be used is skipped with a short, stable reason and counted, so that used + skipped = read always
holds; a source in which nothing is usable is an `OutcomeError`. The skip report never carries prompt text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pandera.errors
import pandera.pandas as pa

from training.errors import TrainingError
from training.logs import cells as coerce
from training.logs.cells import Mask
from training.logs.repeats import Repeats

COLUMNS: tuple[str, ...] = (
    "request_id", "prompt", "messages", "candidate", "quality", "cost_usd", "input_tokens", "output_tokens",
    "latency_ms", "timestamp", "session_id", "workflow", "propensity", "status", "split",
)  # fmt: skip
ALIASES: dict[str, str] = {"model": "candidate"}
# What may travel beside the outcomes until they are judged: texts that nothing stores.
BESIDE: tuple[str, ...] = ("attempt_id", "trace_id", "answer", "expected")

_EXPECTED: dict[str, str] = {
    "request_id": "text that groups the attempts made on one request",
    "prompt": "text, or a list of messages in the column messages",
    "messages": "a list of messages, each with a role and a content (in CSV: as JSON)",
    "candidate": "the name of the LLM",
    "quality": "a number in [0, 1], or nothing if nobody judged the answer",
    "cost_usd": "a number of US dollars >= 0, or nothing",
    "input_tokens": "a whole number >= 0, or nothing",
    "output_tokens": "a whole number >= 0, or nothing",
    "latency_ms": "a number of milliseconds >= 0, or nothing",
    "timestamp": "ISO 8601 or an epoch in s or ms, from 1973 to 2286, or nothing",
    "session_id": "text, or nothing",
    "workflow": "text, or nothing",
    "propensity": "a number in (0, 1], or nothing",
    "status": "success, error or nothing (success)",
    "split": "train, test or nothing",
}
_REQUIRED = ("request_id", "candidate")
_TEXTS = ("request_id", "candidate", "session_id", "workflow")
_NUMBERS = ("quality", "cost_usd", "input_tokens", "output_tokens", "latency_ms", "propensity")
_TOKENS = ("input_tokens", "output_tokens")
# float64 holds every whole number up to here, so reading a count as a float loses nothing.
_MAX_TOKENS = 2**53
_SKIPPED_COLUMNS = ("source", "row", "reason", "field", "value", "expected")
_SHOWN = 40


class OutcomeError(TrainingError):
    """A source from which nothing can be used: says which, what was expected, what arrived and what to do."""


class Unreadable(NamedTuple):
    """A row that could not even be parsed: 1-based row or line number, reason, what arrived, what was expected."""

    row: int
    reason: str
    value: str
    expected: str


class AliasUse(NamedTuple):
    """How many rows were logged under an alias of a candidate."""

    alias: str
    candidate: str
    rows: int


@dataclass(frozen=True)
class Outcomes:
    """Usable outcomes and the account of those that were not.

    `frame`: exactly `COLUMNS`, RangeIndex; text columns and status are `str` with NaN as null, messages is object
    (list of dict, or None; where it is set prompt is null), tokens are Int64, timestamp is datetime64[us, UTC] and
    the other numbers are float64. `split` is a hint from sources that come with a held-out part.
    `skipped`: source, row (1-based row or line number), reason, field, value (shortened), expected.
    `rows_read`: always `len(frame) + len(skipped)`. `formats`: what was recognised. `origin`: the source and row
    of every row of `frame`, in its order. `aliases`: the names that were read as another (`aliases.resolve`).
    `beside`: those of `BESIDE` that the source has, `str`, rows as in `frame`;
    judging reads it, and nothing writes it anywhere. `notes`: what the importer had to
    decide, one sentence each.
    """

    frame: pd.DataFrame
    skipped: pd.DataFrame
    rows_read: int
    formats: tuple[str, ...]
    origin: pd.DataFrame
    aliases: tuple[AliasUse, ...] = ()
    beside: pd.DataFrame = field(default_factory=pd.DataFrame)
    notes: tuple[str, ...] = ()

    @property
    def reasons(self) -> dict[str, int]:
        """How many rows were skipped for each reason, most frequent first."""
        return {str(reason): int(count) for reason, count in self.skipped["reason"].value_counts().items()}


class _Failure(NamedTuple):
    field: str
    reason: str
    mask: Mask


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
    good = ~_any(failures, len(raw))
    beside = _beside(raw, arrived)
    for failure in () if partition else _repeated(*Repeats().find(coerced[good], beside[good])):
        wide = np.zeros(len(raw), dtype=bool)
        wide[good] = failure.mask
        failures.append(failure._replace(mask=wide))
    good = ~_any(failures, len(raw))
    skipped = pd.concat([unreadable_rows(source, unreadable), _report(table, failures, source, numbers)])
    skipped = skipped.sort_values("row", kind="stable", ignore_index=True)
    if not good.any() and not partition:
        raise OutcomeError(_nothing_usable(source, format, arrived, skipped))
    return Outcomes(
        frame=_finish(coerced[good]),
        skipped=skipped,
        rows_read=len(raw) + len(unreadable),
        formats=(format,),
        origin=_origin(source, numbers[good]),
        beside=beside[good].reset_index(drop=True),
    )


def concat(parts: Iterable[Outcomes]) -> Outcomes:
    """One table from several, in order; repeats and contradictions between the parts are skipped and counted."""
    kept = list(unrepeated(parts))
    if not kept:
        raise OutcomeError("no outcomes to put together: expected at least one table, got none")
    if len(kept) == 1:
        return kept[0]
    return Outcomes(
        frame=pd.concat([part.frame for part in kept], ignore_index=True),
        skipped=pd.concat([part.skipped for part in kept], ignore_index=True),
        rows_read=sum(part.rows_read for part in kept),
        formats=tuple(dict.fromkeys(name for part in kept for name in part.formats)),
        origin=pd.concat([part.origin for part in kept], ignore_index=True),
        beside=pd.concat([part.beside.reindex(range(len(part.frame))) for part in kept], ignore_index=True),
        notes=tuple(dict.fromkeys(note for part in kept for note in part.notes)),
    )


def unrepeated(parts: Iterable[Outcomes]) -> Iterator[Outcomes]:
    """The parts, one by one, without rows that repeat or contradict an earlier row; these are skipped and counted.

    Of the earlier rows only hashes are kept, so that a log of any length goes through.
    """
    earlier = Repeats()
    for part in parts:
        failures = _repeated(*earlier.find(part.frame, part.beside))
        bad = _any(failures, len(part.frame))
        if not bad.any():
            yield part
            continue
        sources = part.origin["source"]
        repeats = [
            _report(part.frame, failures, str(source), part.origin["row"].to_numpy(), sources == source)
            for source in sources[bad].unique()
        ]
        yield replace(
            part,
            frame=part.frame[~bad].reset_index(drop=True),
            skipped=pd.concat([part.skipped, *repeats], ignore_index=True),
            origin=part.origin[~bad].reset_index(drop=True),
            beside=part.beside.reindex(range(len(bad)))[~bad].reset_index(drop=True),
        )


def refused(source: str, rows: Iterable[Unreadable]) -> Outcomes:
    """No outcome at all, only rows that could not be read."""
    skipped = unreadable_rows(source, rows)
    nothing = validate(pd.DataFrame(), source=source, format="", partition=True)
    return replace(nothing, skipped=skipped, rows_read=len(skipped), formats=())


def require_usable(parts: Sequence[Outcomes], *, source: str, format: str, arrived: Sequence[str]) -> None:
    """Raises OutcomeError when no partition of a source has a usable row; `arrived` are the columns it has."""
    if not any(len(part.frame) for part in parts):
        skipped = pd.concat([part.skipped for part in parts]) if parts else unreadable_rows(source, ())
        raise OutcomeError(_nothing_usable(source, format, list(arrived), skipped))


def unreadable_rows(source: str, rows: Iterable[Unreadable]) -> pd.DataFrame:
    """Rows that could not be parsed, as a skip report."""
    found = list(rows)
    return _skip_frame(
        source, np.array([row.row for row in found], dtype="int64"), [row.reason for row in found],
        [""] * len(found), [row.value for row in found], [row.expected for row in found],
    )  # fmt: skip


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
    blank = np.array([isinstance(cell, str) and not cell.strip() for cell in column.astype(object)], dtype=bool)
    return coerce.text(column, strip=False).values.mask(blank, "")


def _coerce(table: pd.DataFrame) -> tuple[pd.DataFrame, list[_Failure]]:
    """Typed columns and what could not be read; tokens stay float64 until the bad ones are gone."""
    columns: dict[str, pd.Series[Any]] = {}
    failures: list[_Failure] = []

    def keep(name: str, coerced: coerce.Coerced, reason: str) -> Mask:
        columns[name] = coerced.values
        failures.append(_Failure(name, reason, coerced.bad))
        return coerced.bad

    for name in _TEXTS:
        keep(name, coerce.text(table[name]), f"{name} is not text")
    bad = keep("prompt", coerce.text(table["prompt"], strip=False, numbers=False), "prompt is not text")
    bad = bad | keep("messages", coerce.messages(table["messages"]), "messages is not a list of messages")
    for name in _NUMBERS:
        keep(name, coerce.number(table[name], booleans=name == "quality"), f"{name} is not a number")
    keep("timestamp", coerce.instant(table["timestamp"]), "timestamp is not a date")
    keep("status", coerce.text(table["status"]), "status is neither success nor error")
    keep("split", coerce.text(table["split"]), "split is neither train nor test")

    frame = pd.DataFrame({name: columns[name] for name in COLUMNS})
    frame["prompt"] = frame["prompt"].mask(frame["messages"].notna())
    frame["status"] = frame["status"].str.lower().fillna("success")
    frame["split"] = frame["split"].str.lower()
    failed = (frame["status"] == "error").to_numpy()
    frame["quality"] = frame["quality"].mask(failed, 0.0)
    # Whatever an error row says about quality, its quality is 0.
    failures = [f._replace(mask=f.mask & ~failed) if f.field == "quality" else f for f in failures]
    empty = (frame["prompt"].isna() & frame["messages"].isna()).to_numpy() & ~bad
    return frame, [*failures, _Failure("prompt", "no prompt", empty)]


def _schema() -> Any:
    """Types and ranges of the coerced table; each check's error is the reason a row is skipped for."""
    check = pa.Check

    def tokens(name: str) -> Any:
        whole = check(lambda cell: cell % 1 == 0, error=f"{name} is not a whole number")
        large = check.le(_MAX_TOKENS, error=f"{name} is too large")
        return pa.Column(float, [check.ge(0, error=f"{name} is negative"), large, whole], nullable=True)

    def amount(name: str) -> Any:
        return pa.Column(float, check.ge(0, error=f"{name} is negative"), nullable=True)

    statuses = check.isin(("success", "error"), error="status is neither success nor error")
    splits = check.isin(("train", "test"), error="split is neither train nor test")
    return pa.DataFrameSchema(
        {
            "request_id": pa.Column(str, nullable=False),
            "prompt": pa.Column(str, nullable=True),
            "messages": pa.Column(object, nullable=True),
            "candidate": pa.Column(str, nullable=False),
            "quality": pa.Column(float, check.in_range(0, 1, error="quality outside [0, 1]"), nullable=True),
            "cost_usd": amount("cost_usd"),
            "input_tokens": tokens("input_tokens"),
            "output_tokens": tokens("output_tokens"),
            "latency_ms": amount("latency_ms"),
            "timestamp": pa.Column(pd.DatetimeTZDtype("us", "UTC"), nullable=True),
            "session_id": pa.Column(str, nullable=True),
            "workflow": pa.Column(str, nullable=True),
            "propensity": pa.Column(
                float,
                check.in_range(0, 1, include_min=False, error="propensity outside (0, 1]"),
                nullable=True,
            ),
            "status": pa.Column(str, statuses, nullable=False),
            "split": pa.Column(str, splits, nullable=True),
        },
        strict=True,
        ordered=True,
    )


def _check(frame: pd.DataFrame) -> list[_Failure]:
    """Run the schema; one failure per (column, check) that some row did not pass."""
    try:
        _schema().validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as error:
        cases: pd.DataFrame = error.failure_cases
        if cases["index"].isna().any():  # a whole column of the wrong type: coercion is broken, not the data
            raise
    else:
        return []
    failures = []
    for (name, check), group in cases.groupby(["column", "check"], sort=False):
        mask = np.zeros(len(frame), dtype=bool)
        mask[group["index"].to_numpy(dtype="int64")] = True
        failures.append(_Failure(str(name), f"no {name}" if check == "not_nullable" else str(check), mask))
    return failures


def _repeated(identical: Mask, other: Mask) -> list[_Failure]:
    return [
        _Failure("request_id", "duplicate row", identical),
        _Failure("request_id", "request has two different prompts", other),
    ]


def _any(failures: Sequence[_Failure], n: int) -> Mask:
    found = np.zeros(n, dtype=bool)
    for failure in failures:
        found |= failure.mask
    return found


def _report(
    table: pd.DataFrame,
    failures: Sequence[_Failure],
    source: str,
    rows: np.ndarray[Any, Any],
    within: pd.Series[bool] | None = None,
) -> pd.DataFrame:
    """One line per failed row (of those `within`), with its first failure."""
    first = np.full(len(table), -1)
    for place, failure in enumerate(failures):
        first[failure.mask & (first < 0)] = place
    chosen = np.flatnonzero(first >= 0 if within is None else (first >= 0) & within.to_numpy())
    failed = [failures[first[position]] for position in chosen]
    cells = {name: table[name].astype(object).to_numpy() for name in {failure.field for failure in failed}}
    return _skip_frame(
        source,
        rows[chosen],
        [failure.reason for failure in failed],
        [failure.field for failure in failed],
        [_shown(f.field, cells[f.field][position]) for f, position in zip(failed, chosen, strict=True)],
        [_expected(failure) for failure in failed],
    )


def _expected(failure: _Failure) -> str:
    special = {"duplicate row": "each attempt once", "request has two different prompts": "one prompt per request_id"}
    return special.get(failure.reason, _EXPECTED[failure.field])


def _skip_frame(source: str, rows: np.ndarray[Any, Any], *texts: list[str]) -> pd.DataFrame:
    columns = dict(zip(_SKIPPED_COLUMNS[2:], texts, strict=True))
    typed = {name: pd.Series(column, dtype="str") for name, column in columns.items()}
    sources = pd.Series([coerce.replace_surrogates(source)] * len(rows), dtype="str")
    return pd.DataFrame({"source": sources, "row": pd.Series(rows, dtype="int64"), **typed})


def _shown(field: str, cell: Any) -> str:
    """What arrived. Text is only measured, unless it is one short word: in a shifted row any cell may hold a prompt."""
    if isinstance(cell, str):
        wordy = len(cell.split()) > 1 or "@" in cell
        if field in ("prompt", "messages") or len(cell) > _SHOWN or wordy:
            return f"text, {len(cell)} characters"
        return coerce.replace_surrogates(cell)
    if isinstance(cell, bool | float | np.number) or (isinstance(cell, int) and cell.bit_length() <= 128):
        return str(cell)
    return "" if cell is None else type(cell).__name__


def _finish(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.reset_index(drop=True).astype(dict.fromkeys(_TOKENS, "Int64"))


def _origin(source: str, rows: np.ndarray[Any, Any]) -> pd.DataFrame:
    sources = pd.Series([coerce.replace_surrogates(source)] * len(rows), dtype="str")
    return pd.DataFrame({"source": sources, "row": rows})


def _nothing_usable(source: str, format: str, arrived: list[str], skipped: pd.DataFrame) -> str:
    names = ", ".join(name[:_SHOWN] for name in arrived[:20]) + (", …" if len(arrived) > 20 else "")
    expected = f"expected the columns {', '.join(_REQUIRED)} and prompt or messages"
    lead = f"{source}: no usable outcome (format {format}); {expected}; arrived: {names or 'no column'}"
    if skipped.empty:
        return f"{lead}; the table has no rows. Give a log with at least one attempt."
    counts = "; ".join(f"{reason}: {count}" for reason, count in skipped["reason"].value_counts().items())
    present = {ALIASES.get(name, name) for name in arrived}
    missing = [name for name in _REQUIRED if name not in present]
    missing += [] if present & {"prompt", "messages"} else ["prompt or messages"]
    fix = f"Add or rename: {', '.join(missing)}" if missing else "Correct these columns"
    return f"{lead}; {len(skipped)} rows skipped ({counts}). {fix}; data/README.md describes the table."
