"""One router and three behind a load balancer on the same PostgreSQL: what they route together, and how long each takes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np

from tests import fake_bundle
from tests.balanced import balanced, redis_running
from tests.patience import reserved_port, until
from tests.postgres_server import running

CLIENTS = 4  # of one router; of three twice as many
SECONDS = 10.0
REPLICAS = 3
_SERVE = "from serving.cli import main; main()"


def measure(work: Path) -> dict[str, Any]:
    """One request after the other by each client: single prompts, and turns of conversations with an Idempotency-Key."""
    with TemporaryDirectory(dir=work) as name, running() as store:
        folder = Path(name)
        fake_bundle.build(folder / "models")
        found: dict[str, Any] = {"cores": os.cpu_count(), "seconds": SECONDS}
        for count, clients in ((1, CLIENTS), (REPLICAS, 2 * CLIENTS)):
            place = folder / str(count)
            place.mkdir()
            with _served(place, folder / "models" / "current", store, count) as (url, pids):
                for kind, keyed, talking in (("plain", False, False), ("all", True, True)):
                    found[f"{kind}_{count}"] = _loaded(url, pids, clients, keyed=keyed, talking=talking)
    return found


@contextmanager
def _served(folder: Path, bundle: Path, store: str, count: int) -> Iterator[tuple[str, list[int]]]:
    with ExitStack() as stack:
        redis = stack.enter_context(reserved_port())
        stack.enter_context(redis_running(redis, folder))
        ports = {f"r{place}": stack.enter_context(reserved_port()) for place in range(count)}
        environment = {**os.environ, "ROUTER_HASH_SECRET": "shared", "ROUTER_REDIS": f"redis://127.0.0.1:{redis}/0"}
        options = ["--bundle", str(bundle), "--store", store, "--log-level", "warning"]
        processes = []
        try:
            for port in ports.values():
                command = [sys.executable, "-c", _SERVE, *options, "--port", str(port)]
                processes.append(subprocess.Popen(command, env=environment))
                until(lambda port=port: _listens(port), "a router is ready")  # type: ignore[misc]
            url = stack.enter_context(balanced(ports, folder))
            yield url, [one.pid for one in processes]
        finally:
            for one in processes:
                one.terminate()
            for one in processes:
                one.wait()


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def _loaded(url: str, pids: list[int], clients: int, *, keyed: bool, talking: bool) -> dict[str, float]:
    """Requests a second, what the routers themselves used of a core for each, and the times of the requests."""
    taken: list[list[float]] = [[] for _ in range(clients)]
    failed = [0] * clients
    ends = time.perf_counter() + 1.0 + SECONDS  # one second to get warm

    def ask(place: int) -> None:
        with httpx.Client(base_url=url, timeout=30.0) as client:
            turn = 0
            while (began := time.perf_counter()) < ends:
                turn += 1
                body: dict[str, Any] = {"prompt": f"hello {place} {turn}"}
                if talking:
                    body["session_id"] = f"{place}-{turn // 5}"
                headers = {"idempotency-key": f"{began}-{place}-{turn}"} if keyed else {}
                status = client.post("/v1/route", json=body, headers=headers).status_code
                failed[place] += status != 200
                if began > ends - SECONDS:
                    taken[place].append(time.perf_counter() - began)

    before = sum(map(_cpu_seconds, pids))
    threads = [threading.Thread(target=ask, args=(place,)) for place in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used = sum(map(_cpu_seconds, pids)) - before
    times = np.concatenate([np.array(one) for one in taken])
    return {
        "clients": clients,
        "failed": sum(failed),
        "per_second": len(times) / SECONDS,
        "cpu_ms": 1e3 * used / (len(times) * (SECONDS + 1.0) / SECONDS),
        "p50_ms": float(np.quantile(times, 0.5) * 1e3),
        "p99_ms": float(np.quantile(times, 0.99) * 1e3),
    }


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def section(found: dict[str, Any]) -> str:
    """The figures in Markdown."""
    told = {"plain": "single prompts", "all": "turns of conversations, each with an `Idempotency-Key`"}
    rows = [
        f"| {told[kind]} | {count} | {one['clients']} | {one['per_second']:,.0f} | {one['cpu_ms']:.2f} | "
        f"{one['p50_ms']:.1f} | {one['p99_ms']:.1f} | {one['failed']} |"
        for kind in told
        for count in (1, REPLICAS)
        for one in [found[f"{kind}_{count}"]]
    ]
    return "\n".join(
        [
            "### Replicas",
            "",
            f"One `router-serve`, and {REPLICAS} under twice the load, behind HAProxy on one PostgreSQL, all on one machine of "
            f"{found['cores']} cores, which clients, load balancer and database share with them: what more replicas bring is "
            "not to be seen there, so the processor's time that routers take for a request says what a core of their own would "
            "bring. The bundle is the tests' small one, and nothing is charged to a budget. A conversation's turn is looked up "
            "and written before its answer, and an `Idempotency-Key` is two transactions.",
            "",
            "| requests | replicas | clients | a second | ms of a core each | p50, ms | p99, ms | failed |",
            "|---|--:|--:|--:|--:|--:|--:|--:|",
            *rows,
        ]
    )
