"""`report.html`: what a bundle saves and how surely, on one screen, and then all that this rests on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from serving.bundle.manifest import Manifest
from training.charts import confidence, frontier, workflows
from training.charts.tables import table
from training.publish.document import read_document
from training.publish.making import read_making
from training.publish.pages import tables
from training.publish.pages.blocks import Chart, Table, chart, rendered
from training.publish.pages.first_screen import first_screen

REPORT = "report.html"


def render(manifest: Manifest, document: Mapping[str, Any], making: Mapping[str, Any]) -> str:
    """The page of a bundle: of its manifest, its `frontier.json` and its `making.json`."""
    screen = first_screen(manifest, document, making)
    return rendered(
        "report.html.j2",
        manifest=manifest,
        point=manifest.default,
        proof=manifest.default.certificate,
        document=document,
        making=making,
        screen=screen,
        charts=_charts(document),
        **tables.of_points(document),
        by_workflow=tables.by_workflow(manifest),
        routers=tables.routers(document),
        profiles=tables.profiles(manifest, document),
        strengths=tables.strengths(document),
        splits=tables.splits(document),
        off_policy=tables.off_policy(making),
        estimators=[tables.estimators(head) if head["scores"] else None for head in making["heads"]],
        skipped=tables.pairs("Skipped rows", ("Skipped because", "Rows"), making["reasons"]),
        counted=tables.pairs("What was counted", ("What", "How many"), making["counts"]),
        aliases=tables.aliases(making),
        formulas=tables.formulas(screen),
        commands=_commands(manifest, making),
        split=_split(making["split"]),
    )


def write(folder: Path, manifest: Manifest) -> bool:
    """Writes `report.html` anew, of what else is in the folder; whether that is enough for a report."""
    document, making = read_document(folder), read_making(folder)
    if document is None or document.get("schema") is None or making is None:
        return False
    (folder / REPORT).write_text(render(manifest, document, making), encoding="utf-8")
    return True


def _split(made: Mapping[str, Any] | None) -> str:
    """How the log was split, in sentences; its note is the one of the terminal, in one line."""
    if not made:
        return ""
    told = [f"{part[:1].upper()}{part[1:]}." for part in f"split: {made['note']}".split("; ")]
    return re.sub(r"(?<![-\w])\d{4,}(?![-\w])", lambda found: f"{int(found[0]):,}", " ".join(told))


def _charts(document: Mapping[str, Any]) -> dict[str, Chart | None]:
    simulated, lines = bool(document["simulated"]), document["workflows"]
    found = document["reliability"] or {"all": [], "chosen": [], "by_candidate": {}}
    risk, profiles = document["risk_coverage"], document["profiles"]

    def behind(caption: str, name: str, part: Any) -> Table:
        headers, rows = table(name, part)
        return Table(f"{caption}{' (simulated)' if simulated else ''}", headers, rows)

    drawn = {
        "frontier": (
            lambda: frontier.frontier(document),
            ("Cost and quality of candidates, operating points and places of the knob", "frontier", document),
        ),
        "costs": (
            lambda: workflows.workflows_before_after(lines, simulated=simulated),
            ("Cost and quality of each workflow, before and after", "workflows_before_after", lines),
        ),
        "shares": (
            lambda: workflows.shares(lines, simulated=simulated),
            ("Where each workflow's requests go", "shares", lines),
        ),
        "chosen": (
            lambda: confidence.reliability(found["chosen"], simulated=simulated, of="chosen"),
            ("Stated and observed chance, of the chosen candidates", "reliability", found["chosen"]),
        ),
        "all": (
            lambda: confidence.reliability(found["all"], simulated=simulated),
            ("Stated and observed chance, of all candidates", "reliability", found["all"]),
        ),
        "risk": (
            lambda: confidence.risk_coverage(risk, simulated=simulated),
            ("Answers that are not acceptable, among the most confident decisions", "risk_coverage", risk),
        ),
        "profile": (
            lambda: workflows.profile(profiles, simulated=simulated),
            ("Where each candidate is better and worse than the others", "profile", profiles),
        ),
    }
    return {name: chart(name, draw, partial(behind, *told)) for name, (draw, told) in drawn.items()}


def _commands(manifest: Manifest, making: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what for, command) of all that it takes to come to these figures again, and to go on from them."""
    log = "" if manifest.simulated else " --data LOG"
    settings = "".join(f" --set {one}" for one in making["settings"])
    certified = [point.name for point in manifest.operating_points if point.certificate is not None]
    others = [name for name in certified if name != manifest.default_point]
    train = f"router-train run{log}{settings}"
    if making["added"] is not None:
        train = f"router-train add-candidate {making['added']} --data LOG"
    again = "Make it again from the same log"
    if making.get("going_on"):
        again, train = (
            "Make it again from the same rows",
            f"router-train run --data ROWS {making['going_on']}{settings}",
        )
    found = [(again, train)]
    if not manifest.simulated:
        found.append(("What the log holds and what it can certify", "router-train inspect --data LOG"))
    found.append(
        (
            "Measure this bundle on another log",
            f"router-train evaluate --bundle models/{manifest.version} --data OTHER_LOG",
        )
    )
    found.append(
        (
            "Put another bundle beside it",
            f"router-train compare {manifest.version} OTHER --data OTHER_LOG --html compare.html",
        )
    )
    if others:
        found.append(
            (f"Serve another certified trade-off ({', '.join(others)})", f"router-train set-point {others[0]}")
        )
    found.append(("Serve it", f"router-serve --bundle models/{manifest.version}"))
    return found
