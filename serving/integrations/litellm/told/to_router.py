"""Outcomes as feedback to the router, and to sinks: what is recorded, what is put in place of other figures, what is let go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from serving.client import FeedbackError
from serving.integrations.litellm.deciders import Decider
from serving.integrations.litellm.told.delivery import Came, Deliver
from serving.integrations.litellm.told.envelopes import Outcome, Said, read
from serving.integrations.litellm.told.spool import Spool
from serving.integrations.litellm.told.spool_rows import Leased
from serving.integrations.litellm.told.tally import Tally
from serving.integrations.outcome import OutcomeFormatError, Sink, ToldOutcome

ROUTER = "router"
# For how long a decision may be unknown to the router, and a thumb's decision unknown here: after it, it is counted and let go.
_UNKNOWN_SECONDS, _NOBODYS_SECONDS = 600.0, 60.0
_NOT_FOUND, _CONFLICT = 404, 409


def to_router(decider: Decider, spool: Spool, counts: Tally) -> Deliver:
    """Delivers as feedback. Counts `recorded`, `repeated`, `replaced` (LiteLLM's figures took the place of others),
    `restored` (decisions that a killed process had not stored), `unknown`, `contradicted`, `refused`, `nobodys` (thumbs of
    another key, or on no decision that is known here), `unreadable`.
    """

    async def deliver(rows: Sequence[Leased]) -> Came:
        readable = [(row, one) for row in rows if (one := _read(row.body, counts)) is not None]
        unreadable = [row for row in rows if row not in {one[0] for one in readable}]
        theirs = await _theirs([one for one in readable if isinstance(one[1], Said) and one[1].key], spool)
        asked, done, again = [], [*unreadable], []
        for row, one in readable:
            if not isinstance(one, Said) or one.key is None or theirs.get(row.id):
                asked.append((row, one))
            elif time.time() - row.at < _NOBODYS_SECONDS:
                again.append(row)
            else:
                counts.add("nobodys")
                done.append(row)
        waiting = await _tell(decider, asked, counts)
        gone = {row.id for row in waiting}
        return Came([*done, *(row for row, _ in asked if row.id not in gone)], [*again, *waiting])

    return deliver


async def _theirs(said: Sequence[tuple[Leased, Outcome | Said]], spool: Spool) -> Mapping[int, bool]:
    """Whether what somebody says is of a decision that was made for the same key, by row."""
    if not said:
        return {}
    pairs = [(row, one) for row, one in said if isinstance(one, Said)]
    owners = await asyncio.wrap_future(spool.owners([str(one.document["decision_id"]) for _, one in pairs]))
    return {row.id: owners.get(str(one.document["decision_id"])) == one.key for row, one in pairs}


async def _tell(decider: Decider, asked: Sequence[tuple[Leased, Outcome | Said]], counts: Tally) -> list[Leased]:
    """Tells the router; the rows to try again."""
    documents = [feedback_of(one) for _, one in asked]
    results = await _all(decider, documents)
    outcomes = {place: one for place, (_, one) in enumerate(asked) if isinstance(one, Outcome)}
    second = {place: _in_place(documents[place]) for place in outcomes if _is(results[place], _CONFLICT)}
    missing = [place for place in outcomes if _is(results[place], _NOT_FOUND)]
    if await _restored(decider, [outcomes[place].told for place in missing], counts):
        second |= {place: documents[place] for place in missing}
    for place, came in zip(second, await _all(decider, list(second.values())), strict=True):
        counts.add("replaced", isinstance(came, str) and _is(results[place], _CONFLICT))
        results[place] = came
    return [row for (row, _), came in zip(asked, results, strict=True) if not _settled(row, came, counts)]


async def _all(decider: Decider, documents: Sequence[Mapping[str, Any]]) -> list[str | Mapping[str, Any]]:
    """The results of all of them; raises FeedbackError where those of none are known."""
    if not documents:
        return []
    try:
        return await decider.feedback(documents)
    except FeedbackError as error:
        if not error.results:
            raise
        return [*error.results, *({"status": 503} for _ in documents[len(error.results) :])]


def _settled(row: Leased, came: str | Mapping[str, Any], counts: Tally) -> bool:
    """Whether a row is done with."""
    if isinstance(came, str):
        counts.add(came)
        return True
    status = came.get("status")
    if status == _NOT_FOUND:
        if time.time() - row.at < _UNKNOWN_SECONDS:
            return False
        counts.add("unknown")
        return True
    if status in (_CONFLICT, 400, 422):
        counts.add("contradicted" if status == _CONFLICT else "refused")
        return True
    return False


async def _restored(decider: Decider, missing: Sequence[ToldOutcome], counts: Tally) -> bool:
    """Has decisions stored that are not, where the decider can: a process that was killed had them in memory alone."""
    restore = getattr(decider, "restore", None)
    if restore is None or not missing:
        return False
    counts.add("restored", await restore(missing))
    return True


def feedback_of(one: Outcome | Said) -> Mapping[str, Any]:
    """The document of POST /v1/feedback: a row's own, or an outcome's, which names a model where another one answered."""
    if isinstance(one, Said):
        return one.document
    told = one.told
    answered = None if told.error or told.model == told.decision.get("model") else told.model
    found = {
        "decision_id": told.decision_id,
        "model": answered,
        "cost_usd": told.cost_usd,
        "input_tokens": told.input_tokens,
        "output_tokens": told.output_tokens,
        "latency_ms": told.latency_ms,
        "error": told.error,
    }
    return {name: value for name, value in found.items() if value is not None}


def _in_place(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """What takes the place of what was told before: the figures of LiteLLM, and that the call did not fail; not that it did.

    Of an answer that somebody judged nobody says later that there was none.
    """
    ends = {} if document.get("error") else {"error": False}
    return {**{name: value for name, value in document.items() if name != "error"}, **ends, "replace": True}


def _is(came: str | Mapping[str, Any], status: int) -> bool:
    return not isinstance(came, str) and came.get("status") == status


def _read(body: bytes, counts: Tally) -> Outcome | Said | None:
    try:
        return read(body)
    except OutcomeFormatError:
        counts.add("unreadable")
        return None


def to_sink(sink: Sink, counts: Tally) -> Deliver:
    """Delivers outcomes to a sink, which raises where it did not take them."""

    async def deliver(rows: Sequence[Leased]) -> Came:
        found = [one.told for row in rows if isinstance(one := _read(row.body, counts), Outcome)]
        if found:
            await sink.send(found)
        return Came(rows)

    return deliver
