"""What it takes to import and to inspect a log of ten million outcomes, and one of a million beside it.

Each is a command in a process of its own, whose seconds and highest memory are the operating system's.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

SIZES = (1_000_000, 10_000_000)  # outcomes
# So many are drawn; the others are these again, as other requests with other texts.
_REQUESTS = 400_000
_CHARACTERS = 80
# A process starts out with the highest memory of the one that made it, which therefore is as small as can be.
_LAUNCH = """
import json, os, subprocess, sys, time
started = time.monotonic()
process = subprocess.Popen([sys.executable, *sys.argv[1:]], stdout=sys.stderr)
_, status, usage = os.wait4(process.pid, 0)
process.returncode = os.waitstatus_to_exitcode(status)
seconds, cpu = time.monotonic() - started, usage.ru_utime + usage.ru_stime
print(json.dumps({"seconds": seconds, "cpu_seconds": cpu, "peak_mib": usage.ru_maxrss / 1024}))
sys.exit(process.returncode)
"""


def measure(work: Path, sizes: Sequence[int] = SIZES) -> dict[str, Any]:
    """By how many outcomes a log has, what import and inspection of it take."""
    return {"logs": [_measured(work, outcomes) for outcomes in sizes]}


def _measured(work: Path, outcomes: int) -> dict[str, Any]:
    raw, imported, report = (work / f"look-{outcomes}-{name}" for name in ("raw", "imported", "report.json"))
    if not raw.exists():
        _child("-m", "benchmarks.scale.look", str(raw), str(outcomes))
    shutil.rmtree(imported, ignore_errors=True)
    of_import = _child("-m", "training.cli", "import", "--data", str(raw), "--out", str(imported))
    of_inspect = _child("-m", "training.cli", "inspect", "--data", str(imported), "--json", str(report))
    said = json.loads(report.read_text(encoding="utf-8"))
    return {
        "outcomes": said["rows_used"],
        "requests": said["requests"],
        "bytes": sum(file.stat().st_size for file in raw.iterdir()),
        "import": {**of_import, "rows_per_second": outcomes / of_import["seconds"]},
        "inspect": {**of_inspect, "rows_per_second": outcomes / of_inspect["seconds"]},
    }


def _child(*words: str) -> dict[str, float]:
    """What running Python with these words takes; raises CalledProcessError."""
    launched = subprocess.run([sys.executable, "-c", _LAUNCH, *words], stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(launched.stdout)
    return found


def section(found: dict[str, Any]) -> str:
    """What was found, in Markdown."""
    lines = [
        f"| {one['outcomes']:,} | {one['requests']:,} | {one['bytes'] / 2**20:,.0f} MiB | {_said(one['import'])} "
        f"| {_said(one['inspect'])} |"
        for one in found["logs"]
    ]
    table = "\n".join(["| outcomes | requests | log | `import` | `inspect` |", "|---:|---:|---:|---|---|", *lines])
    return (
        "### A log that is looked at\n\n"
        f"Simulated outcomes with texts of some {_CHARACTERS} characters in Parquet files, imported with `router-train import` "
        "and inspected with `router-train inspect`, each in a process of its own: seconds (of them on the processor), rows a "
        f"second, and the highest memory.\n\n{table}"
    )


def _said(one: dict[str, float]) -> str:
    return (
        f"{one['seconds']:,.0f} s ({one['cpu_seconds']:,.0f}), {one['rows_per_second']:,.0f} rows/s, "
        f"{one['peak_mib']:,.0f} MiB"
    )


def make(folder: Path, outcomes: int) -> None:
    """Writes a log of so many simulated outcomes, with short texts, as a folder of Parquet files."""
    from serving.bundle.atomic_write import written_whole
    from training.config import DEFAULTS, load_params
    from training.prices.catalogue import SHIPPED, load_catalogue
    from training.simulation.simulate import simulate_blocks

    wanted, catalogue = load_params(DEFAULTS, ()).simulate, load_catalogue(SHIPPED)
    blocks = simulate_blocks([catalogue[name] for name in wanted.candidates], requests=min(_REQUESTS, outcomes))
    drawn = [_short(block.outcomes) for block in blocks]
    with written_whole(folder) as draft:
        draft.mkdir()
        number = 0
        while outcomes > 0:
            frame, again = drawn[number % len(drawn)].iloc[:outcomes], f"{number // len(drawn)}"
            frame = frame.assign(
                request_id=again + "-" + frame["request_id"],
                session_id=again + "-" + frame["session_id"],
                prompt=frame["prompt"] + f" ({again})",
            )
            frame.to_parquet(draft / f"part-{number:05}.parquet", index=False)
            outcomes, number = outcomes - len(frame), number + 1


def _short(frame: Any) -> Any:
    said = [
        prompt if messages is None else messages[-1]["content"]
        for prompt, messages in zip(frame["prompt"], frame["messages"], strict=True)
    ]
    # What was the same text before, and nothing else, is the same text.
    short = [f"{text[:_CHARACTERS]} {zlib.crc32(text.encode()):08x}" for text in said]
    return frame.assign(prompt=short).drop(columns="messages")


if __name__ == "__main__":
    typer.run(make)
