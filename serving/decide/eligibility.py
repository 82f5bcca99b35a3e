"""The hard rules: a candidate that one of them excludes is never chosen, whatever it would have been worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from serving.bundle.catalogue import Candidate, Capability
from serving.bundle.request import ReadRequest
from serving.decide.globs import matches
from serving.decide.policy import Policy


class Rule(StrEnum):
    """The hard rules, by the name under which a decision reports them."""

    NOT_ALLOWED = "not_allowed"
    DENIED = "denied"
    CONTEXT_WINDOW = "context_window"
    MAX_OUTPUT_TOKENS = "max_output_tokens"
    TOOLS = "tools"
    VISION = "vision"
    JSON_SCHEMA = "json_schema"
    AUDIO = "audio"
    PDF = "pdf"
    VIDEO = "video"
    ZERO_RETENTION = "zero_retention"
    SELF_HOSTED = "self_hosted"
    REGION = "region"
    NO_TRAINING = "no_training"
    MAX_COST = "max_cost_usd"
    MAX_LATENCY = "max_latency_ms"


class NoEligibleCandidateError(ValueError):
    """Every candidate is ruled out; `rules` says by what, in the candidates' order."""

    def __init__(self, candidates: Sequence[str], rules: Sequence[Rule | None]) -> None:
        self.rules = {name: rule for name, rule in zip(candidates, rules, strict=True) if rule is not None}
        super().__init__(
            "no candidate is eligible: " + ", ".join(f"{name} ({rule})" for name, rule in self.rules.items())
        )


@dataclass(frozen=True, slots=True)
class Demand:
    """What one request takes of each candidate: `cost_usd` and `latency_p95_ms` (m,), as the limits hold them against it.

    A cost or latency that is not known is NaN, and then keeps to no limit.
    """

    cost_usd: Sequence[float]
    latency_p95_ms: Sequence[float]


def rule_out(
    candidates: Sequence[Candidate], request: ReadRequest, policy: Policy, demand: Demand, *, margin: float = 1.0
) -> list[Rule | None]:
    """For each candidate the first rule that excludes it, or None.

    What a request needs by its shape (tools, a schema, an image) is not held against a candidate of which the catalogue
    does not say whether it can; what the policy requires is. The counted prompt has to fit a context window `margin` times.
    """
    # In the order of the enumeration, so that the first rule is the same each time.
    needs = [capability for capability in Capability if capability in request.needs] if request.needs else []
    room = request.request.max_output_tokens or 0
    takes = request.counted * margin + room
    return [
        _first_rule(candidate, policy, needs, takes, room, demand, column)
        for column, candidate in enumerate(candidates)
    ]


def _first_rule(
    candidate: Candidate,
    policy: Policy,
    needs: Sequence[Capability],
    takes: float,
    room: int,
    demand: Demand,
    column: int,
) -> Rule | None:
    for group in policy.allow:
        if not _matches(candidate.name, group):
            return Rule.NOT_ALLOWED
    if policy.deny and _matches(candidate.name, policy.deny):
        return Rule.DENIED
    window = candidate.context_window
    if window is not None and takes > window:
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
    return any(matches(name, glob) for glob in globs)
