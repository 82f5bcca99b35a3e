"""The report's tables, cell by cell as they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serving.bundle.manifest import Manifest
from training.publish.pages import in_log
from training.publish.pages.blocks import Table
from training.publish.pages.first_screen import FirstScreen
from training.publish.pages.written import count, figure, interval, money, percent, span, thousand

_DECIDED = ("Point", "Rule", "May fail", "Failed", "Bound", "Requests", "Quality", "Saving", "Saving, 95%")
_IF_ROUTED = ("Failed if routed (estimate)", "Saving if routed (estimate)")


def of_points(document: Mapping[str, Any]) -> dict[str, Table]:
    """Every operating point: what was `decided` on calibration requests, and what was `tested` on others."""
    points = document["points"]
    names = [one["name"] + (" (default)" if one["default"] else "") for one in points]
    marked = next((place for place, one in enumerate(points) if one["default"]), None)
    guessed = any(one["estimated"] for one in points)
    decided = [
        (
            name,
            f"always {one['always']}" if one["always"] else "certified" if one["certified"] else "not certified",
            percent(one["alpha"]),
            percent(one["calibration"]["violation_rate"]) if one["certified"] else "",
            percent(one["bound"]),
            count(one["requests"]),
            percent(one["calibration"]["quality"]),
            "" if one["always"] else percent(one["calibration"]["saving"]),
            "" if one["always"] else _ends(one["calibration"]),
            *(_if_routed(one) if guessed else ()),
        )
        for name, one in zip(names, points, strict=True)
    ]
    tested = [
        (
            name,
            count(test["requests"]),
            percent(test["violation_rate"]),
            percent(test["quality"]),
            span(test["quality_low"], test["quality_high"]).removeprefix("95% "),
            thousand(test["cost_usd"]),
            percent(test["saving"]),
        )
        for name, one in zip(names, points, strict=True)
        if (test := one["test"]) is not None
    ]
    headers = (*_DECIDED, *(_IF_ROUTED if guessed else ()))
    ends = _DECIDED.index("Saving, 95%")
    if guessed and not any(row[ends] for row in decided):
        headers, decided = headers[:ends] + headers[ends + 1 :], [row[:ends] + row[ends + 1 :] for row in decided]
    return {
        "decided": Table(
            "Calibration: what decided each operating point",
            headers,
            decided,
            marked,
        ),
        "tested": Table(
            "Test: what came of it on requests that had no say",
            ("Point", "Requests", "Failed", "Quality", "Quality, 95%", "USD per 1,000", "Saving"),
            tested,
            marked if len(tested) == len(points) else None,
        ),
    }


def _ends(one: Mapping[str, Any]) -> str:
    return span(one["saving_low"], one["saving_high"]).removeprefix("95% ")


def _if_routed(one: Mapping[str, Any]) -> tuple[str, str]:
    """What a point without a certificate is estimated to give, were requests routed at it."""
    guess = one["estimated"]
    if not guess:
        return "", ""
    return percent(guess["violation_rate"]), percent(guess["saving"])


def by_workflow(manifest: Manifest) -> Table | None:
    proof = manifest.default.certificate
    if proof is None:
        return None
    rows = [
        (name, count(one.requests), percent(one.violation_rate), percent(one.bound), percent(one.saving))
        for name, one in proof.workflows.items()
    ]
    headers = ("Workflow", "Calibration requests", "Failed", "Bound, taken alone", "Saving")
    above = in_log.above_the_limit(proof)
    notable = frozenset(place for place, name in enumerate(proof.workflows) if name in above)
    said = f"; marked: failed more than the {percent(proof.alpha)} that are allowed on average" if notable else ""
    return Table(f"The certificate by workflow{said}", headers, rows, notable=notable)


def routers(document: Mapping[str, Any]) -> Table | None:
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
                # A document of before this was told apart has the one that is chosen and measured on the same requests.
                percent(line["cost_save"]) if "cost_save_in_sample" in line else "",
                percent(line.get("cost_save_in_sample", line["cost_save"])),
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
        "CostSave, same requests (optimistic)",
        "Our AIQ minus its, 95%",
    )
    return Table("This router and others, on the test part", headers, rows, 0)


def profiles(manifest: Manifest, document: Mapping[str, Any]) -> Table | None:
    if not document["profiles"]:
        return None

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
        )
        for one in document["profiles"]
    ]
    headers = (
        "Candidate", "Price in / out, per million tokens", "Quality", "Judged", "USD per 1,000", "Median latency",
        "Share in the log", "Share routed",
    )  # fmt: skip
    return Table("The candidates", headers, rows)


def strengths(document: Mapping[str, Any]) -> Table | None:
    """In a table of its own: beside the figures there would be no room for the names of workflows."""
    if not document["profiles"]:
        return None

    def named(found: Any) -> str:
        gaps = (
            f"{one['workflow']} ({100 * one['gap']:+.0f})".replace(" (-", " (−")
            for one in found
            if one["low"] > 0 or one["high"] < 0
        )
        return ", ".join(gaps) or "nothing stands out"

    rows = [(one["candidate"], named(one["best"]), named(one["worst"])) for one in document["profiles"]]
    return Table("What each candidate is good and bad at", ("Candidate", "Good at", "Bad at"), rows)


def _price(one: Mapping[str, Any]) -> str:
    if one["input_usd_per_mtok"] is None or one["output_usd_per_mtok"] is None:
        return "costs from the log"
    return f"{money(one['input_usd_per_mtok'])} / {money(one['output_usd_per_mtok'])}"


def splits(document: Mapping[str, Any]) -> Table:
    """AIQ by other splits of the log than the run's own."""
    rows = [
        (line["name"], f"not measured: {line['why_not']}", "", "", "", "")
        if line["why_not"]
        else (
            line["name"],
            left_out(line),
            figure(line["aiq"], 4),
            figure(line["workflow_table"], 4),
            figure(line["zero_router"], 4),
            interval(line["lead"]),
        )
        for line in document["splits"]
    ]
    headers = ("Split", "Tested", "AIQ", "Workflow table", "Zero router", "Lead on the table, 95%")
    return Table("Figures by three splits", headers, rows)


def off_policy(making: Mapping[str, Any]) -> Table:
    """What requests with one outcome say of a routing."""
    rows = []
    for line in making["off_policy"]:
        quality, cost = line["quality"], line["cost_usd"]
        if quality["refused"]:
            rows.append((line["name"], f"refused: {quality['refused']}", *[""] * 6))
            continue
        rows.append(
            (
                line["name"],
                percent(quality["value"]),
                span(quality["low"], quality["high"]).removeprefix("95% "),
                percent(line["quality_ips"]["value"]),
                percent(line["quality_snips"]["value"]),
                thousand(cost["value"]),
                "" if cost["low"] is None else f"{thousand(cost['low'])} … {thousand(cost['high'])}",
                f"{count(quality['effective_sample'])} of {count(quality['n'])}",
            )
        )
    headers = (
        "Routing", "Quality, doubly robust", "95%", "Inverse weighting", "Self-normalised", "USD per 1,000", "95%",
        "Effective sample",
    )  # fmt: skip
    return Table("Off-policy estimates on all judged test requests", headers, rows)


def estimators(head: Mapping[str, Any]) -> Table:
    """The estimators' out-of-fold record for one kind of requests; the selected one is marked."""
    scores = head["scores"]
    rows = [
        (
            one["name"] + (f", not trained: {one['why_not']}" if one["why_not"] else ""),
            figure(one["aiq"], 4),
            figure(one["shortfall_error"], 4),
            figure(one["brier"], 4),
            figure(one["ece"]),
        )
        for one in scores
    ]
    marked = next((place for place, one in enumerate(scores) if one["selected"]), None)
    headers = ("Estimator", "AIQ", "Standard error of the gap", "Brier", "ECE, uncalibrated")
    return Table(f"Estimators for requests {head['requests']}", headers, rows, marked)


def pairs(caption: str, headers: Sequence[str], counts: Mapping[str, int]) -> Table:
    return Table(caption, headers, [(name, count(n)) for name, n in counts.items()])


def aliases(making: Mapping[str, Any]) -> Table:
    rows = [(use["alias"], use["candidate"], count(use["rows"])) for use in making["aliases"]]
    return Table("Names read as another, as the catalogue's aliases say", ("In the log", "Candidate", "Rows"), rows)


def formulas(screen: FirstScreen) -> Table:
    """How each figure of the first screen is computed from manifest.json."""
    rows = [(one.label, one.value, one.formula) for one in screen.figures]
    return Table("The figures at the top, from manifest.json", ("Figure", "Value", "Formula"), rows)


def left_out(line: Mapping[str, Any]) -> str:
    """What was tested of a split with figures, in words."""
    if line["parts"] < 2:
        return f"{line['requests']:,} requests"
    return f"{line['requests']:,} requests, {line['workflows']} workflows left out in turn"
