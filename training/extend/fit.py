"""Fits the new candidate's column on a head: what that head says of the known candidates is all that it sees of a request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from serving.bundle.arrays import Bools, Floats, Floats32
from serving.bundle.catalogue import Candidate
from serving.bundle.encoder import onnx_session
from serving.bundle.layout import ESTIMATES, Layout
from serving.bundle.manifest import Manifest
from serving.decide.pricing import Pricing
from training.extend.amounts import AMOUNTS, Amounts, Seen, amounts_of
from training.extend.column import Column, fit_column
from training.extend.graph import NewColumn
from training.extend.log import Known
from training.extend.structure import Structure, structure_of


@dataclass(frozen=True)
class Ground:
    """What one head of the champion says of a log's n requests, by name (n, m), and what follows for one beside its own.

    `harm`: see `NewColumn`.
    """

    manifest: Manifest
    known: dict[str, Floats32]
    cost_usd: Floats
    harm: float

    @property
    def reference(self) -> int:
        names = [candidate.name for candidate in self.manifest.candidates]
        return names.index(self.manifest.reference)

    def structure(self, name: str, cost_usd: float) -> Structure:
        """That of "acceptable" or "quality", for a candidate of this mean expected cost."""
        return structure_of(self.known[name], self.cost_usd.mean(axis=0), cost_usd)


def ground_of(head: bytes, manifest: Manifest, log: Known) -> Ground:
    """What a head of the champion says of the log."""
    m = len(manifest.candidates)
    feed = {"embedding": log.inputs.embedding, "features": log.inputs.sent}
    (tensor,) = onnx_session(head).run([ESTIMATES], feed)
    known = Layout(m, tensor.shape[1] - Layout(m, 0).width).parts(tensor)
    pricing = Pricing(manifest.candidates, manifest.cost_from, manifest.usual)
    cost = pricing.expected(log.inputs.counted, known["output_tokens"], known["logged_cost_usd"])
    reference = [candidate.name for candidate in manifest.candidates].index(manifest.reference)
    return Ground(manifest, known, cost, _harm(known, reference))


def _harm(known: dict[str, Floats32], reference: int) -> float:
    """How much of the way from the least violation to that of independent failures the known candidates go, taken together.

    A head without one for violations goes all of it.
    """
    acceptable = np.delete(known["acceptable"].astype(np.float64), reference, axis=1)
    best = known["acceptable"][:, reference : reference + 1].astype(np.float64)
    least = np.maximum(best - acceptable, 0.0)
    room = float(((1.0 - acceptable) * best - least).sum())
    gone = float((np.delete(known["violation"], reference, axis=1) - least).sum())
    return float(np.clip(gone / room, 0.0, 1.0)) if room > 0 else 1.0


def amounts(ground: Ground, entry: Candidate, log: Known, basis: Bools) -> Amounts:
    """What the new candidate's answers on the requests `basis` (n,) cost and took, judged or not."""
    matrix = log.matrix
    tried = np.flatnonzero(basis & (matrix.attempted | matrix.chained)[:, -1])
    seen = Seen(
        counted=log.inputs.counted[tried],
        input_tokens=matrix.input_tokens[tried, -1],
        output_tokens=matrix.output_tokens[tried, -1],
        cost_usd=matrix.cost_usd[tried, -1],
        latency_ms=matrix.latency_ms[tried, -1],
    )
    known = {name: ground.known[name].astype(np.float64) for name in AMOUNTS}
    return amounts_of(entry, ground.manifest, known, tried, seen, log.inputs.counted)


def new_column(ground: Ground, log: Known, found: Amounts, rows: Bools) -> NewColumn:
    """The column, fitted on the judged answers among the requests `rows` (n,)."""
    probes = np.flatnonzero(rows & log.answered)

    def fitted(name: str, target: Floats) -> Column:
        structure = ground.structure(name, found.usual.cost_usd)
        return fit_column(structure, ground.known[name][probes], log.workflows[probes], target[probes])

    return NewColumn(
        acceptable=fitted("acceptable", log.labels[:, -1]),
        quality=fitted("quality", log.matrix.quality[:, -1]) if ground.manifest.graded else None,
        harm=ground.harm,
        reference=ground.reference,
        amounts=found.by_name,
    )
