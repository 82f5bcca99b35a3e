"""The simulated log: what an LLM gateway would have written, with the truth beside it.

Prices are the catalogue's. How good each candidate is, how fast and how wordy, is invented: a candidate gets one of
the profiles below by its rank in price, and nothing here is a measurement of any LLM. A request's difficulty is read
off the text that was composed for it, so that a router can learn it; a small part (NOISE) cannot be seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from serving.bundle.catalogue import Candidate
from training.simulation.requests import MIX, START, WORKFLOWS, Floats, Message, Requests, drawn, write_requests

BLOCK = 50_000  # requests that are made, and held, at once
ACCEPTABLE_SCORE = 0.75
SHADOW_SHARE = 0.25
UNTAGGED_SHARE = 0.04
UNJUDGED_SHARE, UNJUDGED_SHADOW_SHARE = 0.12, 0.03
NO_TOKENS_SHARE, NO_COST_SHARE = 0.05, 0.02
PROPENSITY_FLOOR = 0.03
SLOPE = 11.0
OUTPUT_SIGMA = 0.45
GRADED = ("summarising", "translation", "creative-writing")


@dataclass(frozen=True)
class _Profile:
    """What a candidate of one price rank is like."""

    ability: tuple[float, ...]  # the difficulty at which half of the answers are acceptable, one per workflow
    families: tuple[float, float, float]  # what western, eastern and rare languages add to ability
    long_prompt: float  # what a prompt of 4,000 tokens or more takes from ability
    verbosity: float  # answer length relative to the usual one
    tokens_per_s: float
    error_rate: float
    logged: float  # the logging policy's liking, a logit


#            support sql  review json summ  maths transl creative
_PROFILES = (
    _Profile((0.46, 0.34, 0.24, 0.74, 0.46, 0.16, 0.80, 0.32), (-0.06, 0.10, -0.12), 0.20, 0.8, 140, 0.014, -0.9),
    _Profile((0.62, 0.46, 0.40, 0.60, 0.58, 0.42, 0.50, 0.52), (0.02, -0.10, -0.15), 0.12, 1.0, 170, 0.010, -0.6),
    _Profile((0.52, 0.54, 0.52, 0.72, 0.56, 0.34, 0.66, 0.46), (0.14, -0.12, -0.12), 0.14, 0.9, 150, 0.012, -0.7),
    _Profile((0.76, 0.60, 0.54, 0.74, 0.90, 0.66, 0.72, 0.66), (0.00, 0.06, 0.02), 0.00, 1.2, 120, 0.008, 0.3),
    _Profile((0.62, 0.93, 0.92, 0.78, 0.62, 0.94, 0.62, 0.54), (-0.04, 0.08, -0.06), 0.06, 1.5, 60, 0.012, 0.1),
    _Profile((0.92, 0.82, 0.82, 0.80, 0.82, 0.80, 0.84, 0.94), (0.02, 0.00, 0.02), 0.02, 1.1, 70, 0.006, 1.3),
)
# The team that logged this sent code and maths to its dearest candidates even more often, and bulk work less.
_LOGGED_STRENGTH = (0.8, 1.1, 1.3, 0.6, 0.8, 1.4, 0.5, 1.0)


@dataclass(frozen=True)
class SimulatedLog:
    """A simulated log and the truth behind it.

    `outcomes` holds the raw rows, by time. `acceptable` and `cost_usd` are indexed by request_id and have one column
    per candidate, in the order given: the true P(quality >= ACCEPTABLE_SCORE) and the true expected cost in USD of
    sending that request there, errors included.
    """

    outcomes: pd.DataFrame
    acceptable: pd.DataFrame
    cost_usd: pd.DataFrame

    def parts(self, rows: int) -> Iterator[pd.DataFrame]:
        """The raw rows, so many at a time."""
        return (self.outcomes.iloc[start : start + rows] for start in range(0, len(self.outcomes), rows))


@dataclass(frozen=True)
class _Truth:
    """Arrays of shape (n requests, m candidates); `answers` is P(acceptable) when the call does not fail."""

    answers: Floats
    acceptable: Floats
    output_tokens: Floats
    cost_usd: Floats


def simulate(
    candidates: Sequence[Candidate],
    *,
    requests: int = 6000,
    days: float = 60.0,
    seed: int = 0,
    shadow_share: float = SHADOW_SHARE,
    judged_share: float = 1.0 - UNJUDGED_SHARE,
    block: int = BLOCK,
) -> SimulatedLog:
    """Simulate the log of `requests` distinct requests over `days` days.

    The share `shadow_share` of the requests are shadow requests (one row per candidate, propensity 1); the others have the one
    row that a stochastic logging policy chose, of which the share `judged_share` is judged. The same arguments give the same
    log: that of `simulate_blocks`, put in order. Raises ValueError when there are fewer than two candidates, two of one name,
    one without a price, no request, or less than a day.
    """
    blocks = list(
        simulate_blocks(
            candidates,
            requests=requests,
            days=days,
            seed=seed,
            shadow_share=shadow_share,
            judged_share=judged_share,
            block=block,
        )
    )
    if len(blocks) == 1:
        return blocks[0]
    outcomes = pd.concat([block.outcomes for block in blocks])
    return SimulatedLog(
        outcomes=outcomes.sort_values("timestamp", kind="stable", ignore_index=True),
        acceptable=pd.concat([block.acceptable for block in blocks]),
        cost_usd=pd.concat([block.cost_usd for block in blocks]),
    )


def simulate_blocks(
    candidates: Sequence[Candidate],
    *,
    requests: int,
    days: float = 60.0,
    seed: int = 0,
    shadow_share: float = SHADOW_SHARE,
    judged_share: float = 1.0 - UNJUDGED_SHARE,
    block: int = BLOCK,
) -> Iterator[SimulatedLog]:
    """What `simulate` makes, so many requests at a time, so that a log of any size can be written.

    Each block is a log of the whole period, drawn by the seed and its number alone; a prompt is repeated within its block.
    """
    _check(candidates, requests, days)
    profiles = _profiles(candidates)

    def made(number: int) -> SimulatedLog:
        first = number * block
        rng = np.random.default_rng([seed, number] if number else seed)
        asked = write_requests(min(block, requests - first), days, rng)
        truth = _truth(asked, candidates, profiles)
        ids = np.array([f"req-{first + place:07d}" for place in range(len(asked.contents))], dtype=object)
        index = pd.Index(ids, name="request_id")
        names = [candidate.name for candidate in candidates]
        return SimulatedLog(
            outcomes=_rows(asked, truth, candidates, profiles, ids, rng, shadow_share, judged_share),
            acceptable=pd.DataFrame(truth.acceptable, index=index, columns=names),
            cost_usd=pd.DataFrame(truth.cost_usd, index=index, columns=names),
        )

    return map(made, range(-(-requests // block)))


def _check(candidates: Sequence[Candidate], requests: int, days: float) -> None:
    names = [candidate.name for candidate in candidates]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"got candidates {names}; expected at least two, each name once")
    unpriced = [candidate.name for candidate in candidates if not candidate.priced]
    if unpriced:
        raise ValueError(f"candidates {unpriced} have no price; the simulator needs one for each")
    if requests < 1 or days < 1:
        raise ValueError(f"got requests={requests}, days={days}; expected at least one of each")


def _profiles(candidates: Sequence[Candidate]) -> list[_Profile]:
    """One profile per candidate, by its rank in the price of a call with three tokens in for each one out."""
    order = np.argsort([candidate.cost_usd(3, 1) for candidate in candidates], kind="stable")
    profiles = [_PROFILES[0]] * len(candidates)
    for rank, position in enumerate(order):
        profiles[position] = _PROFILES[round(rank * (len(_PROFILES) - 1) / (len(candidates) - 1))]
    return profiles


# --- truth ---


def _truth(asked: Requests, candidates: Sequence[Candidate], profiles: Sequence[_Profile]) -> _Truth:
    """What sending each request to each candidate would have given."""
    difficulty = np.array([content.difficulty for content in asked.contents])
    tokens = np.array([content.tokens for content in asked.contents], dtype=float)
    answer = np.array([content.answer for content in asked.contents])
    families = np.array([content.family for content in asked.contents])
    usual = answer * np.array([MIX[name].answer_tokens for name in WORKFLOWS], dtype=float)[asked.workflow]
    answers, output, cost = (np.empty((len(tokens), len(candidates))) for _ in range(3))
    for j, (candidate, profile) in enumerate(zip(candidates, profiles, strict=True)):
        ability = np.array(profile.ability)[asked.workflow]
        for family, bonus in zip(("western", "eastern", "rare"), profile.families, strict=True):
            ability += bonus * (families == family)
        ability -= profile.long_prompt * np.minimum(1.0, tokens / 4000)
        answers[:, j] = 1 / (1 + np.exp(-SLOPE * (ability - difficulty)))
        output[:, j] = np.maximum(1.0, usual * profile.verbosity)
        succeeded = 1 - profile.error_rate
        cost[:, j] = [candidate.cost_usd(sent, succeeded * got) for sent, got in zip(tokens, output[:, j], strict=True)]
    reliability = np.array([1 - profile.error_rate for profile in profiles])
    return _Truth(answers=answers, acceptable=answers * reliability, output_tokens=output, cost_usd=cost)


# --- rows ---


def _propensities(workflow: NDArray[np.intp], profiles: Sequence[_Profile]) -> Floats:
    """What the logging policy does: (n, m) probabilities, none below PROPENSITY_FLOOR (or an even half share)."""
    liking = np.array([profile.logged for profile in profiles])
    logits = liking * np.array(_LOGGED_STRENGTH)[workflow][:, None]
    chosen = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    floor = min(PROPENSITY_FLOOR, 0.5 / len(profiles))
    policy: Floats = floor + (1 - floor * len(profiles)) * chosen
    return policy


def _rows(
    asked: Requests,
    truth: _Truth,
    candidates: Sequence[Candidate],
    profiles: Sequence[_Profile],
    ids: NDArray[np.object_],
    rng: np.random.Generator,
    shadow_share: float,
    judged_share: float,
) -> pd.DataFrame:
    """The log: which rows exist, what came of each, and what the gateway failed to write down."""
    request, arm, propensity = _tries(asked, profiles, rng, shadow_share)
    n = len(request)
    shadow = propensity == 1.0
    failed = rng.random(n) < np.array([profile.error_rate for profile in profiles])[arm]
    workflow = asked.workflow[request]
    quality = _quality(truth.answers[request, arm], np.isin(np.array(WORKFLOWS)[workflow], GRADED), rng)
    quality[failed] = 0.0
    unjudged = rng.random(n) < np.where(shadow, UNJUDGED_SHADOW_SHARE, 1.0 - judged_share)
    quality[unjudged & ~failed] = np.nan

    sent = np.array([content.tokens for content in asked.contents])[request]
    spread = rng.lognormal(-(OUTPUT_SIGMA**2) / 2, OUTPUT_SIGMA, n)
    got = np.where(failed, 0, np.maximum(1, np.rint(truth.output_tokens[request, arm] * spread)))
    cost = np.array([candidates[j].cost_usd(i, o) for i, o, j in zip(sent, got, arm, strict=True)])
    speed = np.array([profile.tokens_per_s for profile in profiles])[arm]
    latency = (250 + 0.05 * sent + 1000 * got / speed) * rng.lognormal(0, 0.25, n)
    no_tokens = rng.random(n) < NO_TOKENS_SHARE
    untagged = (rng.random(len(asked.contents)) < UNTAGGED_SHARE)[request]
    times = START + pd.to_timedelta(np.round(asked.seconds, 3), unit="s")
    return pd.DataFrame(
        {
            "request_id": ids[request],
            "prompt": _objects([asked.contents[i].prompt for i in request]),
            "messages": _objects([_copied(asked.contents[i].messages) for i in request]),
            "candidate": np.array([candidate.name for candidate in candidates], dtype=object)[arm],
            "quality": quality,
            "cost_usd": np.where(rng.random(n) < NO_COST_SHARE, np.nan, cost),
            "input_tokens": pd.array(np.where(no_tokens, np.nan, sent), dtype="Int64"),
            "output_tokens": pd.array(np.where(no_tokens, np.nan, got), dtype="Int64"),
            "latency_ms": np.round(latency, 1),
            "timestamp": times[request],
            "session_id": _objects([asked.session[i] for i in request]),
            "workflow": _objects(
                [None if hidden else WORKFLOWS[kind] for kind, hidden in zip(workflow, untagged, strict=True)]
            ),
            "propensity": propensity,
            "status": np.where(failed, "error", "success"),
        }
    )


def _tries(
    asked: Requests, profiles: Sequence[_Profile], rng: np.random.Generator, shadow_share: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """Which requests went where: request index, candidate index and propensity of each row, in time order."""
    m, n = len(profiles), len(asked.contents)
    shadow = rng.random(n) < shadow_share
    policy = _propensities(asked.workflow, profiles)
    chosen = drawn(np.cumsum(policy, axis=1), rng)
    request = np.repeat(np.arange(n), np.where(shadow, m, 1))
    first = np.searchsorted(request, np.arange(n))
    in_shadow = shadow[request]
    arm = np.where(in_shadow, np.arange(len(request)) - first[request], chosen[request])
    return request, arm, np.where(in_shadow, 1.0, policy[request, arm])


def _quality(acceptable: Floats, graded: NDArray[np.bool_], rng: np.random.Generator) -> Floats:
    """0 or 1, or for graded workflows a judge's score in quarters; P(quality >= ACCEPTABLE_SCORE) is `acceptable`."""
    good = rng.random(len(acceptable)) < acceptable
    side = rng.random(len(acceptable))
    top = side < 0.25 + 0.55 * acceptable  # the surer the candidate, the better its good answers are
    low = np.floor(3 * side ** (1 / (0.5 + acceptable))) / 4
    score = np.where(good, np.where(top, 1.0, ACCEPTABLE_SCORE), np.minimum(low, 0.5))
    return np.where(graded, score, good.astype(float))


def _copied(messages: tuple[Message, ...] | None) -> list[Message] | None:
    return None if messages is None else [dict(message) for message in messages]


def _objects(values: Sequence[object]) -> pd.Series:
    """A column of Python objects, None left as it is."""
    return pd.Series(values, dtype=object)
