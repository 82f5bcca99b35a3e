"""`frontier.json`: what a bundle was measured to give, for the report, the page, notebooks and other tools."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from serving.bundle.manifest import Manifest, OperatingPoint
from training.dataset.sampling.core import Sampled
from training.dataset.volume import Volume
from training.evaluate.bands import Mark
from training.evaluate.evaluation import ROUTER, Evaluation, PointLine
from training.evaluate.profiles import Profile

FRONTIER = "frontier.json"
# Raise it when a key no longer means what it did.
SCHEMA = 2


def frontier_document(manifest: Manifest, evaluation: Evaluation) -> dict[str, Any]:
    """Everything that it takes to redraw the frontier and to write the report; no figure that could not be measured.

    `basis` says whether outcomes are known or estimated, also those of `workflows`. `why_not` says why no routing could be
    compared exactly, and, where `basis` is null too, why it could not be estimated. `basis_note` is a sentence to stand beside
    the figures of `sweep`, `guarded`, `points` and `singles`, where their requests are not like all the traffic. `routers`,
    `workflows`, `reliability.chosen` and `risk_coverage` are about the operating point `measured_at`.
    """
    found, log = evaluation.tradeoff, evaluation.volume
    why_not = evaluation.why_not
    if found.basis is None and found.why_not is not None:
        why_not = f"{why_not or ''} Nor can it be estimated: {found.why_not}.".strip()
    single = found.singles.get(manifest.reference)
    document = {
        "schema": SCHEMA,
        "version": manifest.version,
        "simulated": manifest.simulated,
        "test_requests": evaluation.test_requests,
        "complete_requests": evaluation.complete_requests,
        "why_not": why_not,
        "operating_point": manifest.default_point,
        "measured_at": manifest.default_point,
        "reference": manifest.reference,
        "objective": manifest.objective,
        "curves": {
            name: {"cost_usd": list(cost), "quality": list(quality)}
            for name, (cost, quality) in (evaluation.curves or {}).items()
        },
        "routers": [vars(line) for line in evaluation.lines],
        "workflows": [vars(line) for line in evaluation.workflows],
        "splits": [vars(line) for line in evaluation.splits],
        "calibration": None if evaluation.calibration is None else vars(evaluation.calibration),
        "basis": found.basis,
        "basis_requests": found.requests,
        "effective_requests": found.effective_requests,
        "basis_note": found.note,
        "sweep": [asdict(mark) for mark in found.sweep],
        "guarded": [asdict(mark) for mark in found.guarded],
        "points": [
            point_of(manifest, point, found.points.get(point.name), found.requests, evaluation.point(point.name))
            for point in manifest.operating_points
        ],
        "singles": [
            {"candidate": name, **_measured(mark), "requests": found.requests} for name, mark in found.singles.items()
        ],
        "profiles": [_profile(manifest, one, evaluation.shares) for one in evaluation.profiles],
        "reliability": None if evaluation.reliability is None else asdict(evaluation.reliability),
        "risk_coverage": [asdict(one) for one in evaluation.risk_coverage],
        # Below which confidence a caller wants the reference instead, its rules say, and no bundle.
        "abstention": {"novel": evaluation.novel, "low_confidence": None},
        "log": None if log is None else asdict(log),
        "month": None
        if log is None
        else month_of(manifest, log, None if single is None else single.cost_usd, evaluation.against_log),
    }
    return dict(_clean(document))


def point_of(
    manifest: Manifest, point: OperatingPoint, test: Mark | None, requests: int, line: PointLine | None = None
) -> dict[str, Any]:
    """An operating point: what is certified, what the calibration part gave, and what the test part did.

    `violation_low` is what the true rate of violations is hardly below; null where nothing was known of it.
    """
    proof, guess = point.certificate, point.estimated
    low, high = _saving_span(point)
    rate = proof.violation_rate if proof is not None else guess.violation_rate if guess is not None else None
    return {
        "name": point.name,
        "quality_target": point.quality_target,
        "knob": point.knob,
        "always": point.always,
        "guard": point.guard,
        "default": point.name == manifest.default_point,
        "certified": proof is not None,
        "alpha": None if proof is None else proof.alpha,
        "delta": None if proof is None else proof.delta,
        "bound": None if proof is None else proof.bound,
        "method": None if proof is None else proof.method,
        "requests": point.calibration_requests if proof is None else proof.requests,
        "calibration": {
            "quality": point.quality,
            "cost_usd": point.cost_usd,
            "saving": point.saving,
            "saving_low": low,
            "saving_high": high,
            "violation_rate": rate,
        },
        "estimated": None if guess is None else guess.model_dump(),
        "test": None
        if test is None
        else {
            "requests": requests,
            "violation_rate": test.violation_rate,
            "violation_low": None if line is None or not line.complete else line.low,
            **_measured(test),
            "shares": test.shares,
        },
    }


def month_of(
    manifest: Manifest,
    log: Volume,
    reference_cost_usd: float | None = None,
    against_log: tuple[float, float] | None = None,
) -> dict[str, Any] | None:
    """What a month of the log's traffic costs and saves at the default operating point; None where the log has no volume.

    Requests a month: see `Volume`. The reference's cost of one request R is the point's cost / (1 - its saving), both of the
    calibration part; where the point has no cost, `reference_cost_usd`, measured on the test part; else the mean of the
    reference's logged calls. All to the reference: requests * R. Saved: requests * R * saving. As logged: requests * the log's
    cost of a request. A point that sends everything to the reference saves nothing; what its target is estimated to save is
    `estimated_saved_usd`.

    What is saved against the log is by other requests than what is routed; its interval, requests * `against_log`, is by the
    same ones (`saved_against_log`), and says whether there is a difference at all.

    `saving` is the share that the month is of, from the calibration part as the certificate is: the month of this point in the
    report and on the page comes from it, saved = requests * `reference_usd_per_request` * `saving`.

    No low and high end of what is saved in USD is known: R is as uncertain as the saving's share, and the manifest has an
    interval of the share alone. Nothing saved is known to be nothing.
    """
    requests, point = log.requests_a_month, manifest.default
    if requests is None:
        return None
    base, source = _reference_cost(manifest, point, reference_cost_usd)
    saving = point.saving
    nothing = 0.0 if point.always == manifest.reference else None
    everything = requests * base
    guess = point.estimated if point.always is not None else None
    routed = None if saving is None else everything * (1.0 - saving)
    logged = None if log.cost_usd_per_request is None else requests * log.cost_usd_per_request

    def part(share: float | None) -> float | None:
        return None if share is None else everything * share

    return {
        "requests": requests,
        "reference_usd": everything,
        "reference_usd_per_request": base,
        "reference_from": source,
        "saving": saving,
        "saving_from": "calibration",
        "routed_usd": routed,
        "saved_usd": part(saving),
        "saved_low": nothing,
        "saved_high": nothing,
        "estimated_saved_usd": part(None if guess is None else guess.saving),
        "estimated_saved_low": None,
        "estimated_saved_high": None,
        "logged_usd": logged,
        "saved_against_logged_usd": None if logged is None or routed is None else logged - routed,
        "saved_against_logged_low": None if logged is None or against_log is None else requests * against_log[0],
        "saved_against_logged_high": None if logged is None or against_log is None else requests * against_log[1],
    }


def with_month(
    metrics: Mapping[str, Any], document: Mapping[str, Any], sampled: Sampled | None = None
) -> dict[str, Any]:
    """A manifest's metrics with the log's dates and volume and the month's saving; no key for what is not known.

    `log_counted_requests` are those that a month is reckoned from, `requests_a_month` = counted / days * 30.4375: the log's own
    traffic, without what was put to every candidate or bought. Of a log that was `sampled`, `log_core_requests` are in its
    core.
    """
    log, month = document.get("log") or {}, document.get("month") or {}
    figures = {
        "log_first": log.get("first"),
        "log_last": log.get("last"),
        "log_days": log.get("days"),
        "log_requests": log.get("requests"),
        "log_dated_requests": log.get("dated"),
        "log_counted_requests": log.get("counted"),
        "log_core_requests": metrics.get("log_core_requests") if sampled is None else sampled.kept,
        "requests_a_month": log.get("requests_a_month"),
        "log_cost_usd_per_request": log.get("cost_usd_per_request"),
        "reference_cost_usd_per_request": month.get("reference_usd_per_request"),
        "month_saved_usd": month.get("saved_usd"),
        "month_saved_low": month.get("saved_low"),
        "month_saved_high": month.get("saved_high"),
        "month_saved_against_log_usd": month.get("saved_against_logged_usd"),
        "month_saved_against_log_low": month.get("saved_against_logged_low"),
        "month_saved_against_log_high": month.get("saved_against_logged_high"),
    }
    others = {name: value for name, value in metrics.items() if name not in figures}
    return others | {name: value for name, value in figures.items() if value is not None}


def at_another_point(document: Mapping[str, Any], manifest: Manifest) -> dict[str, Any]:
    """The document of a bundle that differs in its version and its default point alone.

    What was measured at the former default point stays, and `measured_at` names it. A document of an older schema gets what it
    has keys for.
    """
    changed = {**document, "version": manifest.version, "operating_point": manifest.default_point}
    if document.get("schema") != SCHEMA:
        return changed
    changed["points"] = [{**one, "default": one["name"] == manifest.default_point} for one in document["points"]]
    test = next((one["test"] for one in changed["points"] if one["default"]), None)
    if test is not None:
        now = {name: test[name] for name in ("quality", "cost_usd", "saving")}
        changed["routers"] = [{**line, **now} if line["name"] == ROUTER else line for line in document["routers"]]
    if document["log"] is not None:
        singles = {one["candidate"]: one["cost_usd"] for one in document["singles"]}
        changed["month"] = _clean(month_of(manifest, Volume(**document["log"]), singles.get(manifest.reference)))
    return changed


def router_line(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """The served router among the document's routers; None where nothing could be compared."""
    return next((line for line in document.get("routers", ()) if line["name"] == ROUTER), None)


def read_document(folder: Path) -> dict[str, Any] | None:
    """The document of the bundle in a folder; None where it has none."""
    path = folder / FRONTIER
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def write_document(folder: Path, document: Mapping[str, Any]) -> None:
    (folder / FRONTIER).write_text(json.dumps(document, indent=1, allow_nan=False), encoding="utf-8")


def _reference_cost(manifest: Manifest, point: OperatingPoint, measured: float | None) -> tuple[float, str]:
    if point.cost_usd is not None and point.saving is not None and point.saving < 1.0:
        return point.cost_usd / (1.0 - point.saving), "calibration"
    if measured is not None:
        return measured, "test"
    return manifest.usual[manifest.reference].cost_usd, "usual"


def _saving_span(point: OperatingPoint) -> tuple[float | None, float | None]:
    """The 95% interval of what the point saves as it is served."""
    if point.certificate is not None:
        return point.certificate.saving_low, point.certificate.saving_high
    if point.always is not None:
        return point.saving, point.saving
    guess = point.estimated
    return (None, None) if guess is None else (guess.saving_low, guess.saving_high)


def _measured(mark: Mark) -> dict[str, float]:
    """Means and bands of a mark."""
    names = [f"{what}{end}" for what in ("cost", "quality", "saving") for end in ("_usd", "_low", "_high")]
    names = [name.replace("quality_usd", "quality").replace("saving_usd", "saving") for name in names]
    return {name: getattr(mark, name) for name in names}


def _profile(manifest: Manifest, profile: Profile, shares: Mapping[str, float]) -> dict[str, Any]:
    known = next(one for one in manifest.candidates if one.name == profile.candidate)
    return {
        "candidate": known.name,
        "provider": known.provider,
        "input_usd_per_mtok": known.input_usd_per_mtok,
        "output_usd_per_mtok": known.output_usd_per_mtok,
        "cost_from": manifest.cost_from[known.name],
        "share_routed": shares.get(known.name),
        **asdict(profile),
    }


def _clean(value: Any) -> Any:
    """JSON has no number that is none, nor an infinite one: what does not apply, and a knob without end, is null."""
    if isinstance(value, Mapping):
        return {key: _clean(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_clean(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
