"""What the figures of the first screen rest on, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.bundle.manifest import Manifest
from training.publish.pages.written import count, day

_HALF_LIFE = "fit.half_life_days"


def basis(manifest: Manifest, document: Mapping[str, Any], making: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """As (what, in words)."""
    found = [("Volume", volume(document.get("log") or {}))]
    if "requests" in making.get("counts", {}):
        found.insert(0, ("Learned from", learned_from(making)))
    priced = [name for name, source in manifest.cost_from.items() if source == "tokens"]
    logged = [name for name, source in manifest.cost_from.items() if source != "tokens"]
    words = []
    if priced:
        words.append(f"tokens times the catalogue's list price for {', '.join(priced)}")
    if logged:
        words.append(f"the log's own costs for {', '.join(logged)}")
    discount = " A discount of yours that is not in the catalogue changes what is saved." if priced else ""
    found.append(("Prices", f"USD, {'; '.join(words)}.{discount}"))
    found.append(
        (
            "Acceptable",
            f"A judged quality of at least {manifest.acceptable:g} in the log. Whoever judged the log decided what is good.",
        )
    )
    note = making.get("reference_note")
    found.append(
        ("Reference", f"{manifest.reference}{f' ({note})' if note else ''}: what everything is measured against.")
    )
    if manifest.simulated:
        found.insert(0, ("Simulated", "The log is made up: prices are real, how good each candidate is was invented."))
    return tuple(found)


def learned_from(making: Mapping[str, Any]) -> str:
    """How many requests there are, which of them are new, since when nothing was selected, and what age takes from them."""
    counts, before = making["counts"], making.get("added_to")
    told = f"{count(counts['requests'])} requests"
    if before:
        told += (
            f": {count(before['requests'])} of the run of {day(before['created'])} and {count(before['added'])} new ones. "
            f"Which methods are used was chosen on {day(before['chosen'])} and not looked at again"
        )
    told += "."
    if (core := counts.get("requests in the core")) is not None:
        told += f" {count(core)} of them were drawn to stand for all."
    for setting in making.get("settings", ()):
        name, _, days = setting.partition("=")
        if name == _HALF_LIFE and float(days) > 0:
            told += f" Older answers count less: half after {float(days):g} days."
    return told


def volume(log: Mapping[str, Any]) -> str:
    """How many requests a month there are, and whether that is reckoned from the log's dates or was given; what the log says
    against it, or why there is none."""
    a_month, note = log.get("requests_a_month"), log.get("note")
    if a_month is None:
        return f"Not known: {note or 'the log has no dates. Set report.requests_a_month if you know it.'}"
    if log.get("requests_a_month_from") == "setting":
        return f"{count(a_month)} requests a month: given (report.requests_a_month), not counted in the log."
    dated, counted = log.get("dated"), log.get("counted", log.get("dated"))
    told = f"{count(a_month)} requests a month, reckoned from the log's dates: {count(counted)} requests counted in"
    if log.get("first") is not None and log.get("last") is not None:
        told += f" the {count(log['days'])} days from {day(log['first'])} to {day(log['last'])}"
    else:
        told += f" {count(log['days'])} days"
    if (left := log.get("requests", counted) - counted) > 0:
        told += f"; {count(left)} that went to every candidate or were bought are no traffic and not counted"
    if (without := log.get("requests", dated) - dated) > 0:
        told += f"; {count(without)} requests without a date are taken to be of the same days"
    return f"{told}. {note or 'A season is not seen by it; report.requests_a_month overrides it.'}"
