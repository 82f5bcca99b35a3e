"""A store whose counterfactual is known: what the reference would have cost at every decision was drawn, and is not in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from serving.account.asked import Tables, asked
from serving.account.savings import Account
from serving.account.window import By, Window
from serving.store.tables import ALSO_FEEDBACK, DECISIONS, FEEDBACK, METADATA
from tests.serving.store.rows import decision, feedback

REFERENCE, OTHERS = "acme/large", ("acme/small", "open/medium")
TABLES = Tables(DECISIONS, FEEDBACK, ALSO_FEEDBACK)


@dataclass(frozen=True)
class Simulated:
    """The rows, and by workflow what the reference would have cost at the decisions that have a cost."""

    decisions: list[dict[str, Any]]
    told: list[dict[str, Any]]
    truth: dict[str, float]
    quality: float


def simulate(
    seed: int,
    *,
    conversations: int = 300,
    turns: float = 3.0,
    share: float = 0.3,
    ratio: float = 1.3,
    noise: float = 0.5,
    shared: float = 0.4,
    dearer: float = 1.0,
) -> Simulated:
    """Conversations of about so many turns. The reference costs `ratio` times what was expected, with noise of each answer and
    of each conversation; `share` of the turns go to it. The others cost `dearer` times as much as it did beyond that."""
    rng = np.random.default_rng(seed)
    rows, told, truth = [], [], dict.fromkeys(("a", "b"), 0.0)
    for number in range(conversations):
        own, good = np.exp(shared * rng.standard_normal() - shared**2 / 2), rng.beta(4, 1)
        for turn in range(1 + rng.poisson(turns - 1)):
            name, workflow = f"{number}-{turn}", "ab"[number % 2]
            expected = float(np.exp(rng.standard_normal()) * 1e-3)
            stray = own * np.exp(noise * rng.standard_normal() - noise**2 / 2)
            reference_usd = float(expected * ratio * stray)
            chosen = REFERENCE if rng.random() < share else OTHERS[rng.integers(2)]
            part = 1.0 if chosen == REFERENCE else 0.2
            paid = reference_usd if chosen == REFERENCE else expected * part * dearer * ratio * float(stray)
            truth[workflow] += reference_usd
            rows.append(
                decision(
                    name,
                    session_id=str(number),
                    workflow=workflow,
                    candidate=chosen,
                    expected_cost_usd=expected * part,
                    reference=REFERENCE,
                    reference_expected_cost_usd=expected,
                    reference_input_usd=expected / 10,
                )
            )
            said = feedback(name, cost_usd=paid, quality=float(rng.random() < good))
            told.append(said.row(200.0))
    return Simulated(rows, told, truth, 0.8)


def account_of(rows: Simulated, by: By = By.WORKFLOW) -> Account:
    engine = sa.create_engine("sqlite://")
    METADATA.create_all(engine)
    with engine.begin() as connection:
        connection.execute(DECISIONS.insert(), rows.decisions)
        connection.execute(FEEDBACK.insert(), rows.told)
        found = asked(connection, TABLES, Window(by, 0.0, 1e6))
    engine.dispose()
    return found


def two_keys(
    seed: int, ratios: tuple[float, float], shares: tuple[float, float], conversations: int = 400
) -> Simulated:
    """Two keys of one workflow, whose reference answers cost so many times what was expected, and of whose turns it answers
    such shares; the truth is by key."""
    rng = np.random.default_rng(seed)
    rows, told, truth = [], [], dict.fromkeys(("one", "two"), 0.0)
    for number in range(conversations):
        key, ratio, share = ("one", "two")[number % 2], ratios[number % 2], shares[number % 2]
        for turn in range(1 + rng.poisson(2)):
            name, expected = f"{number}-{turn}", float(np.exp(rng.standard_normal()) * 1e-3)
            reference_usd = float(expected * ratio * np.exp(0.5 * rng.standard_normal() - 0.125))
            chosen = REFERENCE if rng.random() < share else OTHERS[rng.integers(2)]
            part = 1.0 if chosen == REFERENCE else 0.2
            truth[key] += reference_usd
            rows.append(
                decision(
                    name,
                    key=key,
                    session_id=str(number),
                    workflow="w",
                    candidate=chosen,
                    expected_cost_usd=expected * part,
                    reference=REFERENCE,
                    reference_expected_cost_usd=expected,
                    reference_input_usd=expected / 10,
                )
            )
            told.append(feedback(name, cost_usd=reference_usd * part, quality=1.0).row(200.0))
    return Simulated(rows, told, truth, 1.0)
