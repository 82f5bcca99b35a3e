"""A long load on one server: bundles switch, every decision gets feedback, and once the process is killed and started again.

Nothing but the restart's own refused connections may fail, memory must stay flat, and every acknowledged feedback must be
in the store in the end.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.serving.load import LoadError, environment, prompts, serve, start
from benchmarks.serving.watch import resident_mib
from serving.bundle.manifest import switch_current

CONNECTIONS = 16
SHARE_OF_PEAK = 0.7
SWITCH_SECONDS = 20.0
PEAK_SECONDS = 8.0
# The kill comes early, so that most of the run shows one process's memory.
_KILL_AT = 0.15


@dataclass
class Seen:
    """What the clients saw: answers by status, connections that broke, and the decisions whose feedback was acknowledged."""

    statuses: Counter[int] = field(default_factory=Counter)
    bundles: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    broken: list[float] = field(default_factory=list)  # when, in seconds of the monotonic clock
    acknowledged: set[str] = field(default_factory=set)


class Server:
    """`router-serve` on a folder of bundles and a store, which may be killed and started again."""

    def __init__(self, bundle: Path, port: int, store: Path) -> None:
        self._arguments = serve(bundle, port, store)
        self._ready = f"http://127.0.0.1:{port}/readyz"
        self.down: list[tuple[float, float]] = []
        self.process = start(self._arguments, self._ready, environment())

    def restart(self) -> None:
        """kill -9, and once more."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process = start(self._arguments, self._ready, environment())
        self.down.append((began, time.monotonic()))

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def memory_mib(self) -> float:
        """Resident memory."""
        return resident_mib(self.process.pid)


def soak(bundles: Sequence[Path], minutes: float, port: int) -> dict[str, Any]:
    """Runs the load for so many minutes and gives its figures; raises LoadError where the server does not start."""
    with tempfile.TemporaryDirectory() as name:
        root, store = Path(name) / "models", Path(name) / "decisions.db"
        root.mkdir()
        versions = [f"v{number}" for number in range(len(bundles))]
        for version, folder in zip(versions, bundles, strict=True):
            (root / version).symlink_to(folder.resolve(), target_is_directory=True)
        switch_current(root, versions[0])
        server = Server(root / "current", port, store)
        try:
            found = asyncio.run(_run(server, root, versions, bundles[0] / "tokenizer.json", 60 * minutes, port))
        finally:
            server.stop()
        return {"minutes": minutes, **_judged(*found, server, store)}


async def _run(
    server: Server, root: Path, versions: Sequence[str], tokenizer: Path, seconds: float, port: int
) -> tuple[Seen, float, list[tuple[float, float]]]:
    """What the clients saw, decisions per second at the peak, and (time, MiB) of the server."""
    texts = prompts(tokenizer, 100, 512)
    warm = Seen()
    await _clients(warm, texts, port, PEAK_SECONDS, rate=None)
    peak = len(warm.acknowledged) / PEAK_SECONDS
    if not peak:
        raise LoadError(f"no decision and feedback went through before the load began: {dict(warm.statuses)}")
    seen = Seen(acknowledged=warm.acknowledged)
    memory: list[tuple[float, float]] = []
    began = time.monotonic()
    upkeep = [
        asyncio.create_task(_switch(root, versions)),
        asyncio.create_task(_watch(server, memory)),
        asyncio.create_task(_kill(server, _KILL_AT * seconds)),
    ]
    await _clients(seen, texts, port, seconds, rate=SHARE_OF_PEAK * peak, numbered_from=10**9)
    for task in upkeep:
        if task.done():
            task.result()
        task.cancel()
    if time.monotonic() - began > 1.5 * seconds + 30:
        raise LoadError(f"{seconds:.0f} s of load took {time.monotonic() - began:.0f} s: the clients could not keep up")
    return seen, peak, memory


async def _switch(root: Path, versions: Sequence[str]) -> None:
    turn = 0
    while True:
        await asyncio.sleep(SWITCH_SECONDS)
        turn += 1
        switch_current(root, versions[turn % len(versions)])


async def _watch(server: Server, memory: list[tuple[float, float]]) -> None:
    while True:
        await asyncio.sleep(1.0)
        try:
            memory.append((time.monotonic(), server.memory_mib()))
        except (OSError, StopIteration):
            continue  # it is being started again


async def _kill(server: Server, after: float) -> None:
    await asyncio.sleep(after)
    await asyncio.to_thread(server.restart)


async def _clients(
    seen: Seen, texts: Sequence[str], port: int, seconds: float, *, rate: float | None, numbered_from: int = 0
) -> None:
    """So many connections at once, each with decisions and their feedback in turn; `rate` is decisions per second of all."""
    until = time.monotonic() + seconds
    gap = None if rate is None else CONNECTIONS / rate
    await asyncio.gather(
        *(_client(seen, texts, port, until, gap, numbered_from + number * 10**7) for number in range(CONNECTIONS))
    )


async def _client(seen: Seen, texts: Sequence[str], port: int, until: float, gap: float | None, number: int) -> None:
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    due = time.monotonic()
    while time.monotonic() < until:
        if gap is not None:
            due = max(due + gap, time.monotonic() - 1.0)
            await asyncio.sleep(max(due - time.monotonic(), 0))
        number += 1
        try:
            if connection is None:
                connection = await asyncio.open_connection("127.0.0.1", port)
            await _turn(seen, connection, f"{number} {texts[number % len(texts)]}")
        except (OSError, asyncio.IncompleteReadError):
            seen.broken.append(time.monotonic())
            if connection is not None:
                connection[1].close()
            connection = None
            await asyncio.sleep(0.05)
    if connection is not None:
        connection[1].close()


async def _turn(seen: Seen, connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], text: str) -> None:
    """One decision, and feedback on it."""
    status, answer = await _post(connection, "/v1/route", {"prompt": text})
    seen.statuses[status] += 1
    if status != 200:
        return
    seen.bundles[answer["bundle"]] += 1
    seen.reasons[answer["reason"]] += 1
    feedback = {"decision_id": answer["id"], "accepted": True, "cost_usd": answer["expected_cost_usd"] or 0.0}
    status, _ = await _post(connection, "/v1/feedback", feedback)
    seen.statuses[status] += 1
    if status == 200:
        seen.acknowledged.add(answer["id"])


async def _post(
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter], path: str, document: object
) -> tuple[int, dict[str, Any]]:
    reader, writer = connection
    body = json.dumps(document).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: soak\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    writer.write(head.encode() + body)
    await writer.drain()
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
    length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length:"))
    return int(lines[0].split()[1]), json.loads(await reader.readexactly(length))


def _judged(
    seen: Seen, peak: float, memory: Sequence[tuple[float, float]], server: Server, store: Path
) -> dict[str, Any]:
    """The figures, and the checks on them; the server is stopped."""
    stored = _stored(store)
    since = server.down[-1][1] if server.down else memory[0][0]
    # Until each bundle was loaded once, memory has no level to keep.
    steady = [(at, mib) for at, mib in memory if at > since + min(2 * SWITCH_SECONDS + 5, (memory[-1][0] - since) / 3)]
    window = min(60.0, (steady[-1][0] - steady[0][0]) / 4)
    first = mean(mib for at, mib in steady if at <= steady[0][0] + window)
    last = mean(mib for at, mib in steady if at >= steady[-1][0] - window)
    at_restart = [at for at in seen.broken if any(down <= at <= up + 1 for down, up in server.down)]
    other = sum(count for status, count in seen.statuses.items() if not 200 <= status < 300)
    missing = len(seen.acknowledged - stored)
    return {
        "peak_per_second": peak, "decisions": sum(seen.bundles.values()), "acknowledged": len(seen.acknowledged),
        "missing": missing, "not_2xx": other, "restarts": len(server.down),
        "broken_at_restart": len(at_restart), "broken_otherwise": len(seen.broken) - len(at_restart),
        "bundles": dict(seen.bundles), "reasons": dict(seen.reasons), "first_mib": first, "last_mib": last,
        "memory_mib": [round(mib) for _, mib in memory[:: max(len(memory) // 40, 1)]],
        "holds": not missing and not other and len(seen.broken) == len(at_restart) and abs(last / first - 1) <= 0.05,
    }  # fmt: skip


def _stored(store: Path) -> set[str]:
    connection = sqlite3.connect(store)
    try:
        return {row[0] for row in connection.execute("select decision_id from feedback")}
    finally:
        connection.close()
