"""What the encoders, a large run and a large import take: seconds, rows per second and memory."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from training.config import Params
from training.dataset.encoders import Kind, make_encoder


def encoder_speed(params: Params, cache: Path) -> dict[str, float]:
    """Microseconds for one 33-token prompt on one thread, medians, in turns, in one run."""
    prompt = "Write a query that lists, for each customer, the three most recent orders and their total, newest first, "
    prompt += "leaving out cancelled ones."
    encoders = {}
    windows: dict[Kind, int] = {
        "static": params.embed.static_max_tokens,
        "transformer": params.embed.transformer_max_tokens,
    }
    for kind, window in windows.items():
        files = make_encoder(
            kind, params.embed.source, cache / "encoders", static_dim=params.embed.static_dim, max_tokens=window
        )
        encoders[kind] = files.encoder(threads=1)
    found = {}
    # In turns of fifty each keeps its caches, one by one each finds them emptied by the other.
    for turn in (50, 1):
        taken: dict[str, list[float]] = {kind: [] for kind in encoders}
        for _ in range(300 // turn):
            for kind, encoder in encoders.items():
                for _ in range(turn):
                    started = time.perf_counter()
                    encoder.encode([prompt])
                    taken[kind].append(time.perf_counter() - started)
        for name, times in taken.items():
            found[name if turn > 1 else f"{name}_alternating"] = 1e6 * float(np.median(times))
    return found


def large_run(rows: int) -> dict[str, float]:
    """A large simulated log, trained on from the command line in a process of its own."""
    requests = int(rows / 2.25)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.parquet"
        command = [sys.executable, "-m", "training.cli"]
        subprocess.run([*command, "simulate", str(log), "--set", f"simulate.requests={requests}"], check=True)
        started = time.monotonic()
        out = str(Path(folder) / "models")
        subprocess.run([*command, "run", "--data", str(log), "--out", out, "--no-track"], check=True, stdout=sys.stderr)
        seconds = time.monotonic() - started
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        return {"rows": float(pq.ParquetFile(log).metadata.num_rows), "seconds": seconds, "peak_mib": peak}


def large_import(rows: int) -> dict[str, float]:
    """A JSONL log of prompts of about 1 kB, two attempts each, imported from the command line in a process of its own."""
    words = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "r", "sting", "lo", "mara")]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.jsonl"
        draw = random.Random(0)
        with log.open("w", encoding="utf-8") as file:
            for number in range(0, rows, 2):
                prompt = " ".join(draw.choices(words, k=170))
                for candidate in ("small", "large")[: rows - number]:
                    cells = {
                        "request_id": f"request-{number}", "prompt": prompt, "candidate": candidate,
                        "quality": float(draw.random() < 0.8), "cost_usd": round(draw.random() / 100, 6),
                        "input_tokens": 250, "output_tokens": draw.randrange(1000), "latency_ms": 1000 * draw.random(),
                        "timestamp": 1_767_225_600 + number, "session_id": f"session-{number // 8}", "workflow": "support",
                    }  # fmt: skip
                    file.write(json.dumps(cells) + "\n")
        # The peak of all children of a process is the largest one's: the import needs a parent of its own.
        measure = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=sys.stderr); "
        measure += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        imported = ["-m", "training.cli", "import", "--data", str(log), "--out", str(Path(folder) / "dataset")]
        started = time.monotonic()
        command = [sys.executable, "-c", measure, sys.executable, *imported]
        peak = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        seconds = time.monotonic() - started
        return {
            "rows": float(rows),
            "seconds": seconds,
            "rows_per_second": rows / seconds,
            "peak_mib": int(peak) / 1024,
            "bytes": float(log.stat().st_size),
        }
