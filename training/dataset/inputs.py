"""What a head sees of each request: its embedding, its surface features and its workflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from serving.bundle.arrays import Bools, Columns, Floats, Floats32
from serving.bundle.features import SURFACE, feature_matrix
from serving.bundle.request import read
from training.config import Embed
from training.dataset.embed import embed
from training.dataset.encoders import EncoderFiles, Kind, make_encoder
from training.dataset.matrix import OutcomeMatrix
from training.engine.engine import Engine
from training.engine.engine import Progress as Progress
from training.engine.engine import silent as silent
from training.engine.local import HERE


@dataclass(frozen=True)
class Inputs:
    """What the head sees of n requests: `embedding` (n, dim) and `features` (n, surface + workflows), float32.

    The features' first `surface` columns are surface features, the rest are one column per known workflow, all zero
    where a request has no tag or an unknown one. `counted` (n,) are the prompts' counted tokens, by which they are priced.
    With `derived` the workflows are kinds of work that follow from the embedding, which the graph finds for itself.
    """

    embedding: Floats32
    features: Floats32
    surface: int
    counted: Floats
    derived: bool = False

    def __len__(self) -> int:
        return len(self.embedding)

    @property
    def workflows(self) -> Floats32:
        """(n, workflows) the one-hot part."""
        return self.features[:, self.surface :]

    @property
    def tagged(self) -> Bools:
        """(n,) whether the request's workflow is a known one."""
        return np.asarray(self.workflows.any(axis=1))

    @property
    def sent(self) -> Floats32:
        """(n, surface + workflows that requests name) the features as the served graph is given them."""
        return self.features[:, : self.surface] if self.derived else self.features

    def take(self, rows: Bools | Columns) -> Inputs:
        return replace(self, embedding=self.embedding[rows], features=self.features[rows], counted=self.counted[rows])

    def untagged(self) -> Inputs:
        """The same requests as if none had a workflow tag."""
        features = self.features.copy()
        features[:, self.surface :] = 0.0
        return replace(self, features=features)


def encode_with(
    kind: Kind,
    matrix: OutcomeMatrix,
    workflows: Sequence[str],
    settings: Embed,
    cache: Path,
    progress: Progress = silent,
    engine: Engine = HERE,
) -> tuple[Inputs, EncoderFiles]:
    """The inputs of every request of `matrix`, with a column for each of `workflows`, and the encoder that made them."""
    progress(f"make {kind} encoder, once", None, None)
    files = make_encoder(
        kind,
        settings.source,
        cache / "encoders",
        static_dim=settings.static_dim,
        max_tokens=settings.static_max_tokens if kind == "static" else settings.transformer_max_tokens,
        progress=lambda done, total: progress(f"make {kind} encoder, once", done, total),
    )
    texts = list(matrix.texts)
    embedding = embed(
        texts,
        files,
        cache / "embeddings",
        threads=settings.threads,
        progress=lambda done, total: progress(f"embed ({kind})", done, total),
        engine=engine,
    )
    features = feature_matrix(list(matrix.requests), workflows)
    counted = np.array([read(request).said for request in matrix.requests], dtype=np.float64)
    return Inputs(embedding, features, len(SURFACE), counted), files
