"""The engine of a Dask cluster. This module alone imports Dask, and only a run that asks for a cluster imports this module.

What goes over the wire is pickled: scheduler and workers run whatever they are sent, by this client or by anyone else who
reaches them.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from typing import Any

import dask
from distributed import Client, Future, KilledWorker, LocalCluster, Security, wait
from distributed.versions import VersionMismatchWarning

from training.engine.address import ClusterError, is_open, workers_of
from training.engine.engine import Given, Part, Progress, Result, in_order, noted, place_of, silent
from training.engine.files import SharedFiles
from training.engine.run_folder import run_folder
from training.engine.workers import checked, code, worked
from training.errors import TrainingError

# Seconds in which a scheduler has to answer, and in which there has to be a worker; and after which a run without any ends.
CONNECT, FIRST_WORKER, NO_WORKER = 15.0, 60.0, 180.0
# Seconds between two looks whether there still is one.
_LOOK = 5.0
# What a scheduler draws its dashboard with, where somebody installed it.
_PAGES = "bokeh"
# Workers that may die of one task before it is thought to be the task's fault.
FAILURES = 3


class ClusterEngine:
    """Works on parts as tasks of `client`'s cluster; `folder` is one that every worker sees."""

    def __init__(
        self,
        client: Client,
        folder: Path,
        *,
        no_worker: float = NO_WORKER,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.client, self._folder = client, folder
        self.files, self._no_worker, self._say = SharedFiles(folder), no_worker, say
        self._workerless: float | None = None
        self._seen: set[str] = set()
        self._looked = -_LOOK

    @property
    def workers(self) -> int:
        threads: int = sum(worker["nthreads"] for worker in self._known().values())
        return max(1, threads)

    @property
    def folder(self) -> Path:
        return self._folder

    def map(
        self,
        function: Callable[[Given, Part], Result],
        given: Given,
        parts: Sequence[Part],
        stage: str,
        progress: Progress = silent,
        *,
        name: Callable[[Part], str] = str,
        ahead: int | None = None,
    ) -> Iterator[Result]:
        """See `Engine.map`. Raises ClusterError where the cluster fails and not the function."""
        if not parts:
            return
        tasks = _Tasks(self, function, self.files.put(given), parts, stage, name)

        def told(done: int) -> None:
            if gone := self._gone(at_once=done == 0):
                self._say(f"{stage}: gone from the cluster: {', '.join(gone)}; others do what was not handed over")
            progress(stage, done, len(parts))

        told(0)
        try:
            yield from in_order(
                len(parts),
                tasks.begin,
                tasks.first_done,
                tasks.result,
                told,
                ahead,
            )
        finally:
            tasks.end()

    def lost(self, stage: str) -> ClusterError:
        """The error that the scheduler is gone."""
        return ClusterError(
            f"{stage}: the connection to the scheduler was lost, and with it what its workers had done. See whether it "
            "still runs (its log says why not), and start the run again: what was embedded is kept."
        )

    def elsewhere(self, host: str) -> list[str]:
        """The addresses of workers on other machines."""
        return [address for address, worker in self._known().items() if worker["host"] != host]

    def _gone(self, *, at_once: bool) -> list[str]:
        """The addresses of the workers that were there at the last look, some seconds ago, and are not any more."""
        if not at_once and time.monotonic() - self._looked < _LOOK:
            return []
        there, self._looked = set(self._known()), time.monotonic()
        if not there or self.client.status != "running":  # that ends the run, or others come
            return []
        before, self._seen = self._seen, there
        return sorted(before - there)

    def _known(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.scheduler_info(n_workers=-1)["workers"]
        return found

    def require_workers(self, stage: str, where: str) -> None:
        """Raises ClusterError where nobody works on the parts `where` any more."""
        if self.client.status != "running":
            raise self.lost(stage)
        if self._known():
            self._workerless = None
            return
        now = time.monotonic()
        self._workerless = self._workerless or now
        if now - self._workerless >= self._no_worker:
            raise ClusterError(
                f"{where}: for {self._no_worker:.0f} seconds the cluster has had no worker. Start some, and the run again; "
                "workers that end themselves mostly lack memory (their logs say so): give them more (--memory-limit)."
            )


class _Tasks:
    """The tasks of one stage."""

    def __init__(
        self,
        engine: ClusterEngine,
        function: Callable[..., Any],
        given: Path,
        parts: Sequence[Any],
        stage: str,
        name: Callable[[Any], str],
    ) -> None:
        self._engine, self._function, self._given = engine, function, given
        self._parts, self._stage, self._name = parts, stage, name
        self._key = f"{stage.partition(':')[0].replace(' ', '_')}-{token_hex(6)}"
        self._running: dict[Future, int] = {}

    def begin(self, place: int, workers: list[str] | None = None) -> Future:
        future = self._engine.client.submit(
            worked,
            self._function,
            str(self._given),
            self._parts[place],
            key=(f"{self._key}{'-again' if workers else ''}", place),
            workers=workers,
            priority=-place,
            pure=False,
        )
        self._running[future] = place
        return future

    def first_done(self, running: Iterable[Future]) -> Iterable[Future]:
        """Those that are done, of which it waits for one."""
        futures = list(running)
        while True:
            try:
                return set(wait(futures, timeout=_LOOK, return_when="FIRST_COMPLETED").done)
            except TimeoutError:
                self._engine.require_workers(self._stage, self._where(min(self._running.values())))
            except CancelledError:
                raise self._engine.lost(self._stage) from None

    def _where(self, place: int) -> str:
        return place_of(self._stage, place, len(self._parts), self._name(self._parts[place]))

    def result(self, future: Future, place: int) -> Any:
        where = self._where(place)
        self._running.pop(future, None)
        try:
            return self._engine.files.unpacked(future.result())
        except KilledWorker as error:
            host = error.last_worker.host
            others = self._engine.elsewhere(host)
            if others and "-again" not in str(future.key):
                again = self.begin(place, others)
                list(self.first_done([again]))
                return self.result(again, place)
            died = error.allowed_failures + 1
            raise ClusterError(
                f"{where}: {died} worker{'s' * (died > 1)} died of it, the last on {host}. Mostly that is memory: give "
                "workers more (dask worker --memory-limit, fewer to a machine), or lower what is held (--set "
                "scale.core_train=…). The workers' logs say more."
            ) from None
        except CancelledError:
            raise self._engine.lost(self._stage) from None
        except TrainingError as error:
            raise type(error)(f"{error} ({where})") from None
        except Exception as error:
            noted(error, where)
            raise

    def end(self) -> None:
        if self._running:
            self._engine.client.cancel(list(self._running), force=True)
        self._engine.files.remove(self._given)


@contextmanager
def opened(
    cluster: str, folder: Path, say: Callable[[str], None] = lambda _: None
) -> Iterator[tuple[ClusterEngine, str]]:
    """The engine of `local:N` or of a scheduler's address, checked before any work, and a sentence on what it is.

    `say` is told of workers that are gone. What is shared is written below `folder`, and removed at the end (see `run_folder`).
    Raises ClusterError where the scheduler does not answer, or its workers are not fit (see `checked`), and NotOwnError where
    others can write in `folder`.
    """
    with ExitStack() as stack:
        shared = stack.enter_context(run_folder(folder))
        count = workers_of(cluster)
        client = _connected(cluster, stack) if count is None else _of_this_machine(count, shared, stack)
        _require_scheduler(client, cluster)
        hosts = checked(client, shared, cluster)
        engine = ClusterEngine(client, shared, say=say)
        workers, machines = engine.workers, len(hosts)
        said = f"{cluster}: {workers} worker{'s' * (workers > 1)} on {machines} machine{'s' * (machines > 1)}"
        # Without Bokeh a scheduler has no dashboard, whatever its link says.
        if client.dashboard_link and client.run_on_scheduler(find_spec, _PAGES) is not None:
            said += f"; dashboard {client.dashboard_link}"
        if is_open(cluster):
            said += f"\n{cluster}: not encrypted; whoever reaches it runs code there and reads prompts (docs/scale.md)"
        yield engine, said


def _require_scheduler(client: Client, cluster: str) -> None:
    """Raises ClusterError where the scheduler, which loads what tasks are made of, has other code or none."""
    try:
        same = client.run_on_scheduler(code) == code()
    except Exception as error:
        raise ClusterError(
            f"--cluster {cluster}: the scheduler lacks what tasks are made of ({error}). Install the same version of "
            "outcome-router there, with the extras train and cluster."
        ) from error
    if not same:
        raise ClusterError(
            f"--cluster {cluster}: the scheduler has other code of outcome-router. Install the same there."
        )


def _of_this_machine(count: int, folder: Path, stack: ExitStack) -> Client:
    """Workers of this machine, a process and a thread each; nobody without this run's certificate can reach them."""
    patient = {
        "distributed.scheduler.allowed-failures": FAILURES,
        # A worker that is started again after its death is given up after so long: 15 s are too few on a busy machine.
        "distributed.deploy.lost-worker-timeout": f"{NO_WORKER:.0f}s",
        # Dask has workers give freed memory back at once. Fits free arrays all the time and want them again: that took half as
        # long again as the fits themselves.
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
    }
    stack.enter_context(dask.config.set(patient))
    security = Security.temporary()
    local = LocalCluster(
        n_workers=count,
        threads_per_worker=1,
        processes=True,
        host="tls://127.0.0.1",
        protocol="tls",
        dashboard_address="127.0.0.1:0",
        local_directory=str(folder),
        security=security,
        silence_logs=logging.CRITICAL,
    )
    stack.enter_context(local)
    client: Client = stack.enter_context(Client(local, security=security))
    return client


def _connected(address: str, stack: ExitStack) -> Client:
    """The client of a scheduler; its certificates are those of Dask's configuration (`distributed.comm.tls`)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", VersionMismatchWarning)  # what matters of it is told as an error
            client: Client = stack.enter_context(Client(address, timeout=CONNECT))
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        tls = " and that Dask's configuration has its certificates (distributed.comm.tls)" * address.startswith("tls:")
        raise ClusterError(
            f"--cluster {address}: no scheduler answered within {CONNECT:.0f} seconds ({error}). See that `dask scheduler` "
            f"runs there and that this machine may reach the port{tls}."
        ) from None
    try:
        client.wait_for_workers(1, timeout=FIRST_WORKER)
    except TimeoutError:
        raise ClusterError(
            f"--cluster {address}: the scheduler answers, but for {FIRST_WORKER:.0f} seconds it had no worker. Start some: "
            f"dask worker {address} --nthreads 1"
        ) from None
    return client
