"""The simulated log: what an LLM gateway would have written, with the truth beside it.

Prices are the catalogue's. How good each candidate is, how fast and how wordy, is invented: a candidate gets one of
the profiles below by its rank in price, and nothing here is a measurement of any LLM. A request's difficulty is read
off the text that was composed for it, so that a router can learn it; a small part (NOISE) cannot be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from serving.catalogue import Candidate
from training.traffic.simulated_prompts import (
    WORKFLOWS,
    Draw,
    compose,
    follow_up,
    has_conversations,
    reply,
    system_message,
)

Floats = NDArray[np.float64]
Message = dict[str, str]

START = pd.Timestamp("2026-01-05T00:00:00Z")  # a Monday
ACCEPTABLE_SCORE = 0.75
SHADOW_SHARE = 0.25
REPEAT_SHARE = 0.075  # of single-turn conversations, which makes about one request in twenty
UNTAGGED_SHARE = 0.04
UNJUDGED_SHARE, UNJUDGED_SHADOW_SHARE = 0.12, 0.03
NO_TOKENS_SHARE, NO_COST_SHARE = 0.05, 0.02
PROPENSITY_FLOOR = 0.03
NOISE = 0.04  # standard deviation of the part of difficulty that no text shows
SLOPE = 11.0
OUTPUT_SIGMA = 0.45
MEAN_TURNS = 1.8  # of conversations in the workflows that have them
GRADED = ("summarising", "translation", "creative-writing")

# One row per workflow of WORKFLOWS: share of traffic at the first and at the last day, usual answer in tokens.
_TRAFFIC = {
    "support-triage": (0.26, 0.12, 140),
    "sql": (0.12, 0.13, 150),
    "code-review": (0.10, 0.19, 320),
    "json-extraction": (0.14, 0.12, 130),
    "summarising": (0.12, 0.12, 260),
    "maths": (0.06, 0.14, 380),
    "translation": (0.12, 0.10, 90),
    "creative-writing": (0.08, 0.08, 420),
}


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
# Traffic by hour of the day (UTC) and by weekday, relative.
_HOURS = (2, 1, 1, 1, 2, 3, 5, 9, 14, 17, 18, 17, 14, 16, 18, 18, 16, 13, 10, 8, 7, 6, 4, 3)
_WEEKDAYS = (1.0, 1.08, 1.1, 1.05, 0.9, 0.4, 0.35)


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


@dataclass(frozen=True)
class _Content:
    """One request's content; the arrays of a log are made of many of these."""

    prompt: str | None
    messages: tuple[Message, ...] | None
    difficulty: float  # with the part that the text does not show
    answer: float
    family: str
    tokens: int


@dataclass(frozen=True)
class _Requests:
    """The distinct requests, by time; every field has one entry per request."""

    contents: list[_Content]
    workflow: NDArray[np.intp]
    seconds: Floats
    session: list[str | None]


@dataclass(frozen=True)
class _Truth:
    """Arrays of shape (n requests, m candidates); `answers` is P(acceptable) when the call does not fail."""

    answers: Floats
    acceptable: Floats
    output_tokens: Floats
    cost_usd: Floats


def simulate(
    candidates: Sequence[Candidate], *, requests: int = 6000, days: float = 60.0, seed: int = 0
) -> SimulatedLog:
    """Simulate the log of `requests` distinct requests over `days` days.

    A quarter of the requests are shadow traffic (one row per candidate, propensity 1); the others have the one row
    that a stochastic logging policy chose. The same arguments give the same log. Raises ValueError when there are
    fewer than two candidates, two of one name, one without a price, no request, or less than a day.
    """
    _check(candidates, requests, days)
    rng = np.random.default_rng(seed)
    profiles = _profiles(candidates)
    asked = _requests(requests, days, rng)
    truth = _truth(asked, candidates, profiles)
    ids = np.array([f"req-{number:07d}" for number in range(requests)], dtype=object)
    index = pd.Index(ids, name="request_id")
    names = [candidate.name for candidate in candidates]
    return SimulatedLog(
        outcomes=_rows(asked, truth, candidates, profiles, ids, rng),
        acceptable=pd.DataFrame(truth.acceptable, index=index, columns=names),
        cost_usd=pd.DataFrame(truth.cost_usd, index=index, columns=names),
    )


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


# --- requests ---


def _requests(count: int, days: float, rng: np.random.Generator) -> _Requests:
    """Conversations over the whole period, as many as make `count` requests, ordered by time."""
    draw = Draw(rng)
    starts = _start_times(count, days, rng)
    kinds = _workflows(starts / (days * 86400), rng)
    turns = _turns(kinds, count, rng)
    contents: list[_Content] = []
    workflow: list[int] = []
    seconds: list[float] = []
    session: list[str | None] = []
    # Earlier single-turn requests, per workflow: what a repeated prompt repeats.
    singles: list[list[_Content]] = [[] for _ in WORKFLOWS]
    for start, kind, length in zip(starts, kinds, turns, strict=True):
        if length == 0:
            continue
        earlier = singles[kind]
        if length == 1 and earlier and draw.chance(REPEAT_SHARE):
            written = [draw.one(earlier)]
        else:
            written = _conversation(WORKFLOWS[kind], int(length), draw)
        if length == 1:
            earlier.append(written[0])
        name = f"s-{draw.number(0, 2**40):010x}" if length > 1 or draw.chance(0.7) else None
        contents += written
        workflow += [int(kind)] * len(written)
        session += [name] * len(written)
        pauses = 20 + rng.exponential(150.0, len(written))
        seconds += list(start + np.cumsum(pauses) - pauses[0])
    order = np.argsort(seconds, kind="stable")
    return _Requests(
        contents=[contents[i] for i in order],
        workflow=np.array(workflow)[order],
        seconds=np.array(seconds)[order],
        session=[session[i] for i in order],
    )


def _start_times(count: int, days: float, rng: np.random.Generator) -> Floats:
    """`count` start times in seconds since START, ascending, with the rhythm of the day and of the week."""
    hours = np.arange(int(days * 24) - 1)  # the last hour is left to conversations that are still going on
    weight = np.array(_HOURS, dtype=float)[hours % 24] * np.array(_WEEKDAYS)[hours // 24 % 7]
    chosen = rng.choice(hours, size=count, p=weight / weight.sum())
    return np.sort((chosen + rng.random(count)) * 3600.0)


def _workflows(elapsed: Floats, rng: np.random.Generator) -> NDArray[np.intp]:
    """The workflow of each conversation, as an index into WORKFLOWS; the mix shifts with the elapsed share of time."""
    first, last = (np.array([_TRAFFIC[name][side] for name in WORKFLOWS]) for side in (0, 1))
    mix = first + elapsed[:, None] * (last - first)
    # A conversation brings several requests; the shares are of requests.
    mix /= np.where([has_conversations(name) for name in WORKFLOWS], MEAN_TURNS, 1.0)
    cumulative = np.cumsum(mix / mix.sum(axis=1, keepdims=True), axis=1)
    return _drawn(cumulative, rng)


def _drawn(cumulative: Floats, rng: np.random.Generator) -> NDArray[np.intp]:
    """One column per row, drawn from cumulative probabilities of shape (n, k)."""
    below = rng.random(len(cumulative))[:, None] > cumulative
    # Rounding can leave the last cumulative probability a hair under 1.
    return np.minimum(below.sum(axis=1), cumulative.shape[1] - 1).astype(np.intp)


def _turns(kinds: NDArray[np.intp], count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """How many turns each conversation has; 0 for those that are not needed to make `count` requests."""
    several = np.array([has_conversations(name) for name in WORKFLOWS])[kinds]
    turns = np.where(several & (rng.random(len(kinds)) < 0.45), 1 + rng.geometric(0.55, len(kinds)), 1)
    shuffled = rng.permutation(len(kinds))
    before = np.cumsum(turns[shuffled]) - turns[shuffled]
    kept = np.zeros(len(kinds), dtype=np.intp)
    kept[shuffled] = np.clip(count - before, 0, turns[shuffled])
    return kept


def _conversation(workflow: str, turns: int, draw: Draw) -> list[_Content]:
    """The requests of one conversation; turn k sends everything said so far."""
    level = _level(draw)
    opener = compose(workflow, level, draw)
    system = [_message("system", system_message(workflow, draw))] if draw.chance(0.5) else []
    hidden = NOISE * float(draw.rng.standard_normal())
    if turns == 1 and draw.chance(0.55):
        tokens = _tokens([opener.text])
        return [_Content(opener.text, None, opener.difficulty + hidden, opener.answer, opener.family, tokens)]
    messages = (*system, _message("user", opener.text))
    difficulty = opener.difficulty
    contents = [_content(messages, difficulty + hidden, opener.answer, opener.family)]
    for _ in range(turns - 1):
        text, asked = follow_up(workflow, _level(draw), draw)
        messages = (*messages, _message("assistant", reply(workflow, draw)), _message("user", text))
        # The last turn decides most of what is asked, the conversation before it the rest.
        difficulty = 0.35 * opener.difficulty + 0.65 * asked
        contents.append(_content(messages, difficulty + hidden, 0.4 + 0.6 * asked, opener.family))
    return contents


def _level(draw: Draw) -> float:
    """A wished difficulty; most traffic is easy to middling, with a long hard tail."""
    return float(draw.rng.beta(1.0, 1.45))


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _content(messages: tuple[Message, ...], difficulty: float, answer: float, family: str) -> _Content:
    return _Content(None, messages, difficulty, answer, family, _tokens([m["content"] for m in messages]))


def _tokens(texts: Sequence[str]) -> int:
    """About four characters a token, fewer outside ASCII: two in Cyrillic and Arabic, 1.3 in Devanagari and kana."""
    size = sum(len(text.encode()) for text in texts)
    return max(1, round(size / 4)) + 4 * len(texts)


# --- truth ---


def _truth(asked: _Requests, candidates: Sequence[Candidate], profiles: Sequence[_Profile]) -> _Truth:
    """What sending each request to each candidate would have given."""
    difficulty = np.array([content.difficulty for content in asked.contents])
    tokens = np.array([content.tokens for content in asked.contents], dtype=float)
    answer = np.array([content.answer for content in asked.contents])
    families = np.array([content.family for content in asked.contents])
    usual = answer * np.array([_TRAFFIC[name][2] for name in WORKFLOWS], dtype=float)[asked.workflow]
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
    succeeded_by = np.array([1 - profile.error_rate for profile in profiles])
    return _Truth(answers=answers, acceptable=answers * succeeded_by, output_tokens=output, cost_usd=cost)


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
    asked: _Requests,
    truth: _Truth,
    candidates: Sequence[Candidate],
    profiles: Sequence[_Profile],
    ids: NDArray[np.object_],
    rng: np.random.Generator,
) -> pd.DataFrame:
    """The log: which rows exist, what came of each, and what the gateway failed to write down."""
    request, arm, propensity = _attempts(asked, profiles, rng)
    n = len(request)
    shadow = propensity == 1.0
    failed = rng.random(n) < np.array([profile.error_rate for profile in profiles])[arm]
    workflow = asked.workflow[request]
    quality = _quality(truth.answers[request, arm], np.isin(np.array(WORKFLOWS)[workflow], GRADED), rng)
    quality[failed] = 0.0
    unjudged = rng.random(n) < np.where(shadow, UNJUDGED_SHADOW_SHARE, UNJUDGED_SHARE)
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


def _attempts(
    asked: _Requests, profiles: Sequence[_Profile], rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """Which requests went where: request index, candidate index and propensity of each row, in time order."""
    m, n = len(profiles), len(asked.contents)
    shadow = rng.random(n) < SHADOW_SHARE
    policy = _propensities(asked.workflow, profiles)
    chosen = _drawn(np.cumsum(policy, axis=1), rng)
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
