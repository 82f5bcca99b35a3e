"""What waits to be written, and how one transaction writes some of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Engine, Table, bindparam, select
from sqlalchemy.exc import DBAPIError, InternalError, OperationalError, SQLAlchemyError

from serving.store.feedback import TOLD, ConflictError, Feedback, UnknownDecisionError, merged
from serving.store.ledger import ALSO, BudgetKey, Charge, Ledger, Totals, budget_of
from serving.store.months.calendar import month_of
from serving.store.months.ids import EVER, Around, made_around
from serving.store.tables import ALSO_FEEDBACK, DECISIONS, FEEDBACK, SESSIONS, insert_new, upsert

Row = Mapping[str, Any]
# What feedback came to: the fields that it added or replaced, or why it was not taken.
Told = frozenset[str] | UnknownDecisionError | ConflictError

# What a database, a driver or a row's own values may raise; a thread that writes has to live on.
FAULTS = (SQLAlchemyError, ArithmeticError, TypeError, ValueError)
STATEMENT_SECONDS = 30.0
_MOST_MONTHS = 4
_SHADOW = ("shadow_bundle", "shadow_candidate", "shadow_confidence", "shadow_expected_cost_usd")


@dataclass(eq=False, slots=True)
class Item:
    """One thing to write: a decision's row, a charge, what a shadow said of a decision, a session, or feedback."""

    row: Row | None = None
    charge: Charge | None = None
    shadow: Row | None = None
    session: Row | None = None
    said: Feedback | None = None
    key: str | None = None  # who says it; None: the rules have no keys
    at: float = 0.0
    late: float = 0.0  # until when feedback waits for its decision, on the monotonic clock
    around: Around | None = None  # when its decision was made, where that was looked up
    done: Future[Any] | None = None
    size: int = field(init=False)  # bytes of memory, about: what its texts take

    def __post_init__(self) -> None:
        row = self.row or self.session or {}
        self.size = 500 + sum(sys.getsizeof(value) for value in row.values() if isinstance(value, str | bytes))

    def without_text(self) -> Item:
        """A decision without its prompt, which is what most of it is."""
        return replace(self, row={**(self.row or {}), "prompt": None, "messages": None})

    def cleaned(self) -> Item:
        """Without what a database cannot hold."""
        said = self.said
        if said is not None and said.candidate is not None:
            said = replace(said, candidate=_cleaned(said.candidate))
        row, session = (None if one is None else _clean(one) for one in (self.row, self.session))
        clean = replace(self, row=row, session=session, said=said)
        clean.size = self.size  # which it was counted with
        return clean

    def may_tell(self, key: str | None) -> bool:
        """Whether feedback may be about a decision that was made for a key."""
        return self.key is None or self.key == key

    def same_as(self, other: Item) -> bool:
        return (self.row, self.session, self.said) == (other.row, other.session, other.said)


class Decided(NamedTuple):
    """What feedback on a decision goes by: the key that it was made for, and who was asked too."""

    key: str | None
    also: str | None


class Seen(NamedTuple):
    """A decision that is there: the key that it was made for, and when, in epoch seconds."""

    key: str | None
    at: float


@dataclass
class Written:
    """What a transaction came to: each future's value by the item's identity, the budgets, and what was charged to them."""

    results: dict[int, Any] = field(default_factory=dict)
    totals: Mapping[BudgetKey, Totals] = field(default_factory=dict)


def write(engine: Engine, items: Sequence[Item]) -> Written:
    """Writes everything in one transaction, in the order in which it came where that matters. Raises what SQLAlchemy does."""
    written = Written()
    said = [item for item in items if item.said is not None]
    asked = {one.decision_id: item.around or made_around(one.decision_id) for item in said if (one := item.said)}
    charges = [item.charge for item in items if item.charge is not None]
    with begin(engine) as connection:
        # Rows are locked in one order everywhere, so that no two transactions wait for each other: decisions, then budgets.
        known = _decided(connection, asked)
        ledger = Ledger(connection)
        settling = ledger.charges_of(known)
        ledger.hold([limit.budget for one in charges for limit in one.limits] + [budget_of(row) for row in settling])
        for item in items:
            if item.charge is not None:
                written.results[id(item)] = ledger.charge(item.charge)
        _write_decisions(connection, items)
        if said:
            rows = {item.row["id"] for item in items if item.row is not None}  # decided in this very transaction
            new = _decided(connection, {one: asked[one] for one in rows & asked.keys() - known.keys()})
            _write_feedback(ledger, said, {**known, **new}, [*settling, *ledger.charges_of(new)], written)
        ledger.write()
        written.totals = ledger.totals
    return written


def totals_of(engine: Engine, budgets: Sequence[BudgetKey]) -> Mapping[BudgetKey, Totals]:
    """The budgets as they stand, those begun that have not been."""
    if not budgets:
        return {}
    with begin(engine) as connection:
        ledger = Ledger(connection)
        ledger.hold(budgets)
        return ledger.totals


@contextmanager
def begin(engine: Engine) -> Iterator[Connection]:
    """A transaction that may read before it writes: SQLite would otherwise take its lock at the first write only.

    In PostgreSQL no statement of it takes longer than `STATEMENT_SECONDS`, waiting for others included: that is an
    OperationalError, and what was to be written is tried again.
    """
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:  # for this transaction alone: a pooler may give the connection to others afterwards
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(STATEMENT_SECONDS * 1e3)}")
        yield connection


def may_pass(error: Exception) -> bool:
    """Whether the database may take the same rows later: it is locked, full, being switched over or away."""
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    return lost or isinstance(error, OperationalError | InternalError)


def seen(engine: Engine, where: Mapping[str, Around]) -> dict[str, Seen]:
    """The decisions, of those that there are between the times; nobody waits for this, nor this for anybody."""
    if not where:
        return {}
    found: dict[str, Seen] = {}
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(STATEMENT_SECONDS * 1e3)}")
        for around, ids in _by_time(where):
            asked = select(DECISIONS.c.id, DECISIONS.c.key, DECISIONS.c.at).where(*_these(ids, around))
            found |= {row[0]: Seen(*row[1:]) for row in connection.execute(asked)}
    return found


def _decided(connection: Connection, where: Mapping[str, Around]) -> dict[str, Decided]:
    """The decisions, of those that there are between the times; who tells something of them waits for this."""
    found: dict[str, Decided] = {}
    for around, ids in _by_time(where):
        asked = select(DECISIONS.c.id, DECISIONS.c.key, DECISIONS.c.also_candidate).where(*_these(ids, around))
        for row in connection.execute(asked.order_by(DECISIONS.c.id).with_for_update()):
            found[row[0]] = Decided(*row[1:])
    return found


def _these(ids: Sequence[str], around: Around) -> list[ColumnElement[bool]]:
    when = [] if around == EVER else [DECISIONS.c.at >= around.since, DECISIONS.c.at < around.until]
    return [DECISIONS.c.id.in_(ids), *when]


def _by_time(where: Mapping[str, Around]) -> list[tuple[Around, list[str]]]:
    """Month by month, so that PostgreSQL looks into the partitions of that time alone; last those that may be of any time."""
    months: dict[str, list[str]] = {}
    for identifier in sorted(where):
        around = where[identifier]
        months.setdefault("" if around == EVER else month_of(around.since).name, []).append(identifier)
    ever = months.pop("", [])
    groups = list(months.values())
    if len(groups) > _MOST_MONTHS:  # one look from the first to the last takes less than many
        groups = [sorted(one for ids in groups for one in ids)]
    dated = [
        (Around(min(where[one].since for one in ids), max(where[one].until for one in ids)), ids) for ids in groups
    ]
    return [*dated, (EVER, ever)] if ever else dated


def _write_decisions(connection: Connection, items: Sequence[Item]) -> None:
    decisions = [dict(item.row) for item in items if item.row is not None]
    if decisions:
        connection.execute(insert_new(connection.engine, DECISIONS), decisions)
    shadows = [_of_shadow(item.shadow) for item in items if item.shadow]
    if shadows:
        d = DECISIONS.c
        same = (d.id == bindparam("_id"), d.at >= bindparam("_since"), d.at < bindparam("_until"))
        connection.execute(DECISIONS.update().where(*same), shadows)
    sessions = {item.session["id"]: dict(item.session) for item in items if item.session is not None}
    if sessions:
        connection.execute(upsert(connection.engine, SESSIONS), [sessions[name] for name in sorted(sessions)])


def _of_shadow(row: Row) -> dict[str, Any]:
    since, until = made_around(row["id"])
    return {"_id": row["id"], "_since": since, "_until": until, **{name: row[name] for name in _SHADOW}}


def _write_feedback(
    ledger: Ledger, items: Sequence[Item], decided: Mapping[str, Decided], settling: Sequence[Row], written: Written
) -> None:
    """Merges feedback with what was told before, and makes the decisions' charges what they did cost.

    What names who was asked too is about that one's answer, and everything else about the decision's own.
    """
    connection = ledger.connection
    ledger.hold(budget_of(charge) for charge in settling)
    about: dict[bool, list[Item]] = {False: [], True: []}
    for item in items:
        said = item.said
        assert said is not None
        one = decided.get(said.decision_id)
        if one is None or not item.may_tell(one.key):
            written.results[id(item)] = UnknownDecisionError(said.decision_id)
        else:
            about[one.also is not None and said.candidate == one.also].append(item)
    for also, told in about.items():
        costs = _merge(connection, ALSO_FEEDBACK if also else FEEDBACK, told, written)
        for charge in settling:
            if (charge["scope"] == ALSO) is also and charge["decision_id"] in costs:
                ledger.settle(charge, costs[charge["decision_id"]])


def _merge(connection: Connection, table: Table, items: Sequence[Item], written: Written) -> Mapping[str, float | None]:
    """Merges feedback with a table's rows; what each decision cost, of those that something new is known of."""
    said_of = sorted({item.said.decision_id for item in items if item.said is not None})
    if not said_of:
        return {}
    asked = select(table).where(table.c.decision_id.in_(said_of))
    known = {row["decision_id"]: dict(row) for row in connection.execute(asked).mappings()}
    changed: dict[str, bool] = {}  # whether the cost, of those that changed
    for item in items:
        said = item.said
        assert said is not None
        name = said.decision_id
        try:
            if name in known:
                known[name], fields = merged(known[name], said)
            else:
                known[name] = said.row(item.at)
                fields = frozenset(field for field in TOLD if getattr(said, field) is not None) or frozenset({"at"})
                changed[name] = True
        except ConflictError as error:
            written.results[id(item)] = error
            continue
        if fields:
            changed[name] = changed.get(name, False) or "cost_usd" in fields
        written.results[id(item)] = fields
    if changed:
        connection.execute(upsert(connection.engine, table), [known[name] for name in sorted(changed)])
    return {name: known[name]["cost_usd"] for name, cost in changed.items() if cost}


def _clean(row: Row) -> Row:
    return {name: _cleaned(value) for name, value in row.items()}


def _cleaned(value: Any) -> Any:
    """Text without what UTF-8 (lone surrogates) or PostgreSQL (NUL) cannot hold: U+FFFD stands there instead."""
    if not isinstance(value, str):
        return value
    if not value.isascii():
        value = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value.replace("\0", "\ufffd") if "\0" in value else value
