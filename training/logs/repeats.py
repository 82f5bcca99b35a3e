"""Which rows of a log were there before, told by 64-bit hashes: 24 bytes for a row, whatever its text is long.

At 1,000,000 rows the chance that any two different rows have the same hash is 3 in 100,000,000 (n^2 / 2^65), at
100,000,000 rows 3 in 10,000; one of the two would be skipped as a duplicate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.logs.failures import Failure, failed, report
from training.logs.outcomes import OutcomeError, Outcomes
from training.logs.typed import Mask, messages_key

Hashes = NDArray[np.uint64]
_STORE = "decisions"  # the format of the router's own store


class Known:
    """Keys with a value each, (n,) uint64 both: sorted runs that are merged when they are as long as the next one."""

    def __init__(self) -> None:
        self._runs: list[tuple[Hashes, Hashes]] = []

    def find(self, keys: Hashes) -> tuple[Mask, Hashes]:
        """Which of the keys are known, and the value of each that is (0 for the others)."""
        known, values = np.zeros(len(keys), dtype=np.bool_), np.zeros(len(keys), dtype=np.uint64)
        for run, run_values in self._runs:
            place = np.minimum(np.searchsorted(run, keys), len(run) - 1)
            here = run[place] == keys
            known |= here
            values[here] = run_values[place[here]]
        return known, values

    def add(self, keys: Hashes, values: Hashes) -> None:
        """Adds keys that are not known yet; of equal ones among them the first counts."""
        if not len(keys):
            return
        sorted_keys, first = np.unique(keys, return_index=True)
        self._runs.append((sorted_keys, values[first]))
        while len(self._runs) > 1 and len(self._runs[-1][0]) >= len(self._runs[-2][0]):
            later, earlier = self._runs.pop(), self._runs.pop()
            merged = np.concatenate([earlier[0], later[0]])
            order = np.argsort(merged, kind="stable")
            self._runs.append((merged[order], np.concatenate([earlier[1], later[1]])[order]))


class Told:
    """Finds the outcomes of the router's own store that another log tells too, or the other way round.

    A decision's id is the request's in both; that another log has the same candidate on the same request says nothing else.
    """

    def __init__(self) -> None:
        self._outcomes = Known()

    def elsewhere(self, frame: pd.DataFrame, formats: Sequence[str]) -> Mask:
        """(n,) rows whose request and candidate an earlier table has, if one of both tables is the store and one is not."""
        of_store = np.uint64(_STORE in formats)
        outcomes = _hashes(frame[["request_id", "candidate"]])
        known, of = self._outcomes.find(outcomes)
        self._outcomes.add(outcomes[~known], np.full(int((~known).sum()), of_store))
        differ: Mask = known & (of != of_store)
        return differ


class Repeats:
    """Finds, partition by partition, the rows that repeat or contradict an earlier row."""

    def __init__(self) -> None:
        self._rows = Known()
        self._texts = Known()  # request -> the text of its first row

    def find(self, frame: pd.DataFrame, beside: pd.DataFrame) -> tuple[Mask, Mask]:
        """(n,) rows identical to an earlier one (in their answer too, where `beside` has it), and rows whose request
        already has another prompt.

        Earlier are the rows before it in this table, and those of the tables before.
        """
        text = _hashes(texts(frame))
        rows = row_hashes(frame, beside)
        request = _hashes(frame["request_id"])
        known, _ = self._rows.find(rows)
        identical = known | pd.Series(rows).duplicated().to_numpy()
        met, first = self._texts.find(request)
        _, place, of = np.unique(request, return_index=True, return_inverse=True)
        other = (np.where(met, first, text[place][of]) != text) & ~identical
        self._rows.add(rows[~known], rows[~known])
        self._texts.add(request[~met], text[~met])
        return identical, other


def unrepeated(parts: Iterable[Outcomes]) -> Iterator[Outcomes]:
    """The parts, one by one, without rows that repeat or contradict an earlier row; these are skipped and counted.

    Of the earlier rows only hashes are kept, so that a log of any length goes through.
    """
    earlier, told = Repeats(), Told()
    for part in parts:
        identical, other = earlier.find(part.frame, part.beside)
        elsewhere = told.elsewhere(part.frame, part.formats)
        failures = (
            Failure("request_id", "duplicate row", identical),
            Failure("request_id", "outcome that an earlier log tells too", elsewhere & ~identical),
            Failure("request_id", "request has two different prompts", other & ~elsewhere),
        )
        bad = failed(failures, len(part.frame))
        if not bad.any():
            yield part
            continue
        repeats = []
        for source, rows in part.origin[bad].groupby("source", sort=False)["row"]:
            here = [failure._replace(mask=failure.mask[rows.index]) for failure in failures]
            repeats.append(report(part.frame.loc[rows.index], here, str(source), rows.to_numpy()))
        yield replace(
            part,
            frame=part.frame[~bad].reset_index(drop=True),
            skipped=pd.concat([part.skipped, *repeats], ignore_index=True),
            origin=part.origin[~bad].reset_index(drop=True),
            beside=part.beside.reindex(range(len(bad)))[~bad].reset_index(drop=True),
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


def row_hashes(frame: pd.DataFrame, beside: pd.DataFrame) -> Hashes:
    """(n,) hashes that are equal for rows that say the same in every column, and in their answer where `beside` has it.

    Where a try has an id, its times do not count: LiteLLM now and then logs a call twice, milliseconds apart.
    """
    tries = frame.drop(columns=["prompt", "messages"]).assign(text=_hashes(texts(frame)))
    if "try_id" in beside:
        tries["try_id"] = beside["try_id"].to_numpy(dtype=object)
        tries.loc[tries["try_id"].notna(), ["timestamp", "latency_ms"]] = None
    if "answer" in beside:
        tries["answer"] = beside["answer"].to_numpy(dtype=object)
    return _hashes(tries)


def texts(frame: pd.DataFrame) -> pd.Series[Any]:
    """(n,) text that is equal for requests that say the same, whether as a prompt or as messages."""
    key = frame["prompt"].astype(object).copy()
    conversations = frame["messages"].notna()
    key[conversations] = frame.loc[conversations, "messages"].map(messages_key)
    return key


def _hashes(values: pd.Series[Any] | pd.DataFrame) -> Hashes:
    """(n,) hashes of the values, or of the rows; 0.0 and -0.0 are the same."""
    if isinstance(values, pd.DataFrame):
        floats = values.select_dtypes("float64")
        values = values.assign(**{str(name): floats[name] + 0.0 for name in floats})
    return pd.util.hash_pandas_object(values, index=False).to_numpy().astype(np.uint64)
