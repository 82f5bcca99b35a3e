"""New rows added to what an earlier run has kept: the log of both, and what the head sees of it, without the earlier texts.

What is counted, split, drawn, weighed and certified is that of all rows together, as on training on all of them; only what was
selected, and the features of earlier requests, are taken as they were.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from serving.bundle.arrays import Floats, Floats32
from serving.bundle.catalogue import Candidate
from serving.bundle.features import SURFACE
from serving.bundle.request import RouteRequest
from training.config import Params
from training.dataset.encoders import EncoderFiles
from training.dataset.fingerprints import fingerprints
from training.dataset.inputs import Inputs, Progress, encode_with, silent
from training.dataset.matrix import Objects, OutcomeMatrix
from training.dataset.sampling.core import Core, core_of
from training.dataset.split import Split
from training.kept.features import Features, Written, read_features
from training.kept.files import Kept, KeptError
from training.kept.rows import Joined, join, new_columns, numbers_of, read_rows
from training.learn.prepare import AddedTo, AtHand, Prepared, fingerprint, prepare_core
from training.logs.outcomes import Outcomes
from training.prices.costs import Lengths

_WHOLE = "Train on everything: router-train run --data OLD --data NEW"


@dataclass(frozen=True)
class Resumed:
    """What a run goes on with instead of encoding texts: `inputs` of the `prepared` requests and their encoder.

    `core` is what of these is kept again, with the fingerprints of their texts; `near` those beside it. `rows` are those of the
    whole log, and `said` is what a page says of it.
    """

    prepared: Prepared
    inputs: Inputs
    encoder: EncoderFiles
    core: Written
    near: Written | None
    rows: pd.DataFrame
    said: str


def add_rows(kept: Kept, new: Outcomes, *, stand_ins: bool) -> Joined:
    """Kept and new rows as one log; raises KeptError where none is new, or a candidate was unknown."""
    before = read_rows(kept)
    if kept.choices.kinds is not None and new.frame["workflow"].notna().any():
        raise KeptError(
            f"the new rows name workflows, and {kept.bundle} was selected with kinds of work in their place, found by "
            f"clustering prompts ({', '.join(kept.choices.kinds.names)}). {_WHOLE}, or leave the workflow out"
        )
    if unknown := new_columns(new.frame, before):
        raise KeptError(
            f"{', '.join(unknown)}: not in what was kept of {kept.bundle}, and nothing was selected with it in the choice. Add "
            "it to a bundle with `router-train add-candidate`; make it an alias in candidates.toml if it is one of "
            f"{', '.join(sorted(set(before['candidate'])))} by another name; or train on everything: router-train run --data "
            "OLD --data NEW"
        )
    return join(before, new, stand_ins=stand_ins)


def resume(
    kept: Kept,
    joined: Joined,
    requests: Callable[[Objects], Objects],
    params: Params,
    catalogue: Mapping[str, Candidate],
    cache: Path,
    progress: Progress = silent,
) -> Resumed:
    """The log of kept and new rows, ready to be learned from: `requests` (ids) gives new requests by their ids as logged.

    Raises KeptError where the encoder is another one, PrepareError and SplitError as any run.
    """
    if kept.surface != SURFACE:
        raise KeptError(f"{kept.folder} has other surface features than this release computes. {_WHOLE}")
    features = read_features(kept)
    new_ids = numbers_of(np.array(list(joined.ids), dtype=object))

    def draw(matrix: OutcomeMatrix, labels: Floats, split: Split) -> Core:
        hashes = numbers_of(matrix.request_id)
        at_hand = (features.places(hashes) >= 0) | np.isin(hashes, new_ids)
        return core_of(matrix, labels, split, params.scale, params.split.seed, hashes, at_hand, kept.salt)

    def hold(matrix: OutcomeMatrix) -> AtHand:
        known = np.fromiter((one in joined.ids for one in matrix.request_id), np.bool_, len(matrix))
        found = np.full(len(matrix), None, dtype=object)
        fresh = np.array([joined.ids[one] for one in matrix.request_id[known]], dtype=object)
        found[known] = requests(fresh)
        places = np.where(known, -1, features.places(numbers_of(matrix.request_id)))
        kept_rows = np.flatnonzero(places >= 0)
        found[kept_rows] = features.requests(places[kept_rows], matrix.workflow[kept_rows].tolist())
        return AtHand(found, features.lengths_of(places, matrix.candidates))

    progress("put together with what was kept", None, None)
    mark = fingerprint(joined.new.frame.drop(columns=["messages"]))
    prepared = prepare_core(
        joined.frame, params, catalogue, hold, draw, near=params.since.keep, mark=_both(kept.fingerprint, mark)
    )
    encoded = _Encoded(kept, features, prepared, params, cache, progress)
    inputs, encoder, core = encoded.of(prepared.matrix, prepared.lengths)
    near = None if prepared.near is None else encoded.of(prepared.near.matrix, prepared.near.lengths)[2]
    logged = np.array([joined.ids.get(one, one) for one in prepared.matrix.request_id], dtype=object)
    said = _said(kept, joined, prepared)
    prepared = replace(
        prepared,
        matrix=replace(prepared.matrix, request_id=logged),
        near=None,
        told=(said,),
        going_on=f"--since models/{kept.bundle}",
        added_to=AddedTo(kept.created, kept.requests, joined.added, kept.choices.created),
        split=replace(prepared.split, note=f"{prepared.split.note}; {said}"),
    )
    return Resumed(prepared, inputs, encoder, core, near, joined.frame, said)


def _both(before: str, mark: str) -> str:
    """A fingerprint of the two logs together."""
    return hashlib.sha256(f"{before}{mark}".encode()).hexdigest()


def _said(kept: Kept, joined: Joined, prepared: Prepared) -> str:
    told = (
        f"since {kept.bundle}: {len(joined.new.frame):,} new rows, {joined.added:,} new requests, were added to the "
        f"{kept.rows:,} rows of {kept.requests:,} requests that were kept of it"
    )
    if joined.repeats:
        told += f"; {joined.repeats:,} rows were known or contradict what was, and were skipped"
    if prepared.missing:
        told += (
            f"; {prepared.missing:,} requests of the core were not kept, for the log has grown so that it holds other ones, "
            "and are left out"
        )
    return told


@dataclass(frozen=True)
class _Encoded:
    """What makes the inputs of requests: of those whose text is at hand by their text, of the others as they were kept."""

    kept: Kept
    features: Features
    prepared: Prepared
    params: Params
    cache: Path
    progress: Progress

    def of(self, matrix: OutcomeMatrix, lengths: Lengths | None) -> tuple[Inputs, EncoderFiles, Written]:
        """The inputs, the encoder, and what is kept again; raises KeptError where the encoder is another one."""
        fresh = np.fromiter((isinstance(one, RouteRequest) for one in matrix.requests), np.bool_, len(matrix))
        kind, workflows = self.kept.choices.encoder, self.prepared.workflows
        made, encoder = encode_with(kind, matrix.take(fresh), workflows, self.params.embed, self.cache, self.progress)
        if encoder.fingerprint() != self.kept.choices.encoder_sha256:
            raise KeptError(
                f"the {kind} encoder is another one than {self.kept.bundle} was made with, and what was kept was embedded by "
                f"that one. Give the --cache that it is in, or take the release that made it. {_WHOLE}"
            )
        if self.features.embedding.shape[1] != encoder.spec.dim:
            raise KeptError(
                f"{self.kept.folder} is damaged: it has embeddings of {self.features.embedding.shape[1]} numbers, and the "
                f"{kind} encoder makes {encoder.spec.dim}. {_WHOLE}"
            )
        ids = numbers_of(matrix.request_id)
        places, rows = self.features.places(ids[~fresh]), np.flatnonzero(~fresh)
        embedding = np.empty((len(matrix), encoder.spec.dim), dtype=np.float32)
        surface = np.empty((len(matrix), len(SURFACE)), dtype=np.float32)
        counted, seen = np.empty(len(matrix)), np.empty(len(matrix), dtype=np.uint64)
        for whole, own, before in (
            (embedding, made.embedding, self.features.embedding),
            (surface, made.features[:, : made.surface], self.features.surface),
            (counted, made.counted, self.features.counted),
            (seen, fingerprints(matrix.texts[fresh]), self.features.seen),
        ):
            whole[fresh] = own
            whole[rows] = before[places]
        inputs = Inputs(embedding, np.hstack([surface, _one_hot(matrix.workflow, workflows)]), len(SURFACE), counted)
        return inputs, encoder, Written(matrix, lengths, ids, embedding, surface, counted, seen)


def _one_hot(workflow: Objects, names: tuple[str, ...]) -> Floats32:
    place = (
        pd.Index(names, dtype=object).get_indexer(pd.Index(workflow, dtype=object))
        if names
        else np.full(len(workflow), -1)
    )
    return np.asarray(np.arange(len(names)) == place[:, None], dtype=np.float32)
