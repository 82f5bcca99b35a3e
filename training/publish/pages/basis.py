"""What the figures of the first screen rest on, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.bundle.manifest import Manifest
from training.publish.pages.written import count


def basis(manifest: Manifest, document: Mapping[str, Any], making: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """As (what, in words)."""
    log, found = document.get("log") or {}, []
    if log.get("requests_a_month_from") == "setting":
        found.append(("Volume", f"{count(log['requests_a_month'])} requests a month, as report.requests_a_month says."))
    elif log.get("requests_a_month") is not None:
        found.append(
            (
                "Volume",
                f"{count(log['dated'])} dated requests in {count(log['days'])} days, carried on to a month of 30.4 days. "
                "A season is not seen by it; report.requests_a_month overrides it.",
            )
        )
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
