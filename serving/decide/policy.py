"""Which candidate to choose, given what is expected of each. Pure functions: no state, no clock, no I/O.

Hard rules first, value second: a candidate that a rule excludes is never chosen, whatever it would have been worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

import numpy as np

from serving.bundle.arrays import AnyFloats, Bools, Columns
from serving.bundle.catalogue import Candidate
from serving.bundle.request import RouteRequest


class Rule(StrEnum):
    """The hard rules, by the name under which a decision reports them."""

    NOT_ALLOWED = "not_allowed"
    DENIED = "denied"
    CONTEXT_WINDOW = "context_window"
    MAX_OUTPUT_TOKENS = "max_output_tokens"
    TOOLS = "tools"
    VISION = "vision"
    JSON_SCHEMA = "json_schema"
    ZERO_RETENTION = "zero_retention"
    SELF_HOSTED = "self_hosted"
    REGION = "region"
    NO_TRAINING = "no_training"
    MAX_COST = "max_cost_usd"
    MAX_LATENCY = "max_latency_ms"


class Capability(StrEnum):
    """What a request may demand of a candidate; a candidate that is not known to have it is ruled out."""

    TOOLS = "tools"
    VISION = "vision"
    JSON_SCHEMA = "json_schema"


class Objective(StrEnum):
    """What a decision maximises for its cost: the chance of an acceptable answer, or its expected quality."""

    ACCEPTABLE = "acceptable"
    QUALITY = "quality"


class Reason(StrEnum):
    """Why the chosen candidate was chosen. This list is closed: docs/serving.md explains each."""

    BEST_VALUE = "best_value"
    ONLY_ELIGIBLE = "only_eligible"
    REFERENCE = "reference"
    SESSION = "session"
    NOVEL = "novel"
    LOW_CONFIDENCE = "low_confidence"
    BUDGET = "budget"
    EXPLORE = "explore"
    NO_CANDIDATE = "no_candidate"
    TIMEOUT = "timeout"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Policy:
    """What is asked of one decision, by the caller and by the server's rules. `allow` and `deny` are globs over names.

    `allow` holds groups of globs, and a candidate has to match one glob of every group; deny wins. `max_cost_usd` is
    compared with the expected cost, `max_latency_ms` with the expected 95th percentile of latency. `regions` is a group of
    acceptable regions for each rule that named some. What is demanded of a candidate's privacy or listed in `requires`
    has to be known of it: unknown counts as no.

    `knob` (lambda) overrides the bundle's operating point: acceptability given up per USD saved. `quality_target` picks
    the bundle's operating point for that target; else `cost_quality` from 0 (cheapest) to 10 (best) a knob of the bundle's
    sweep; without any of them the bundle's default point holds. Without an `objective` the bundle's own holds;
    certificates are for that one. Where the chosen candidate's confidence is below `abstain_below`, the reference is used.
    """

    allow: tuple[tuple[str, ...], ...] = ()
    deny: tuple[str, ...] = ()
    requires: frozenset[Capability] = frozenset()
    zero_retention: bool = False
    self_hosted: bool = False
    no_training: bool = False
    regions: tuple[frozenset[str], ...] = ()
    max_cost_usd: float | None = None
    max_latency_ms: float | None = None
    quality_target: float | None = None
    cost_quality: float | None = None
    knob: float | None = None
    objective: Objective | None = None
    abstain_below: float = 0.0

    def tightened(self, other: Policy) -> Policy:
        """What holds when both hold: it admits a candidate only if each of the two does.

        Of two quality targets, or two places between cheap and good, the higher one counts; the objective is this
        policy's, or the other's where it has none.
        """
        return Policy(
            allow=self.allow + other.allow,
            deny=self.deny + other.deny,
            requires=self.requires | other.requires,
            zero_retention=self.zero_retention or other.zero_retention,
            self_hosted=self.self_hosted or other.self_hosted,
            no_training=self.no_training or other.no_training,
            regions=self.regions + other.regions,
            max_cost_usd=_least(self.max_cost_usd, other.max_cost_usd),
            max_latency_ms=_least(self.max_latency_ms, other.max_latency_ms),
            quality_target=_most(self.quality_target, other.quality_target),
            cost_quality=_most(self.cost_quality, other.cost_quality),
            knob=_least(self.knob, other.knob),
            objective=self.objective or other.objective,
            abstain_below=max(self.abstain_below, other.abstain_below),
        )


def _least(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else min(one, other)


def _most(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else max(one, other)


class NoEligibleCandidateError(ValueError):
    """Every candidate is ruled out; `rules` says by what, in the candidates' order."""

    def __init__(self, candidates: Sequence[str], rules: Sequence[Rule | None]) -> None:
        self.rules = {name: rule for name, rule in zip(candidates, rules, strict=True) if rule is not None}
        super().__init__(
            "no candidate is eligible: " + ", ".join(f"{name} ({rule})" for name, rule in self.rules.items())
        )


@dataclass(frozen=True, slots=True)
class Demand:
    """What one request takes: `input_tokens` and expected `cost_usd` and `latency_p95_ms` (m,) for each candidate.

    `latency_p95_ms` is NaN where it is not known, and then keeps to no limit.
    """

    image: bool
    input_tokens: Sequence[float]
    cost_usd: Sequence[float]
    latency_p95_ms: Sequence[float]


def rule_out(
    candidates: Sequence[Candidate], request: RouteRequest, policy: Policy, demand: Demand, *, margin: float = 1.0
) -> list[Rule | None]:
    """For each candidate the first rule that excludes it, or None.

    What a request needs by its shape (tools, an image, a schema) is not held against a candidate of which the catalogue
    does not say whether it can; what the policy requires is. The prompt counts `margin` times in the context window,
    because its tokens are estimated.
    """
    needs = _needs(request, demand.image)
    return [
        _first_rule(candidate, request, policy, needs, demand, column, margin)
        for column, candidate in enumerate(candidates)
    ]


def _needs(request: RouteRequest, image: bool) -> tuple[Capability, ...]:
    if not (request.tools or image or request.json_schema):
        return ()
    shape = (
        (Capability.TOOLS, request.tools),
        (Capability.VISION, image),
        (Capability.JSON_SCHEMA, request.json_schema),
    )
    return tuple(capability for capability, needed in shape if needed)


def _first_rule(
    candidate: Candidate,
    request: RouteRequest,
    policy: Policy,
    needs: Sequence[Capability],
    demand: Demand,
    column: int,
    margin: float,
) -> Rule | None:
    for group in policy.allow:
        if not _matches(candidate.name, group):
            return Rule.NOT_ALLOWED
    if policy.deny and _matches(candidate.name, policy.deny):
        return Rule.DENIED
    room = request.max_output_tokens or 0
    window = candidate.context_window
    if window is not None and demand.input_tokens[column] * margin + room > window:
        return Rule.CONTEXT_WINDOW
    if candidate.max_output_tokens is not None and room > candidate.max_output_tokens:
        return Rule.MAX_OUTPUT_TOKENS
    for capability in needs:
        if getattr(candidate, capability) is False:
            return Rule(capability)
    for capability in policy.requires:
        if getattr(candidate, capability) is not True:
            return Rule(capability)
    return _privacy_rule(candidate, policy) or _limit_rule(policy, demand, column)


def _privacy_rule(candidate: Candidate, policy: Policy) -> Rule | None:
    if policy.zero_retention and candidate.zero_retention is not True:
        return Rule.ZERO_RETENTION
    if policy.self_hosted and candidate.hosting != "self":
        return Rule.SELF_HOSTED
    if policy.no_training and candidate.trains_on_data is not False:
        return Rule.NO_TRAINING
    for group in policy.regions:
        # A candidate that may answer from any of its regions has to have all of them acceptable.
        if not candidate.regions or not group.issuperset(candidate.regions):
            return Rule.REGION
    return None


def _limit_rule(policy: Policy, demand: Demand, column: int) -> Rule | None:
    if policy.max_cost_usd is not None and not demand.cost_usd[column] <= policy.max_cost_usd:
        return Rule.MAX_COST
    if policy.max_latency_ms is not None and not demand.latency_p95_ms[column] <= policy.max_latency_ms:
        return Rule.MAX_LATENCY
    return None


def _matches(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def scores(value: AnyFloats, cost_usd: AnyFloats, knob: float) -> AnyFloats:
    """Worth of each candidate, `value - knob * cost_usd`: the Lagrangian of "most quality for a mean cost"."""
    worth: AnyFloats = value - knob * cost_usd
    return worth


def choose(value: AnyFloats, cost_usd: AnyFloats, knob: float, eligible: Bools | None = None) -> Columns:
    """(n,) the column with the highest score in each row; among equal scores the cheaper, then the first.

    Parameters: value (n, m) in [0, 1]; cost_usd (n, m) >= 0; knob >= 0 in 1/USD, infinity = the cheapest; eligible
    (n, m), of which every row has a candidate.
    """
    worth = -cost_usd if np.isinf(knob) else scores(value, cost_usd, knob)
    if eligible is not None:
        worth = np.where(eligible, worth, -np.inf)
    best = worth.max(axis=1, keepdims=True)
    columns: Columns = np.where(worth == best, cost_usd, np.inf).argmin(axis=1)
    return columns


def guarded(value: AnyFloats, guard: int) -> AnyFloats:
    """What choosing each candidate instead of column `guard` is expected to break, as a value to maximise: <= 0.

    With p the P(acceptable) in `value` (n, m), it is -P(the candidate fails and the guard would not have), taken as
    -(1 - p) p_guard, which treats the two as independent given the request; 0 for the guard itself. A knob that weighs
    this against cost is the Lagrangian of "least cost for a violation rate", which is what a certificate is about: what a
    candidate does where the guard would have failed as well is worth nothing to it.
    """
    broken: AnyFloats = (value - 1.0) * value[:, guard : guard + 1]
    broken[:, guard] = 0.0
    return broken


def knob_for(cost_quality: float, knobs: Sequence[float]) -> float:
    """The knob at `cost_quality` from 0 (the cheapest) to 10 (quality alone), by its place in the bundle's sweep.

    `knobs` rise from 0. Places in between are interpolated in the logarithm, as the sweep is spaced.
    """
    if cost_quality <= 0 or len(knobs) < 2:
        return float("inf") if cost_quality <= 0 else float(knobs[0])
    if cost_quality >= 10:
        return 0.0
    inside = np.log([knob for knob in knobs if 0 < knob < float("inf")])
    place = (1.0 - cost_quality / 10.0) * (len(inside) - 1)
    return float(np.exp(np.interp(place, np.arange(len(inside)), inside)))


@dataclass(frozen=True, slots=True)
class Setting:
    """How one operating point decides; candidates are columns.

    By the knob, on the value as it is or, with a `guard`, on `guarded(value, guard)`; with `always`, one column whatever
    the request.
    """

    knob: float
    guard: int | None = None
    always: int | None = None

    def worth(self, value: AnyFloats) -> AnyFloats:
        """(n, m) what the knob weighs against cost."""
        return value if self.guard is None else guarded(value, self.guard)

    def choose(self, value: AnyFloats, cost_usd: AnyFloats) -> Columns:
        """(n,) the chosen columns, no rule applied; `value` and `cost_usd` (n, m)."""
        if self.always is not None:
            return np.full(len(value), self.always, dtype=np.intp)
        return choose(self.worth(value), cost_usd, self.knob)


def rank(value: AnyFloats, cost_usd: AnyFloats, knob: float, eligible: Sequence[int]) -> list[int]:
    """The eligible columns of one row from best to worst, ordered as `choose` would."""
    worth = -cost_usd if np.isinf(knob) else scores(value, cost_usd, knob)
    return sorted(eligible, key=lambda column: (-worth[column], cost_usd[column], column))
