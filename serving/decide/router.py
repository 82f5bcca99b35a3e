"""The router: a bundle, and what it decides. The HTTP endpoint is built on this, and evaluation runs it too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, isinf, isnan
from pathlib import Path

import numpy as np
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf

from serving.bundle.arrays import Floats, Floats32
from serving.bundle.encoder import Encoder, onnx_session
from serving.bundle.features import SURFACE, feature_matrix
from serving.bundle.manifest import Bundle, BundleError, Certificate, Manifest, OperatingPoint, open_bundle
from serving.bundle.request import RouteRequest, as_request, has_image, text_of
from serving.decide.policy import (
    Demand,
    NoEligibleCandidateError,
    Objective,
    Policy,
    Reason,
    Rule,
    Setting,
    knob_for,
    rank,
    rule_out,
)

# The operating point of a target above every one that the bundle has.
ALWAYS_REFERENCE = "always-reference"
# The outputs of head.onnx, all (n, m).
HEAD_OUTPUTS = (
    "acceptable",
    "quality",
    "input_tokens",
    "output_tokens",
    "logged_cost_usd",
    "latency_ms",
    "latency_p95_ms",
)
# Its output (n, clusters): cosine similarity to the centres of the training prompts.
NEARNESS = "nearness"
# And (n, 1): how far from the training prompts as a whole, in units of how far these are on average.
NOVELTY = "novelty"
_OUTPUTS = [*HEAD_OUTPUTS, NEARNESS, NOVELTY]


@dataclass(frozen=True)
class Estimates:
    """What is expected of each candidate on each request; every array is (n, m), columns as `Router.candidates`.

    `acceptable` is the calibrated P(quality >= threshold), `quality` the expected quality (the same array where logged
    quality is 0/1), cost in USD, latency and its 95th percentile in milliseconds (NaN where no latency was logged).
    `nearness` (n, clusters) is the similarity to the centres of the training prompts, `novelty` (n, 1) the distance to all.
    """

    acceptable: Floats32
    quality: Floats32
    cost_usd: Floats32
    latency_ms: Floats32
    latency_p95_ms: Floats32
    input_tokens: Floats32
    output_tokens: Floats32
    nearness: Floats32
    novelty: Floats32

    def of(self, objective: Objective) -> Floats32:
        """(n, m) what the objective is about."""
        return self.acceptable if objective is Objective.ACCEPTABLE else self.quality


@dataclass(frozen=True, slots=True)
class Alternative:
    """One candidate as this request saw it; `ruled_out` is the rule that excluded it, or None."""

    candidate: str
    confidence: float | None
    expected_cost_usd: float | None
    expected_quality: float | None
    expected_latency_ms: float | None
    expected_latency_p95_ms: float | None
    ruled_out: Rule | None


@dataclass(frozen=True, slots=True)
class Situation:
    """What bears on one decision beyond the request and its policy.

    `session` is the candidate that the conversation is on, `cached_tokens` how much of the prompt it has in its cache;
    another is chosen only if it is worth `session_margin` more. `pace` (1/USD) is added to the knob, so that a budget
    lasts. `most_usd` is what the budgets still hold: a candidate that is expected to cost more is left out, unless all are,
    and then the cheapest is used. `explore` is the share of such requests that may go elsewhere, and `draw` this
    request's own number in [0, 1) that decides whether and where to.
    """

    session: str | None = None
    cached_tokens: float = 0.0
    session_margin: float = 0.0
    pace: float = 0.0
    most_usd: float = inf
    explore: float = 0.0
    draw: float = 0.0


_ANY = Policy()
_USUAL = Situation()


@dataclass(frozen=True, slots=True)
class Decision:
    """The recommended candidate; `confidence` is its calibrated P(acceptable), `fallbacks` are best first.

    `propensity` is the probability with which this candidate was chosen: 1 unless the router explores. `novelty` says how
    unlike the training prompts the prompt is, `cluster` which of their clusters it is nearest to. Where a decision was made
    without estimates (it took too long, or none was eligible and a rule names who answers then), these are None.
    `warnings` names the budgets that are spent and only warn, as "<scope>/<period>".
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


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request as the choice sees it: `worth`, `confidence` and `cost` are (m,)."""

    policy: Policy
    situation: Situation
    setting: Setting
    worth: Floats
    confidence: Floats
    cost: Floats
    novelty: float


# What is chosen for another reason has to be: the others are there for a rule's sake.
_EXPLORABLE = frozenset({Reason.BEST_VALUE, Reason.SESSION})


@dataclass(frozen=True, slots=True)
class _Chosen:
    order: list[int]
    reason: Reason
    propensity: float


class Router:
    """Decides with one bundle. Immutable and safe to share between threads.

    `candidates` are the candidates' names, in the order of every array's columns. The tokens of a prompt are estimated, so
    it has to fit a context window `context_margin` times over.
    """

    def __init__(self, bundle: Bundle, threads: int = 1, context_margin: float = 1.1) -> None:
        manifest = bundle.manifest
        if manifest.head.surface != SURFACE:
            raise BundleError(
                f"{bundle.folder} was trained with surface features {', '.join(manifest.head.surface)}; this code "
                f"computes {', '.join(SURFACE)}. Train again with this version."
            )
        self.bundle = bundle
        try:
            self.encoder = Encoder(
                bundle.path("encoder.onnx"), bundle.path("tokenizer.json"), manifest.encoder.max_tokens, threads
            )
            self._head = onnx_session(bundle.path("head.onnx"), threads)
        except (Fail, InvalidGraph, InvalidProtobuf) as error:
            raise BundleError(
                f"{bundle.folder}: onnxruntime cannot load a graph: {error}. Install the onnxruntime that the bundle "
                f"was trained with, or train again."
            ) from error
        self._check_widths()
        self._always = OperatingPoint(
            name=ALWAYS_REFERENCE, knob=0.0, always=manifest.reference, calibration_requests=0
        )
        self.candidates = [candidate.name for candidate in manifest.candidates]
        self._candidates = manifest.candidates
        self._reference = self.candidates.index(manifest.reference)
        self._margin = context_margin
        self._cache_saves = [
            max((c.input_usd_per_mtok or 0.0) - c.cache_read_usd_per_mtok, 0.0) / 1e6
            if manifest.cost_from[c.name] == "tokens" and c.cache_read_usd_per_mtok is not None
            else 0.0
            for c in manifest.candidates
        ]
        self._points = {point.name: point for point in manifest.operating_points}
        self._settings = {point.name: manifest.setting(point) for point in (self._always, *manifest.operating_points)}
        priced = np.array([manifest.cost_from[c.name] == "tokens" for c in manifest.candidates])
        self._priced = priced
        self._input_usd = np.array(
            [c.input_usd_per_mtok or 0.0 for c in manifest.candidates], dtype=np.float32
        ) / np.float32(1e6)
        self._output_usd = np.array(
            [c.output_usd_per_mtok or 0.0 for c in manifest.candidates], dtype=np.float32
        ) / np.float32(1e6)

    def _check_widths(self) -> None:
        head = self.manifest.head
        expected = {"embedding": self.encoder.dim, "features": len(head.surface) + len(head.workflows)}
        arrived = {node.name: node.shape[1] for node in self._head.get_inputs()}
        if arrived != expected:
            raise BundleError(
                f"{self.bundle.path('head.onnx')} takes {arrived}, encoder and manifest give {expected}: the files are "
                f"of different bundles. Copy the whole folder, or train again."
            )

    @classmethod
    def load(cls, folder: str | Path, threads: int = 1, context_margin: float = 1.1) -> Router:
        """Opens the bundle in `folder`; raises BundleError when it is missing, broken or of another format."""
        return cls(open_bundle(Path(folder)), threads, context_margin)

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    def estimate(self, requests: Sequence[str | RouteRequest]) -> Estimates:
        """What is expected of every candidate on each of n requests."""
        known = [as_request(request) for request in requests]
        return self._estimate(known, [text_of(request) for request in known])

    def estimate_embedded(self, embeddings: Floats32, features: Floats32) -> Estimates:
        """As `estimate`, from embeddings (n, dim) and features (n, k) already at hand."""
        outputs = self._head.run(_OUTPUTS, {"embedding": embeddings, "features": features})
        acceptable, quality, input_tokens, output_tokens, logged_cost, latency, latency_p95, nearness, novelty = outputs
        by_tokens = input_tokens * self._input_usd + output_tokens * self._output_usd
        cost = np.where(self._priced, by_tokens, logged_cost)
        return Estimates(
            acceptable, quality, cost, latency, latency_p95, input_tokens, output_tokens, nearness, novelty
        )

    def route(self, request: str | RouteRequest, policy: Policy = _ANY, situation: Situation = _USUAL) -> Decision:
        """The decision for one request; raises NoEligibleCandidateError when the rules leave no candidate."""
        known = as_request(request)
        return self._decide(known, policy, situation, self._estimate([known], [text_of(known)]), 0)

    def route_many(self, requests: Sequence[str | RouteRequest], policy: Policy = _ANY) -> list[Decision]:
        """Decisions for n requests under one policy, with one forward pass; raises as `route`."""
        known = [as_request(request) for request in requests]
        estimates = self.estimate(known)
        return [self._decide(request, policy, _USUAL, estimates, row) for row, request in enumerate(known)]

    def route_each(
        self, requests: Sequence[tuple[str | RouteRequest, Policy, Situation]], embeddings: Floats32 | None = None
    ) -> list[Decision | NoEligibleCandidateError]:
        """Decisions for n requests, each under its own policy, with one forward pass; `embeddings` (n, dim) if known.

        A request that the rules leave no candidate for has the error in its place, so that the others are decided.
        """
        known = [as_request(request) for request, _, _ in requests]
        texts = [text_of(request) for request in known]
        features = feature_matrix(known, texts, self.manifest.head.workflows)
        estimates = self.estimate_embedded(self.encoder.encode(texts) if embeddings is None else embeddings, features)
        decisions: list[Decision | NoEligibleCandidateError] = []
        for row, (_, policy, situation) in enumerate(requests):
            try:
                decisions.append(self._decide(known[row], policy, situation, estimates, row))
            except NoEligibleCandidateError as error:
                decisions.append(error)
        return decisions

    def decide(self, request: RouteRequest, policy: Policy, situation: Situation, embedding: Floats32) -> Decision:
        """As `route`, for a request whose text is embedded already, as (1, dim)."""
        features = feature_matrix([request], [text_of(request)], self.manifest.head.workflows)
        return self._decide(request, policy, situation, self.estimate_embedded(embedding, features), 0)

    def operating_point(self, policy: Policy) -> OperatingPoint | None:
        """The operating point a policy asks for; None where it sets the knob itself.

        For a quality target: the point of the lowest target that is at least as high; above the highest target
        there is, every request goes to the reference candidate.
        """
        if policy.knob is not None:
            return None
        if policy.quality_target is None:
            return None if policy.cost_quality is not None else self._points[self.manifest.default_point]
        targets = [p for p in self._points.values() if (p.quality_target or 0.0) >= policy.quality_target]
        if targets:
            return min(targets, key=lambda p: p.quality_target or 0.0)
        return self._always

    def _estimate(self, requests: Sequence[RouteRequest], texts: Sequence[str]) -> Estimates:
        features = feature_matrix(requests, texts, self.manifest.head.workflows)
        return self.estimate_embedded(self.encoder.encode(texts), features)

    def _decide(
        self, request: RouteRequest, policy: Policy, situation: Situation, estimates: Estimates, row: int
    ) -> Decision:
        confidence, quality, cost = (
            array[row].astype(np.float64) for array in (estimates.acceptable, estimates.quality, estimates.cost_usd)
        )
        latency, latency_p95 = estimates.latency_ms[row].tolist(), estimates.latency_p95_ms[row].tolist()
        tokens = estimates.input_tokens[row].tolist()
        demand = Demand(has_image(request), tokens, cost.tolist(), latency_p95)
        rules = rule_out(self._candidates, request, policy, demand, margin=self._margin)
        eligible = [column for column, rule in enumerate(rules) if rule is None]
        if not eligible:
            raise NoEligibleCandidateError(self.candidates, rules)
        if situation.session is not None:
            cost = self._with_cache(cost, tokens, situation)
        point = self.operating_point(policy)
        setting = self._settings[point.name] if point is not None else Setting(self._knob(policy))
        if (
            setting.always is not None
        ):  # what a budget's pace weighs cost against is the harm to that candidate's answers
            setting = replace(setting, guard=setting.always)
        knob = setting.knob + situation.pace
        objective = policy.objective or self.manifest.objective
        value = confidence if objective is Objective.ACCEPTABLE else quality
        worth = setting.worth(value[None])[0]
        cluster = int(estimates.nearness[row].argmax())
        novelty = float(estimates.novelty[row, 0])
        asked = _Asked(policy, situation, setting, worth, confidence, cost, novelty)
        chosen = self._choose(asked, point, eligible)
        certificate = None
        if point is not None and point.certificate is not None and objective is self.manifest.objective:
            # It is for the choice among all candidates with the point's own knob: where anything changed that choice it
            # says nothing. Only what goes to the reference instead cannot break it.
            # What is explored has its own room in the certificate, so what counts then is the choice it stands in for.
            kept = chosen.order[1 if chosen.reason is Reason.EXPLORE else 0]
            if kept == self._reference or kept == rank(worth, cost, setting.knob, range(len(rules)))[0]:
                certificate = point.certificate
        names = [self.candidates[column] for column in chosen.order]
        return Decision(
            candidate=names[0],
            confidence=float(confidence[chosen.order[0]]),
            expected_cost_usd=float(cost[chosen.order[0]]),
            fallbacks=tuple(names[1:]),
            reason=chosen.reason,
            operating_point=point.name if point is not None else None,
            quality_target=point.quality_target if point is not None else None,
            certificate=certificate,
            knob=knob,
            propensity=chosen.propensity,
            novelty=novelty,
            cluster=cluster,
            alternatives=tuple(
                Alternative(
                    name,
                    float(confidence[column]),
                    float(cost[column]),
                    float(quality[column]),
                    None if isnan(latency[column]) else latency[column],
                    None if isnan(latency_p95[column]) else latency_p95[column],
                    rules[column],
                )
                for column, name in enumerate(self.candidates)
            ),
            bundle=self.manifest.version,
        )

    def _choose(self, asked: _Asked, point: OperatingPoint | None, eligible: list[int]) -> _Chosen:
        """Who is chosen, and why: never anyone who is not eligible, and, while anyone is, nobody a budget cannot hold."""
        situation = asked.situation
        affordable = [column for column in eligible if asked.cost[column] <= situation.most_usd]
        if not affordable:
            return _Chosen(rank(asked.worth, asked.cost, inf, eligible), Reason.BUDGET, 1.0)
        order, reason = self._ordered(asked, situation.pace, affordable)
        if situation.pace > 0 or len(affordable) < len(eligible):
            free, _ = self._ordered(asked, 0.0, eligible)
            if free[0] != order[0]:
                reason = Reason.BUDGET
        if situation.explore > 0 and reason in _EXPLORABLE:
            return _explore(order, reason, _rate(situation.explore, point), situation.draw)
        return _Chosen(order, reason, 1.0)

    def _ordered(self, asked: _Asked, pace: float, eligible: list[int]) -> tuple[list[int], Reason]:
        """The eligible columns, best first, and why that one is: each step may overrule the one before."""
        setting, confidence, reference = asked.setting, asked.confidence, self._reference
        knob = setting.knob + pace
        order = rank(asked.worth, asked.cost, knob, eligible)
        if len(eligible) == 1:
            return order, Reason.ONLY_ELIGIBLE
        if pace == 0 and setting.always in eligible:
            return _first(order, setting.always), Reason.REFERENCE
        if reference in eligible and order[0] != reference:
            if asked.novelty > self.manifest.novelty.threshold:
                return _first(order, reference), Reason.NOVEL
            if confidence[order[0]] < min(asked.policy.abstain_below, confidence[reference]):
                return _first(order, reference), Reason.LOW_CONFIDENCE
        session = asked.situation.session
        if session in self.candidates:
            kept = self.candidates.index(session)
            if kept in eligible and kept != order[0] and not self._moves(asked, knob, order[0], kept):
                return _first(order, kept), Reason.SESSION
        return order, Reason.BEST_VALUE

    @staticmethod
    def _moves(asked: _Asked, knob: float, best: int, kept: int) -> bool:
        """Whether a session's gain from moving to the best candidate is clear enough."""
        saved = float(asked.cost[kept] - asked.cost[best])
        if isinf(knob):
            return saved > 0
        gain = float(asked.worth[best] - asked.worth[kept]) + knob * saved
        return gain > asked.situation.session_margin

    def _knob(self, policy: Policy) -> float:
        if policy.knob is not None:
            return policy.knob
        return 0.0 if policy.cost_quality is None else knob_for(policy.cost_quality, self.manifest.knobs)

    def _with_cache(self, cost: Floats, tokens: Sequence[float], situation: Situation) -> Floats:
        """Expected costs (m,) where the session's candidate reads the part of the prompt that it has cached."""
        if situation.session not in self.candidates:
            return cost
        column = self.candidates.index(situation.session)
        cached = min(situation.cached_tokens, tokens[column])
        changed = cost.copy()
        changed[column] = max(changed[column] - cached * self._cache_saves[column], 0.0)
        return changed


def _first(order: list[int], column: int) -> list[int]:
    return [column, *(other for other in order if other != column)]


def _rate(explore: float, point: OperatingPoint | None) -> float:
    """The share that may be explored: no more than the room between the certified bound and its alpha.

    An explored request adds at most its own probability to the rate of violations, so this keeps the certificate whatever
    is explored. A point with a target and no certificate has no room.
    """
    if point is None or point.quality_target is None:
        return explore
    if point.certificate is None:
        return 0.0
    return min(explore, max(point.certificate.alpha - point.certificate.bound, 0.0))


def _explore(order: list[int], reason: Reason, rate: float, draw: float) -> _Chosen:
    """The first of `order` with probability 1 - rate, each other one with an equal part of `rate`."""
    if len(order) == 1:
        return _Chosen(order, reason, 1.0)
    if draw >= rate:
        return _Chosen(order, reason, 1.0 - rate)
    others = len(order) - 1
    column = order[1 + min(int(draw / rate * others), others - 1)]
    return _Chosen(_first(order, column), Reason.EXPLORE, rate / others)
