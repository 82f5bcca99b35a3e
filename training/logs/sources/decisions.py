"""The store of outcome-router's own service: each decision with the feedback on it, from its SQLite file or by URL.

Feedback says what became of a decision: its row is the outcome, of the candidate that answered. Where that is another than
the router chose, the chosen one failed: it has a row of its own, an error with the decision's propensity, before that of the
fallback, which has none. A decision without feedback is an attempt that nobody judged: it has no quality and no cost, but says
how often each candidate was tried.

Where another candidate was asked too, that is a second row of the request, with its own propensity and the feedback on it: an
observation of both, and no chain. Such a row follows whatever came of the decision itself; what a fallback answered is left out
beside it, for a request of three rows would tell no more which of them was asked because another had failed.

A decision that was held back is a row of who answered otherwise, by the name that was told, with the probability of that; whom
the router would have chosen saw nothing of the request, and has none.

Decisions that were stored without their prompt, and feedback on decisions that are not in the store, are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from training.logs.aliases import alike
from training.logs.io import database
from training.logs.io.files import Records
from training.logs.io.partitions import checked
from training.logs.objects.path import LogPath
from training.logs.outcomes import OutcomeError, Outcomes, Unreadable
from training.logs.sources.importer import DEFAULT, ImportOptions

NAME = "decisions"
EXPECTS = "the store of router-serve (an SQLite file, sqlite:///decisions.db or postgresql://…)"
COMPANIONS: frozenset[str] = frozenset()
SCHEMES = database.SCHEMES
SETTING = "ROUTER_STORE_PROMPTS"

# The tables, as they are in the database: the service that writes them is not asked.
_MARKER, _DECISIONS, _FEEDBACK, _ALSO_FEEDBACK = "outcome_router_store", "decision", "feedback", "also_feedback"
# The store's versions that are read here; 0.1 wrote "1" as a number. Before "3" nobody was asked
# too, before "4" every quality was judged; what "5" and "6" have more is no outcome.
_VERSIONS = ("1", "2", "3", "4", "5", "6")
# Why who was asked too was: drawn among all the router's own traffic.
_LEARN = "learn"

_ASKED = ("request_id", "timestamp", "workflow", "session_id", "prompt", "messages")
_DECIDED = ("id", "at", *_ASKED[2:], "candidate", "propensity")
_ASKED_TOO = ("also_candidate", "also_propensity")
_MEASURED = ("quality", "quality_source", "cost_usd", "input_tokens", "output_tokens", "latency_ms")
_SAID = ("decision_id", "candidate", *_MEASURED, "error")
_ALSO_SAID = ("decision_id", *_MEASURED, "error")
_OUTCOME = (*_ASKED, "candidate", "propensity", *_MEASURED, "status", "purpose")
_UNTOLD = (None,) * len(_MEASURED)
_CHOSEN, _PROMPT, _MESSAGES = (_DECIDED.index(name) for name in ("candidate", "prompt", "messages"))
_ALSO = len(_DECIDED)
_AT_ONCE = 5_000  # decisions
_MOST_PARAMETERS = 900  # an SQLite that is not new takes no more


def recognises(path: LogPath) -> bool:
    """Whether the file is an SQLite database with the store's tables; raises OutcomeError when it cannot be opened."""
    return database.is_sqlite(path) and recognises_url(database.url_of(path))


def read(path: LogPath, _options: ImportOptions = DEFAULT) -> Iterator[Outcomes]:
    """As `read_url`, for an SQLite file."""
    return read_url(database.url_of(path))


def recognises_url(url: str) -> bool:
    """Whether the database is a store; raises OutcomeError when it cannot be reached."""
    return database.has_table(url, _MARKER)


def read_url(url: str, _options: ImportOptions = DEFAULT) -> Iterator[Outcomes]:
    """The outcomes in a store, by time; raises OutcomeError when it cannot be read or is of another version."""
    return checked(_rows(url), source=f"{database.shown(url)} decisions", format=NAME, convert=lambda records: records)


def _rows(url: str) -> Iterator[Records]:
    """The outcomes of decisions by time, some decisions at a time, what was told of them looked up by their ids.

    A join of all with all that was told would be sorted as a whole before its first row came.
    """
    with database.connected(url, steady=True) as (connection, schema):
        decisions, feedback, *also = tables(connection, url, schema)
        columns = [*(decisions.c[name] for name in _DECIDED), *(decisions.c[name] for name in _ASKED_TOO if also)]
        query = sa.select(*columns).order_by(decisions.c.at, decisions.c.id)
        candidates = _Candidates(connection, decisions)
        told, first = 0, 1
        for batch in connection.execute(query, execution_options={"yield_per": _AT_ONCE}).partitions():
            ids = [decision[0] for decision in batch]
            said = _told(connection, feedback, _SAID, ids)
            too = [decision[0] for decision in batch if also and decision[_ALSO] is not None]
            also_said = _told(connection, also[0], _ALSO_SAID, too) if too else {}
            told += len(said)
            rows = []
            for decision in batch:
                fed_back, of_also = said.get(decision[0]), also_said.get(decision[0])
                answered = None if fed_back is None else fed_back[1]
                a_candidate = answered is not None and answered != decision[_CHOSEN] and answered in candidates
                rows.append(_Row(decision, fed_back, of_also, a_candidate))
            yield _records(rows, first)
            first += len(rows)
        if told < (connection.scalar(sa.select(sa.func.count()).select_from(feedback)) or 0):
            yield from _orphans(connection, decisions, feedback, first)


class _Candidates:
    """The names that the router chooses by; read when it is first asked for one, for that takes reading every decision."""

    def __init__(self, connection: sa.Connection, decisions: sa.Table) -> None:
        self._connection, self._decisions = connection, decisions
        self._names: frozenset[str] | None = None

    def __contains__(self, name: object) -> bool:
        if self._names is None:
            names = self._connection.scalars(sa.select(self._decisions.c.candidate).distinct())
            self._names = frozenset(names)
        return name in self._names


def _told(connection: sa.Connection, table: sa.Table, names: Sequence[str], ids: Sequence[str]) -> dict[str, Any]:
    """What a table of feedback says of decisions, by their ids; nothing in columns that the store's version lacks."""
    columns = [table.c[name] if name in table.c else sa.null() for name in names]
    if connection.dialect.name == "postgresql":
        which: list[sa.ColumnElement[bool]] = [table.c.decision_id == sa.any_(sa.literal(list(ids), ARRAY(sa.Text)))]
    else:
        parts = range(0, len(ids), _MOST_PARAMETERS)
        which = [table.c.decision_id.in_(ids[begin : begin + _MOST_PARAMETERS]) for begin in parts]
    found: dict[str, Any] = {}
    for some in which:
        found.update((row[0], row) for row in connection.execute(sa.select(*columns).where(some)).all())
    return found


def _orphans(connection: sa.Connection, decisions: sa.Table, feedback: sa.Table, first: int) -> Iterator[Records]:
    """Feedback on decisions that are not there."""
    there = sa.select(sa.literal(1)).where(decisions.c.id == feedback.c.decision_id).exists()
    query = sa.select(feedback.c.decision_id).where(~there).order_by(feedback.c.decision_id)
    for batch in connection.execute(query, execution_options={"yield_per": _AT_ONCE}).partitions():
        yield Records(pd.DataFrame(), [], [_without_decision(number) for number in range(first, first + len(batch))])
        first += len(batch)


def tables(connection: sa.Connection, url: str, schema: str | None) -> list[sa.Table]:
    """A store's decisions, the feedback on them and, if it has that, on who was asked too; raises OutcomeError.

    The version that wrote it is one that is read here; what an earlier one lacks, its tables lack.
    """
    marker, *found = _tables(connection, url, schema)
    version = connection.scalar(sa.select(sa.cast(marker.columns[0], sa.Text)))
    if version not in _VERSIONS:
        read = ", ".join(_VERSIONS[:-1])
        raise OutcomeError(
            f"{database.shown(url)}: the store's version is {version}, this code reads {read} and {_VERSIONS[-1]}; "
            "read it with the version of outcome-router that wrote it"
        )
    return found


def _tables(connection: sa.Connection, url: str, schema: str | None) -> list[sa.Table]:
    """The store's tables by reflection, with that of who was asked too if it has one; raises OutcomeError."""
    names = [_MARKER, _DECISIONS, _FEEDBACK]
    inspector = sa.inspect(connection)
    missing = [name for name in names if not inspector.has_table(name, schema=schema)]
    if not missing and _ASKED_TOO[0] in {str(one["name"]) for one in inspector.get_columns(_DECISIONS, schema=schema)}:
        names.append(_ALSO_FEEDBACK)
        missing = [_ALSO_FEEDBACK] if not inspector.has_table(_ALSO_FEEDBACK, schema=schema) else []
    if missing:
        raise OutcomeError(
            f"{database.shown(url)}: no store of router-serve, expected the tables {', '.join(names[:-1])} and {names[-1]}, "
            f"but {', '.join(missing)} is not there. Give what ROUTER_STORE named when it was served"
        )
    return [sa.Table(name, sa.MetaData(), schema=schema, autoload_with=connection) for name in names]


class _Row(NamedTuple):
    """A decision (`_DECIDED`, and `_ASKED_TOO` where the store has that); what was told of it (`_SAID`) and of who was asked
    too (`_ALSO_SAID`), None where nothing was; and whether another candidate of the router answered."""

    decision: Sequence[Any]
    told: Sequence[Any] | None
    told_of_also: Sequence[Any] | None
    a_candidate: bool


def _records(rows: Sequence[_Row], first: int) -> Records:
    """The outcomes of decisions under the outcome table's names, each with the number of its decision."""
    kept: list[tuple[Any, ...]] = []
    numbers: list[int] = []
    unreadable = []
    for number, row in enumerate(rows, first):
        if row.decision[_PROMPT] is None and row.decision[_MESSAGES] is None:
            unreadable.append(_without_prompt(number))
            continue
        outcomes = _outcomes(row)
        kept += outcomes
        numbers += [number] * len(outcomes)
    return Records(pd.DataFrame(kept, columns=list(_OUTCOME), dtype=object), numbers, unreadable)


def _without_decision(number: int) -> Unreadable:
    arrived = "feedback on an id that is not in the store"
    return Unreadable(number, "feedback without its decision", arrived, "feedback on a decision that is stored")


def _without_prompt(number: int) -> Unreadable:
    return Unreadable(
        number,
        f"no prompt was stored (serve with {SETTING}=true)",
        "a decision without its prompt",
        f"a decision with its prompt: {SETTING}=true, which is the default",
    )


def _outcomes(row: _Row) -> list[tuple[Any, ...]]:
    """The outcome of whoever answered, after that of the chosen candidate if it was another: then it failed.

    And that of who was asked too, in place of a fallback's. Each is as `_OUTCOME`.
    """
    asked, (candidate, propensity) = row.decision[: len(_ASKED)], row.decision[len(_ASKED) : len(_DECIDED)]
    also, also_propensity = row.decision[len(_DECIDED) :] or (None, None)
    told = _measured(row.told, 2)
    if row.told is None or row.told[1] is None or _same(row.told[1], candidate, row.a_candidate):
        found, told_of_also = [(*asked, candidate, propensity, *told, None)], _measured(row.told_of_also, 1)
    elif isinstance(also, str) and row.told_of_also is None and _same(row.told[1], also, row.a_candidate):
        # told under a name that its provider gives it, so the store did not know it
        found, told_of_also = [(*asked, candidate, propensity, *_measured(None, 0), None)], told
    else:
        found, told_of_also = [(*asked, candidate, propensity, *_UNTOLD, "error", None)], _measured(row.told_of_also, 1)
        if also is None:
            found.append((*asked, row.told[1], None, *told, None))
    if also is not None:
        found.append((*asked, also, also_propensity, *told_of_also, _LEARN))
    return found


def _measured(told: Sequence[Any] | None, first: int) -> tuple[Any, ...]:
    """`_MEASURED`, which begin at the `first` of what was told, and the status."""
    if told is None:
        return (*_UNTOLD, "success")
    return (*told[first : first + len(_MEASURED)], "error" if told[-1] else "success")


def _same(answered: str, chosen: str, a_candidate: bool) -> bool:
    """Whether the LLM that answered is the chosen one, which feedback may name as its provider does: with a prefix or a date.

    Not where the router chooses by that name too: then it is a candidate of its own, as one LLM at two providers is.
    """
    return answered == chosen or (not a_candidate and bool(alike({answered: 1, chosen: 1}, ())))
