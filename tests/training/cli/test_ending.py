"""How a run ends: one next step, and, where nothing is certified, what the bundle does that serves now all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.bundle.manifest import Manifest, OperatingPoint
from tests import fake_bundle
from training.cli import show
from training.publish.promote import Promotion

OUT = Path("models")
PLAN = "What now: router-train plan --data a.csv --budget-usd 1\nIt plans 12 answers."
FIRST = Promotion(True, "It is the first bundle.", None)


def ending(
    capsys: pytest.CaptureFixture[str], made: Manifest, evidence: str | None = None, promotion: Promotion = FIRST
) -> str:
    show.print_next(promotion, made, OUT, evidence)
    return " ".join(capsys.readouterr().out.split())


def at(*points: OperatingPoint) -> Manifest:
    """A manifest with these points, the first of which is served."""
    return fake_bundle.manifest().model_copy(update={"operating_points": points, "default_point": points[0].name})


def point(target: float, *, certified: bool, always: str | None = None) -> OperatingPoint:
    proof = fake_bundle.certificate() if certified else None
    name = f"quality-{target:g}"
    return OperatingPoint(name=name, knob=1.0, always=always, calibration_requests=500, certificate=proof)


def test_a_bundle_without_a_certificate_that_serves_says_what_it_does_and_how_it_would_not_serve(
    capsys: pytest.CaptureFixture[str],
) -> None:
    said = ending(capsys, at(point(0.95, certified=False, always="big"), point(0.9, certified=False)), PLAN)
    assert said.count("What now") == 1
    assert "models/current IS THIS BUNDLE NOW, ALTHOUGH NOTHING IS CERTIFIED AT quality-0.95" in said
    assert "every request goes to big, and one that sets cost_quality is routed by estimates alone" in said
    assert "With --no-promote a run writes its bundle and leaves what is served as it is." in said
    assert "Certified:" not in said


def test_other_points_that_are_certified_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    said = ending(capsys, at(point(0.95, certified=False), point(0.9, certified=True)), PLAN)
    assert "a request goes where the target is estimated to be kept" in said
    assert "Certified: quality-0.9 (router-train set-point quality-0.9 --out models)." in said


def test_what_is_not_promoted_is_not_said_to_serve(capsys: pytest.CaptureFixture[str]) -> None:
    refused = Promotion(False, "It is worse.", None)
    said = ending(capsys, at(point(0.95, certified=False, always="big")), PLAN, refused)
    assert said == " ".join(PLAN.split())


def test_a_certified_bundle_is_to_be_served(capsys: pytest.CaptureFixture[str]) -> None:
    made = at(point(0.95, certified=True), point(0.9, certified=True))
    said = ending(capsys, made)
    assert said.startswith(
        "What now: router-serve --bundle models/current; another certified trade-off of quality-0.9:"
    )
    assert said.count("What now") == 1
    assert "ALTHOUGH" not in said
