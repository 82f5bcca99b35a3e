"""The router: a bundle, and what it decides. The HTTP endpoint is built on this, and evaluation runs it too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf

from serving.bundle import Bundle, BundleError, Certificate, Manifest, OperatingPoint, open_bundle
from serving.encoder import Encoder, onnx_session
from serving.features import SURFACE, feature_matrix
from serving.policy import NoEligibleCandidateError, Objective, Policy, Reason, Rule, Setting, rank, rule_out
from serving.prompt import RouteRequest, as_request, has_image, text_of

Matrix = NDArray[np.float32]

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


@dataclass(frozen=True)
class Estimates:
    """What is expected of each candidate on each request; every array is (n, m), columns as `Router.candidates`.

    `acceptable` is the calibrated P(quality >= threshold), `quality` the expected quality (the same array where logged
    quality is 0/1), cost in USD, latency and its 95th percentile in milliseconds (NaN where no latency was logged).
    """

    acceptable: Matrix
    quality: Matrix
    cost_usd: Matrix
    latency_ms: Matrix
    latency_p95_ms: Matrix
    input_tokens: Matrix
    output_tokens: Matrix

    def of(self, objective: Objective) -> Matrix:
        """(n, m) what the objective is about."""
        return self.acceptable if objective is Objective.ACCEPTABLE else self.quality


@dataclass(frozen=True, slots=True)
class Alternative:
    """One candidate as this request saw it; `ruled_out` is the rule that excluded it, or None."""

    candidate: str
    confidence: float
    expected_cost_usd: float
    expected_quality: float
    expected_latency_ms: float | None
    expected_latency_p95_ms: float | None
    ruled_out: Rule | None


@dataclass(frozen=True, slots=True)
class Decision:
    """The recommended candidate; `confidence` is its calibrated P(acceptable), `fallbacks` are best first."""

    candidate: str
    confidence: float
    expected_cost_usd: float
    fallbacks: tuple[str, ...]
    reason: Reason
    operating_point: str | None
    quality_target: float | None
    certificate: Certificate | None
    knob: float
    alternatives: tuple[Alternative, ...]
    bundle: str


class Router:
    """Decides with one bundle. Immutable and safe to share between threads."""

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
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
    def load(cls, folder: str | Path, threads: int = 1) -> Router:
        """Opens the bundle in `folder`; raises BundleError when it is missing, broken or of another format."""
        return cls(open_bundle(Path(folder)), threads)

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    @property
    def candidates(self) -> list[str]:
        """The candidates' names, in the order of every array's columns."""
        return [candidate.name for candidate in self.manifest.candidates]

    def estimate(self, requests: Sequence[str | RouteRequest]) -> Estimates:
        """What is expected of every candidate on each of n requests."""
        known = [as_request(request) for request in requests]
        return self._estimate(known, [text_of(request) for request in known])

    def estimate_embedded(self, embeddings: Matrix, features: Matrix) -> Estimates:
        """As `estimate`, from embeddings (n, dim) and features (n, k) already at hand."""
        outputs = self._head.run(list(HEAD_OUTPUTS), {"embedding": embeddings, "features": features})
        acceptable, quality, input_tokens, output_tokens, logged_cost, latency, latency_p95 = outputs
        by_tokens = input_tokens * self._input_usd + output_tokens * self._output_usd
        cost = np.where(self._priced, by_tokens, logged_cost)
        return Estimates(acceptable, quality, cost, latency, latency_p95, input_tokens, output_tokens)

    def route(self, request: str | RouteRequest, policy: Policy = Policy()) -> Decision:  # noqa: B008 - frozen
        """The decision for one request; raises NoEligibleCandidateError when the rules leave no candidate."""
        return self.route_many([request], policy)[0]

    def route_many(self, requests: Sequence[str | RouteRequest], policy: Policy = Policy()) -> list[Decision]:  # noqa: B008
        """Decisions for n requests under one policy, with one forward pass; raises as `route`."""
        known = [as_request(request) for request in requests]
        estimates = self.estimate(known)
        point = self.operating_point(policy)
        return [self._decide(request, policy, point, estimates, row) for row, request in enumerate(known)]

    def route_each(
        self, requests: Sequence[tuple[str | RouteRequest, Policy]]
    ) -> list[Decision | NoEligibleCandidateError]:
        """Decisions for n requests, each under its own policy, with one forward pass.

        A request that the rules leave no candidate for has the error in its place, so that the others are decided.
        """
        known = [(as_request(request), policy) for request, policy in requests]
        estimates = self.estimate([request for request, _ in known])
        decisions: list[Decision | NoEligibleCandidateError] = []
        for row, (request, policy) in enumerate(known):
            try:
                decisions.append(self._decide(request, policy, self.operating_point(policy), estimates, row))
            except NoEligibleCandidateError as error:
                decisions.append(error)
        return decisions

    def operating_point(self, policy: Policy) -> OperatingPoint | None:
        """The operating point a policy asks for; None where it sets the knob itself.

        For a quality target: the point of the lowest target that is at least as high; above the highest target
        there is, every request goes to the reference candidate.
        """
        if policy.knob is not None:
            return None
        if policy.quality_target is None:
            return self._points[self.manifest.default_point]
        targets = [p for p in self._points.values() if (p.quality_target or 0.0) >= policy.quality_target]
        if targets:
            return min(targets, key=lambda p: p.quality_target or 0.0)
        return self._always

    def _estimate(self, requests: Sequence[RouteRequest], texts: Sequence[str]) -> Estimates:
        features = feature_matrix(requests, texts, self.manifest.head.workflows)
        return self.estimate_embedded(self.encoder.encode(texts), features)

    def _decide(
        self, request: RouteRequest, policy: Policy, point: OperatingPoint | None, estimates: Estimates, row: int
    ) -> Decision:
        candidates = self.manifest.candidates
        confidence = estimates.acceptable[row].astype(np.float64)
        cost = estimates.cost_usd[row].astype(np.float64)
        latency, latency_p95 = estimates.latency_ms[row].tolist(), estimates.latency_p95_ms[row].tolist()
        rules = rule_out(
            candidates, request, policy, image=has_image(request), input_tokens=estimates.input_tokens[row].tolist()
        )
        eligible = [column for column, rule in enumerate(rules) if rule is None]
        if not eligible:
            raise NoEligibleCandidateError([c.name for c in candidates], rules)
        setting = self._settings[point.name] if point is not None else Setting(float(policy.knob or 0.0))
        knob = setting.knob
        quality = estimates.quality[row].astype(np.float64)
        objective = policy.objective or self.manifest.objective
        value = setting.worth((confidence if objective is Objective.ACCEPTABLE else quality)[None])[0]
        order = rank(value, cost, knob, eligible)
        reason = Reason.BEST_VALUE if len(eligible) > 1 else Reason.ONLY_ELIGIBLE
        if setting.always in eligible:
            order.remove(setting.always)
            order.insert(0, setting.always)
            reason = Reason.REFERENCE
        # The certificate is for the choice among all candidates: where a rule changed that choice it says nothing.
        certified = (
            point is not None
            and objective is self.manifest.objective
            and order[0] == rank(value, cost, knob, range(len(candidates)))[0]
        )
        certificate = point.certificate if point is not None and certified else None
        names = [candidates[column].name for column in order]
        return Decision(
            candidate=names[0],
            confidence=float(confidence[order[0]]),
            expected_cost_usd=float(cost[order[0]]),
            fallbacks=tuple(names[1:]),
            reason=reason,
            operating_point=point.name if point is not None else None,
            quality_target=point.quality_target if point is not None else None,
            certificate=certificate,
            knob=knob,
            alternatives=tuple(
                Alternative(
                    candidate.name,
                    float(confidence[column]),
                    float(cost[column]),
                    float(quality[column]),
                    None if np.isnan(latency[column]) else latency[column],
                    None if np.isnan(latency_p95[column]) else latency_p95[column],
                    rules[column],
                )
                for column, candidate in enumerate(candidates)
            ),
            bundle=self.manifest.version,
        )
