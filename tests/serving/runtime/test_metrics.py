"""Gauges are what the snapshot says when they are read; where workers share files, a label that is gone is 0."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

from serving.runtime.metrics import GAUGES, Metrics, Snapshot
from tests.conftest import ROOT

WORKER = """
import sys
from serving.runtime.metrics import GAUGES, Metrics

number, *versions = sys.argv[1:]
now = {name: {tuple(labels): float(number) for _ in [0]} for name, _, labels, _ in GAUGES}
metrics = Metrics(lambda: now)
for version in versions:
    now["router_bundle_info"] = {(version,): 1.0}
    metrics.share()
metrics.problem(404)
print(metrics.document().decode())
input()
"""


def values(text: str) -> dict[str, float]:
    return {one.rpartition(" ")[0]: float(one.rpartition(" ")[2]) for one in text.splitlines() if one[:1] != "#"}


def snapshot(**changes: float) -> Snapshot:
    return {name: {tuple(labels): changes.get(name, 0.0)} for name, _, labels, _ in GAUGES}


def test_gauges_are_read_when_they_are_asked_for() -> None:
    now = [snapshot(router_store_queue_rows=3.0)]
    metrics = Metrics(lambda: now[0])
    assert values(metrics.document().decode())["router_store_queue_rows"] == 3.0
    now[0] = {**snapshot(router_store_queue_rows=5.0), "router_bundle_info": {("v2",): 1.0}}
    found = values(metrics.document().decode())
    assert found["router_store_queue_rows"] == 5.0
    assert {name for name in found if name.startswith("router_bundle_info")} == {'router_bundle_info{version="v2"}'}
    assert not {name for name, _, _, _ in GAUGES} - {name.partition("{")[0] for name in found}


def test_workers_add_up_and_a_dead_ones_gauges_go(tmp_path: Path) -> None:
    def worker(*arguments: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
        command = [sys.executable, "-c", WORKER, *arguments]
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def document(process: subprocess.Popen[str]) -> dict[str, float]:
        assert process.stdout is not None
        return values("".join(takewhile(str.strip, process.stdout)))  # up to the empty line, or the end

    first = worker("2", "v1")
    assert document(first)["router_store_queue_rows"] == 2.0
    second = worker("3", "v1", "v2")
    both = document(second)
    first.kill()
    first.communicate()
    third = worker("4", "v2")
    left = document(third)
    for process in (second, third):
        process.communicate("\n")
    for name, found in {
        "router_store_queue_rows": 5.0,  # the sum
        'router_budget_left_usd{period="period",scope="scope"}': 2.0,  # the least
        "router_drift_psi": 3.0,  # the worst
        'router_bundle_info{version="v1"}': 1.0,
        'router_bundle_info{version="v2"}': 1.0,
        'router_problems_total{status="404"}': 2.0,
    }.items():
        assert both[name] == found, name
    assert left["router_store_queue_rows"] == 7.0
    assert left["router_drift_psi"] == 4.0
    assert left['router_problems_total{status="404"}'] == 3.0, "what a dead worker counted stays"
