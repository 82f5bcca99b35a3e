"""The router: a bundle, and what it decides. The HTTP endpoint is built on this, and evaluation runs it too."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf

from serving.bundle.arrays import AnyFloats, Columns, Floats32
from serving.bundle.encoder import Encoder, onnx_session
from serving.bundle.features import SURFACE, feature_matrix
from serving.bundle.layout import ESTIMATES, Layout
from serving.bundle.manifest import Bundle, BundleError, Manifest, OperatingPoint, open_bundle
from serving.bundle.neighbours import Neighbours
from serving.bundle.request import ReadRequest, RouteRequest, read
from serving.decide.decision import Decision, Estimates, Reason, Situation
from serving.decide.eligibility import NoEligibleCandidateError
from serving.decide.engine import Engine
from serving.decide.policy import Policy
from serving.decide.pricing import Pricing

_OUTPUTS = [ESTIMATES]
_ANY = Policy()
_USUAL = Situation()


class Router:
    """Decides with one bundle. Immutable and safe to share between threads.

    `candidates` are the candidates' names, in the order of every array's columns. A counted prompt has to fit a context
    window `context_margin` times over. `neighbours` are the logged requests that the bundle has, None where it has none.
    """

    def __init__(self, bundle: Bundle, threads: int = 1, context_margin: float = 1.1) -> None:
        manifest = bundle.manifest
        if manifest.head.surface != SURFACE:
            raise BundleError(
                f"{bundle.folder} was trained with surface features {', '.join(manifest.head.surface)}; this code "
                f"computes {', '.join(SURFACE)}. Train again with this version."
            )
        self.bundle = Bundle(bundle.folder, manifest)  # what was read of it is held by the graphs now
        try:
            self.encoder = Encoder.of(
                bundle.read("encoder.onnx"), bundle.read("tokenizer.json"), manifest.encoder.max_tokens, threads
            )
            self._head = onnx_session(bundle.read("head.onnx"), threads)
        except (Fail, InvalidGraph, InvalidProtobuf) as error:
            raise BundleError(
                f"{bundle.folder}: onnxruntime cannot load a graph: {error}. Install the onnxruntime that the bundle "
                f"was trained with, or train again."
            ) from error
        self._layout = self._checked_layout()
        self.neighbours = Neighbours.in_bundle(bundle)
        self._engine = Engine(manifest, context_margin)
        self.candidates = self._engine.candidates
        self._pricing = Pricing(manifest.candidates, manifest.cost_from, manifest.usual)

    def _checked_layout(self) -> Layout:
        """What the head's columns are. A head that has not seen the test part may know fewer clusters than the served one."""
        head, m = self.manifest.head, len(self.manifest.candidates)
        arrived = {node.name: node.shape[1] for node in (*self._head.get_inputs(), *self._head.get_outputs())}
        layout = Layout(m, max(arrived.get(ESTIMATES, 0) - Layout(m, 0).width, 1))
        expected = {
            "embedding": self.encoder.dim,
            "features": len(head.surface) + len(head.workflows),
            ESTIMATES: layout.width,
        }
        if arrived != expected or layout.clusters > len(self.manifest.novelty.shares):
            raise BundleError(
                f"{self.bundle.path('head.onnx')} has {arrived}, encoder and manifest want {expected}: the files are "
                f"of different bundles. Copy the whole folder, or train again."
            )
        return layout

    @classmethod
    def load(cls, folder: str | Path, threads: int = 1, context_margin: float = 1.1) -> Router:
        """Opens the bundle in `folder`; raises BundleError when it is missing, broken or of another format."""
        return cls(open_bundle(Path(folder)), threads, context_margin)

    @property
    def manifest(self) -> Manifest:
        return self.bundle.manifest

    def estimate(self, requests: Sequence[str | RouteRequest]) -> Estimates:
        """What is expected of every candidate on each of n requests."""
        return self._estimate([read(request) for request in requests])

    def estimates_of(self, request: ReadRequest, embedding: Floats32) -> Estimates:
        """As `estimate`, of one request whose text is embedded already, as (1, dim)."""
        return self._estimate([request], embedding)

    def estimate_embedded(self, embeddings: Floats32, features: Floats32, counted: AnyFloats) -> Estimates:
        """As `estimate`, from embeddings (n, dim), features (n, k) and counted tokens (n,) already at hand."""
        (tensor,) = self._head.run(_OUTPUTS, {"embedding": embeddings, "features": features})
        known = self._layout.parts(tensor)
        logged = known.pop("logged_cost_usd")
        return Estimates(**known, cost_usd=self._pricing.expected(counted, known["output_tokens"], logged))

    def route(self, request: str | RouteRequest, policy: Policy = _ANY, situation: Situation = _USUAL) -> Decision:
        """The decision for one request; raises NoEligibleCandidateError when the rules leave no candidate."""
        known = read(request)
        return self._engine.decide(known, policy, situation, self._estimate([known]))

    def route_many(self, requests: Sequence[str | RouteRequest], policy: Policy = _ANY) -> list[Decision]:
        """Decisions for n requests under one policy, with one forward pass; raises as `route`."""
        known = [read(request) for request in requests]
        estimates = self._estimate(known)
        return [self._engine.decide(request, policy, _USUAL, estimates, row) for row, request in enumerate(known)]

    def route_each(
        self,
        requests: Sequence[tuple[str | RouteRequest | ReadRequest, Policy, Situation]],
        embeddings: Floats32 | None = None,
    ) -> list[Decision | NoEligibleCandidateError]:
        """Decisions for n requests, each under its own policy, with one forward pass; `embeddings` (n, dim) if known.

        A request that the rules leave no candidate for has the error in its place, so that the others are decided.
        """
        known = [read(request) for request, _, _ in requests]
        estimates = self._estimate(known, embeddings)
        decisions: list[Decision | NoEligibleCandidateError] = []
        for row, (_, policy, situation) in enumerate(requests):
            try:
                decisions.append(self._engine.decide(known[row], policy, situation, estimates, row))
            except NoEligibleCandidateError as error:
                decisions.append(error)
        return decisions

    def decide(self, request: ReadRequest, policy: Policy, situation: Situation, embedding: Floats32) -> Decision:
        """As `route`, for a request whose text is embedded already, as (1, dim)."""
        return self._engine.decide(request, policy, situation, self._estimate([request], embedding))

    def decide_each(
        self, request: ReadRequest, policies: Sequence[Policy], situation: Situation, estimates: Estimates
    ) -> list[Decision | NoEligibleCandidateError]:
        """What each of several policies makes of one request, whose `estimates_of` are at hand; errors as in `route_each`."""
        decisions: list[Decision | NoEligibleCandidateError] = []
        for policy in policies:
            try:
                decisions.append(self._engine.decide(request, policy, situation, estimates))
            except NoEligibleCandidateError as error:
                decisions.append(error)
        return decisions

    def decide_without_estimates(
        self, request: ReadRequest, policy: Policy, situation: Situation, reason: Reason
    ) -> Decision:
        """As `route`, by what is known without an embedding: the reference, or the cheapest that rules and budgets admit."""
        return self._engine.decide(request, policy, situation, self._engine.unknown(request), without=reason)

    def chosen(self, requests: Sequence[str | RouteRequest], estimates: Estimates, policy: Policy = _ANY) -> Columns:
        """(n,) the columns that n requests of these estimates go to.

        The reference's for one that no candidate can take: its window is too small for all of them.
        """
        columns = np.empty(len(requests), dtype=np.intp)
        for row, request in enumerate(requests):
            try:
                name = self._engine.decide(read(request), policy, _USUAL, estimates, row).candidate
            except NoEligibleCandidateError:
                name = self.manifest.reference
            columns[row] = self.candidates.index(name)
        return columns

    def operating_point(self, policy: Policy) -> OperatingPoint | None:
        """The operating point a policy asks for; None where it sets the knob itself."""
        return self._engine.operating_point(policy)

    def _estimate(self, requests: Sequence[ReadRequest], embeddings: Floats32 | None = None) -> Estimates:
        features = feature_matrix(requests, self.manifest.head.workflows)
        if embeddings is None:
            embeddings = self.encoder.encode([request.text for request in requests])
        counted = np.array([request.said for request in requests], dtype=np.float64)
        return self.estimate_embedded(embeddings, features, counted)
