"""The hard rules: a candidate that one of them excludes is never chosen, whatever it would have been worth."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache, partial
from typing import Any

from serving.bundle.catalogue import Candidate, Capability
from serving.bundle.request import ReadRequest
from serving.decide.endpoints import Directory, Endpoints
from serving.decide.globs import matches
from serving.decide.policy import Policy

# How many policies' fixed rules are kept; one that is made to be new each time costs what it cost without.
_KEPT = 512
# Of so many misspelt names it is told.
_MOST_TOLD = 20


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
    MAX_PRICE = "max_price"


class NoEligibleCandidateError(ValueError):
    """Every candidate is ruled out; `rules` says by what, in the candidates' order, `more` what else there is to say."""

    def __init__(self, candidates: Sequence[str], rules: Sequence[Rule | None], more: str = "") -> None:
        self.rules = {name: rule for name, rule in zip(candidates, rules, strict=True) if rule is not None}
        named = ", ".join(f"{name} ({rule})" for name, rule in self.rules.items())
        super().__init__(f"no candidate is eligible: {named}" + (f"; {more}" if more else ""))


@dataclass(frozen=True, slots=True)
class Demand:
    """What one request takes of each candidate: `cost_usd` and `latency_p95_ms` (m,), as the limits hold them against it.

    A cost or latency that is not known is NaN, and then keeps to no limit.
    """

    cost_usd: Sequence[float]
    latency_p95_ms: Sequence[float]


class Eligibility:
    """The hard rules for one bundle's candidates. Safe to share between threads.

    What a request needs by its shape (tools, a schema, an image) is not held against a candidate of which the catalogue
    does not say whether it can; what the policy requires is. The counted prompt has to fit a context window `margin` times.
    What follows from a policy and a shape whatever the request says is worked out once and kept, for the last few hundred.
    """

    def __init__(self, candidates: Sequence[Candidate], margin: float = 1.0) -> None:
        self._candidates = tuple(candidates)
        self._margin = margin
        self.directory = Directory(candidates)
        # A function of its own, not a method: a cache that held this object would outlive it.
        self._fixed = lru_cache(_KEPT)(partial(_fixed_rules, self._candidates, self.directory))

    def rules(self, request: ReadRequest, policy: Policy, demand: Demand) -> list[Rule | None]:
        """For each candidate the first rule that excludes it, or None."""
        room = request.request.max_output_tokens or 0
        takes = request.counted * self._margin + room
        fixed = self._fixed(*_fixed_part(policy), request.needs)
        free = policy.max_cost_usd is None and policy.max_latency_ms is None
        found: list[Rule | None] = []
        for column, (candidate, (name_rule, other_rule)) in enumerate(zip(self._candidates, fixed, strict=True)):
            window, most = candidate.context_window, candidate.max_output_tokens
            if name_rule is not None:
                found.append(name_rule)
            elif window is not None and takes > window:
                found.append(Rule.CONTEXT_WINDOW)
            elif most is not None and room > most:
                found.append(Rule.MAX_OUTPUT_TOKENS)
            elif other_rule is not None or free:
                found.append(other_rule)
            else:
                found.append(_limit_rule(policy, demand, column))
        return found

    def admits(self, name: str, policy: Policy, asked: Policy | None, behind: int | None = None) -> bool:
        """Whether an LLM that is no candidate may be named: by the rules that need no knowledge of it, or allow no want of it.

        What the rules of the server `allow` and whatever is denied goes by its name, and a demand on privacy rules it out,
        as nothing is known of it but what is of the candidate `behind` it, by its column. What the caller `asked` itself to be
        allowed is about candidates.
        """
        stranger = Candidate(name=name)
        if behind is not None:
            stranger = self._candidates[behind].model_copy(update={"name": name})
        private = policy.zero_retention, policy.self_hosted, policy.no_training
        if _privacy_rule(stranger, private, policy.regions) is not None:
            return False
        ignored = () if policy.endpoints is None else policy.endpoints.ignore
        groups = policy.allow if asked is None else policy.allow[len(asked.allow) :]
        denied = bool(Directory([stranger]).of_any_provider(ignored))
        return not denied and _name_rule(stranger, groups, policy.deny) is None

    def why(self, rules: Sequence[Rule | None], policy: Policy, asked: Policy | None = None) -> str:
        """Why these rules leave nobody, as far as more than their names is to be said; "" where there is no more.

        What the caller `asked` itself to be allowed may be misspelt; the rules of the server are looked at when they are read.
        """
        unmet = "" if policy.endpoints is None else self.directory.unmet(policy.endpoints)
        return "; ".join(one for one in (unmet, self._misspelt(asked), self.unknown(rules)) if one)

    def _misspelt(self, asked: Policy | None) -> str:
        globs = [] if asked is None else dict.fromkeys(glob for group in asked.allow for glob in group)
        found = [glob for glob in globs if not any(matches(one.name, glob) for one in self._candidates)]
        more = f" and {len(found) - _MOST_TOLD} more" if len(found) > _MOST_TOLD else ""
        verb = "matches" if len(found) == 1 else "match"
        return f"{', '.join(found[:_MOST_TOLD])}{more} {verb} no candidate" if found else ""

    def unknown(self, rules: Sequence[Rule | None]) -> str:
        """Whom these rules exclude for want of knowledge, as a sentence; "" where there is nobody."""
        named = [
            f"{candidate.name} ({rule})"
            for candidate, rule in zip(self._candidates, rules, strict=True)
            if rule in _KNOWN_BY
            and not getattr(candidate, _KNOWN_BY[rule])
            and getattr(candidate, _KNOWN_BY[rule]) is not False
        ]
        if not named:
            return ""
        nobody = (
            "so nobody else may answer" if None in rules else "which candidates.toml has to, before the next training"
        )
        return f"the catalogue does not say it of {', '.join(named)}, {nobody}"


# The field of the catalogue that each rule goes by.
_KNOWN_BY = {
    **{Rule(capability): str(capability) for capability in Capability},
    Rule.ZERO_RETENTION: "zero_retention",
    Rule.SELF_HOSTED: "hosting",
    Rule.NO_TRAINING: "trains_on_data",
    Rule.REGION: "regions",
}
_Fixed = tuple[Rule | None, Rule | None]


def _fixed_part(policy: Policy) -> tuple[Any, ...]:
    """What `_fixed_rules` takes of a policy: all that bears on a candidate whatever the request's length and cost."""
    private = policy.zero_retention, policy.self_hosted, policy.no_training
    return policy.allow, policy.deny, policy.requires, private, policy.regions, policy.endpoints


def _fixed_rules(
    candidates: Sequence[Candidate],
    directory: Directory,
    allow: Sequence[Sequence[str]],
    deny: Sequence[str],
    requires: Set[Capability],
    private: tuple[bool, bool, bool],
    regions: Sequence[Set[str]],
    endpoints: Endpoints | None,
    needs: Set[Capability],
) -> list[_Fixed]:
    """For each candidate the rule about its name that excludes it, and that about what it can, keeps and asks for a token."""
    fixed: list[_Fixed] = [
        (
            _name_rule(candidate, allow, deny),
            _capability_rule(candidate, requires, needs) or _privacy_rule(candidate, private, regions),
        )
        for candidate in candidates
    ]
    if endpoints is None:
        return fixed
    allowed, ignored = directory.admitted(endpoints)
    return [
        (
            name_rule or _endpoint_rule(column in allowed, column in ignored),
            other_rule or (Rule.MAX_PRICE if endpoints.too_dear(candidates[column]) else None),
        )
        for column, (name_rule, other_rule) in enumerate(fixed)
    ]


def _endpoint_rule(allowed: bool, ignored: bool) -> Rule | None:
    if not allowed:
        return Rule.NOT_ALLOWED
    return Rule.DENIED if ignored else None


def _name_rule(candidate: Candidate, allow: Sequence[Sequence[str]], deny: Sequence[str]) -> Rule | None:
    for group in allow:
        if not _matches(candidate.name, group):
            return Rule.NOT_ALLOWED
    return Rule.DENIED if _matches(candidate.name, deny) else None


def _capability_rule(candidate: Candidate, requires: Set[Capability], needs: Set[Capability]) -> Rule | None:
    # In the order of the enumeration, so that the first rule is the same each time.
    for capability in Capability:
        if capability in needs and getattr(candidate, capability) is False:
            return Rule(capability)
    for capability in Capability:
        if capability in requires and getattr(candidate, capability) is not True:
            return Rule(capability)
    return None


def _privacy_rule(candidate: Candidate, private: tuple[bool, bool, bool], regions: Sequence[Set[str]]) -> Rule | None:
    zero_retention, self_hosted, no_training = private
    if zero_retention and candidate.zero_retention is not True:
        return Rule.ZERO_RETENTION
    if self_hosted and candidate.hosting != "self":
        return Rule.SELF_HOSTED
    if no_training and candidate.trains_on_data is not False:
        return Rule.NO_TRAINING
    for group in regions:
        # A candidate that may answer from any of its regions has to have all of them acceptable.
        if not candidate.regions or not set(candidate.regions) <= group:
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
