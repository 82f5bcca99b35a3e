"""What `head.onnx` gives for n requests: one tensor, `ESTIMATES`, and what its columns are."""

from __future__ import annotations

from dataclasses import dataclass

from serving.bundle.arrays import Floats32

ESTIMATES = "estimates"
# The first columns: of each of these as many as there are candidates.
BY_CANDIDATE = (
    "acceptable",
    "quality",
    "violation",
    "output_tokens",
    "logged_cost_usd",
    "latency_ms",
    "latency_p95_ms",
)
# Behind them the cosine similarity to the centres of the training prompts' clusters.
NEARNESS = "nearness"
# And in the last column how far from the training prompts as a whole, in units of how far these are on average.
NOVELTY = "novelty"


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns for so many `candidates` and `clusters`."""

    candidates: int
    clusters: int

    @property
    def width(self) -> int:
        return len(BY_CANDIDATE) * self.candidates + self.clusters + 1

    def parts(self, tensor: Floats32) -> dict[str, Floats32]:
        """The parts of a tensor (n, width) by name: (n, candidates), `NEARNESS` (n, clusters), `NOVELTY` (n, 1)."""
        m = self.candidates
        found = {name: tensor[:, place * m : (place + 1) * m] for place, name in enumerate(BY_CANDIDATE)}
        found[NEARNESS] = tensor[:, len(BY_CANDIDATE) * m : -1]
        found[NOVELTY] = tensor[:, -1:]
        return found
