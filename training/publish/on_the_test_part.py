"""What the default operating point came to on test requests, beside its calibration figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from serving.bundle.manifest import OperatingPoint
from training.publish.pages.written import count, percent, span


def said(document: Mapping[str, Any]) -> str:
    """What was saved there at which quality, in a sentence; empty where that is not known."""
    test = _default(document)
    if test is None or test.get("saving") is None:
        return ""
    alone = next(
        (one["quality"] for one in document.get("singles", ()) if one["candidate"] == document["reference"]), None
    )
    beside = "" if alone is None else f" ({document['reference']} alone: {percent(alone)})"
    kind = "is estimated to have saved" if document.get("basis") == "doubly robust" else "saved"
    return (
        f"On the {count(test['requests'])} test requests, which it had not seen, it {kind} {percent(test['saving'])} "
        f"({span(test['saving_low'], test['saving_high'])}) with {percent(test['quality'])} acceptable answers{beside}."
        + (f" {document['basis_note']}" if document.get("basis_note") else "")
    )


def differs(point: OperatingPoint, document: Mapping[str, Any]) -> str | None:
    """That what was saved there differs from what the point is said to save by more than chance makes; None where it does not.

    Two independent figures differ where the 95% interval of their difference, made of the ends of both, leaves out 0. Those of
    overlapping intervals may. Source: Zou & Donner 2008.
    """
    test, proof, saving = _default(document), point.certificate, point.saving
    if test is None or test.get("saving") is None or proof is None or saving is None:
        return None
    more = test["saving"] > saving
    ends = (proof.saving_high, test["saving_low"]) if more else (proof.saving_low, test["saving_high"])
    if abs(test["saving"] - saving) <= math.hypot(ends[0] - saving, ends[1] - test["saving"]):
        return None
    return (
        f"On the {count(test['requests'])} test requests {percent(test['saving'])} was saved "
        f"({span(test['saving_low'], test['saving_high'])}), {'more' if more else 'less'} than the {percent(saving)} "
        f"({span(proof.saving_low, proof.saving_high)}) on the calibration requests, from which the headline is, and by "
        "more than chance makes: the log has changed, or its parts differ otherwise."
    )


def quality(document: Mapping[str, Any]) -> tuple[float, str] | None:
    """The share of acceptable answers there, and of which requests in words; None where it is not known."""
    test = _default(document)
    if test is None or test.get("quality") is None:
        return None
    return float(test["quality"]), f"On {count(test['requests'])} test requests, other ones than what is saved is of"


def _default(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return next((one["test"] for one in document.get("points", ()) if one["default"]), None)
