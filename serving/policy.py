"""Which candidate to choose, given what is expected of each. Pure functions: no state, no clock, no I/O.

Hard rules first, value second: a candidate that a rule excludes is never chosen, whatever it would have been worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from serving.catalogue import Candidate
from serving.prompt import RouteRequest

Vector = NDArray[np.floating]
Matrix = NDArray[np.floating]


class Rule(StrEnum):
    """The hard rules, by the name under which a decision reports them."""

    NOT_ALLOWED = "not_allowed"
    DENIED = "denied"
    CONTEXT_WINDOW = "context_window"
    MAX_OUTPUT_TOKENS = "max_output_tokens"
    TOOLS = "tools"
    VISION = "vision"
    JSON_SCHEMA = "json_schema"


class Objective(StrEnum):
    """What a decision maximises for its cost: the chance of an acceptable answer, or its expected quality."""

    ACCEPTABLE = "acceptable"
    QUALITY = "quality"


class Reason(StrEnum):
    """Why the chosen candidate was chosen."""

    BEST_VALUE = "best_value"
    ONLY_ELIGIBLE = "only_eligible"
    REFERENCE = "reference"


@dataclass(frozen=True, slots=True)
class Policy:
    """What the caller asks of one decision. `allow` and `deny` are globs over candidate names; deny wins.

    `knob` (lambda) overrides the bundle's operating point: acceptability given up per USD saved. `quality_target` picks
    the bundle's operating point for that target; without either, the bundle's default point holds. Without an `objective`
    the bundle's own holds; certificates are for that one.
    """

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    quality_target: float | None = None
    knob: float | None = None
    objective: Objective | None = None


class NoEligibleCandidateError(ValueError):
    """Every candidate is ruled out; `rules` says by what, in the candidates' order."""

    def __init__(self, candidates: Sequence[str], rules: Sequence[Rule | None]) -> None:
        self.rules = {name: rule for name, rule in zip(candidates, rules, strict=True) if rule is not None}
        super().__init__(
            "no candidate is eligible: " + ", ".join(f"{name} ({rule})" for name, rule in self.rules.items())
        )


def rule_out(
    candidates: Sequence[Candidate],
    request: RouteRequest,
    policy: Policy,
    *,
    image: bool,
    input_tokens: Sequence[float],
) -> list[Rule | None]:
    """For each candidate the first rule that excludes it, or None. `input_tokens` (m,) as each candidate counts them.

    A capability that the catalogue does not state (None) is not held against a candidate.
    """
    return [
        _first_rule(candidate, request, policy, image, tokens)
        for candidate, tokens in zip(candidates, input_tokens, strict=True)
    ]


def _first_rule(
    candidate: Candidate, request: RouteRequest, policy: Policy, image: bool, input_tokens: float
) -> Rule | None:
    if policy.allow and not _matches(candidate.name, policy.allow):
        return Rule.NOT_ALLOWED
    if policy.deny and _matches(candidate.name, policy.deny):
        return Rule.DENIED
    window = candidate.context_window
    if window is not None and input_tokens + (request.max_output_tokens or 0) > window:
        return Rule.CONTEXT_WINDOW
    limit = candidate.max_output_tokens
    if limit is not None and (request.max_output_tokens or 0) > limit:
        return Rule.MAX_OUTPUT_TOKENS
    if request.tools and candidate.tools is False:
        return Rule.TOOLS
    if image and candidate.vision is False:
        return Rule.VISION
    if request.json_schema and candidate.json_schema is False:
        return Rule.JSON_SCHEMA
    return None


def _matches(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)


def scores(value: Matrix, cost_usd: Matrix, knob: float) -> Matrix:
    """Worth of each candidate, `value - knob * cost_usd`: the Lagrangian of "most quality for a mean cost"."""
    worth: Matrix = value - knob * cost_usd
    return worth


def choose(value: Matrix, cost_usd: Matrix, knob: float, eligible: NDArray[np.bool_] | None = None) -> NDArray[np.intp]:
    """(n,) the column with the highest score in each row; among equal scores the cheaper, then the first.

    Parameters: value (n, m) in [0, 1]; cost_usd (n, m) >= 0; knob >= 0 in 1/USD, infinity = the cheapest; eligible
    (n, m), of which every row has a candidate.
    """
    worth = -cost_usd if np.isinf(knob) else scores(value, cost_usd, knob)
    if eligible is not None:
        worth = np.where(eligible, worth, -np.inf)
    best = worth.max(axis=1, keepdims=True)
    columns: NDArray[np.intp] = np.where(worth == best, cost_usd, np.inf).argmin(axis=1)
    return columns


def guarded(value: Matrix, guard: int) -> Matrix:
    """What choosing each candidate instead of column `guard` is expected to break, as a value to maximise: <= 0.

    With p the P(acceptable) in `value` (n, m), it is -P(the candidate fails and the guard would not have), taken as
    -(1 - p) p_guard, which treats the two as independent given the request; 0 for the guard itself. A knob that weighs
    this against cost is the Lagrangian of "least cost for a violation rate", which is what a certificate is about: what a
    candidate does where the guard would have failed as well is worth nothing to it.
    """
    broken: Matrix = (value - 1.0) * value[:, guard : guard + 1]
    broken[:, guard] = 0.0
    return broken


@dataclass(frozen=True, slots=True)
class Setting:
    """How one operating point decides; candidates are columns.

    By the knob, on the value as it is or, with a `guard`, on `guarded(value, guard)`; with `always`, one column whatever
    the request.
    """

    knob: float
    guard: int | None = None
    always: int | None = None

    def worth(self, value: Matrix) -> Matrix:
        """(n, m) what the knob weighs against cost."""
        return value if self.guard is None else guarded(value, self.guard)

    def choose(self, value: Matrix, cost_usd: Matrix) -> NDArray[np.intp]:
        """(n,) the chosen columns, no rule applied; `value` and `cost_usd` (n, m)."""
        if self.always is not None:
            return np.full(len(value), self.always, dtype=np.intp)
        return choose(self.worth(value), cost_usd, self.knob)


def rank(value: Vector, cost_usd: Vector, knob: float, eligible: Sequence[int]) -> list[int]:
    """The eligible columns of one row from best to worst, ordered as `choose` would."""
    worth = -cost_usd if np.isinf(knob) else scores(value, cost_usd, knob)
    return sorted(eligible, key=lambda column: (-worth[column], cost_usd[column], column))
