"""A simulated log, a champion that has never seen one of its candidates, and that candidate's answers to a plan."""

from __future__ import annotations

import numpy as np
import pandas as pd

from serving.bundle.catalogue import Candidate
from tests.conftest import QUICK
from training.config import DEFAULTS, Params, load_params
from training.logs.outcomes import Outcomes
from training.logs.validate import validate
from training.prices.catalogue import SHIPPED, load_catalogue
from training.replay.pairs import PlanFile
from training.simulation.simulate import SimulatedLog, simulate

NEW = "gemini-3.8-flash"
CANDIDATES = ("gpt-6-luna", "mistral-small-2603", "deepseek-v4-pro", "claude-opus-5-5", NEW)
REQUESTS = 1500


def settings(*more: str) -> Params:
    """Quick ones, with a calibration part kept aside."""
    return load_params(DEFAULTS, (*QUICK, "policy.cross_fit_below=0", "evaluate.resamples=100", *more))


def prices() -> dict[str, Candidate]:
    return load_catalogue(SHIPPED)


def simulated(seed: int = 5) -> SimulatedLog:
    catalogue = prices()
    return simulate([catalogue[name] for name in CANDIDATES], requests=REQUESTS, seed=seed)


def table(frame: pd.DataFrame) -> Outcomes:
    return validate(frame, source="test", format="test")


def others(log: SimulatedLog) -> pd.DataFrame:
    """The log as it was before anybody knew the new candidate; propensities are those among the others."""
    frame = log.outcomes[log.outcomes["candidate"] != NEW]
    return frame.reset_index(drop=True)


def answers(log: SimulatedLog, plan: PlanFile, *, judged: bool = True, seed: int = 0) -> pd.DataFrame:
    """The rows that buying the plan would add to the log."""
    draw = np.random.default_rng(seed)
    rows = [
        {
            "request_id": pair.request_id,
            "prompt": pair.prompt,
            "messages": pair.messages,
            "candidate": pair.candidate,
            "quality": float(draw.random() < log.acceptable.loc[pair.request_id, pair.candidate]) if judged else None,
            "cost_usd": float(log.cost_usd.loc[pair.request_id, pair.candidate]),
            "input_tokens": 200,
            "output_tokens": 300,
            "latency_ms": 1000.0,
            "timestamp": pair.timestamp,
            "session_id": pair.session_id,
            "workflow": pair.workflow,
            "propensity": pair.propensity,
            "status": "success",
        }
        for pair in plan.pairs
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(timestamp=pd.to_datetime(frame["timestamp"], utc=True))


def together(log: SimulatedLog, more: pd.DataFrame) -> Outcomes:
    return table(pd.concat([others(log), more], ignore_index=True))
