"""What a decision is made of, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf, isnan
from typing import NamedTuple

from serving.bundle.arrays import Floats, Floats32
from serving.bundle.manifest import Certificate, Objective
from serving.decide.eligibility import Rule
from serving.decide.policy import Policy

# What stands for a name that is no candidate's.
OTHER = "(other)"


class Reason(StrEnum):
    """Why the chosen candidate was chosen. This list is closed: docs/serving.md explains each."""

    BEST_VALUE = "best_value"
    ONLY_ELIGIBLE = "only_eligible"
    REFERENCE = "reference"
    UNCERTIFIED = "uncertified"
    SESSION = "session"
    NOVEL = "novel"
    LOW_CONFIDENCE = "low_confidence"
    BUDGET = "budget"
    EXPLORE = "explore"
    HELD_BACK = "held_back"
    NO_CANDIDATE = "no_candidate"
    TIMEOUT = "timeout"
    FAULT = "fault"


@dataclass(frozen=True)
class Estimates:
    """What is expected of each candidate on each request; every array is (n, m), columns as `Router.candidates`.

    `acceptable` is the calibrated P(quality >= threshold), `quality` the expected quality (the same array where logged
    quality is 0/1), `violation` the chance that the candidate fails where the reference would not have, cost in USD, latency
    and its 95th percentile in milliseconds (NaN where no latency was logged).
    `nearness` (n, clusters) is the similarity to the centres of the training prompts, `novelty` (n, 1) the distance to all.
    """

    acceptable: Floats32
    quality: Floats32
    violation: Floats32
    cost_usd: Floats
    latency_ms: Floats32
    latency_p95_ms: Floats32
    output_tokens: Floats32
    nearness: Floats32
    novelty: Floats32

    def of(self, objective: Objective) -> Floats32:
        """(n, m) what the objective is about."""
        return self.acceptable if objective is Objective.ACCEPTABLE else self.quality


@dataclass(frozen=True, slots=True)
class Row:
    """The estimates of one request: (m,) by candidate; NaN, or for the cluster None, where it is not known."""

    confidence: list[float]
    quality: list[float]
    cost: list[float]
    latency: list[float]
    latency_p95: list[float]
    cluster: int | None
    novelty: float

    @classmethod
    def of(cls, estimates: Estimates, row: int) -> Row:
        novelty = float(estimates.novelty[row, 0])
        return cls(
            estimates.acceptable[row].tolist(),
            estimates.quality[row].tolist(),
            estimates.cost_usd[row].tolist(),
            estimates.latency_ms[row].tolist(),
            estimates.latency_p95_ms[row].tolist(),
            None if isnan(novelty) else int(estimates.nearness[row].argmax()),
            novelty,
        )


@dataclass(frozen=True, slots=True)
class Situation:
    """What bears on one decision beyond the request and its policy.

    `session` is the candidate that the conversation is on; another is chosen only if it is worth `session_margin` more.
    `cached` says how much of this prompt each candidate may still have in its cache, in counted tokens
    (`ReadRequest.counted`); a candidate that is not in it has nothing. `pace` (1/USD) is added to the knob, so that a budget
    lasts. `most_usd` is what the budgets still hold: a candidate that is expected to cost more is left out, unless all are,
    and then the cheapest is used. `explore` is the share of such requests that may go elsewhere, and `draw` this
    request's own number in [0, 1) that decides whether and where to. `no_candidate` names who answers when the rules leave
    nobody, if what the caller `asked` itself (None: nothing) and the request's shape admit that one. `share` is that of the
    decisions that are followed, the policy's own if that is lower, and `hold` this request's number in (0, 1], which is above
    it where the decision is held back.
    """

    session: str | None = None
    cached: Mapping[str, float] = field(default_factory=dict)
    session_margin: float = 0.0
    pace: float = 0.0
    most_usd: float = inf
    explore: float = 0.0
    draw: float = 0.0
    no_candidate: str | None = None
    asked: Policy | None = None
    share: float = 1.0
    hold: float = 0.0


class Alternative(NamedTuple):
    """One candidate as this request saw it, what is not known None; `ruled_out` is the rule that excluded it, or None."""

    candidate: str
    confidence: float | None
    expected_cost_usd: float | None
    expected_quality: float | None
    expected_latency_ms: float | None
    expected_latency_p95_ms: float | None
    ruled_out: Rule | None


class Also(NamedTuple):
    """Another candidate that the request is to be sent to as well, and the probability with which that one was drawn."""

    candidate: str
    propensity: float
    expected_cost_usd: float


class HeldBack(NamedTuple):
    """Whom the router would have chosen where the decision was held back."""

    candidate: str
    confidence: float | None
    expected_cost_usd: float | None


@dataclass(frozen=True, slots=True)
class Decision:
    """The recommended candidate; `confidence` is its calibrated P(acceptable), `fallbacks` are best first.

    `propensity` is the probability with which this candidate was chosen: 1 unless the router explores. `novelty` says how
    unlike the training prompts the prompt is, `cluster` which of their clusters it is nearest to. Where a decision was made
    without estimates (it took too long, or none was eligible and a rule names who answers then), these are None.
    `instead` is who would have been chosen where another was explored, whatever order the fallbacks are in.
    `warnings` names the budgets that are spent and only warn, as "<scope>/<period>", and says where want of knowledge left
    one candidate. `held_usd` is what limits and budgets hold against it: the expected cost, and no less than the counted
    prompt alone. `also` is who is asked too, for what there is to learn: the answer is the recommended candidate's.
    Where the decision was `held_back`, `candidate` is who answers otherwise, which need not be a candidate of the bundle; then
    nothing is expected of it.
    """

    candidate: str
    confidence: float | None
    expected_cost_usd: float | None
    fallbacks: tuple[str, ...]
    reason: Reason
    operating_point: str | None
    quality_target: float | None
    certificate: Certificate | None
    knob: float
    propensity: float
    novelty: float | None
    cluster: int | None
    alternatives: tuple[Alternative, ...]
    bundle: str
    warnings: tuple[str, ...] = ()
    held_usd: float | None = None
    also: Also | None = None
    held_back: HeldBack | None = None
    instead: str | None = None

    @property
    def label(self) -> str:
        """The candidate's name, where names have to be few and known: a caller may make up who answers otherwise."""
        if self.reason is Reason.HELD_BACK and all(one.candidate != self.candidate for one in self.alternatives):
            return OTHER
        return self.candidate


def known_or_none(value: float) -> float | None:
    """The number, None for a NaN."""
    return None if isnan(value) else value
