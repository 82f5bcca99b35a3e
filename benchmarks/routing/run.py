"""Runs the benchmark and writes docs/benchmarks.md, docs/benchmarks.json and the README's table."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from threadpoolctl import threadpool_limits

from benchmarks.routing import certified, protocol
from benchmarks.routing.parts import CACHE, PUBLIC, SIMULATED, load_set, means, one_part, suited
from benchmarks.routing.protocol import LIGHT, DataSet
from benchmarks.routing.report import write
from benchmarks.routing.scale import encoder_speed, large_import, large_run
from training.config import Params, load_params
from training.dataset.split import SplitError
from training.evaluate.splits import by_prompt, by_time
from training.publish.pages.picture import picture

# Measured on every set that suits it, each by itself.
SCARCE = (
    "learning curves",
    "one outcome",
    "outcomes per candidate",
    "conversations",
    "graded",
    "unseen workflows",
    "small logs",
    "new candidate",
    "bought evidence",
)
PARTS = (*PUBLIC, SIMULATED, *SCARCE, "encoders", "large", "import", "picture")
_console = Console(stderr=True)
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    data: Annotated[
        Path, typer.Option(envvar="BENCH_DATA", help="Folder of RouterBench's and RouteLLM's outcomes.")
    ] = Path("../shared/data"),
    out: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("docs"),
    seeds: int = protocol.SEEDS,
    first_seed: Annotated[int, typer.Option(help="The first of the seeds.")] = protocol.FIRST_SEED,
    max_workers: Annotated[int, typer.Option(help="Data sets worked on at once.")] = 2,
    rows: Annotated[int, typer.Option(help="Rows of the large simulated log; 0 leaves it out.")] = 100_000,
    import_rows: Annotated[int, typer.Option(help="Rows of the log that is imported; 0 leaves it out.")] = 1_000_000,
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"Measure these parts again and keep the others: {', '.join(PARTS)}. May be repeated."),
    ] = None,
) -> None:
    """Five seeds on every data set there is, written to docs/benchmarks.json and docs/benchmarks.md."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    params = load_params()
    chosen = range(first_seed, first_seed + seeds)
    wanted = tuple(only or PARTS)
    if unknown := set(wanted) - set(PARTS):
        _console.print(f"--only {sorted(unknown)[0]}: expected one of {', '.join(PARTS)}")
        raise typer.Exit(2)
    found: dict[str, Any] = {"machine": _machine(), "seeds": list(chosen), "sets": {}, "commits": {}}
    if only:
        found = json.loads((out / "benchmarks.json").read_text(encoding="utf-8"))

    def measured(part: str) -> None:
        """Keeps what there is, and which code it was measured with."""
        found["commits"][part] = _commit()
        _save(out, found)

    names = [name for name, folder in PUBLIC.items() if (data / folder).is_dir()]
    for name in PUBLIC.keys() - set(names):
        _console.print(f"[yellow]{data / PUBLIC[name]} is absent: {name} is left out[/]")
    if not only and len(names) < len(PUBLIC) and out == Path("docs"):
        _console.print("docs/ is for the whole benchmark: set BENCH_DATA to the public data, or give another --out.")
        raise typer.Exit(2)
    # A process per data set: the fits are small, and threads inside them mostly wait for each other.
    with ProcessPoolExecutor(max_workers=max_workers, initializer=_one_thread) as pool:
        sets = [name for name in [*names, SIMULATED] if name in wanted]
        jobs = {name: pool.submit(_one_set, name, data, params, chosen) for name in sets}
        for name, job in jobs.items():
            found["sets"][name] = job.result()
            _console.print(f"{name} is done")
            measured(name)
        for part in [part for part in SCARCE if part in wanted]:
            running = {
                name: pool.submit(one_part, part, name, data, params, chosen)
                for name in suited(part, [*names, SIMULATED])
            }
            found.setdefault("scarce", {})[part] = {name: job.result() for name, job in running.items()}
            _console.print(f"{part} is done")
            measured(part)
    if "encoders" in wanted:
        found["encoder_speed"] = encoder_speed(params, CACHE)
        measured("encoders")
    if "large" in wanted and rows:
        found["large"] = large_run(rows)
        measured("large")
    if "import" in wanted and import_rows:
        found["import"] = large_import(import_rows)
        measured("import")
    if "picture" in wanted:
        draw_picture(out / "frontier.svg")
        measured("picture")


def _commit() -> str:
    """The commit that is checked out, with a + if files differ from it; "" outside a repository."""
    command = ["git", "describe", "--always", "--abbrev=10", "--dirty=+", "--exclude=*"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    return asked.stdout.strip()


def draw_picture(path: Path) -> None:
    """The README's picture: the frontier of a router trained on the default simulated log."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "training.cli", "run", "--out", folder, "--no-track"]
        subprocess.run(command, check=True, stdout=sys.stderr)
        document = json.loads((Path(folder) / "current" / "frontier.json").read_text(encoding="utf-8"))
    path.write_bytes(picture(document, path.suffix))


def _save(out: Path, found: Mapping[str, Any]) -> None:
    out.mkdir(exist_ok=True)
    (out / "benchmarks.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    write(found, out / "benchmarks.md", Path("README.md"))


def _one_thread() -> None:
    threadpool_limits(1)


def _one_set(name: str, folder: Path, params: Params, seeds: Sequence[int]) -> dict[str, Any]:
    data = load_set(name, folder, params, seeds[0])
    results: dict[str, list[Any]] = {
        key: []
        for key in (
            "tagged",
            "untagged",
            "calibration",
            "certificates",
            "confidence",
            "time",
        )
    }
    chosen: list[str] = []
    for seed in seeds:
        if name == SIMULATED:
            data = load_set(name, folder, params, seed)
        seeded = replace(params, fit=replace(params.fit, seed=seed))
        prepared = by_prompt(data.prepared, seed)
        run = protocol.trial(data, prepared, seeded)
        chosen.append(run.learned.acceptable.tagged.description)
        # Parts of one data set share its resamples; another log has its own.
        weights = protocol.resampling(data, run, params.evaluate.resamples, seed if data.simulated else 0)
        for key, tagged in (("tagged", True), ("untagged", False)):
            results[key].append(protocol.compare(data, run, seeded, weights, tagged=tagged))
        results["calibration"].append(protocol.calibration(data, run, prepared))
        target = params.policy.quality_target
        resplits = certified.RESPLITS // len(seeds)
        results["certificates"] += certified.certificates(data, run, seeded, seed, resplits, target)
        results["confidence"].append(asdict(protocol.confidence(data, run)))
        if seed == seeds[0]:
            results["time"].append(_by_time(data, seeded))
        _console.print(f"  {data.name} seed {seed}: {chosen[-1]}")
    matrix, confidence = data.prepared.matrix, means(results["confidence"])
    return {
        "requests": len(matrix),
        "complete": int(matrix.complete().sum()),
        "candidates": len(matrix.candidates),
        "simulated": data.simulated,
        "reference": matrix.candidates[run.learned.reference],
        "chosen": chosen,
        "splits": {"time": results["time"][0]},
        "encoders": _encoders(name, folder, params, seeds),
        **{key: _intervals(results[key]) for key in ("tagged", "untagged")},
        "calibration": means(results["calibration"]),
        "certificate": _certificate(results["certificates"], params),
        "strong_weak": {name: confidence[name] for name in ("apgr", "cpt50", "cpt80")},
        "collapse": confidence["collapse"],
    }


def _by_time(data: DataSet, params: Params) -> dict[str, float] | None:
    """The split by time, where the log has timestamps."""
    try:
        prepared = by_time(data.prepared, params)
    except SplitError:
        return None
    run = protocol.trial(data, prepared, params)
    values = protocol.compare(data, run, params, protocol.resampling(data, run, 10, 0), tagged=True)
    return {name: float(value[0]) for name, value in values.items()}


def _encoders(name: str, folder: Path, params: Params, seeds: Sequence[int]) -> dict[str, float]:
    """Headroom with each encoder, on the same splits and with the same quick estimators."""
    headroom: dict[str, float] = {}
    for kind in ("static", "transformer"):
        chosen = replace(params, embed=replace(params.embed, encoder=kind), fit=replace(params.fit, estimators=LIGHT))
        captured = []
        data = load_set(name, folder, chosen, seeds[0])
        for seed in seeds:
            if name == SIMULATED and seed != seeds[0]:
                data = load_set(name, folder, chosen, seed)
            run = protocol.trial(data, by_prompt(data.prepared, seed), chosen)
            captured.append(run.headroom(run.learned.acceptable.predict(data.inputs.take(run.test))))
        headroom[kind] = float(np.mean(captured))
    return headroom


def _intervals(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Each router's mean AIQ over seeds, and the router's lead over it: the mean and its 95% interval."""
    names = [name for name in runs[0] if all(name in run for run in runs)]
    mean = {name: np.mean([run[name] for run in runs], axis=0) for name in names}
    table = {}
    for name in names:
        lead = mean["router"] - mean[name]
        low, high = np.quantile(lead[1:], [0.025, 0.975])
        table[name] = {"aiq": float(mean[name][0]), "lead": float(lead[0]), "low": float(low), "high": float(high)}
    return table


def _tight(delta: float) -> float:
    """How often a half exceeds alpha that was not looked at, if the other half's bound was alpha and no lower.

    Both halves are as large, so their rates are as uncertain: P(Z > z_delta / sqrt 2), by the normal approximation.
    """
    normal = NormalDist()
    return 1.0 - normal.cdf(normal.inv_cdf(1.0 - delta) / 2**0.5)


def _certificate(rows: Sequence[Mapping[str, float]], params: Params) -> dict[str, float]:
    alpha = 1.0 - params.policy.quality_target
    rates = np.array([row["violation_rate"] for row in rows])
    return {
        "alpha": round(alpha, 12),
        "delta": params.policy.delta,
        "resplits": float(len(rows)),
        "certified": float(np.mean([row["certified"] for row in rows])),
        "exceeded": float(np.mean(rates > alpha)),
        "exceeded_if_tight": _tight(params.policy.delta),
        "exceeded_beyond_noise": float(np.mean([row["lower"] > alpha for row in rows])),
        "mean_violation_rate": float(rates.mean()),
        "mean_saving": float(np.mean([row["saving"] for row in rows])),
        "test_requests": float(np.mean([row["requests"] for row in rows])),
    }


def _machine() -> dict[str, str]:
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    app()
