"""What the bundle that nobody trained is measured to give, on a small log with dates in which every candidate answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from serving.bundle.manifest import OperatingPoint, open_bundle
from tests.fake_bundle import CANDIDATES, LARGE, WORDS, certificate
from training.dataset.volume import Volume
from training.evaluate.served import evaluate_bundle
from training.logs.outcomes import Outcomes
from training.logs.validate import validate
from training.publish.document import frontier_document

REQUESTS, DAYS = 300, 30
# What each candidate's answers to a request of these words cost, and how often they are acceptable without and with "prove".
_COST = (0.00005, 0.001, 0.0065)
_ACCEPTABLE = ((0.75, 0.3), (0.88, 0.7), (0.97, 0.95))

# What the default point would be if somebody had certified it.
CERTIFIED = OperatingPoint(
    name="quality-0.9",
    quality_target=0.9,
    knob=40.0,
    guard=LARGE,
    calibration_requests=100,
    quality=0.92,
    cost_usd=0.0026,
    saving=0.6,
    certificate=certificate(saving_low=0.52, saving_high=0.67),
)


def log_with_dates(seed: int = 0, requests: int = REQUESTS, *, everybody: bool = True) -> Outcomes:
    """Requests of a few words over thirty days, each put to every candidate, or to one drawn at random."""
    draw = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for number in range(requests):
        proof = draw.random() < 0.5
        words = draw.choice([word for word in WORDS[1:] if word != "prove"], size=int(draw.integers(1, 6)))
        prompt = " ".join([*(["prove"] if proof else []), *map(str, words), str(number)])
        asked = range(len(CANDIDATES)) if everybody else [int(draw.integers(len(CANDIDATES)))]
        for column in asked:
            rows.append(
                {
                    "request_id": f"r{number}",
                    "prompt": prompt,
                    "workflow": ("easy", "hard", None)[number % 3],
                    "candidate": CANDIDATES[column].name,
                    "quality": float(draw.random() < _ACCEPTABLE[column][int(proof)]),
                    "cost_usd": float(_COST[column] * draw.uniform(0.5, 1.5)),
                    "latency_ms": float((200.0, 500.0, 900.0)[column] * draw.uniform(0.8, 1.2)),
                    "timestamp": pd.Timestamp("2026-03-01", tz="UTC")
                    + pd.Timedelta(days=DAYS * number / max(requests - 1, 1)),
                    "propensity": None if everybody else 1.0 / len(CANDIDATES),
                }
            )
    return validate(pd.DataFrame(rows), source="test", format="test")


def document(folder: Path, log: Outcomes | None = None) -> dict[str, Any]:
    """`frontier.json` of the bundle in a folder, on this log."""
    bundle = open_bundle(folder)
    found = evaluate_bundle(
        bundle, log_with_dates() if log is None else log, {}, assumed_output_tokens=100.0, resamples=100, seed=0
    )
    assert isinstance(found.volume, Volume)
    return frontier_document(bundle.manifest, found)
