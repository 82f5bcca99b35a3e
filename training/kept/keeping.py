"""What a run keeps for a later one, once its bundle is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from serving.bundle.catalogue import Candidate
from serving.bundle.features import SURFACE
from serving.bundle.manifest import Manifest
from training.config import Params
from training.dataset.encoders import EncoderFiles
from training.dataset.fingerprints import fingerprints
from training.dataset.inputs import Inputs, encode_with
from training.dataset.matrix import OutcomeMatrix
from training.dataset.sampling.core import id_hashes
from training.kept.features import Written, write_features
from training.kept.files import Kept, write_kept
from training.kept.rows import write_rows
from training.kept.since import Resumed
from training.learn.heads.chosen import Choices, HeadChoice, PairChoice
from training.learn.heads.pair import Pair
from training.learn.learn import Learned
from training.learn.prepare import Prepared
from training.prices.costs import Lengths


@dataclass(frozen=True)
class Made:
    """What a run has when its bundle is there: `inputs` are those of the prepared requests before kinds of work were told."""

    manifest: Manifest
    prepared: Prepared
    inputs: Inputs
    encoder: EncoderFiles
    learned: Learned


@dataclass(frozen=True)
class Keeping:
    """A log's `rows` as `hashed_rows` makes them, and what the run goes on from: what was kept `before` and `resumed`, and the
    `choices` that it keeps to."""

    rows: pd.DataFrame
    params: Params
    formats: tuple[str, ...]
    cache: Path
    before: Kept | None = None
    resumed: Resumed | None = None
    choices: Choices | None = None

    def keep(self, out: Path, made: Made) -> Path:
        """Writes what is kept of the bundle that was made in `out`; the folder."""
        parts = self._of_texts(made) if self.resumed is None else [self.resumed.core, self.resumed.near]
        there = [part for part in parts if part is not None]

        def write(folder: Path) -> None:
            write_rows(folder, self.rows)
            write_features(folder, there)

        return write_kept(out, self._account(made, sum(len(part.ids) for part in there)), write)

    def _of_texts(self, made: Made) -> list[Written]:
        prepared = made.prepared
        parts = [_written(prepared.matrix, prepared.lengths, made.inputs)]
        if prepared.near is not None:
            near, settings = prepared.near, self.params.embed
            inputs, _ = encode_with(made.encoder.kind, near.matrix, prepared.workflows, settings, self.cache)
            parts.append(_written(near.matrix, near.lengths, inputs))
        return parts

    def _account(self, made: Made, learned: int) -> Kept:
        manifest, before = made.manifest, self.before
        return Kept(
            folder=Path(),
            bundle=manifest.version,
            created=manifest.created,
            fingerprint=manifest.data_fingerprint,
            params={
                name: list(value) if isinstance(value, tuple) else value for name, value in self.params.flat().items()
            },
            choices=choices_of(made) if self.choices is None else self.choices,
            since=() if before is None else (*before.since, before.bundle),
            formats=tuple(dict.fromkeys((*(() if before is None else before.formats), *self.formats))),
            rows=len(self.rows),
            requests=int(self.rows["request_id"].nunique()),
            learned=learned,
            surface=SURFACE,
            prices=prices_of(manifest.candidates),
            files={},
            salt=made.prepared.salt,
        )


def choices_of(made: Made) -> Choices:
    """What the run selected."""
    learned, quality, violation = made.learned, made.learned.quality, made.learned.violation
    return Choices(
        acceptable=_choice(learned.acceptable),
        quality=None if quality is None else _choice(quality),
        violation=None if violation is None else _choice(violation.kept),
        kinds=learned.kinds,
        encoder=made.encoder.kind,
        encoder_sha256=made.encoder.fingerprint(),
        bundle=made.manifest.version,
        created=made.manifest.created,
    )


def prices_of(candidates: Sequence[Candidate]) -> dict[str, list[float | None]]:
    """What a million tokens of each candidate cost in USD, in and out."""
    return {one.name: [one.input_usd_per_mtok, one.output_usd_per_mtok] for one in candidates}


def _choice(pair: Pair) -> PairChoice:
    same = pair.untagged is pair.tagged
    return PairChoice(HeadChoice.of(pair.tagged), None if same else HeadChoice.of(pair.untagged))


def _written(matrix: OutcomeMatrix, lengths: Lengths | None, inputs: Inputs) -> Written:
    surface = inputs.features[:, : inputs.surface]
    ids, seen = id_hashes(matrix.request_id), fingerprints(matrix.texts)
    return Written(matrix, lengths, ids, inputs.embedding, surface, inputs.counted, seen)
