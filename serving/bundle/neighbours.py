"""Logged requests that go along with a bundle, so that a decision can be shown beside the requests most like its own.

Their embeddings are kept as int8, a quarter of what float32 takes. Text is there only where it was to be kept.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.bundle.arrays import AnyFloats, Bools, Floats32
from serving.bundle.atomic_write import for_its_owner
from serving.bundle.manifest import NEIGHBOURS, NEIGHBOURS_ABOUT, NEIGHBOURS_TEXTS, Bundle, BundleError

Model = TypeVar("Model", bound=BaseModel)

SCHEMA = 1
# A bundle has no more rows than that, whatever it was asked for: they are held in memory by every process that serves.
MOST_ROWS = 1_000_000
# So much of a text is kept.
LONGEST_TEXT = 2_000
_STEPS = 127  # of int8, on either side of 0
_TOGETHER = 8_192  # rows that are widened to float32 at a time
_AGAIN = "Train again, or train with `--set export.neighbours=0` to have none."
_KINDS: Mapping[str, tuple[type[np.generic], Literal["row", "dim", "candidate"]]] = {
    "embedding": (np.int8, "dim"),
    "scale": (np.float32, "row"),
    "quality": (np.float32, "candidate"),
    "cost_usd": (np.float32, "candidate"),
    "error": (np.bool_, "candidate"),
    "logged": (np.uint8, "candidate"),
}


class Near(NamedTuple):
    """One logged request by its row, and how alike it is: the cosine of the two embeddings."""

    row: int
    similarity: float


class _About(BaseModel):
    """What is known of the rows beside their arrays."""

    model_config = ConfigDict(extra="forbid", strict=True)

    schema_: Literal[1] = Field(alias="schema")
    total: int = Field(ge=0)
    kept: int = Field(ge=0, le=MOST_ROWS)
    drawn: Literal["all", "random"]
    candidates: list[str]
    ids: list[str]
    workflows: list[str | None]
    at: list[str | None]


class _Texts(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    texts: list[str | None]


@dataclass(frozen=True, eq=False)
class Neighbours:
    """r logged requests and what came of them, per candidate in the order of `candidates`.

    An embedding is `embedding` (r, dim) int8 times `scale` (r,). `quality` and `cost_usd` (r, m) are NaN where that was not
    judged or is not known; `error` (r, m) says where the call failed, `logged` (r, m) is 1 where the candidate was tried.
    `total` is how many requests of the log these were taken from, `at` when each was made, in ISO 8601. `texts` is None where
    none was kept.
    """

    candidates: tuple[str, ...]
    total: int
    ids: Sequence[str]
    workflows: Sequence[str | None]
    at: Sequence[str | None]
    embedding: NDArray[np.int8]
    scale: Floats32
    quality: Floats32
    cost_usd: Floats32
    error: Bools
    logged: NDArray[np.uint8]
    texts: Sequence[str | None] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dim(self) -> int:
        return int(self.embedding.shape[1])

    @classmethod
    def of(cls, npz: bytes, meta: bytes, texts: bytes | None) -> Self:
        """What `write` wrote, from the files' bytes; raises BundleError that names the file."""
        about = _read(NEIGHBOURS_ABOUT, _About, meta)
        for name in ("ids", "workflows", "at"):
            _same_rows(NEIGHBOURS_ABOUT, name, len(getattr(about, name)), about.kept)
        arrays = _arrays(npz, about.kept, len(about.candidates))
        kept = None
        if texts is not None:
            kept = _read(NEIGHBOURS_TEXTS, _Texts, texts).texts
            _same_rows(NEIGHBOURS_TEXTS, "texts", len(kept), about.kept)
        listed = about.ids, about.workflows, about.at
        return cls(tuple(about.candidates), about.total, *listed, **arrays, texts=kept)

    @classmethod
    def in_bundle(cls, bundle: Bundle) -> Self | None:
        """A bundle's own, None where it has none; raises BundleError where its files do not fit it or each other."""
        files = bundle.manifest.files
        if not files.keys() & {NEIGHBOURS, NEIGHBOURS_ABOUT, NEIGHBOURS_TEXTS}:
            return None
        if missing := {NEIGHBOURS, NEIGHBOURS_ABOUT} - files.keys():
            raise BundleError(f"{bundle.folder} has a part of its neighbours and no {', '.join(missing)}. {_AGAIN}")
        texts = bundle.read(NEIGHBOURS_TEXTS) if NEIGHBOURS_TEXTS in files else None
        try:
            found = cls.of(bundle.read(NEIGHBOURS), bundle.read(NEIGHBOURS_ABOUT), texts)
        except BundleError as error:
            raise BundleError(f"{bundle.folder}: {error}") from error
        names, dim = tuple(one.name for one in bundle.manifest.candidates), bundle.manifest.encoder.dim
        if found.candidates != names:
            raise BundleError(
                f"{bundle.path(NEIGHBOURS_ABOUT)} is about the candidates {', '.join(found.candidates)}, the bundle has "
                f"{', '.join(names)}: the files are of different bundles. {_AGAIN}"
            )
        if found.dim != dim:
            raise BundleError(
                f"{bundle.path(NEIGHBOURS)} has embeddings of {found.dim} numbers, the bundle's encoder makes {dim}: the files "
                f"are of different bundles. {_AGAIN}"
            )
        return found

    def of_workflows(self, workflows: Collection[str]) -> Bools:
        """(r,) the rows that are tagged with one of these."""
        return np.fromiter((one in workflows for one in self.workflows), dtype=np.bool_, count=len(self))

    def nearest(self, embedding: AnyFloats, k: int, *, workflows: Collection[str] | None = None) -> list[Near]:
        """The k rows most like an embedding (dim,), the nearest first, of these `workflows` alone if they are given.

        Among equal ones the earlier row. Its length is of no account; of one that has none, nothing is near.
        """
        length = float(np.linalg.norm(embedding))
        among = np.arange(len(self)) if workflows is None else np.flatnonzero(self.of_workflows(workflows))
        if k <= 0 or not len(among) or not np.isfinite(length) or length == 0:
            return []
        unit = (embedding / length).astype(np.float32)
        similarity = np.concatenate([self.embedding[rows].astype(np.float32) @ unit for rows in _parts(among)])
        similarity = np.clip(similarity * self.scale[among], -1.0, 1.0)
        if k < len(similarity):
            least = np.partition(similarity, -k)[-k]
            among, similarity = among[similarity >= least], similarity[similarity >= least]
        order = np.argsort(-similarity, kind="stable")[:k]
        return [Near(int(among[place]), float(similarity[place])) for place in order]


def quantised(embedding: AnyFloats) -> tuple[NDArray[np.int8], Floats32]:
    """Embeddings (r, dim) as int8 and a scale (r,), each at unit length: what is off is at most half a step of its largest."""
    length = np.linalg.norm(embedding, axis=1, keepdims=True)
    unit = np.divide(
        embedding, length, out=np.zeros(embedding.shape, np.float32), where=np.isfinite(length) & (length > 0)
    )
    scale = (np.abs(unit).max(axis=1, initial=0.0) / _STEPS).astype(np.float32)
    steps = np.divide(unit, scale[:, None], out=np.zeros_like(unit), where=scale[:, None] > 0)
    return np.rint(steps).clip(-_STEPS, _STEPS).astype(np.int8), scale


def write(folder: Path, found: Neighbours) -> None:
    """Writes them into a bundle's folder before it is sealed; the texts for their owner's eyes only."""
    arrays: dict[str, Any] = {
        name: np.ascontiguousarray(getattr(found, name), dtype=kind) for name, (kind, _) in _KINDS.items()
    }
    np.savez(folder / NEIGHBOURS, allow_pickle=False, **arrays)
    about = {
        "schema": SCHEMA,
        "total": found.total,
        "kept": len(found),
        "drawn": "all" if found.total == len(found) else "random",
        "candidates": list(found.candidates),
        "ids": list(found.ids),
        "workflows": list(found.workflows),
        "at": list(found.at),
    }
    (folder / NEIGHBOURS_ABOUT).write_text(json.dumps(about), encoding="utf-8")
    if found.texts is not None:
        texts = [None if one is None else one[:LONGEST_TEXT] for one in found.texts]
        with for_its_owner():
            (folder / NEIGHBOURS_TEXTS).write_text(json.dumps({"texts": texts}), encoding="utf-8")


def _parts(among: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    for start in range(0, len(among), _TOGETHER):
        yield among[start : start + _TOGETHER]


def _read(file: str, model: type[Model], content: bytes) -> Model:
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the document"
        raise BundleError(f"{file}: {where}: {first['msg']}. {_AGAIN}") from None


def _same_rows(file: str, name: str, arrived: int, expected: int) -> None:
    if arrived != expected:
        raise BundleError(f"{file}: {name} is of {arrived} requests, kept says {expected}. {_AGAIN}")


def _arrays(npz: bytes, rows: int, candidates: int) -> dict[str, Any]:
    """The arrays, each of the type and shape that it has to have; nothing is unpacked that is larger than the file."""
    try:
        with zipfile.ZipFile(BytesIO(npz)) as packed:
            inside = {one.filename.removesuffix(".npy"): one for one in packed.infolist()}
            if inside.keys() != _KINDS.keys():
                raise BundleError(f"{NEIGHBOURS} holds {sorted(inside)}, expected {sorted(_KINDS)}. {_AGAIN}")
            if any(one.compress_type != zipfile.ZIP_STORED for one in inside.values()):
                raise BundleError(f"{NEIGHBOURS} is compressed, expected it as numpy.savez writes it. {_AGAIN}")
        with np.load(BytesIO(npz), allow_pickle=False) as loaded:
            arrays = {name: np.asarray(loaded[name]) for name in _KINDS}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, KeyError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{NEIGHBOURS} cannot be read: {error}. {_AGAIN}") from None
    dim = arrays["embedding"].shape[-1] if arrays["embedding"].ndim == 2 else 0
    shapes = {"row": (rows,), "dim": (rows, dim), "candidate": (rows, candidates)}
    for name, (kind, per) in _KINDS.items():
        array = arrays[name]
        if array.dtype != kind or array.shape != shapes[per]:
            raise BundleError(
                f"{NEIGHBOURS}: {name} is {array.dtype} {array.shape}, expected {np.dtype(kind)} {shapes[per]}. {_AGAIN}"
            )
    if not np.isfinite(arrays["scale"]).all():
        raise BundleError(f"{NEIGHBOURS}: scale has a number that is not finite. {_AGAIN}")
    return arrays
