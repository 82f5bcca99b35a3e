"""What training on simulated logs of three sizes takes, and how good the bundles are on one log that none of them has seen.

Each run is a command in a process of its own, whose seconds and highest memory are the operating system's.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SIZES = (100_000, 300_000, 1_000_000)  # requests
TESTED, TEST_SEED = 20_000, 777


def measure(work: Path, sizes: Sequence[int] = SIZES, settings: Sequence[str] = ()) -> dict[str, Any]:
    """By how many requests a log has, what training on it takes and gives; `settings` (stage.key=value) are the runs'."""
    test = _log(work, "train-test", TESTED if max(sizes) >= TESTED else max(sizes), TEST_SEED)
    runs = [_measured(work, size, test, settings) for size in sizes]
    return {"tested": _requests(test), "runs": runs}


def _measured(work: Path, size: int, test: Path, settings: Sequence[str]) -> dict[str, Any]:
    figures, cache = work / f"train-{size}-test.json", work / f"train-{size}-cache"
    bundle, took = trained(work, size, settings)
    _child("evaluate", "--data", str(test), "--bundle", str(bundle), "--cache", str(cache), "--json", str(figures))
    known = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["metrics"]
    routers = json.loads(figures.read_text(encoding="utf-8"))["routers"]
    return {
        "requests": known["log_requests"],
        "learned_from": known.get("log_core_requests", known["log_requests"]),
        "aiq": routers[0]["aiq"] if routers else None,
        **took,
    }


def trained(work: Path, size: int, settings: Sequence[str]) -> tuple[Path, dict[str, float]]:
    """The bundle of a log of so many requests, trained anew, and what that took, which is written beside it."""
    # Nothing large is loaded here: a process starts out with the highest memory of the one that made it.
    log = _log(work, f"train-{size}", size, 0)
    out, cache = work / f"train-{size}-models", work / f"train-{size}-cache"
    for made in (out, cache):  # embeddings are made anew, the encoder is not
        shutil.rmtree(made, ignore_errors=True)
    with_encoders(work, cache)
    kept = ["--out", str(out), "--cache", str(cache), "--no-track"]
    took = _child("run", "--data", str(log), *kept, *_set(settings))
    (work / f"train-{size}-took.json").write_text(json.dumps(took), encoding="utf-8")
    return out / "current", took


def with_encoders(work: Path, cache: Path) -> None:
    """Makes an empty cache but for encoders, which all runs share."""
    cache.mkdir()
    (work / "encoders").mkdir(exist_ok=True)
    (cache / "encoders").symlink_to((work / "encoders").resolve(), target_is_directory=True)


def _log(work: Path, name: str, requests: int, seed: int) -> Path:
    """A simulated log as a folder, made unless it is there."""
    folder = work / name
    if not folder.exists():
        _child("simulate", str(folder), *_set([f"simulate.requests={requests}", f"simulate.seed={seed}"]))
    return folder


def _requests(folder: Path) -> int:
    from training.logs.stored.rows import open_stored

    stored = open_stored(folder)
    if stored is None:
        raise SystemExit(f"{folder} is not a whole simulated log: remove it, and it is made again")
    return stored.requests()


def _set(settings: Sequence[str]) -> list[str]:
    return [word for one in settings for word in ("--set", one)]


def _child(*words: str) -> dict[str, float]:
    started = time.monotonic()
    with subprocess.Popen([sys.executable, "-m", "training.cli", *words], stdout=sys.stderr) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words)
    return {
        "seconds": time.monotonic() - started,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / 1024,
    }


def section(found: dict[str, Any]) -> str:
    """What was found, in Markdown."""
    runs = found["runs"]
    first = runs[0]
    lines = [
        f"| {one['requests']:,} | {one['learned_from']:,} | {one['seconds']:,.0f} s ({one['cpu_seconds']:,.0f}) "
        f"| {one['seconds'] / first['seconds']:.1f} | {one['peak_mib']:,.0f} MiB | {one['peak_mib'] / first['peak_mib']:.1f} "
        f"| {'not measured' if one['aiq'] is None else format(one['aiq'], '.4f')} |"
        for one in runs
    ]
    heads = (
        "| requests | learned from | seconds (on the processor) | times the first | memory | times the first | AIQ |"
    )
    table = "\n".join([heads, "|---:|---:|---|---:|---:|---:|---:|", *lines])
    return (
        "### A log that is trained on\n\n"
        "`router-train run` on simulated logs that are on disk, with the shipped parameters, in a process of its own; "
        f"embeddings are made anew. The AIQ is that of each bundle on the same {found['tested']:,} requests, which none of "
        f"them has seen."
        f"\n\n{table}{noted(found)}"
    )


def noted(found: Mapping[str, Any]) -> str:
    """What is to be known of how a part was measured, where somebody wrote that beside the figures."""
    return f"\n\n{found['note']}" if "note" in found else ""
