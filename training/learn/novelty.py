"""How unlike the training prompts a prompt is: the Mahalanobis distance of its embedding from theirs.

Nonsense and unknown scripts have embeddings that are near everything on average, and so near some cluster's middle; what gives
them away is that they lie where training prompts hardly vary. Source: Lee et al. 2018, "A simple unified framework for
detecting out-of-distribution samples", with one class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.cluster import MiniBatchKMeans

from serving.bundle.arrays import Floats, Floats32
from training.learn.onnx_graph import Graph
from training.learn.sums import BLOCK

# The share of the mean variance that every direction is given, so that one without any divides by something.
_SHRINKAGE = 0.02


@dataclass(frozen=True)
class Spread:
    """The training prompts' middle `mean` (dim,), and `whitening` (dim, dim), after which they vary alike everywhere."""

    mean: Floats
    whitening: Floats

    def novelty(self, embedding: Floats32) -> Floats:
        """(n,) the mean squared deviation of embeddings (n, dim) in standard deviations; near 1 for training prompts."""
        novelty = np.empty(len(embedding))
        for start in range(0, len(embedding), BLOCK):
            block = slice(start, start + BLOCK)
            novelty[block] = np.square((embedding[block] - self.mean) @ self.whitening).mean(axis=1)
        return novelty

    def to_onnx(self, graph: Graph) -> str:
        """The tensor (n, 1) that `novelty` gives."""
        scaled = self.whitening / np.sqrt(len(self.mean))  # the mean of squares is then their sum
        deviation = graph.linear(graph.embedding, scaled, -self.mean @ scaled)
        return graph.add("ReduceSumSquare", deviation, graph.constant([1], np.int64), keepdims=1)


def spread_of(embedding: Floats32) -> Spread:
    """The spread of n training embeddings (n, dim), its covariance shrunk a little towards an even one."""
    mean = embedding.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((len(mean), len(mean)))
    for start in range(0, len(embedding), BLOCK):
        centred = embedding[start : start + BLOCK] - mean
        covariance += centred.T @ centred
    covariance /= max(len(embedding), 1)
    even = max(float(np.trace(covariance)) / len(mean), 1e-12)
    variance, directions = np.linalg.eigh(covariance)
    scale = (1.0 - _SHRINKAGE) * np.maximum(variance, 0.0) + _SHRINKAGE * even
    return Spread(mean, directions / np.sqrt(scale))


def prompt_clusters(embedding: Floats32, clusters: int, seed: int) -> Floats32:
    """(k, dim) float32 unit vectors: the middles of up to `clusters` clusters of n unit embeddings (n, dim)."""
    k = max(1, min(clusters, len(embedding) // 25))
    model = MiniBatchKMeans(k, n_init=1, batch_size=4096, random_state=seed).fit(embedding)
    centres = model.cluster_centers_
    length = np.linalg.norm(centres, axis=1, keepdims=True)
    return np.asarray(centres / np.where(length > 0, length, 1.0), dtype=np.float32)
