"""What it takes to add a hundredth of new requests to what a run has kept, beside the whole run.

The bundles of part `train` are added to, where they are there and it is known what they took; else they are made. New requests
are of the same simulation with another seed and two months later, so that none of them is known.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.scale.train import _child, _set, noted, trained, with_encoders

SIZES = (100_000, 1_000_000)  # requests
_SHARE, _SEED, _DAYS = 100, 778, 60


def measure(work: Path, sizes: Sequence[int] = SIZES, settings: Sequence[str] = ()) -> dict[str, Any]:
    """By how many requests a log has, what training on it takes, and what adding a hundredth does; `settings` are the runs'."""
    return {"runs": [_measured(work, size, settings) for size in sizes]}


def _measured(work: Path, size: int, settings: Sequence[str]) -> dict[str, Any]:
    bundle, whole = _whole(work, size, settings)
    new = _new(work, size // _SHARE)
    out, cache = work / f"since-{size}-models", work / f"since-{size}-cache"
    for made in (out, cache):  # no embedding of then is at hand
        shutil.rmtree(made, ignore_errors=True)
    with_encoders(work, cache)
    # The champion that the new bundle is compared with; what was kept of it stays where it is.
    shutil.copytree(bundle.resolve(), out / bundle.resolve().name)
    (out / "current").symlink_to(bundle.resolve().name)
    kept = ["--out", str(out), "--cache", str(cache), "--no-track"]
    took = _child("run", "--data", str(new), "--since", str(bundle), *kept)
    newest = max(path for path in out.iterdir() if (path / "manifest.json").exists() and not path.is_symlink())
    known = json.loads((newest / "manifest.json").read_text(encoding="utf-8"))["metrics"]
    return {
        "requests": size,
        "added": size // _SHARE,
        "learned_from": known.get("log_core_requests", known["log_requests"]),
        "whole": whole,
        "since": took,
    }


def _whole(work: Path, size: int, settings: Sequence[str]) -> tuple[Path, dict[str, float]]:
    """A bundle of a log of so many requests, and what training it took."""
    bundle, told = work / f"train-{size}-models" / "current", work / f"train-{size}-took.json"
    if told.exists() and (bundle.resolve().parent / "kept" / bundle.resolve().name).exists():
        return bundle, json.loads(told.read_text(encoding="utf-8"))
    return trained(work, size, settings)


def _new(work: Path, requests: int) -> Path:
    """A file of so many simulated requests that no other log has."""
    made = work / f"since-new-{requests}.parquet"
    if not made.exists():
        import pandas as pd

        draft = work / f"since-draft-{requests}.parquet"
        _child("simulate", str(draft), *_set([f"simulate.requests={requests}", f"simulate.seed={_SEED}"]))
        rows = pd.read_parquet(draft)
        rows["request_id"], rows["session_id"] = "new-" + rows["request_id"], "new-" + rows["session_id"]
        rows["timestamp"] = pd.to_datetime(rows["timestamp"], utc=True) + pd.Timedelta(days=_DAYS)
        rows.to_parquet(made, index=False)
        draft.unlink()
    return made


def section(found: dict[str, Any]) -> str:
    """What was found, in Markdown."""
    lines = [
        f"| {one['requests']:,} | {one['added']:,} | {one['learned_from']:,} "
        f"| {one['whole']['seconds']:,.0f} s ({one['whole']['cpu_seconds']:,.0f}), {one['whole']['peak_mib']:,.0f} MiB "
        f"| {one['since']['seconds']:,.0f} s ({one['since']['cpu_seconds']:,.0f}), {one['since']['peak_mib']:,.0f} MiB "
        f"| {one['whole']['cpu_seconds'] / one['since']['cpu_seconds']:.1f} |"
        for one in found["runs"]
    ]
    heads = "| requests | new ones | learned from | the whole run | `--since` | times less on the processor |"
    table = "\n".join([heads, "|---:|---:|---:|---|---|---:|", *lines])
    return (
        "### New rows every day\n\n"
        "A hundredth of new simulated requests is added with `router-train run --data NEW --since BUNDLE` to what the run on "
        "the others has kept. Seconds (on the processor) and memory of a process of its own; of the earlier requests neither a "
        f"text nor an embedding in the cache is at hand.\n\n{table}{noted(found)}"
    )
