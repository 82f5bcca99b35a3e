"""What is told of calls and not delivered yet: one SQLite file, which every worker of a proxy shares and a kill leaves whole.

What is kept is written at once by whoever keeps it, which takes a tenth of a millisecond; a thread that has to wait for its
turn takes many. Where the file is locked for longer than a moment, and for all else, each process has a thread, which writes
what has gathered in one transaction. Nothing that goes wrong with the file is raised: it is counted, and logged once a minute.
What cannot be written waits in memory, within a bound, and nobody waits for the file then until a write succeeds. A worker that
delivers rows leases them, so that no other delivers them at the same time; what is told again of a row meanwhile is not lost
with it.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from serving.integrations.litellm.told.spool_file import SpoolFile
from serving.integrations.litellm.told.spool_rows import Kept, Leased, bound, keep
from serving.integrations.litellm.told.tally import Tally
from serving.integrations.litellm.told.waiting import Load, Waiting

logger = logging.getLogger(__name__)

MOST_ROWS, MOST_BYTES = 200_000, 64 * 2**20
_SAY_AGAIN_SECONDS, _TRY_AGAIN_SECONDS = 60.0, 1.0
MOST_BODY = 64 * 2**10
# Rows and bytes between two looks at the bound; of a small one, each.
_BOUND_EACH, _BOUND_EACH_BYTES = 50, 2**20
# Longest that whoever keeps something waits for the file to be unlocked itself.
_NEAR_SECONDS = 0.005
_Made = TypeVar("_Made")
_Work = Callable[[sqlite3.Connection], Any]


class Spool:
    """The file at `path`, made when something is first kept. Its methods may be called from several threads, and after a fork.

    Of more than `most_rows` rows or `most_bytes` of bodies the oldest go, thumbs before all others. A row whose name is there
    is combined with it by `combine(there, coming)`, and is due when the earlier of both was. `counts` has what became of
    rows: `kept`, `dropped` (the oldest, at the bound), `thumbs_dropped` (above their own bounds, or first where the file is
    full), `nobodys` (thumbs on another key's decision), `lost` (not written, and more than memory holds), `unwaited` (puts
    that were not waited for, as none before them succeeded), `too_large` (bodies above 64 KiB, which are not kept),
    `spool_faults`, `aside` (unreadable files, moved aside).
    """

    def __init__(
        self,
        path: Path,
        *,
        combine: Callable[[bytes, bytes], bytes],
        most_rows: int = MOST_ROWS,
        most_bytes: int = MOST_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path.absolute()
        self.most_rows, self.most_bytes = most_rows, most_bytes
        self.counts = Tally()
        self._combine, self._clock = combine, clock
        self._lock = threading.Lock()
        self._said = float("-inf")
        self._begin()

    def _begin(self) -> None:
        """Anew: nothing of a connection or a thread goes through a fork."""
        self._pid = os.getpid()
        self._work: queue.SimpleQueue[tuple[_Work, Future[Any]] | None] = queue.SimpleQueue()
        self._waiting = Waiting(self.counts)
        self._unbounded = self._unbounded_bytes = 0  # what was kept since the bound was looked at
        self._queued = Load()  # rows that the thread has not taken yet
        # Whether the file was locked for whoever wrote last, and whether nobody waits for the thread either.
        self._busy = self._unwaited = False
        self._thread: threading.Thread | None = None
        self._file = SpoolFile(self.path)
        self._near = SpoolFile(self.path, lock_seconds=_NEAR_SECONDS, near=True)
        self._near_lock = threading.Lock()

    # --- what others call ---

    def put(self, rows: Sequence[Kept], owners: Sequence[tuple[str, str]] = ()) -> Future[bool]:
        """Keeps rows, and (decision, key) pairs; done when they are on disk, with whether they are.

        While the file cannot be written to it is done at once, and memory has them. Rows whose body is above `MOST_BODY`
        are left out, and counted. Raises UnicodeEncodeError for names that no file takes: one such row would keep all others
        from being written.
        """
        size = sum(len(row.body) for row in rows)
        if size > MOST_BODY:
            kept = [row for row in rows if len(row.body) <= MOST_BODY]
            self.counts.add("too_large", len(rows) - len(kept))
            rows = kept
        for text in (*(row.name for row in rows), *(part for one in owners for part in one)):
            text.encode()

        def work(file: sqlite3.Connection) -> bool:
            now = self._clock()
            file.executemany("insert or ignore into owner values (?, ?, ?)", [(*one, now) for one in owners])
            for row in rows:
                keep(file, row, now, self._combine, self.counts)
            self._unbounded, self._unbounded_bytes = self._unbounded + len(rows), self._unbounded_bytes + size
            if self._unbounded >= min(_BOUND_EACH, self.most_rows // _BOUND_EACH) or self._unbounded_bytes >= min(
                _BOUND_EACH_BYTES, self.most_bytes // _BOUND_EACH
            ):
                self._unbounded = self._unbounded_bytes = 0
                self._bound(file)
            return True

        done = self._written_now(work)
        if done is not None:
            return done
        thumbs = any(row.thumb is not None for row in rows)
        if self._queued.is_full(thumbs=thumbs):
            self.counts.add("thumbs_dropped" if thumbs else "lost", len(rows))
            return _done(at_once=False)
        asked = self._ask(work, list(rows))
        if not self._unwaited:
            return asked
        self.counts.add("unwaited")
        return _done(at_once=False)

    def wait_no_more(self) -> None:
        """Says that a write takes too long: none is waited for until one succeeds."""
        self._busy = self._unwaited = True

    def _written_now(self, work: _Work) -> Future[bool] | None:
        """Done, if the file can be written to this moment; None where the thread has to."""
        if self._pid != os.getpid() or self._busy or self._waiting or not self._near_lock.acquire(blocking=False):
            return None
        try:
            if self._file.in_memory:  # which is the thread's own
                return None
            file = self._near.there()
            if file is None:
                return None
            _in_transaction(file, lambda: work(file))
        except Exception as error:  # noqa: BLE001 - the thread tries it, and says what is wrong
            self._near.close()
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
                self.counts.add("waited")
                self._busy = True
            return None
        finally:
            self._near_lock.release()
        self.counts.add("kept")
        return _done(at_once=True)

    def take(self, destination: str, most: int, lease_seconds: float) -> Future[list[Leased]]:
        """Up to so many rows that are due, the oldest first, which no other process gets for so long."""

        def work(file: sqlite3.Connection) -> list[Leased]:
            now, lease = self._clock(), secrets.token_hex(8)
            chosen = "select id from told where destination = ? and due <= ? and leased_until <= ? order by id limit ?"
            taken = file.execute(
                f"update told set leased_until = ?, lease = ? where id in ({chosen})"
                " returning id, name, body, at, tries, revision, lease",
                (now + lease_seconds, lease, destination, now, now, most),
            ).fetchall()
            return sorted((Leased(*row) for row in taken), key=lambda one: one.id)

        return self._ask(work)

    def delivered(self, rows: Sequence[Leased]) -> Future[None]:
        """Forgets rows; one that was told more of since it was leased stays, to be delivered again."""

        def work(file: sqlite3.Connection) -> None:
            own = [(row.id, row.lease) for row in rows]
            same = [(row.id, row.lease, row.revision) for row in rows]
            file.executemany("delete from told where id = ? and lease = ? and revision = ?", same)
            file.executemany("update told set leased_until = 0 where id = ? and lease = ?", own)

        return self._ask(work)

    def later(self, rows: Sequence[Leased], seconds: float) -> Future[None]:
        """Gives rows back, which are due again in so many seconds."""

        def work(file: sqlite3.Connection) -> None:
            due = self._clock() + seconds
            again = [(due, row.id, row.lease) for row in rows]
            file.executemany(
                "update told set leased_until = 0, tries = tries + 1, due = max(due, ?) where id = ? and lease = ?",
                again,
            )

        return self._ask(work)

    def owners(self, decisions: Sequence[str]) -> Future[dict[str, str]]:
        """The key of each decision, of those that are known."""

        def work(file: sqlite3.Connection) -> dict[str, str]:
            marks = ",".join("?" * len(decisions))
            found = file.execute(f"select decision_id, key from owner where decision_id in ({marks})", list(decisions))
            return dict(found.fetchall())

        return self._ask(work)

    def waiting(self, destination: str) -> Future[int]:
        """How many rows of a destination are kept."""
        asked = "select count(*) from told where destination = ?"
        return self._ask(lambda file: int(file.execute(asked, (destination,)).fetchone()[0]))

    def close(self, timeout: float = 5.0) -> None:
        """Writes what waits, and stops."""
        with self._lock:
            thread = self._thread if self._pid == os.getpid() else None
            self._thread = None
            if thread is not None:
                self._work.put(None)
            with self._near_lock:
                self._near.close()
        if thread is not None:
            thread.join(timeout)

    # --- the thread ---

    def _ask(self, work: Callable[[sqlite3.Connection], _Made], rows: Sequence[Kept] = ()) -> Future[_Made]:
        done: Future[Any] = Future()
        done.set_running_or_notify_cancel()
        job = _Job(work, rows)
        with self._lock:
            if self._pid != os.getpid():
                self._begin()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, args=(self._work,), name="spool", daemon=True)
                self._thread.start()
                atexit.register(self.close)
            self._queued.add(rows)
            self._work.put((job, done))
        return done

    def _run(self, work: queue.SimpleQueue[tuple[_Work, Future[Any]] | None]) -> None:
        ended = False
        while not ended:
            jobs: list[tuple[_Work, Future[Any]]] = []
            try:
                job = work.get(timeout=_TRY_AGAIN_SECONDS if self._waiting else None)
                while job is not None:
                    jobs.append(job)
                    job = work.get_nowait()
                ended = True
            except queue.Empty:
                pass
            self._together(jobs)
        self._file.close()

    def _together(self, jobs: Sequence[tuple[_Work, Future[Any]]]) -> None:
        """Does everything in one transaction; where that fails nothing of it was done, and rows wait in memory."""
        again = self._waiting.all()
        try:
            made = self._transaction([job for job, _ in jobs], again)
        except Exception as error:  # noqa: BLE001  whatever it is, no call fails for it
            self._failed(error)
            self.wait_no_more()
            for job, done in jobs:
                assert isinstance(job, _Job)
                self._waiting.hold(job.rows)
                if job.rows:
                    done.set_result(False)
                else:
                    done.set_exception(SpoolError(type(error).__name__))
        else:
            self._busy = self._unwaited = False
            self._waiting.clear()
            self.counts.add("kept", len(again) + sum(len(job.rows) for job, _ in jobs if isinstance(job, _Job)))
            for (_, done), one in zip(jobs, made, strict=True):
                done.set_result(one)
        with self._lock:
            for job, _ in jobs:
                self._queued.add(job.rows if isinstance(job, _Job) else (), -1)

    def _transaction(self, work: Sequence[_Work], again: Sequence[Kept]) -> list[Any]:
        file = self._file.opened()

        def all_of_it() -> list[Any]:
            now = self._clock()
            for row in again:
                keep(file, row, now, self._combine, self.counts)
            return [each(file) for each in work]

        return _in_transaction(file, all_of_it)

    def _bound(self, file: sqlite3.Connection) -> None:
        thumbs, others = bound(file, self.most_rows, self.most_bytes)
        self.counts.add("thumbs_dropped", thumbs)
        if others:
            self.counts.add("dropped", others)
            self._say("the spool %s is full: its oldest %d rows were dropped", self.path, self.counts["dropped"])

    def _failed(self, error: Exception) -> None:
        self.counts.add("spool_faults")
        self._say(
            "the spool %s cannot be written to (%s); %d rows wait in memory, %d were lost",
            self.path,
            getattr(error, "sqlite_errorname", None) or type(error).__name__,
            len(self._waiting),
            self.counts["lost"],
        )
        if self._file.failed(error):
            self.counts.add("aside")

    def _say(self, message: str, *arguments: object) -> None:
        now = time.monotonic()
        if now - self._said >= _SAY_AGAIN_SECONDS:
            self._said = now
            logger.warning(message, *arguments)


class SpoolError(RuntimeError):
    """The file could not be read or written; the message is the kind of error."""


@dataclass(slots=True)
class _Job:
    """Something to do with the file, and the rows that are not to be lost where it fails."""

    work: _Work
    rows: Sequence[Kept]

    def __call__(self, file: sqlite3.Connection) -> Any:
        return self.work(file)


def _done(*, at_once: bool) -> Future[bool]:
    """Nothing to wait for: whether the rows were written at once."""
    done: Future[bool] = Future()
    done.set_result(at_once)
    return done


def _in_transaction(file: sqlite3.Connection, work: Callable[[], _Made]) -> _Made:
    file.execute("begin immediate")
    try:
        made = work()
        file.execute("commit")
    except BaseException:
        with suppress(sqlite3.Error):
            file.execute("rollback")
        raise
    return made
