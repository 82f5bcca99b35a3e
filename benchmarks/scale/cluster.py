"""What a cluster of this machine's own takes beside none, with a worker killed half way, and how its work grows with workers.

Runs are commands in processes of their own, one after the other in alternating order, whose seconds are the operating
system's. A size other than the default: `python -m benchmarks.scale.cluster FOLDER --requests 20000 --runs 1`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.scale.train import _child, _log, _set, noted

REQUESTS, RUNS = 300_000, 3
NONE, TWO = "none", "local:2"
# Workers that import and embed; and of how much.
WORKERS = (1, 2, 4)
_OUTCOMES, _TEXTS = 400_000, 40_000
# The stage at whose beginning about half of the fits are done, and a worker is killed.
_HALF_WAY = "acceptable, without workflow tags"
_LARGE = 100_000_000
# Assumed, not measured: what a core and a GB of memory cost in USD an hour, and how many workers a cluster has; and bytes of
# memory that each request's skeleton takes (docs/scale.md).
_CORE_HOUR, _GB_HOUR, _CLUSTER = 0.05, 0.008, 64
_SKELETON = 1_500


def measure(
    work: Path,
    requests: int = REQUESTS,
    runs: int = RUNS,
    settings: Sequence[str] = (),
    workers: Sequence[int] = WORKERS,
) -> dict[str, Any]:
    """Seconds of runs without and with two workers, how far their bundles differ, and rows and texts a second by workers."""
    log = _log(work, f"train-{requests}", requests, 0)
    took: dict[str, list[dict[str, float]]] = {NONE: [], TWO: []}
    for number in range(runs):
        for name in (NONE, TWO) if number % 2 == 0 else (TWO, NONE):
            took[name].append(_run(work, log, name, settings))
    killed = _run(work, log, "killed", settings)
    found = {
        "requests": requests,
        "cores": os.cpu_count(),
        "runs": took,
        "killed": killed,
        "differs": {name: _ask("differ", _out(work, NONE), _out(work, name)) for name in (TWO, "killed")},
        "throughput": [{"workers": count, **_ask("throughput", work, count)} for count in workers],
    }
    return {**found, "projected": projected(found)}


def projected(found: Mapping[str, Any]) -> dict[str, float]:
    """Hours by the clock and USD of a log of 100 million requests, from what was measured and what is assumed.

    Reading is as fast as with the most workers that had a core each, all of them together: it does not grow with them.
    """
    best = max(found["throughput"], key=lambda one: one["workers"] <= found["cores"] and one["workers"])
    reading = 2 * best["outcomes_per_request"] * _LARGE / best["rows_per_second"] / 3600  # once more without texts
    learning = _median(found["runs"][TWO]) * (REQUESTS / found["requests"]) / 3600
    hours = reading + learning
    return {
        "hours": hours,
        "reading_hours": reading,
        "usd_of_workers": hours * _CLUSTER * _CORE_HOUR,
        "usd_of_memory": hours * _SKELETON * _LARGE / 1e9 * _GB_HOUR,
    }


def _out(work: Path, name: str) -> Path:
    return work / f"cluster-{name.replace(':', '-')}-models"


def _run(work: Path, log: Path, name: str, settings: Sequence[str]) -> dict[str, float]:
    """One run into a folder of its own, embeddings made anew; as "killed" with one of its two workers killed half way."""
    out, cache = _out(work, name), work / "cluster-cache"
    for made in (out, cache):
        shutil.rmtree(made, ignore_errors=True)
    cache.mkdir()
    (work / "encoders").mkdir(exist_ok=True)
    (cache / "encoders").symlink_to((work / "encoders").resolve(), target_is_directory=True)
    words = ["run", "--data", str(log), "--out", str(out), "--cache", str(cache), "--no-track", *_set(settings)]
    if name == NONE:
        return _child(*words)
    words += ["--cluster", TWO]
    return _child(*words) if name == TWO else _killed(words)


def _killed(words: Sequence[str]) -> dict[str, float]:
    started, killed = time.monotonic(), 0
    command = [sys.executable, "-m", "training.cli", *words]
    with subprocess.Popen(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            sys.stderr.write(line)
            if _HALF_WAY in line and not killed:
                killed = _workers(process.pid)[0]
                os.kill(killed, signal.SIGKILL)
    if process.returncode or not killed:
        raise SystemExit(f"the run with a worker killed ended with {process.returncode}, killed: {killed}")
    return {"seconds": time.monotonic() - started}


def _workers(parent: int) -> list[int]:
    """The processes below one that its cluster works with."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state = (entry / "stat").read_text()
            except OSError:  # it has ended
                continue
            below.setdefault(int(state.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found, waiting = [], [parent]
    while waiting:
        waiting += (children := below.get(waiting.pop(), []))
        found += [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return sorted(found)


def _ask(*words: object) -> Any:
    """What this module's own command says, in a process of its own: nothing large is loaded in the one that measures."""
    command = [sys.executable, "-m", "benchmarks.scale.cluster", *map(str, words)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


app = typer.Typer(add_completion=False)


@app.command()
def differ(one: Path, other: Path) -> None:
    """How far two folders' newest bundles are apart."""
    import numpy as np

    from serving.decide.router import Router

    routers = [
        Router.load(max(path.parent for path in out.glob("*/manifest.json") if not path.parent.is_symlink()))
        for out in (one, other)
    ]
    texts = [f"Explain number {number} in {1 + number % 40} words, with code." for number in range(500)]
    first, second = (vars(router.estimate(texts)) for router in routers)
    far = max(
        float(np.nanmax(np.abs(values - second[name]), initial=0.0))
        for name, values in first.items()
        if name not in ("nearness", "novelty")
    )
    points = [router.manifest.operating_points for router in routers]
    typer.echo(json.dumps({"estimates": far, "same_certificates": points[0] == points[1]}))


@app.command()
def throughput(work: Path, workers: int) -> None:
    """Outcomes imported and texts embedded a second by so many workers, without what it takes to start them."""
    import pandas as pd

    from benchmarks.scale.look import make
    from training.config import load_params
    from training.dataset.embed import embed
    from training.dataset.encoders import make_encoder
    from training.engine.named import engine_of
    from training.logs.dataset import ImportAccount, store
    from training.logs.sources.importer import ImportOptions
    from training.logs.sources.reading import stream

    wanted, log = load_params().embed, work / f"cluster-{_OUTCOMES}-raw"
    if not log.exists():
        make(log, _OUTCOMES)
    files = make_encoder(
        "static", wanted.source, work / "encoders", static_dim=wanted.static_dim, max_tokens=wanted.static_max_tokens
    )
    imported, cache = work / "cluster-imported", work / "cluster-embedded"
    for made in (imported, cache):
        shutil.rmtree(made, ignore_errors=True)
    account = ImportAccount([str(log)])
    with engine_of(f"local:{workers}", work / "cluster-shared", lambda _: None) as engine:
        list(engine.map(_started, None, range(4 * workers), "start"))
        began = time.monotonic()
        store(stream([log], options=ImportOptions(engine=engine)), imported, account)
        read = time.monotonic() - began
        rows = pd.read_parquet(next(iter(sorted(imported.glob("*.parquet")))))
        texts = [f"{text} {number}" for number, text in enumerate([*rows["prompt"]] * (_TEXTS // len(rows) + 1))][
            :_TEXTS
        ]
        began = time.monotonic()
        embed(texts, files, cache, engine=engine)
        embedded = time.monotonic() - began
    typer.echo(
        json.dumps(
            {
                "rows_per_second": account.rows_read / read,
                "texts_per_second": len(texts) / embedded,
                "outcomes_per_request": len(rows) / rows["request_id"].nunique(),
            }
        )
    )


def _started(_: None, part: int) -> int:
    """Loads in a worker what it reads and embeds with."""
    import training.dataset.embed
    import training.logs.sources.reading  # noqa: F401

    return part


@app.command()
def measured(
    work: Path,
    requests: Annotated[int, typer.Option()] = REQUESTS,
    runs: Annotated[int, typer.Option()] = RUNS,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Of the runs: stage.key=value.")] = None,
) -> None:
    """Measure at another size, and print it."""
    work.mkdir(parents=True, exist_ok=True)
    found = measure(work, requests, runs, tuple(set_ or ()))
    typer.echo(f"{json.dumps(found, indent=1)}\n\n{section(found)}")


def _median(runs: Sequence[Mapping[str, float]]) -> float:
    return statistics.median(one["seconds"] for one in runs)


def section(found: dict[str, Any]) -> str:
    """What was found, in Markdown."""
    none, two, runs = _median(found["runs"][NONE]), _median(found["runs"][TWO]), len(found["runs"][NONE])
    lines = [
        f"| none | {none:,.0f} s | | |",
        f"| `local:2` | {two:,.0f} s | {two / none - 1:+.0%} | {_apart(found['differs'][TWO])} |",
        f"| `local:2`, a worker killed half way | {found['killed']['seconds']:,.0f} s "
        f"| {found['killed']['seconds'] / none - 1:+.0%} | {_apart(found['differs']['killed'])} |",
    ]
    rates = [
        f"| {one['workers']} | {one['rows_per_second']:,.0f} | {one['rows_per_second'] / one['workers']:,.0f} "
        f"| {one['texts_per_second']:,.0f} | {one['texts_per_second'] / one['workers']:,.0f} |"
        for one in found["throughput"]
    ]
    return "\n".join(
        [
            "### A cluster\n",
            f"`router-train run` on {found['requests']:,} simulated requests on {found['cores']} cores, without a cluster "
            f"and with two workers on the same cores: {_runs(runs)}.\n",
            "| `--cluster` | seconds | beside none | bundle |",
            "|---|---:|---:|---|",
            *lines,
            "\nImport (Parquet files of short texts) and embedding by workers of this machine, started before:\n",
            "| workers | outcomes/s | by worker | texts/s | by worker |",
            "|---:|---:|---:|---:|---:|",
            *rates,
            f"\n{_projection(found['projected'])}{noted(found)}",
        ]
    )


def _runs(count: int) -> str:
    return f"medians of {count} runs each in alternating order, the killed one once" if count > 1 else "one run each"


def _projection(cost: Mapping[str, float]) -> str:
    return (
        f"A projection, not a measurement: {_LARGE:,} requests take {cost['hours']:,.1f} hours and what is said below, "
        f"{cost['reading_hours']:,.1f} of which are importing and reading once more without texts. That is what a cluster is "
        "assumed not to shorten, for one process tells repeats and writes files; the rest is the run measured here on the "
        f"{REQUESTS:,} requests of the core, which more workers shorten. The machine of the command needs some "
        f"{_SKELETON * _LARGE / 1e9:,.0f} GB for the skeleton of so many requests. At an assumed {_CORE_HOUR:g} USD a core and "
        f"hour and {_GB_HOUR:g} USD a GB and hour, to be replaced by one's own, that memory costs "
        f"{cost['usd_of_memory']:,.2f} USD, and {_CLUSTER} workers that are held all the while cost at most "
        f"{cost['usd_of_workers']:,.2f} USD. Not in it: what the command does with the skeleton of all requests (outcomes, "
        "groups, parts, the draw), which grows with them and is measured up to 1,000,000 above; storage, network, and who "
        "looks after it."
    )


def _apart(found: Mapping[str, Any]) -> str:
    same = "same certificates" if found["same_certificates"] else "OTHER CERTIFICATES"
    return f"estimates within {found['estimates']:.1g}, {same}"


if __name__ == "__main__":
    app()
