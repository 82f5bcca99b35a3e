"""Rows without a request id: those with the same prompt are one request where their candidates differ.

An evaluation table (question, llm, grade) is a full matrix then, also where each LLM has a file of its own. A second row of one
candidate is not a second try of that request: it is the next request with this prompt.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from serving.bundle.arrays import Bools
from training.logs import typed
from training.logs.outcomes import Outcomes
from training.logs.repeated.repeats import row_hashes

# What an importer gives as id to a row that has none, for `paired` to tell the requests with one prompt apart.
_BY_PROMPT = re.compile(r"p-[0-9a-f]{24}")
# And what `paired` makes of it for a later request with that prompt.
_NUMBERED = re.compile(r"p-[0-9a-f]{24}(-[1-9][0-9]{0,8})?")


def prompt_ids(table: pd.DataFrame) -> list[str]:
    """An id for each row of a raw table, cell types unknown: equal for the same prompt, within one session if there is one."""
    nothing = pd.Series([None] * len(table), dtype=object)
    messages = typed.messages(table.get("messages", nothing)).values
    prompts = typed.text(table.get("prompt", nothing), strip=False, numbers=False).values
    sessions = typed.text(table.get("session_id", nothing)).values
    keys = [
        typed.messages_key(conversation) if isinstance(conversation, list) else prompt
        for conversation, prompt in zip(messages, prompts, strict=True)
    ]
    # A row without a prompt is skipped for that, and not for its id.
    return [
        _digest(key if not isinstance(session, str) else f"{session}\0{key}") if isinstance(key, str) else "no-prompt"
        for key, session in zip(keys, sessions, strict=True)
    ]


def by_prompt(ids: pd.Series[Any]) -> Bools:
    """(n,) which ids were given by prompt, for the first request with it."""
    return np.asarray(ids.map(lambda id: _BY_PROMPT.fullmatch(id) is not None).to_numpy(dtype=np.bool_))


def named_by_prompt(ids: pd.Series[Any]) -> Bools:
    """(n,) which ids were given by prompt, for the first or for a later request with it."""
    return np.asarray(ids.map(lambda id: _NUMBERED.fullmatch(id) is not None).to_numpy(dtype=np.bool_))


def paired(parts: Iterable[Outcomes]) -> Iterator[Outcomes]:
    """The parts, the rows with ids by prompt as requests: the k-th different row of a candidate belongs to the k-th of them.

    A row that says the same as an earlier one in every column keeps its id, so that it is found to be a duplicate.
    """
    met: dict[tuple[str, str], dict[int, int]] = {}
    for part in parts:
        ids = part.frame["request_id"]
        made = by_prompt(ids)
        if not made.any():
            yield part
            continue
        hashes = row_hashes(part.frame, part.beside)
        renamed = ids.to_numpy(dtype=object).copy()
        candidates = part.frame["candidate"].to_numpy(dtype=object)
        for place in np.flatnonzero(made):
            rows = met.setdefault((renamed[place], candidates[place]), {})
            number = rows.setdefault(int(hashes[place]), len(rows))
            renamed[place] = f"{renamed[place]}-{number + 1}" if number else renamed[place]
        yield replace(part, frame=part.frame.assign(request_id=pd.Series(renamed, index=ids.index, dtype=ids.dtype)))


def merged_by_prompt(table: Outcomes) -> Outcomes:
    """The outcomes, noted where fewer than half of the requests are equal prompts that several candidates answered.

    In a table of answers most are; in a log the same prompt may have been asked twice by chance.
    """
    ids = table.frame["request_id"]
    ids = ids[named_by_prompt(ids)]
    sizes = table.frame.loc[ids.index].groupby("request_id", sort=False)["candidate"].nunique()
    return replace(table, notes=(*table.notes, *merge_notes(int((sizes > 1).sum()), len(sizes))))


def merge_notes(merged: int, requests: int) -> tuple[str, ...]:
    """What there is to say where, of so many requests with ids by prompt, so many were answered by several candidates."""
    if not 0 < merged * 2 < requests:
        return ()
    return (
        f"{merged:,} of {requests:,} requests are equal prompts that several candidates answered, for no column is read as "
        "request_id; if each row is a request of its own, map what tells them apart: --map request_id=FIELD",
    )


def _digest(text: str) -> str:
    return "p-" + hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:24]
