"""The store of outcome-router's own service: each decision with the feedback on it, from its SQLite file or by URL.

Feedback says what became of a decision: its row is the outcome, of the candidate that answered. Where that is another than
the router chose, the chosen one failed: it has a row of its own, an error with the decision's propensity, before that of the
fallback, which has none. A decision without feedback is an attempt that nobody judged: it has no quality and no cost, but says
how often each candidate was tried. Decisions that were stored without their prompt, and feedback on decisions that are not in
the store, are skipped.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa

from training.logs.aliases import alike
from training.logs.io import database
from training.logs.io.files import Records
from training.logs.io.partitions import checked
from training.logs.outcomes import OutcomeError, Outcomes, Unreadable
from training.logs.sources.options import DEFAULT, ImportOptions

NAME = "decisions"
EXPECTS = "the store of router-serve (an SQLite file, sqlite:///decisions.db or postgresql://…)"
COMPANIONS: frozenset[str] = frozenset()
SCHEMES = database.SCHEMES
SETTING = "ROUTER_STORE_PROMPTS"

# The tables, as they are in the database: the service that writes them is not asked.
_MARKER, _DECISIONS, _FEEDBACK = "outcome_router_store", "decision", "feedback"
# The store's versions that are read here, whose tables of decisions and feedback are the same; 0.1 wrote "1" as a number.
_VERSIONS = ("1", "2")

_DECIDED = ("id", "at", "workflow", "session_id", "prompt", "messages", "candidate", "propensity")
_SAID = ("decision_id", "candidate", "quality", "cost_usd", "input_tokens", "output_tokens", "latency_ms", "error")
_COLUMNS = (
    "request_id", "timestamp", "workflow", "session_id", "prompt", "messages", "chosen", "propensity",
    "fed_back", "answered", "quality", "cost_usd", "input_tokens", "output_tokens", "latency_ms", "error", "a_candidate",
)  # fmt: skip


def recognises(path: Path) -> bool:
    """Whether the file is an SQLite database with the store's tables; raises OutcomeError when it cannot be opened."""
    return database.is_sqlite(path) and recognises_url(database.url_of(path))


def read(path: Path, _options: ImportOptions = DEFAULT) -> Iterator[Outcomes]:
    """As `read_url`, for an SQLite file."""
    return read_url(database.url_of(path))


def recognises_url(url: str) -> bool:
    """Whether the database is a store; raises OutcomeError when it cannot be reached."""
    return database.has_table(url, _MARKER)


def read_url(url: str, _options: ImportOptions = DEFAULT) -> Iterator[Outcomes]:
    """The outcomes in a store, by time; raises OutcomeError when it cannot be read or is of another version."""
    return checked(_rows(url), source=f"{database.shown(url)} decisions", format=NAME, convert=convert)


def _rows(url: str) -> Iterator[Records]:
    with database.connected(url) as (connection, schema):
        marker, decisions, feedback = _tables(connection, url, schema)
        version = connection.scalar(sa.select(sa.cast(marker.columns[0], sa.Text)))
        if version not in _VERSIONS:
            raise OutcomeError(
                f"{database.shown(url)}: the store's version is {version}, this code reads {' and '.join(_VERSIONS)}; "
                "read it with the version of outcome-router that wrote it"
            )
        known = feedback.c.candidate.in_(sa.select(decisions.c.candidate).distinct())
        columns = [*(decisions.c[name] for name in _DECIDED), *(feedback.c[name] for name in _SAID), known]
        query = sa.select(*(column.label(name) for column, name in zip(columns, _COLUMNS, strict=True)))
        query = query.select_from(decisions.join(feedback, feedback.c.decision_id == decisions.c.id, full=True))
        query = query.order_by(decisions.c.at, decisions.c.id, feedback.c.decision_id)
        yield from database.batches(connection, query)


def _tables(connection: sa.Connection, url: str, schema: str | None) -> list[sa.Table]:
    """The store's tables by reflection; raises OutcomeError where one is missing."""
    names = (_MARKER, _DECISIONS, _FEEDBACK)
    inspector = sa.inspect(connection)
    missing = [name for name in names if not inspector.has_table(name, schema=schema)]
    if missing:
        raise OutcomeError(
            f"{database.shown(url)}: no store of router-serve, expected the tables {', '.join(names[:2])} and {names[2]}, "
            f"but {', '.join(missing)} is not there. Give what ROUTER_STORE named when it was served"
        )
    return [sa.Table(name, sa.MetaData(), schema=schema, autoload_with=connection) for name in names]


def convert(records: Records) -> Records:
    """One partition of decisions, joined with their feedback, under the outcome table's names."""
    kept: list[dict[str, Any]] = []
    rows: list[int] = []
    unreadable = list(records.unreadable)
    for number, row in zip(records.rows, records.table.to_dict("records"), strict=True):
        why = _unusable(number, row)
        if why is not None:
            unreadable.append(why)
            continue
        for outcome in _outcomes(row):
            kept.append(outcome)
            rows.append(number)
    return Records(pd.DataFrame(kept, dtype=object), rows, unreadable)


def _unusable(number: int, row: Mapping[Hashable, Any]) -> Unreadable | None:
    if row["request_id"] is None:
        arrived = "feedback on an id that is not in the store"
        return Unreadable(number, "feedback without its decision", arrived, "feedback on a decision that is stored")
    if row["prompt"] is None and row["messages"] is None:
        return Unreadable(
            number,
            f"no prompt was stored (serve with {SETTING}=true)",
            "a decision without its prompt",
            f"a decision with its prompt: {SETTING}=true, which is the default",
        )
    return None


def _outcomes(row: Mapping[Hashable, Any]) -> Iterator[dict[str, Any]]:
    """The outcome of whoever answered, after that of the chosen candidate if it was another: then it failed."""
    asked = {name: row[name] for name in ("request_id", "timestamp", "workflow", "session_id", "prompt", "messages")}
    measured = ("quality", "cost_usd", "input_tokens", "output_tokens", "latency_ms")
    fell_back = row["answered"] is not None and not _same(row["answered"], row["chosen"], bool(row["a_candidate"]))
    if fell_back:
        yield {**asked, "candidate": row["chosen"], "propensity": row["propensity"], "status": "error"}
    yield {
        **asked,
        **{name: row[name] for name in measured},
        "candidate": row["answered"] if fell_back else row["chosen"],
        "propensity": None if fell_back else row["propensity"],
        "status": "error" if row["error"] else "success",
    }


def _same(answered: str, chosen: str, a_candidate: bool) -> bool:
    """Whether the LLM that answered is the chosen one, which feedback may name as its provider does: with a prefix or a date.

    Not where the router chooses by that name too: then it is a candidate of its own, as one LLM at two providers is.
    """
    return answered == chosen or (not a_candidate and bool(alike({answered: 1, chosen: 1}, ())))
