"""Weak signals on a simulated log: what users and answers would have shown of quality, where nobody judged it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from training.config import WEAK
from training.simulation.simulate import ACCEPTABLE_SCORE


@dataclass(frozen=True)
class Showing:
    """How often a source speaks up: the share of bad answers after which it does (its sensitivity), and of good ones."""

    bad: float
    good: float = 0.0


@dataclass(frozen=True)
class Behaviour:
    """What shows of answers, by source. `restless` is the share of good answers that is asked for again in these workflows."""

    showing: Mapping[str, Showing] = field(
        default_factory=lambda: {
            "schema": Showing(0.04),
            "empty": Showing(0.03),
            "cut": Showing(0.05),
            "retried": Showing(0.40, 0.03),
            "switched": Showing(0.10, 0.01),
        }
    )
    restless: Mapping[str, float] = field(default_factory=dict)


def with_signals(outcomes: pd.DataFrame, behaviour: Behaviour, judged_share: float, seed: int) -> pd.DataFrame:
    """A log in which every answer was judged, as one with the share `judged_share` of judgements, and signals on the others.

    What fails is known as before. A signal says quality 0, by `quality_source`; where several speak up, the surest one does.
    """
    generator = np.random.default_rng(seed)
    n = len(outcomes)
    quality = outcomes["quality"].to_numpy(dtype=np.float64, na_value=np.nan)
    hidden = (outcomes["status"] == "success").to_numpy() & (generator.random(n) >= judged_share)
    bad = quality < ACCEPTABLE_SCORE
    again = outcomes["workflow"].map(dict(behaviour.restless)).to_numpy(dtype=np.float64, na_value=np.nan)
    source = np.full(n, None, dtype=object)
    for name in reversed(WEAK):
        shows = behaviour.showing.get(name, Showing(0.0))
        good = np.where(np.isfinite(again), again, shows.good) if name == "retried" else shows.good
        source[generator.random(n) < np.where(bad, shows.bad, good)] = name
    source[~hidden] = None
    spoken = np.array([one is not None for one in source])
    return outcomes.assign(
        quality=np.where(spoken, 0.0, np.where(hidden, np.nan, quality)),
        quality_source=pd.Series(source, outcomes.index),
    )
