"""Prometheus's own tool, asked what its rules and expressions say of series that are made up.

Series are written as promtool does: `0+5x120` is a counter that rises by 5 a minute for two hours.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

_AT = "2h"


def run(folder: Path, *arguments: str) -> None:
    """Runs it in a folder; skips the test where it is not installed, and fails with what it says."""
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("there is no promtool here (Debian's package prometheus has it)")
    done = subprocess.run([promtool, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def each_alert_fires(
    folder: Path,
    groups: list[dict[str, Any]],
    ill: Mapping[str, Mapping[str, str]],
    healthy: Mapping[str, str],
    labels: Mapping[str, Mapping[str, str]],
) -> None:
    """Each alert of the groups fires on its own ill series, and on nobody else's; on the healthy ones none does.

    `labels` are those that an alert has when it fires, where it has any; promtool takes none for granted.
    """
    noted = {rule["alert"]: rule["annotations"] for group in groups for rule in group["rules"]}
    assert set(ill) == set(noted)

    def expected(firing: str | None) -> list[dict[str, Any]]:
        fired = [{"exp_labels": dict(labels.get(firing or "", {})), "exp_annotations": noted.get(firing or "")}]
        return [{"eval_time": _AT, "alertname": name, "exp_alerts": fired if name == firing else []} for name in noted]

    cases = [*ill.items(), (None, healthy)]
    _test(
        folder,
        {"rules.yml": {"groups": groups}},
        [{**_input(series), "alert_rule_test": expected(firing)} for firing, series in cases],
    )


def says(folder: Path, expression: str, series: Mapping[str, str], samples: Mapping[str, float]) -> None:
    """The expression has these samples and no others after two hours of the series."""
    wanted = [{"labels": labels, "value": value} for labels, value in samples.items()]
    case = {"expr": expression, "eval_time": _AT, "exp_samples": wanted}
    _test(folder, {}, [{**_input(series), "promql_expr_test": [case]}])


def _input(series: Mapping[str, str]) -> dict[str, Any]:
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
    }


def _test(folder: Path, rules: dict[str, Any], tests: list[dict[str, Any]]) -> None:
    for name, document in rules.items():
        (folder / name).write_text(yaml.safe_dump(document), encoding="utf-8")
    document = {"rule_files": list(rules), "evaluation_interval": "1m", "tests": tests}
    (folder / "test.yml").write_text(yaml.safe_dump(document), encoding="utf-8")
    run(folder, "test", "rules", "test.yml")
