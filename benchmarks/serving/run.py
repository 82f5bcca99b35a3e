"""What a decision costs over HTTP, beside what it costs in-process and what an endpoint costs that decides nothing.

Everything is measured in one run on one machine: latency and throughput of the endpoints by wrk, in turns, so that what
else the machine does falls on all of them. Writes docs/bench-serve.json, and its section of docs/benchmarks.md.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import typer
from rich.console import Console

from benchmarks.routing.report import SERVE, write
from benchmarks.serving.adversarial import attack
from benchmarks.serving.explained import explained_figures
from benchmarks.serving.fuzz import fuzz_figures
from benchmarks.serving.load import LoadError, bodies, environment, post, process, prompts, serve, wrk
from benchmarks.serving.soak import soak
from benchmarks.simulated.abstention import abstention_figures
from benchmarks.simulated.loop import close_loop
from benchmarks.simulated.pacing import pacing_figures
from serving.bundle.request import RouteRequest
from serving.decide.router import Router
from training.config import load_params
from training.prices.catalogue import SHIPPED, load_catalogue
from training.simulation.simulate import simulate

TOKENS = (32, 100, 1000)
# What is promised is promised for a prompt of so many tokens.
SHORT = 32
CONNECTIONS = (1, 16, 64)
BATCH = 32
KINDS = ("static", "transformer")
# Few estimators and a small log: the encoder and the size of the head are what takes time, not how good they are.
_QUICK = (
    "fit.estimators=table+low-rank,hierarchical-ridge", "fit.blend=false", "evaluate.splits=false",
    "evaluate.resamples=10", "simulate.requests=2000",
)  # fmt: skip
_ABSTAINED, _ABSTENTION_SEED = 1500, 11
_console = Console(stderr=True)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Where the figures and the report go.")] = Path("docs"),
    cache: Annotated[Path, typer.Option(help="Where the bundles that are measured are kept.")] = Path(
        ".cache/bench-serve"
    ),
    seconds: Annotated[float, typer.Option(help="Load of each cell in each turn, in seconds.")] = 4.0,
    turns: Annotated[
        int, typer.Option(min=1, help="How often each cell is measured; its figures are the medians.")
    ] = 3,
    port: Annotated[int, typer.Option(help="The first of three ports to use.")] = 18080,
    soak_minutes: Annotated[float, typer.Option(help="Minutes of load with reloads and a kill; 0: none.")] = 0.0,
    fuzz: Annotated[int, typer.Option(help="How many mutated bodies to send; 0: none.")] = 20_000,
    attacks: Annotated[bool, typer.Option(help="Try to force the strongest or the cheapest candidate by text.")] = True,
    speed: Annotated[bool, typer.Option(help="Measure latency and throughput.")] = True,
    explained: Annotated[int, typer.Option(help="Pairs of loads with and without logged requests; 0: none.")] = 15,
    transformer: Annotated[bool, typer.Option(help="Measure a bundle with the transformer encoder, too.")] = True,
    simulations: Annotated[bool, typer.Option(help="Simulate pacing, abstaining, and learning from decisions.")] = True,
) -> None:
    """Measure serving and write docs/bench-serve.json and docs/benchmarks.md."""
    path = out / SERVE
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    bundles = {kind: bundle(kind, cache) for kind in KINDS if transformer or kind != "transformer"}
    try:
        if speed:
            found |= measure(bundles, seconds, turns, port)
            save(out, found)
        if explained:
            found["explained"] = explained_figures(bundles["static"], explained, seconds, port)
            save(out, found)
        if soak_minutes:
            found["soak"] = soak([bundles["static"], bundle("static", cache, seed=1)], soak_minutes, port)
            save(out, found)
        if fuzz:
            found["fuzz"] = fuzz_figures(bundles["static"], fuzz, port)
            save(out, found)
    except LoadError as error:
        _console.print(f"[bold red]error:[/] {error}")
        raise typer.Exit(2) from None
    if attacks:
        found["adversarial"] = attack(bundles["static"])
        save(out, found)
    if simulations:
        found["simulated"] = _simulations(bundles["static"], cache)
        save(out, found)
    for check in found.get("checks", ()):
        _console.print(
            f"{'holds' if check['holds'] else 'FAILS'}  {check['what']}: {check['value']} (limit {check['limit']})"
        )


def _simulations(folder: Path, cache: Path) -> dict[str, Any]:
    """What pacing and abstaining give, and a router trained on another's decisions, judged by the simulator's truth."""
    router = Router.load(folder)
    log = simulate(list(router.manifest.candidates), requests=_ABSTAINED, seed=_ABSTENTION_SEED)
    params = load_params(overrides=("evaluate.splits=false", "evaluate.resamples=10"))
    with tempfile.TemporaryDirectory() as name:
        loop = close_loop(Path(name), cache.parent, params, load_catalogue(SHIPPED))
    return {"pacing": pacing_figures(router), "abstention": abstention_figures(router, log), "loop": loop}


def save(out: Path, found: Mapping[str, Any]) -> None:
    """Writes the figures, and the report where the rest of its figures are there."""
    out.mkdir(parents=True, exist_ok=True)
    (out / SERVE).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    benchmark = out / "benchmarks.json"
    if benchmark.is_file():
        write(json.loads(benchmark.read_text(encoding="utf-8")), out / "benchmarks.md", Path("README.md"))


def bundle(kind: str, cache: Path, seed: int = 0) -> Path:
    """A bundle with this encoder, trained on a small simulated log unless `cache` has it; gives its folder."""
    models = cache.resolve() / f"{kind}-{seed}"
    if not (models / "current" / "manifest.json").is_file():
        _console.print(f"training a bundle with the {kind} encoder")
        chosen = [f"embed.encoder={kind}", f"simulate.seed={seed}", *_QUICK]
        options = [word for one in chosen for word in ("--set", one)]
        command = [sys.executable, "-m", "training.cli", "run", "--no-track", "--out", str(models), *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return (models / "current").resolve()


def measure(bundles: Mapping[str, Path], seconds: float, turns: int, port: int) -> dict[str, Any]:
    """The figures of every endpoint, prompt length and number of connections, medians of the turns, and the checks on them.

    In a turn each cell's endpoints are measured one after the other, so that what else the machine does meets all of them.
    """
    found: dict[str, Any] = {
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
        "seconds": seconds,
        "turns": turns,
        "raw_us": {kind: raw(folder) for kind, folder in bundles.items()},
    }
    seen: dict[tuple[object, ...], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name, _servers(bundles, Path(name), port) as urls:
        cells = list(_cells(bundles["static"] / "tokenizer.json"))
        for turn, cell in ((turn, cell) for turn in range(turns) for cell in cells):
            _console.print(
                f"turn {turn + 1}: {cell['tokens']} tokens, {cell['connections']} connections, {cell['prompts']}"
            )
            row = {key: value for key, value in cell.items() if key not in ("bodies", "endpoints")}
            for endpoint in (name for name in cell["endpoints"] if name in urls):
                load = wrk(urls[endpoint], cell["bodies"], Path(name), connections=cell["connections"], seconds=seconds)
                seen.setdefault((*row.values(), endpoint), []).append({**row, "endpoint": endpoint, **asdict(load)})
                # What was sent and not answered yet would run on beside the next load: what comes last is answered last.
                post(urls[endpoint], cell["bodies"][0])
    found["cells"] = [medians(each) for each in seen.values()]
    found["promised_at"], found["checks"] = SHORT, checks(found)
    return found


def _cells(tokenizer: Path) -> Iterator[dict[str, Any]]:
    """Each load, with the endpoints that get it in turn."""
    endpoints = ("no-op", "no-op, bare", "static", "transformer")
    for tokens in TOKENS:
        texts = prompts(tokenizer, tokens, 512)
        for connections in CONNECTIONS:
            row = {"tokens": tokens, "connections": connections}
            yield {**row, "prompts": "distinct", "bodies": bodies(texts, distinct=True), "endpoints": endpoints}
        row = {"tokens": tokens, "connections": 16}
        again = bodies(texts[:64], distinct=False)
        yield {**row, "prompts": "repeated", "bodies": again, "endpoints": ("static", "transformer")}
        together = bodies(texts, distinct=True, batch=BATCH)
        batches = tuple(f"{kind}, batch" for kind in KINDS)
        yield {**row, "connections": 4, "prompts": f"batches of {BATCH}", "bodies": together, "endpoints": batches}


@contextmanager
def _servers(bundles: Mapping[str, Path], folder: Path, port: int) -> Iterator[dict[str, str]]:
    """The no-op and one router for each bundle, each a process of its own; gives the endpoints' URLs."""
    uvicorn = ["-m", "uvicorn", "--factory", "benchmarks.serving.noop:create_app", "--log-level", "critical"]
    base = f"http://127.0.0.1:{port}"
    urls = {"no-op": f"{base}/v1/route", "no-op, bare": f"{base}/bare"}
    with ExitStack() as running:
        running.enter_context(process([*uvicorn, "--port", str(port)], f"{base}/openapi.json"))
        for place, (kind, bundled) in enumerate(bundles.items(), start=1):
            base = f"http://127.0.0.1:{port + place}"
            started = serve(bundled, port + place, folder / f"{kind}.db")
            running.enter_context(process(started, f"{base}/readyz", environment()))
            urls |= {kind: f"{base}/v1/route", f"{kind}, batch": f"{base}/v1/route/batch"}
        yield urls


def medians(turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One cell's figures over its turns: medians, and all errors together."""
    measured = {name: median(one[name] for one in turns) for name in ("per_second", "p50_ms", "p99_ms")}
    return {**turns[0], **measured, "errors": sum(one["errors"] for one in turns)}


def raw(folder: Path, seconds: float = 1.0) -> dict[str, float]:
    """Microseconds of one decision in-process on distinct prompts, by their tokens: embedding, head and policy; the median."""
    router = Router.load(folder)
    found = {}
    for tokens in TOKENS:
        texts = [RouteRequest(prompt=text) for text in prompts(folder / "tokenizer.json", tokens, 512)]
        taken: list[float] = []
        until = time.perf_counter() + seconds
        while time.perf_counter() < until or len(taken) < 20:
            request = texts[len(taken) % len(texts)]
            started = time.perf_counter()
            router.route(request)
            taken.append(time.perf_counter() - started)
        found[str(tokens)] = 1e6 * median(taken)
    return found


def checks(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What serving promises for short prompts, each promise with the figure and its limit, side by side in one run."""
    at = {
        (one["endpoint"], one["connections"]): one
        for one in found["cells"]
        if one["tokens"] == SHORT and one["prompts"] == "distinct"
    }
    alone = at["static", 1]
    rows = [("in-process decision in µs", found["raw_us"]["static"][str(SHORT)], 70.0, True)]
    for no_op in ("no-op", "no-op, bare"):
        what = f"1 connection: p50 in ms, at most twice the {no_op}'s"
        rows.append((what, alone["p50_ms"], 2 * at[no_op, 1]["p50_ms"], True))
    rows.append(("1 connection: p99 in ms, at most 4 times p50", alone["p99_ms"], 4 * alone["p50_ms"], True))
    for no_op in ("no-op", "no-op, bare"):
        what = f"16 connections: requests/s, at least 40% of the {no_op}'s"
        rows.append((what, at["static", 16]["per_second"], 0.4 * at[no_op, 16]["per_second"], False))
    return [
        {
            "what": what,
            "value": round(value, 3),
            "limit": round(limit, 3),
            "holds": value <= limit if most else value >= limit,
        }
        for what, value, limit, most in rows
    ]


if __name__ == "__main__":
    app()
