"""The rows of a log as they are kept, without texts and with hashes for ids; and new rows put to those that were kept."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from serving.bundle.arrays import Columns
from serving.bundle.request import text_of
from training.dataset.matrix import Objects, requests_of
from training.dataset.sampling.core import id_hashes
from training.dataset.split import stand_in
from training.kept.files import Kept, KeptError
from training.logs.outcomes import COLUMNS, Outcomes, origin, unreadable_rows
from training.logs.pairing import named_by_prompt
from training.logs.repeated.known import hashes_of
from training.logs.repeated.repeats import OTHER_PROMPT, row_hashes, unrepeated

ROWS = "rows.parquet"
_COLUMNS = tuple(name for name in COLUMNS if name != "messages")
_TOKENS = ("input_tokens", "output_tokens")
_BY_PROMPT = 26  # characters of an id by prompt, before the number of the request with it
_MARK = "#"
_HASHED = rf"{_MARK}[0-9a-f]{{16}}"
_LARGEST = sys.float_info.max
_MOST = {
    "quality": 1.0,
    "propensity": 1.0,
    "cost_usd": _LARGEST,
    "latency_ms": _LARGEST,
    **dict.fromkeys(_TOKENS, 2**53),
}
_KINDS = (
    dict.fromkeys(_COLUMNS, "str")
    | dict.fromkeys(_MOST, "float64")
    | dict.fromkeys(_TOKENS, "Int64")
    | {"timestamp": "datetime64[us, UTC]"}
)


def hashed_rows(frame: pd.DataFrame, *, stand_ins: bool) -> pd.DataFrame:
    """An outcome table's rows as they are kept: a hash for each request's id and session, and in its first row a stand-in for
    its text.

    With `stand_ins` the table has these already (`StoredLog.skeleton`).
    """
    first = np.flatnonzero(~frame["request_id"].duplicated())
    texts = np.full(len(frame), None, dtype=object)
    if stand_ins:
        texts[first] = frame["prompt"].to_numpy(dtype=object)[first]
    else:
        texts[first] = [stand_in(text_of(request)) for request in requests_of(frame.iloc[first])]
    return frame.assign(
        request_id=_hashed(frame["request_id"]),
        session_id=_hashed(frame["session_id"]),
        prompt=pd.Series(texts, index=frame.index, dtype="str"),
        messages=pd.Series(np.full(len(frame), None), index=frame.index, dtype=object),
    )


def _hashed(ids: pd.Series[Any]) -> pd.Series[Any]:
    codes, names = pd.factorize(ids)
    made = np.full(len(names) + 1, None, dtype=object)
    made[:-1] = [f"{_MARK}{one:016x}" for one in id_hashes(np.asarray(names, dtype=object)).tolist()]
    named = made[codes]  # -1, of no id, is the last
    return pd.Series(named, index=ids.index, dtype="str")


def numbers_of(ids: Objects) -> NDArray[np.uint64]:
    """(n,) the `id_hashes` that hashed ids stand for."""
    return np.fromiter((int(one[1:], 16) for one in ids), np.uint64, len(ids))


def write_rows(folder: Path, rows: pd.DataFrame) -> None:
    """Writes rows as `hashed_rows` makes them."""
    table = pa.Table.from_pandas(rows.loc[:, list(_COLUMNS)], preserve_index=False)
    pq.write_table(table, folder / ROWS, compression="zstd")


def read_rows(kept: Kept) -> pd.DataFrame:
    """The rows as they were written; raises KeptError."""
    try:
        frame: pd.DataFrame = pq.read_table(kept.path(ROWS), columns=list(_COLUMNS)).to_pandas()
        for name in _TOKENS:
            frame[name] = frame[name].astype("Int64")
        _require(frame)
        if (arrived := (len(frame), frame["request_id"].nunique())) != (kept.rows, kept.requests):
            raise ValueError(f"rows and requests are {arrived}, where {kept.rows, kept.requests} were kept")
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        raise KeptError(
            f"{kept.path(ROWS)} cannot be read ({error}); remove the folder, and train on everything"
        ) from error
    frame["messages"] = pd.Series(np.full(len(frame), None), dtype=object)
    return frame.loc[:, list(COLUMNS)]


def _require(frame: pd.DataFrame) -> None:
    """Raises ValueError for a column with what no row that was kept has."""
    for name, kind in _KINDS.items():
        if str(frame[name].dtype) != kind:
            raise ValueError(f"{name} is {frame[name].dtype}, where {kind} was expected")
    for name, most in _MOST.items():
        if not frame[name].dropna().between(0, most).all():
            raise ValueError(f"{name} is not from 0 to {most:g} in all rows")
    if frame["candidate"].isna().any():
        raise ValueError("candidate is missing")
    for name in ("request_id", "session_id"):
        ids = pd.Series(frame[name].unique(), dtype="str")
        if not (ids.str.fullmatch(_HASHED) | (ids.isna() & (name == "session_id"))).all():
            raise ValueError(f"{name} is no hash in some row")


@dataclass(frozen=True)
class Joined:
    """Kept rows and new ones behind them: `frame` has both, `new` are the new ones without repeats, with what was skipped of
    them; `ids` are the hashed ids of new rows with those that they were read with. `added` requests are new, `repeats` rows
    were known or contradict what was."""

    frame: pd.DataFrame
    new: Outcomes
    ids: dict[str, str]
    added: int
    repeats: int


def join(before: pd.DataFrame, new: Outcomes, *, stand_ins: bool) -> Joined:
    """New outcomes behind those that were kept. Rows that were known, and rows of a request that has another text, are skipped
    and counted as importing does. Raises KeptError where nothing is new."""
    logged = new.frame["request_id"]
    rows = hashed_rows(new.frame, stand_ins=stand_ins)
    known = before[before["request_id"].isin(rows["request_id"].unique())]
    if named_by_prompt(logged).any():
        logged = _numbered(logged, rows, before)
        rows = rows.assign(request_id=_hashed(logged))
        known = before[before["request_id"].isin(rows["request_id"].unique())]
    told = [_as_outcomes(known), replace(new, frame=_texts_everywhere(rows), beside=pd.DataFrame())]
    kept = list(unrepeated(told))[1]
    repeats = len(rows) - len(kept.frame)
    if not len(kept.frame):
        raise KeptError(f"none of the {len(rows):,} rows is new: {_why(kept.skipped.iloc[-repeats:])}")
    again = kept.frame["request_id"].duplicated() | kept.frame["request_id"].isin(known["request_id"])
    added = int((~again).sum())
    fresh = kept.frame.assign(prompt=kept.frame["prompt"].mask(again))
    frame = pd.concat([before, fresh], ignore_index=True)
    # Not of what was skipped: of a request that has another text now, nobody is to read that one.
    used = set(fresh["request_id"])
    ids = {one: plain for one, plain in zip(rows["request_id"], new.frame["request_id"], strict=True) if one in used}
    return Joined(frame, replace(kept, frame=fresh), ids, added, repeats)


def _why(skipped: pd.DataFrame) -> str:
    """Why no row is new, by those that were skipped: all are known, or some contradict, and where these are."""
    other = skipped[skipped["reason"] == OTHER_PROMPT]
    if other.empty:
        return (
            "all are among those that were learned from before. Give the rows since then, or nothing: the bundle is as it "
            "would be"
        )
    where = ", ".join(
        f"row {row} of {source}" for row, source in zip(other["row"][:3], other["source"][:3], strict=True)
    )
    return (
        f"{len(other):,} have the id of a request that has another text ({where}{', …' if len(other) > 3 else ''}), so they "
        f"contradict it and are not learned from; {len(skipped) - len(other):,} were learned from before. Give new requests "
        "ids of their own"
    )


def _texts_everywhere(rows: pd.DataFrame) -> pd.DataFrame:
    """With each request's stand-in in all of its rows, so that its rows are compared as those of a log are."""
    first = rows[rows["prompt"].notna()].drop_duplicates("request_id").set_index("request_id")["prompt"]
    return rows.assign(prompt=rows["request_id"].map(first).astype("str"))


def _as_outcomes(rows: pd.DataFrame) -> Outcomes:
    frame = _texts_everywhere(rows).reset_index(drop=True)
    skipped = unreadable_rows("kept", ())
    return Outcomes(frame, skipped, len(frame), (), origin("kept", np.arange(1, len(frame) + 1)))


def _numbered(ids: pd.Series[Any], rows: pd.DataFrame, before: pd.DataFrame) -> pd.Series[Any]:
    """New ids, those by prompt numbered on from the kept requests with that prompt: the k-th different row of a candidate is of
    the k-th request, as `paired` has it. A row that was known keeps the id that it has there."""
    by_prompt = named_by_prompt(ids)
    prompts = dict.fromkeys(one[:_BY_PROMPT] for one in ids[by_prompt])
    hashes = _hashed(pd.Series(list(prompts), dtype="str"))
    met = np.asarray(hashes.isin(before["request_id"]))
    if not met.any():
        return ids
    all_ids = set(before["request_id"])
    names = {prompt: list(_kept_with(prompt, all_ids)) for prompt, known in zip(prompts, met, strict=True) if known}
    hashed = {one: prompt for prompt, all_of in names.items() for one in all_of}
    there = before[before["request_id"].isin(list(hashed))]
    counts = (
        there.assign(prompt=there["request_id"].map(hashed)).groupby(["prompt", "candidate"])["request_id"].nunique()
    )
    plain = _texts_everywhere(there).assign(request_id=there["request_id"].map(hashed))
    nothing = pd.DataFrame()
    known = dict(zip(row_hashes(plain, nothing).tolist(), there["request_id"], strict=True))
    places = np.flatnonzero(by_prompt)
    asked = _texts_everywhere(rows).iloc[places]
    asked = asked.assign(request_id=[one[:_BY_PROMPT] for one in ids.iloc[places]])
    renamed = ids.to_numpy(dtype=object).copy()
    made = {
        hash_: f"{prompt}{_suffix(number)}" for prompt, all_of in names.items() for number, hash_ in enumerate(all_of)
    }
    passed: dict[tuple[str, str], int] = {}
    for place, digest, prompt, candidate in zip(
        places.tolist(), row_hashes(asked, nothing).tolist(), asked["request_id"], asked["candidate"], strict=True
    ):
        if digest in known:  # found to be a repeat there; those behind it move up
            renamed[place] = made[known[digest]]
            passed[prompt, candidate] = passed.get((prompt, candidate), 0) + 1
            continue
        if prompt in names:
            number = int(renamed[place][_BY_PROMPT + 1 :] or 1) - 1 - passed.get((prompt, candidate), 0)
            renamed[place] = f"{prompt}{_suffix(number + int(counts.get((prompt, candidate), 0)))}"
    return pd.Series(renamed, index=ids.index, dtype=ids.dtype)


def _suffix(number: int) -> str:
    return f"-{number + 1}" if number else ""


def _kept_with(prompt: str, there: Collection[str]) -> Iterator[str]:
    """The hashed ids of the kept requests with one prompt, in the order of their numbers; `there` are all that were kept."""
    number = 0
    while True:
        (one,) = _hashed(pd.Series([f"{prompt}{_suffix(number)}"], dtype="str"))
        if one not in there:
            return
        yield one
        number += 1


def missing_rows(frame: pd.DataFrame, others: pd.DataFrame) -> int:
    """How many of the rows `others` are not in a table, both with hashes for ids, which stand for their texts."""
    nothing = ["prompt", "messages"]
    there, asked = (hashes_of(rows.drop(columns=nothing)) for rows in (frame, others))
    return int(np.isin(asked, there, invert=True).sum())


def new_columns(frame: pd.DataFrame, before: pd.DataFrame) -> list[str]:
    """The candidates of new rows that no kept row has."""
    return sorted(set(frame["candidate"].unique()) - set(before["candidate"].unique()))


def places_in(ids: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> Columns:
    """(n,) where each of `wanted` (n,) is among `ids` (k,), -1 where it is not."""
    return np.asarray(pd.Index(ids).get_indexer(pd.Index(wanted)), dtype=np.intp)
