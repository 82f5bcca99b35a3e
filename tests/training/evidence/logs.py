"""Logs for planning: of the simulator, without shadow requests and with little feedback."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

from serving.bundle.catalogue import Candidate
from training.config import Params, load_params
from training.evidence.frame import SamplingFrame, sampling_frame
from training.logs.outcomes import Outcomes
from training.logs.validate import validate
from training.prices.catalogue import SHIPPED, load_catalogue
from training.simulation.simulate import SimulatedLog, simulate

CACHE = Path(__file__).parents[3] / ".cache"
CATALOGUE: dict[str, Candidate] = load_catalogue(SHIPPED)
PARAMS: Params = load_params(overrides=["plan.draws=8"])


@cache
def simulated(requests: int = 600, judged: float = 0.05, seed: int = 0) -> SimulatedLog:
    candidates = [CATALOGUE[name] for name in PARAMS.simulate.candidates]
    return simulate(candidates, requests=requests, seed=seed, shadow_share=0.0, judged_share=judged)


def table(requests: int = 600, judged: float = 0.05) -> Outcomes:
    return validate(simulated(requests, judged).outcomes, source="log", format="canonical")


def of_rows(*rows: dict[str, object]) -> Outcomes:
    return validate(pd.DataFrame(list(rows), dtype=object), source="log", format="canonical")


def frame_of(log: Outcomes, *others: str) -> SamplingFrame:
    return sampling_frame(log, PARAMS, CATALOGUE, CACHE, others=others)
