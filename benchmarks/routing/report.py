"""docs/benchmarks.md and the README's result table, written from the benchmark's figures."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.scale.run import FOUND, sections

BASELINES = (
    "best single",
    "zero router",
    "workflow-table",
    "additive-logit-100",
    "additive-logit-300",
    "knn",
    "k-means-table",
    "ridge",
    "direct-classifier",
)
SERVE = "bench-serve.json"
_MARK = re.compile(r"(<!-- benchmark -->\n).*?(<!-- end of benchmark -->)", flags=re.DOTALL)


def best_baseline(table: Mapping[str, Any]) -> str:
    """The baseline with the highest mean AIQ."""
    return max((name for name in BASELINES if name in table), key=lambda name: float(table[name]["aiq"]))


def templates() -> Environment:
    """The reports' templates; a figure that a template names and that is not there is an error."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parents[1] / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    made.filters["first_of"] = lambda values: next(iter(values))
    return made


def write(found: Mapping[str, Any], report: Path, readme: Path) -> None:
    """Renders the report, and replaces what stands between the README's benchmark marks.

    Figures of serving and of growth are read from the files of these names beside the report, where there are any.
    """
    context = {"found": found, "baselines": BASELINES, "best_baseline": best_baseline, "mean_lead": mean_lead(found)}
    beside = report.parent / SERVE
    context["serve"] = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    beside = report.parent / FOUND
    context["scale"] = sections(json.loads(beside.read_text(encoding="utf-8"))) if beside.is_file() else ""
    context["first_seed"] = min(found["seeds"], default=0)
    report.write_text(templates().get_template("benchmarks.md.j2").render(**context), encoding="utf-8")
    text = readme.read_text(encoding="utf-8")
    table = templates().get_template("benchmarks_table.md.j2").render(**context)
    if not _MARK.search(text):
        raise ValueError(f"{readme} has no <!-- benchmark --> … <!-- end of benchmark --> to write the table between")
    readme.write_text(_MARK.sub(lambda marks: marks[1] + table + marks[2], text), encoding="utf-8")


def mean_lead(found: Mapping[str, Any]) -> dict[str, float]:
    """The router's AIQ minus the best baseline's, averaged over sets, with and without workflow tags."""
    return {
        key: sum(one[key]["router"]["aiq"] - one[key][best_baseline(one[key])]["aiq"] for one in found["sets"].values())
        / max(len(found["sets"]), 1)
        for key in ("tagged", "untagged")
    }
