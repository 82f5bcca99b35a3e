"""What the benchmark of a cluster says of what it found, and what it projects from it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.scale import cluster, run


def found() -> dict[str, Any]:
    measured = {
        "requests": 150_000,
        "cores": 2,
        "runs": {
            "none": [{"seconds": 100.0}, {"seconds": 300.0}, {"seconds": 200.0}],
            "local:2": [{"seconds": 230.0}, {"seconds": 210.0}, {"seconds": 220.0}],
        },
        "killed": {"seconds": 260.0},
        "differs": {
            "local:2": {"estimates": 0.0, "same_certificates": True},
            "killed": {"estimates": 3e-8, "same_certificates": False},
        },
        "throughput": [
            {
                "workers": count,
                "rows_per_second": 1_000.0 * count,
                "texts_per_second": 500.0 * count,
                "outcomes_per_request": 3.6,
            }
            for count in (1, 2, 4)
        ],
    }
    return {**measured, "projected": cluster.projected(measured)}


def test_the_table_has_medians_beside_none_and_how_far_bundles_are_apart() -> None:
    said = cluster.section(found())
    assert "| none | 200 s | | |" in said
    assert "| `local:2` | 220 s | +10% | estimates within 0, same certificates |" in said
    assert "| `local:2`, a worker killed half way | 260 s | +30% | estimates within 3e-08, OTHER CERTIFICATES |" in said
    assert "| 4 | 4,000 | 1,000 | 2,000 | 500 |" in said
    assert "A projection, not a measurement: 100,000,000 requests" in said
    assert "cluster" in run.PARTS


def test_the_projection_by_hand() -> None:
    cost = found()["projected"]
    # 360 million outcomes, twice, at the 2,000 a second of the two workers that had a core each.
    assert cost["reading_hours"] == pytest.approx(100)
    # 150,000 requests took two workers 220 s, so 300,000 take them 440 s.
    assert cost["hours"] == pytest.approx(100 + 440 / 3600)
    assert cost["usd_of_workers"] == pytest.approx(cost["hours"] * 64 * 0.05)
    assert cost["usd_of_memory"] == pytest.approx(cost["hours"] * 150 * 0.008)
    assert "150 GB" in cluster.section(found())


def test_one_run_each_is_no_median() -> None:
    assert "medians of 3 runs each in alternating order" in cluster.section(found())
    once = found() | {"runs": {name: took[:1] for name, took in found()["runs"].items()}}
    assert "medians" not in cluster.section(once)
    assert "one run each" in cluster.section(once)


def test_a_run_s_workers_are_the_spawned_processes_below_it() -> None:
    code = "import sys; sys.stdin.read()  # spawn_main"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        assert cluster._workers(os.getpid()) == [process.pid]
        assert cluster._workers(process.pid) == []
    finally:
        process.communicate()
