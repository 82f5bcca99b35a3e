"""Small logs of the candidates of the bundle that nobody trained."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tests.fake_bundle import LARGE, OPEN, SMALL, WORDS
from training.logs.outcomes import Outcomes
from training.logs.validate import validate

_CANDIDATES = (SMALL, OPEN, LARGE)


def log_of(seed: int, requests: int = 60) -> Outcomes:
    """Requests of a few words, half of them hard, some beyond the small windows, each tried on every candidate."""
    draw = np.random.default_rng(seed)
    rows = []
    for number in range(requests):
        words = " ".join(draw.choice(WORDS[1:], size=int(draw.integers(1, 12))))
        prompt = f"{words} {'hello ' * 20_000}" if number % 20 == 0 else f"{words} {number}"
        workflow = ("easy", "hard", None)[number % 3]
        for column, name in enumerate(_CANDIDATES):
            rows.append(
                {
                    "request_id": f"r{number}",
                    "prompt": prompt,
                    "workflow": workflow,
                    "candidate": name,
                    "quality": float(draw.random() < (0.5, 0.7, 0.9)[column]),
                    "cost_usd": float(draw.random() * (0.001, 0.003, 0.01)[column]),
                }
            )
    return validate(pd.DataFrame(rows), source="test", format="test")
