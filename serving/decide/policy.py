"""What is asked of one decision."""

from __future__ import annotations

from dataclasses import dataclass

from serving.bundle.catalogue import Capability
from serving.bundle.manifest import Objective
from serving.decide.endpoints import Endpoints, Preferences


@dataclass(frozen=True, slots=True)
class Policy:
    """What is asked of one decision, by the caller and by the server's rules. `allow` and `deny` are globs over names.

    `allow` holds groups of globs, and a candidate has to match one glob of every group; deny wins. `max_cost_usd` is
    compared with the expected cost, or with that of the counted prompt alone where this is more, `max_latency_ms` with the
    expected 95th percentile of latency. `regions` is a group of acceptable regions for each rule that named some. What is
    demanded of a candidate's privacy or listed in `requires` has to be known of it: unknown counts as no.

    `knob` (lambda) overrides the bundle's operating point: acceptability given up per USD saved. `quality_target` picks
    the bundle's operating point for that target, `cost_quality` from 0 (cheapest) to 10 (best) a knob of the bundle's
    sweep, and of both the one that gives away less; without any of them the bundle's default point holds. Without an
    `objective` the bundle's own holds; certificates are for that one. Where the chosen candidate's confidence is below
    `abstain_below`, the reference is used.

    `endpoints` and `preferences` are what OpenRouter's fields say of models and providers. With probability 1 - `share` the
    decision is held back: `otherwise` answers (None: the reference), which need not be a candidate; `otherwise_candidate` is
    the candidate that is known to stand behind such a name. `store_prompt` is about the store alone: it rules nobody out.
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
    endpoints: Endpoints | None = None
    preferences: Preferences | None = None
    share: float = 1.0
    otherwise: str | None = None
    otherwise_candidate: str | None = None
    store_prompt: bool = True

    @property
    def private(self) -> bool:
        """Whether nothing of the request's text may be written anywhere."""
        return self.zero_retention or self.no_training or not self.store_prompt

    def tightened(self, other: Policy) -> Policy:
        """What holds when both hold: it admits a candidate only if each of the two does.

        Of two quality targets, or two places between cheap and good, the higher one counts, of two shares the lower
        one; the objective, the preferences and who answers otherwise are this policy's, or the other's where it has none.
        """
        return Policy(
            allow=self.allow + other.allow,
            deny=self.deny + other.deny,
            requires=self.requires | other.requires,
            zero_retention=self.zero_retention or other.zero_retention,
            self_hosted=self.self_hosted or other.self_hosted,
            no_training=self.no_training or other.no_training,
            regions=self.regions + other.regions,
            max_cost_usd=least(self.max_cost_usd, other.max_cost_usd),
            max_latency_ms=least(self.max_latency_ms, other.max_latency_ms),
            quality_target=_most(self.quality_target, other.quality_target),
            cost_quality=_most(self.cost_quality, other.cost_quality),
            knob=least(self.knob, other.knob),
            objective=self.objective or other.objective,
            abstain_below=max(self.abstain_below, other.abstain_below),
            endpoints=_both(self.endpoints, other.endpoints),
            preferences=self.preferences or other.preferences,
            share=min(self.share, other.share),
            otherwise=self.otherwise or other.otherwise,
            store_prompt=self.store_prompt and other.store_prompt,
            otherwise_candidate=self.otherwise_candidate if self.otherwise else other.otherwise_candidate,
        )


def _both(one: Endpoints | None, other: Endpoints | None) -> Endpoints | None:
    if one is None or other is None:
        return one or other
    return Endpoints(
        models=one.models + other.models,
        only=one.only + other.only,
        ignore=one.ignore + other.ignore,
        input_usd_per_mtok=least(one.input_usd_per_mtok, other.input_usd_per_mtok),
        output_usd_per_mtok=least(one.output_usd_per_mtok, other.output_usd_per_mtok),
    )


def least(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else min(one, other)


def _most(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else max(one, other)
