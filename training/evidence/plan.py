"""The plan: for a budget, which answers to buy, what they will cost, and what they can be expected to certify."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import numpy as np

from serving.bundle.arrays import Bools, Columns, Floats
from serving.bundle.catalogue import Candidate
from training.config import Params
from training.dataset.inputs import Progress, silent
from training.evidence.belief import Belief
from training.evidence.design import Design, Outlook, asked, drawn_cells, learning, outlook
from training.evidence.foresee import Foreseen, foresee
from training.evidence.frame import EvidenceError, SamplingFrame, sampling_frame
from training.learn.prepare import fingerprint
from training.logs.outcomes import Outcomes
from training.quality.llm_calls import RUBRIC
from training.quality.llm_prices import Cost
from training.replay.pairs import Pair, PlanFile, PlanHeader, Purpose

# What is offered beside the budget that was asked for.
BUDGETS_USD = (1.0, 5.0, 20.0, 100.0)
# A grade is a JSON object of one number; reasoning that is billed as output comes to more.
_GRADE_TOKENS = 60
_BYTES_PER_TOKEN = 4.0
# So much of the budget is planned to be spent: answers cost more or less than expected, and all of the plan is to be bought.
_PLANNED = 0.9
# The deviation of an answer's cost around what is expected of it, and that of what is expected of a candidate whose answers'
# lengths the log shows and of one whose it does not.
_ANSWER, _SHOWN, _UNSHOWN = 0.7, 0.05, 0.35


@dataclass(frozen=True)
class Offer:
    """What a budget buys: so many `pairs`, of `requests` drawn to certify on and of others to learn from, for `expected_usd`
    (95%: `low_usd` to `high_usd`) and `judge_usd` for their grades, and what it can be expected to certify."""

    budget_usd: float
    requests: int
    pairs: int
    expected_usd: float
    low_usd: float
    high_usd: float
    judge_usd: float
    foreseen: Foreseen


@dataclass(frozen=True)
class Planned:
    """The offers, lowest budget first, the plan of the one that was asked for, and what it rests on.

    `asked` (m,) are the candidates that each drawn request is put to, `chosen` (m,) the share of traffic that each is expected
    to get around the target.
    """

    offers: tuple[Offer, ...]
    asked_for: Offer
    file: PlanFile
    frame: SamplingFrame
    asked: Bools
    chosen: Floats
    target: float
    reference: str

    @property
    def worth_asking(self) -> tuple[Offer, ...]:
        """The offers up to the first that buys all there is, and the one that was asked for."""
        most = max(offer.pairs for offer in self.offers)
        whole = next(offer.budget_usd for offer in self.offers if offer.pairs == most)
        return tuple(offer for offer in self.offers if offer.budget_usd <= whole or offer is self.asked_for)


@dataclass(frozen=True)
class _Ground:
    """What every budget's design starts from: the requests in the random `order` in which they are drawn, and the candidates
    that each is `asked` of, (m,). The `price` (n, m) of an outcome is its answer's and its grade's. `foreseen` is what was
    found of designs that buy the same.
    """

    frame: SamplingFrame
    seed: int
    seen: Outlook
    asked: Bools
    order: Columns
    answer_usd: Floats
    judge_usd: Floats
    foreseen: dict[tuple[int, bytes], Foreseen] = field(default_factory=dict)

    @property
    def price(self) -> Floats:
        return self.answer_usd + self.judge_usd


def plan(
    table: Outcomes,
    params: Params,
    catalogue: Mapping[str, Candidate],
    cache: Path,
    *,
    budget_usd: float,
    target: float,
    seed: int,
    budgets: Sequence[float] = BUDGETS_USD,
    judge: Cost | None = None,
    others: Sequence[str] = (),
    only: Sequence[str] = (),
    progress: Progress = silent,
) -> Planned:
    """Plans a purchase for a log; the same arguments give the same plan, and nothing is sent anywhere.

    Part of the money (`plan.certify_share`) buys the outcomes of requests that are drawn uniformly at random, the rest those
    of pairs that teach most (`design`). What other `budgets` would bring is said beside it. `others` are candidates that are
    asked in any case and that the log need not have, `only` leaves all others out, `judge` is the price of whoever grades.
    Raises EvidenceError.
    """
    if not (math.isfinite(budget_usd) and budget_usd > 0):
        raise EvidenceError(f"--budget-usd {budget_usd}: expected an amount of US dollars above 0")
    if not 0.5 <= target < 1:
        raise EvidenceError(f"--target {target}: expected a quality target from 0.5 to below 1, as in 0.95")
    ground, belief, generator = _ground(
        table, params, catalogue, cache, target, seed, judge=judge, others=others, only=only, progress=progress
    )
    amounts = sorted({*budgets, budget_usd})
    made = []
    for done, amount in enumerate(amounts):
        progress(f"what {amount:g} USD would certify", done, len(amounts))
        made.append(_offer(ground, belief, amount, target, params))
    frame, reference = ground.frame, ground.frame.names[ground.seen.best]
    pairs = _pairs(ground, _design(ground, budget_usd, params), generator)
    found = made[amounts.index(budget_usd)]
    header = PlanHeader(
        log=fingerprint(table.frame),
        seed=seed,
        budget_usd=budget_usd,
        reference=reference,
        notes=(f"{found.requests:,} requests drawn uniformly at random to certify {target:g}; the other pairs teach.",),
    )
    return Planned(
        tuple(made), found, PlanFile(header, pairs), frame, ground.asked, ground.seen.chosen, target, reference
    )


def offers(
    table: Outcomes,
    params: Params,
    catalogue: Mapping[str, Candidate],
    cache: Path,
    *,
    budgets: Sequence[float],
    target: float,
    seed: int,
    likely: float = 0.0,
) -> Iterator[Offer]:
    """What each of the budgets would bring, one after the other as they are asked for; of one that is less than `likely` to
    certify the target, no more than that it is. Raises EvidenceError."""
    ground, belief, _ = _ground(table, params, catalogue, cache, target, seed)
    for budget in budgets:
        yield _offer(ground, belief, budget, target, params, likely)


def _ground(
    table: Outcomes,
    params: Params,
    catalogue: Mapping[str, Candidate],
    cache: Path,
    target: float,
    seed: int,
    *,
    judge: Cost | None = None,
    others: Sequence[str] = (),
    only: Sequence[str] = (),
    progress: Progress = silent,
) -> tuple[_Ground, Belief, np.random.Generator]:
    frame = sampling_frame(table, params, catalogue, cache, others=others, only=only, progress=progress)
    progress("what is believed", None, None)
    belief = Belief(frame.shape).given(frame.shape, frame.labels)
    seen = outlook(frame, belief, target, seed)
    generator = np.random.default_rng(seed)
    wanted = asked(frame, seen, others)
    ground = _Ground(
        frame=frame,
        seed=seed,
        seen=seen,
        asked=wanted,
        order=generator.permutation(np.flatnonzero(drawn_cells(frame, wanted).any(axis=1))),
        answer_usd=np.where(frame.answered, 0.0, frame.cost_usd),
        judge_usd=_grade_usd(frame, judge),
    )
    return ground, belief, generator


def _grade_usd(frame: SamplingFrame, judge: Cost | None) -> Floats:
    """(n, m) what grading an answer is expected to cost, 0 without a judge: rubric, request and answer, and a grade."""
    if judge is None:
        return np.zeros(frame.cost_usd.shape)
    said = np.array([len(text.encode("utf-8", "replace")) for text in frame.matrix.texts]) / _BYTES_PER_TOKEN
    tokens = len(RUBRIC) / _BYTES_PER_TOKEN + said[:, None] + frame.output_tokens
    return np.asarray(tokens * judge(1_000_000, 0) / 1e6 + judge(0, _GRADE_TOKENS))


def _design(ground: _Ground, budget_usd: float, params: Params) -> Design:
    """How many requests this much money draws, and which pairs it buys besides."""
    frame, share, usd = ground.frame, params.plan.certify_share, _PLANNED * budget_usd
    spent = np.cumsum((drawn_cells(frame, ground.asked) * ground.price).sum(axis=1)[ground.order])
    requests = int(np.searchsorted(spent, share * usd, side="right"))
    left = usd - (float(spent[requests - 1]) if requests else 0.0)
    taken = _drawn(ground, requests)
    teaching = (
        learning(frame, ground.seen, taken, ground.price, left) if share < 1.0 else np.zeros(frame.cost_usd.shape)
    )
    return Design(ground.asked, requests, teaching)


def _drawn(ground: _Ground, requests: int) -> Bools:
    taken = np.zeros(len(ground.frame), dtype=np.bool_)
    taken[ground.order[:requests]] = True
    return taken


def _offer(
    ground: _Ground, belief: Belief, budget_usd: float, target: float, params: Params, likely: float = 0.0
) -> Offer:
    frame, design = ground.frame, _design(ground, budget_usd, params)
    bought = design.requests, sha256(design.learning.tobytes()).digest()
    if bought not in ground.foreseen:  # a budget that buys all there is buys no more than the one before
        ground.foreseen[bought] = foresee(frame, belief, design, target, params, ground.seed, likely=likely)
    cells = drawn_cells(frame, design.asked) & _drawn(ground, design.requests)[:, None]
    chance, usd = cells + design.learning, ground.answer_usd
    each = (chance * usd).sum(axis=0)
    shown = np.isfinite(frame.matrix.output_tokens).sum(axis=0)
    systematic = np.where(shown > 0, _SHOWN + _UNSHOWN / np.sqrt(1.0 + shown), _UNSHOWN)
    deviation = math.sqrt(float((chance * (_ANSWER * usd) ** 2).sum() + ((systematic * each) ** 2).sum()))
    expected = float(each.sum())
    return Offer(
        budget_usd=budget_usd,
        requests=design.requests,
        pairs=round(float(chance.sum())),
        expected_usd=expected,
        low_usd=max(expected - 1.96 * deviation, 0.0),
        high_usd=expected + 1.96 * deviation,
        judge_usd=float((chance * ground.judge_usd).sum()),
        foreseen=ground.foreseen[bought],
    )


def _pairs(ground: _Ground, design: Design, generator: np.random.Generator) -> tuple[Pair, ...]:
    """The pairs in the order in which they are bought: requests at random, so that a part of them is a fair sample too."""
    frame = ground.frame
    cells = drawn_cells(frame, design.asked)
    found = []
    for row in ground.order[: design.requests].tolist():
        for column in np.flatnonzero(cells[row]).tolist():
            found.append(_pair(frame, row, column, "certify", 1.0, ground.answer_usd))
    taught = np.argwhere(generator.random(design.learning.shape) < design.learning)
    for row, column in generator.permutation(taught).tolist():
        found.append(_pair(frame, row, column, "learn", float(design.learning[row, column]), ground.answer_usd))
    return tuple(found)


def _pair(frame: SamplingFrame, row: int, column: int, purpose: Purpose, propensity: float, usd: Floats) -> Pair:
    matrix = frame.matrix
    request, name = matrix.requests[row], str(matrix.request_id[row])
    stamp = matrix.timestamp[row]
    return Pair(
        request_id=name,
        candidate=frame.names[column],
        purpose=purpose,
        propensity=propensity,
        expected_usd=float(usd[row, column]),
        prompt=request.prompt if request.messages is None else None,
        messages=None if request.messages is None else [dict(message) for message in request.messages],
        parameters=json.loads(frame.parameters.get(name, "{}")),
        workflow=matrix.workflow[row],
        session_id=matrix.session_id[row],
        timestamp=None if np.isnat(stamp) else f"{np.datetime_as_string(stamp, unit='us')}Z",
        expected=frame.expected.get(name),
        answer=frame.answers[row, column],
    )
