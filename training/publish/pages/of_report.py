"""`report.html`: what a bundle saves and how surely, on one screen, and then all that this rests on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.bundle.manifest import Manifest
from training.charts import confidence, frontier, workflows
from training.charts.tables import table
from training.publish.document import read_document
from training.publish.making import read_making
from training.publish.pages.blocks import Chart, Table, chart, rendered
from training.publish.pages.first_screen import first_screen
from training.publish.pages.written import count, money, percent, span, thousand

REPORT = "report.html"


def render(manifest: Manifest, document: Mapping[str, Any], making: Mapping[str, Any]) -> str:
    """The page of a bundle: of its manifest, its `frontier.json` and its `making.json`."""
    return rendered(
        "report.html.j2",
        manifest=manifest,
        point=manifest.default,
        proof=manifest.default.certificate,
        document=document,
        making=making,
        screen=first_screen(manifest, document, making),
        charts=_charts(document),
        points=_points(document),
        by_workflow=_by_workflow(manifest),
        routers=_routers(document),
        profiles=_profiles(manifest, document),
        commands=_commands(manifest, making),
    )


def write(folder: Path, manifest: Manifest) -> bool:
    """Writes `report.html` anew, of what else is in the folder; whether that is enough for a report."""
    document, making = read_document(folder), read_making(folder)
    if document is None or document.get("schema") is None or making is None:
        return False
    (folder / REPORT).write_text(render(manifest, document, making), encoding="utf-8")
    return True


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
            ("Failures among the most confident decisions", "risk_coverage", risk),
        ),
        "profile": (
            lambda: workflows.profile(profiles, simulated=simulated),
            ("Where each candidate is better and worse than the others", "profile", profiles),
        ),
    }
    return {name: chart(name, draw, lambda told=told: behind(*told)) for name, (draw, told) in drawn.items()}


def _points(document: Mapping[str, Any]) -> Table:
    """Every operating point, what the calibration part decided and what the test part says, side by side."""
    rows = []
    for one in document["points"]:
        calibration, test = one["calibration"], one["test"] or {}
        rows.append(
            (
                one["name"] + (" (default)" if one["default"] else ""),
                f"always {one['always']}" if one["always"] else "routed",
                percent(one["alpha"]) if one["certified"] else "not certified",
                percent(one["bound"]),
                count(one["requests"]),
                percent(calibration["violation_rate"]),
                percent(calibration["quality"]),
                percent(calibration["saving"]),
                span(calibration["saving_low"], calibration["saving_high"]),
                count(test["requests"]) if test else "",
                percent(test.get("violation_rate")),
                percent(test.get("quality")),
                percent(test.get("saving")),
            )
        )
    headers = (
        "Point", "Rule", "May fail", "Bound", "Requests", "Failed", "Quality", "Saving", "Its interval",
        "Test requests", "Failed, test", "Quality, test", "Saving, test",
    )  # fmt: skip
    marked = next((place for place, one in enumerate(document["points"]) if one["default"]), None)
    return Table("Operating points: calibration figures, then test figures", headers, rows, marked)


def _by_workflow(manifest: Manifest) -> Table | None:
    proof = manifest.default.certificate
    if proof is None:
        return None
    rows = [
        (name, count(one.requests), percent(one.violation_rate), percent(one.bound), percent(one.saving))
        for name, one in proof.workflows.items()
    ]
    headers = ("Workflow", "Calibration requests", "Failed", "Bound, taken alone", "Saving")
    return Table("The certificate by workflow", headers, rows)


def _routers(document: Mapping[str, Any]) -> Table | None:
    """How the router compares with what needs no training, on the test part."""
    if not document["routers"]:
        return None
    rows = []
    for place, line in enumerate(document["routers"]):
        low, high = line["beats"]
        beats = "" if place == 0 or low is None else f"{low:+.4f} … {high:+.4f}"
        rows.append(
            (
                line["name"],
                percent(line["quality"]),
                thousand(line["cost_usd"]),
                percent(line["saving"]),
                "" if line["aiq"] is None else f"{line['aiq']:.4f}",
                percent(line["headroom"]),
                percent(line["cost_save"]),
                beats,
            )
        )
    headers = (
        "Router",
        "Quality",
        "USD per 1,000",
        "Saving",
        "AIQ",
        "Headroom captured",
        "CostSave",
        "Our AIQ minus its, 95%",
    )
    return Table("This router and others, on the test part", headers, rows, 0)


def _profiles(manifest: Manifest, document: Mapping[str, Any]) -> Table | None:
    if not document["profiles"]:
        return None

    def named(strengths: Any) -> str:
        return (
            ", ".join(f"{one['workflow']} ({100 * one['gap']:+.0f})" for one in strengths).replace("-", "−")
            or "nothing stands out"
        )

    rows = [
        (
            one["candidate"] + (" (reference)" if one["candidate"] == manifest.reference else ""),
            _price(one),
            percent(one["quality"]),
            count(one["judged"]),
            thousand(one["cost_usd"]),
            "" if one["latency_ms"] is None else f"{one['latency_ms'] / 1000:.1f} s",
            percent(one["share_logged"]),
            percent(one["share_routed"]),
            named(one["best"]),
            named(one["worst"]),
        )
        for one in document["profiles"]
    ]
    headers = (
        "Candidate", "Price in / out, per million tokens", "Quality", "Judged", "USD per 1,000", "Median latency",
        "Share in the log", "Share routed", "Good at", "Bad at",
    )  # fmt: skip
    return Table("The candidates", headers, rows)


def _price(one: Mapping[str, Any]) -> str:
    if one["input_usd_per_mtok"] is None or one["output_usd_per_mtok"] is None:
        return "costs from the log"
    return f"{money(one['input_usd_per_mtok'])} / {money(one['output_usd_per_mtok'])}"


def _commands(manifest: Manifest, making: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what for, command) of all that it takes to come to these figures again, and to go on from them."""
    log = "" if manifest.simulated else " --data LOG"
    settings = "".join(f" --set {one}" for one in making["settings"])
    others = [point.name for point in manifest.operating_points if point.name != manifest.default_point]
    train = f"router-train run{log}{settings}"
    if making["added"] is not None:
        train = f"router-train add-candidate {making['added']} --data LOG"
    found = [("Make it again from the same log", train)]
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
        found.append((f"Serve another trade-off ({', '.join(others)})", f"router-train set-point {others[0]}"))
    found.append(("Serve it", f"router-serve --bundle models/{manifest.version}"))
    return found
