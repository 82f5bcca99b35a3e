"""What was bought and what it cost, in one SQLite file: an answer is on disk in the transaction that settles its call.

Every transaction is synced to the disk, and one process at a time holds the file. A call that was under way when its process
ended stays counted at the most that it can have cost.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from serving.bundle.atomic_write import for_its_owner
from training.quality.paid_calls import Spending
from training.replay.errors import ReplayError

NAME = "_ledger.sqlite"
_ACCOUNT, _VERSION = "replay", 1
_TABLES = (
    "create table if not exists folder (id text not null)",
    "create table if not exists call (entry integer primary key, request_id text not null, candidate text not null, "
    "idempotency_key text not null, state text not null, reason text not null)",
    "create index if not exists calls_of_a_pair on call (request_id, candidate)",
    "create table if not exists answer (request_id text not null, candidate text not null, digest text not null, "
    "outcome text not null, quality real, primary key (request_id, candidate))",
)
Key = tuple[str, str]  # request and candidate


class Ledger(Spending):
    """The ledger of a folder; raises ReplayError where another process has it, or where it is none.

    A call is open, settled, free (not billed) or in doubt: it may have been billed, and its reservation stands.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        try:
            with for_its_owner():
                folder.mkdir(parents=True, exist_ok=True)
                super().__init__(self._path, _ACCOUNT, timeout=0.0)
        except (sqlite3.Error, OSError) as error:
            if "locked" in str(error):
                raise ReplayError(
                    f"{folder}: another replay is buying into this folder; expected one at a time, or the budget could not be "
                    "kept. Wait until it has ended, or give another --out."
                ) from None
            raise ReplayError(
                f"{self._path}: cannot be used as a ledger ({error}); expected a folder that can be written, and in it what an "
                "earlier replay left. Give another --out."
            ) from None

    def _prepare(self) -> None:
        run = self._database.execute
        for pragma in ("locking_mode = exclusive", "journal_mode = wal", "synchronous = full"):
            run(f"pragma {pragma}")
        (version,) = run("pragma user_version").fetchone()
        if version not in (0, _VERSION):
            raise sqlite3.DatabaseError(f"its version is {version}, this code writes {_VERSION}")
        with self._database:
            run("begin immediate")
            for table in _TABLES:
                run(table)
            if run("select id from folder").fetchone() is None:
                run("insert into folder values (?)", (secrets.token_hex(16),))
            run("update call set state = 'doubt', reason = 'under way when its run was ended' where state = 'open'")
            run(f"pragma user_version = {_VERSION}")
        (self.folder_id,) = run("select id from folder").fetchone()

    def begin(self, key: Key, usd: float, idempotency_key: str, budget_usd: float) -> int | None:
        """Reserves what a call costs at most, if that fits the budget; the entry's number, or None."""
        with self._lock, self._database:
            if self.spent + usd > budget_usd:
                return None
            entry = self._reserve(usd)
            self._database.execute("insert into call values (?, ?, ?, ?, 'open', '')", (entry, *key, idempotency_key))
            return entry

    def bought(
        self, entry: int, usd: float | None, key: Key, digest: str, outcome: dict[str, Any], *, same: bool
    ) -> None:
        """Settles a call with its answer, for good. `same`: calls in doubt with its idempotency key were this one."""
        with self._lock, self._database:
            self._settle(entry, usd)
            self._database.execute("update call set state = 'settled' where entry = ?", (entry,))
            self._database.execute("insert into answer values (?, ?, ?, ?, null)", (*key, digest, json.dumps(outcome)))
            if same:
                twins = self._database.execute(
                    "select entry from call where state = 'doubt' and idempotency_key = "
                    "(select idempotency_key from call where entry = ?)",
                    (entry,),
                ).fetchall()
                for (twin,) in twins:
                    self._settle(twin, 0.0)
                    self._database.execute("update call set state = 'free' where entry = ?", (twin,))

    def logged(self, answers: Iterable[tuple[Key, str, dict[str, Any]]]) -> None:
        """Keeps answers that the log had already, each with its pair and its digest: they cost no more than their grades."""
        with self._lock, self._database:
            rows = ((*key, digest, json.dumps(outcome)) for key, digest, outcome in answers)
            self._database.executemany("insert into answer values (?, ?, ?, ?, null)", rows)

    def failed(self, entry: int, reason: str, *, in_doubt: bool) -> None:
        """Settles a call that brought no answer: at nothing, unless it may have been billed."""
        with self._lock, self._database:
            self._settle(entry, None if in_doubt else 0.0)
            state = "doubt" if in_doubt else "free"
            self._database.execute("update call set state = ?, reason = ? where entry = ?", (state, reason, entry))

    def answered(self) -> dict[Key, str]:
        """The pairs that have an answer, with the digest of what was asked."""
        rows = self._database.execute("select request_id, candidate, digest from answer")
        return {(request, candidate): digest for request, candidate, digest in rows}

    def in_doubt(self) -> set[Key]:
        """The pairs without an answer of which a call may have been billed."""
        rows = self._database.execute("select request_id, candidate from call where state = 'doubt'")
        return set(rows) - self.answered().keys()

    def doubtful_usd(self) -> float:
        """What the calls in doubt are counted at."""
        (usd,) = self._database.execute(
            "select coalesce(sum(usd), 0.0) from spending join call on id = entry where state = 'doubt'"
        ).fetchone()
        return float(usd)

    def outcomes(self) -> Iterator[tuple[dict[str, Any], float | None]]:
        """Every answer as an outcome, by request and candidate, with its quality where it was graded."""
        every = "select outcome, quality from answer order by request_id, candidate"
        for outcome, quality in self._database.execute(every):
            yield json.loads(outcome), quality

    def grade(self, qualities: dict[Key, float | None]) -> None:
        """Keeps the quality of answers."""
        with self._lock, self._database:
            self._database.executemany(
                "update answer set quality = ? where request_id = ? and candidate = ?",
                [(quality, *key) for key, quality in qualities.items()],
            )
