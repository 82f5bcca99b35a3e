"""`router-serve prune`: lets go of decisions that are older than so many days."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence

from sqlalchemy.exc import SQLAlchemyError

from serving.account.window import iso
from serving.settings import Settings
from serving.store.engine import StoreError, open_current, shown
from serving.store.months.prune import BATCH, ClockError, Pruned, counted, now_of, prune, shrinks, until_of

_DAY = 86_400.0
_MOST_DAYS = 36_500
_MOST_AT_ONCE = 30_000  # more ids than that no statement takes
_TABLES = {
    "decision": "decisions",
    "feedback": "rows of feedback",
    "also_feedback": "rows of feedback on who was asked too",
    "charge": "charges",
    "replay": "repeated answers",
}


def main(arguments: Sequence[str]) -> None:
    """Prunes the store and says what is gone, or with --dry-run what would be. Raises StoreError and BusyError."""
    asked = _parser().parse_args(arguments)
    store = asked.store or Settings().store
    if not store:
        raise StoreError("no store is named: expected --store, or ROUTER_STORE")
    engine = open_current(store)
    try:
        until = until_of(now_of(engine, time.time()), asked.older_than * _DAY)
        if asked.dry_run:
            _say(f"{shown(store)}: would be gone, and is still there:", counted(engine, until))
            return
        gone = prune(engine, until, asked.batch, lambda line: sys.stderr.write(f"{line}\n"))
        _say(f"{shown(store)}: is gone:", gone)
        if gone.rows.get("decision") and not shrinks(engine):
            sys.stdout.write(
                "the file keeps its size, later rows take the room; SQLite's VACUUM, once, makes it smaller\n"
            )
    except ClockError as error:
        raise StoreError(f"{shown(store)}: {error}") from None
    except SQLAlchemyError as error:
        kind = type(getattr(error, "orig", None) or error).__name__
        raise StoreError(
            f"{shown(store)}: cannot be pruned ({kind}); what is gone is gone as a whole, prune again"
        ) from None
    finally:
        engine.dispose()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("router-serve prune", description=__doc__.partition(": ")[2], allow_abbrev=False)
    parser.add_argument(
        "--older-than", type=_days, required=True, metavar="DAYS", help="As 400d. Decisions of the running month stay."
    )
    parser.add_argument("--store", help="The store: its SQLite file or postgresql://… Default: ROUTER_STORE.")
    parser.add_argument("--dry-run", action="store_true", help="Say what would go, by month; nothing is changed.")
    parser.add_argument(
        "--batch", type=_batch, default=BATCH, metavar="N", help=f"Decisions in one transaction. Default: {BATCH:,}."
    )
    return parser


def _days(said: str) -> int:
    found = re.fullmatch(r"([0-9]{1,6})d", said)
    if found is None or not 1 <= int(found[1]) <= _MOST_DAYS:
        raise argparse.ArgumentTypeError(f"{said!r} arrived; expected days, as 400d, from 1d to {_MOST_DAYS}d")
    return int(found[1])


def _batch(said: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", said) or not 1 <= int(said) <= _MOST_AT_ONCE:
        raise argparse.ArgumentTypeError(f"{said!r} arrived; expected a whole number from 1 to {_MOST_AT_ONCE}")
    return int(said)


def _say(head: str, pruned: Pruned) -> None:
    lines = [head, f"  decisions made before {iso(pruned.until)}"]
    lines += [f"  {month}: {rows:,} decisions" for month, rows in sorted(pruned.months.items())]
    lines += [f"  {pruned.rows[name]:,} {words}" for name, words in _TABLES.items() if pruned.rows.get(name)]
    if not any(pruned.rows.values()):
        lines = [head, f"  nothing: no decision is from before {iso(pruned.until)}"]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
