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

from training.logs.failures import Failure, failed, report
from training.logs.outcomes import OutcomeError, Outcomes
from training.logs.repeated.known import Hashes, Known, hashes_of
from training.logs.repeated.told import Told, told_by
from training.logs.typed import Mask, messages_key

OTHER_PROMPT = "request has two different prompts"


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
        text = hashes_of(texts(frame))
        rows = row_hashes(frame, beside)
        request = hashes_of(frame["request_id"])
        known, _ = self._rows.find(rows)
        identical = known | pd.Series(rows).duplicated().to_numpy()
        met, first = self._texts.find(request)
        _, place, of = np.unique(request, return_index=True, return_inverse=True)
        other = (np.where(met, first, text[place][of]) != text) & ~identical
        self._rows.add(rows[~known], rows[~known])
        self._texts.add(request[~met], text[~met])
        return identical, other


def unrepeated(parts: Iterable[Outcomes], told: Told | None = None) -> Iterator[Outcomes]:
    """The parts, one by one, without rows that repeat or contradict an earlier row, and without those whose outcome counts as
    another log has it by what was `told`; these are skipped and counted.

    Of the earlier rows only hashes are kept, so that a log of any length goes through.
    """
    earlier = Repeats()
    for part in parts:
        if told is not None:
            elsewhere, part = told.settle(part)
            part = _without(part, [Failure("request_id", "outcome that another log tells too", elsewhere)])
        identical, other = earlier.find(part.frame, part.beside)
        failures = [
            Failure("request_id", "duplicate row", identical),
            Failure("request_id", OTHER_PROMPT, other),
        ]
        yield _without(part, failures)


def _without(part: Outcomes, failures: Sequence[Failure]) -> Outcomes:
    """The part without the rows that failed, which are reported."""
    bad = failed(failures, len(part.frame))
    if not bad.any():
        return part
    repeats = []
    for source, rows in part.origin[bad].groupby("source", sort=False)["row"]:
        here = [failure._replace(mask=failure.mask[rows.index]) for failure in failures]
        repeats.append(report(part.frame.loc[rows.index], here, str(source), rows.to_numpy()))
    return replace(
        part,
        frame=part.frame[~bad].reset_index(drop=True),
        skipped=pd.concat([part.skipped, *repeats], ignore_index=True),
        origin=part.origin[~bad].reset_index(drop=True),
        beside=part.beside.reindex(range(len(bad)))[~bad].reset_index(drop=True),
    )


def concat(parts: Iterable[Outcomes]) -> Outcomes:
    """One table from several, in order; repeats and contradictions between the parts are skipped and counted."""
    parts = list(parts)
    kept = list(unrepeated(parts, told_by(parts)))
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
    tries = frame.drop(columns=["prompt", "messages"]).assign(text=hashes_of(texts(frame)))
    if "try_id" in beside:
        tries["try_id"] = beside["try_id"].to_numpy(dtype=object)
        tries.loc[tries["try_id"].notna(), ["timestamp", "latency_ms"]] = None
    if "answer" in beside:
        tries["answer"] = beside["answer"].to_numpy(dtype=object)
    return hashes_of(tries)


def texts(frame: pd.DataFrame) -> pd.Series[Any]:
    """(n,) text that is equal for requests that say the same, whether as a prompt or as messages."""
    key = frame["prompt"].astype(object).copy()
    conversations = frame["messages"].notna()
    key[conversations] = frame.loc[conversations, "messages"].map(messages_key)
    return key
