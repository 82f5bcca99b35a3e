"""What the logged requests of a bundle cost those who do not ask for them, and what asking costs.

One bundle twice, with the most logged requests that training keeps by default and with none, each behind a service of its
own. Loads follow each other in pairs whose order is turned round each time, so that what else the machine does falls on both.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from benchmarks.paired import interval
from benchmarks.serving.load import bodies, environment, post, process, prompts, serve, wrk
from benchmarks.serving.watch import processor_seconds
from serving.bundle.manifest import MANIFEST, NEIGHBOURS, NEIGHBOURS_ABOUT, NEIGHBOURS_TEXTS, open_bundle, seal
from serving.bundle.neighbours import Neighbours, write

ROWS = 20_000
TOKENS = 100
CONNECTIONS = (1, 16)
WITH, WITHOUT = "with logged requests", "without"
# What is asked of the service with logged requests; more than a few explanations at once wait for their turn.
ASKED: Mapping[str, Mapping[str, bool]] = {
    "nothing": {},
    "explain": {"explain": True},
    "explain and dry_run": {"explain": True, "dry_run": True},
}


def explained_figures(folder: Path, pairs: int, seconds: float, port: int) -> dict[str, Any]:
    """The paired figures of either service, and those of asking at one connection; raises LoadError."""
    with tempfile.TemporaryDirectory() as name, _servers(folder, Path(name), port) as urls:
        texts = prompts(folder / "tokenizer.json", TOKENS, 512)
        plain = bodies(texts, distinct=True)
        asked = {name: bodies(texts, distinct=True, fields=fields) for name, fields in ASKED.items()}
        found: dict[str, list[dict[str, float]]] = {}

        def load(line: str, service: Service, sent: Sequence[str], connections: int) -> None:
            before = processor_seconds(service.pid)
            one = asdict(wrk(service.url, sent, Path(name), connections=connections, seconds=seconds))
            post(service.url, sent[0])  # what was sent and not answered yet would run on beside the next load
            answered = one["per_second"] * seconds
            taken = 1e3 * (processor_seconds(service.pid) - before) / max(answered, 1.0)
            found.setdefault(line, []).append({**one, "processor_ms": taken})

        for service in urls.values():
            wrk(service.url, plain, Path(name), connections=CONNECTIONS[0], seconds=1.0)
        for turn in range(pairs):
            for connections in CONNECTIONS:
                for line in (WITH, WITHOUT)[:: 1 if turn % 2 else -1]:
                    load(f"{connections} {line}", urls[line], plain, connections)
            for line, sent in asked.items():
                load(line, urls[WITH], sent, 1)
    return {
        "rows": ROWS,
        "tokens": TOKENS,
        "pairs": pairs,
        "seconds": seconds,
        "unasked": [paired(found, connections) for connections in CONNECTIONS],
        "asked": {line: {what: median(one[what] for one in found[line]) for what in _FIGURES} for line in ASKED},
        "errors": int(sum(one["errors"] for line in found.values() for one in line)),
    }


_FIGURES = ("per_second", "p50_ms", "p99_ms", "processor_ms")


def paired(found: Mapping[str, Sequence[Mapping[str, float]]], connections: int) -> dict[str, Any]:
    """The medians of either service, and of the pairs' differences of p50 and of processor time, with their 95% intervals."""
    sides = {line: found[f"{connections} {line}"] for line in (WITH, WITHOUT)}
    more = {}
    for what in ("p50_ms", "processor_ms"):
        differences = np.array([a[what] - b[what] for a, b in zip(sides[WITH], sides[WITHOUT], strict=True)])
        more[what] = [float(np.median(differences)), *interval(differences, np.median)]
    medians = {line: {what: median(one[what] for one in side) for what in _FIGURES} for line, side in sides.items()}
    return {
        "connections": connections,
        "with": medians[WITH],
        "without": medians[WITHOUT],
        "more": more,
    }


def copies(folder: Path, into: Path, rows: int = ROWS) -> dict[str, Path]:
    """The bundle with so many logged requests, its own over and over, and without any."""
    bundle = open_bundle(folder)
    own = Neighbours.in_bundle(bundle)
    if own is None or not len(own):
        raise ValueError(f"{folder} has no logged requests; train a bundle without export.neighbours=0")
    beside = {MANIFEST, NEIGHBOURS, NEIGHBOURS_ABOUT, NEIGHBOURS_TEXTS}
    made = {WITH: into / "with", WITHOUT: into / "without"}
    for copy in made.values():
        copy.mkdir()
        for file in bundle.manifest.files.keys() - beside:
            shutil.copyfile(folder / file, copy / file)
    places = np.arange(rows) % len(own)
    again: dict[str, Any] = {
        name: [getattr(own, name)[place] for place in places] for name in ("ids", "workflows", "at")
    }
    for name in ("embedding", "scale", "quality", "cost_usd", "error", "logged"):
        again[name] = getattr(own, name)[places]
    write(made[WITH], replace(own, total=rows, texts=None, **again))
    for copy in made.values():
        seal(copy, bundle.manifest)
    return made


class Service(NamedTuple):
    url: str
    pid: int


@contextmanager
def _servers(folder: Path, into: Path, port: int) -> Iterator[dict[str, Service]]:
    urls = {}
    with ExitStack() as running:
        for place, (line, copy) in enumerate(copies(folder, into).items()):
            base = f"http://127.0.0.1:{port + place}"
            started = serve(copy, port + place, into / f"{place}.db")
            pid = running.enter_context(process(started, f"{base}/readyz", environment()))
            urls[line] = Service(f"{base}/v1/route", pid)
        yield urls
