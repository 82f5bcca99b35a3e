"""What the head sees of the requests that were learned from, as arrays mapped into memory, and what else their texts told.

A later run takes it from here, and embeds the new requests alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from serving.bundle.arrays import Columns, Floats32
from serving.bundle.catalogue import Capability
from serving.bundle.features import SURFACE
from serving.bundle.request import ReadRequest, RouteRequest, read
from training.dataset.matrix import Objects, OutcomeMatrix
from training.kept.files import Kept, KeptError
from training.kept.rows import places_in
from training.prices.costs import Lengths

# What each holds, and whether it is a table.
_ARRAYS = {
    "ids": (np.uint64, False),
    "embedding": (np.float32, True),
    "surface": (np.float32, True),
    "counted": (np.float64, False),
    "needs": (np.uint8, False),
    "seen": (np.uint64, False),
}
_LENGTHS = "lengths.parquet"
_LENGTH_KINDS = {"place": "int64", "candidate": "str", "tokens": "float64", "counted": "bool"}
_LARGEST = sys.float_info.max
_AT_ONCE = 65_536
_CAPABILITIES = tuple(Capability)
_NOBODYS = np.zeros(256, dtype=np.intp)


@dataclass(frozen=True)
class Features:
    """Of k requests by their `id_hashes` (k,): `embedding` (k, dim) and `surface` features, float32, and `counted` tokens (k,).

    `needs` (k,) are the bits of the capabilities that they take, in the order of `Capability`; `seen` (k,) fingerprints of the
    texts. `lengths` are input tokens where a candidate's cost takes them: place, candidate, tokens, counted.
    """

    ids: NDArray[np.uint64]
    embedding: Floats32
    surface: Floats32
    counted: NDArray[np.float64]
    needs: NDArray[np.uint8]
    seen: NDArray[np.uint64]
    lengths: pd.DataFrame

    def __len__(self) -> int:
        return len(self.ids)

    def places(self, ids: NDArray[np.uint64]) -> Columns:
        """(n,) the row of each request, -1 where there is none."""
        return places_in(self.ids, ids)

    def requests(self, places: Columns, workflow: Sequence[str | None]) -> Objects:
        """(n,) what stands for the requests at these places: nothing of their texts."""
        found = np.full(len(places), None, dtype=object)
        needs, counted = self.needs[places].tolist(), self.counted[places].astype(np.intp).tolist()
        for row, (bits, tokens, name) in enumerate(zip(needs, counted, workflow, strict=True)):
            taken = (
                frozenset(one for place, one in enumerate(_CAPABILITIES) if bits >> place & 1) if bits else frozenset()
            )
            found[row] = ReadRequest(RouteRequest("", workflow=name), "", b"", _NOBODYS, taken, tokens, tokens)
        return found

    def lengths_of(self, places: Columns, candidates: Sequence[str]) -> Lengths:
        """(n, m) of the requests at these places (-1: none); where none was taken then, by the counted tokens."""
        known = places >= 0
        tokens = np.full((len(places), len(candidates)), np.nan)
        tokens[known] = self.counted[places[known]][:, None]
        counted = np.zeros(tokens.shape, dtype=np.bool_)
        row = places_in(places[known].astype(np.uint64), self.lengths["place"].to_numpy(dtype=np.uint64))
        column = pd.Index(candidates).get_indexer(pd.Index(self.lengths["candidate"]))
        told = (row >= 0) & (column >= 0)
        cells = np.flatnonzero(known)[row[told]], column[told]
        tokens[cells] = self.lengths["tokens"].to_numpy()[told]
        counted[cells] = self.lengths["counted"].to_numpy(dtype=np.bool_)[told]
        return Lengths(tokens, counted)


def read_features(kept: Kept) -> Features:
    """What was written; the large arrays stay on disk. Raises KeptError."""
    try:
        # Mapped first: a header that promises more than there is takes no memory.
        mapped = {name: np.load(kept.path(f"{name}.npy"), mmap_mode="r", allow_pickle=False) for name in _ARRAYS}
        arrays: dict[str, Any] = {name: one if name == "embedding" else np.array(one) for name, one in mapped.items()}
        found = Features(**arrays, lengths=pq.read_table(kept.path(_LENGTHS)).to_pandas())
        _require(found, kept.learned)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise KeptError(f"{kept.folder} cannot be read ({error}); remove it, and train on everything") from error
    return found


def _require(found: Features, requests: int) -> None:
    """Raises ValueError or KeyError for features that are none of so many requests."""
    for name, (kind, table) in _ARRAYS.items():
        one = getattr(found, name)
        if one.dtype != kind or one.ndim != 1 + table or len(one) != requests:
            raise ValueError(
                f"{name} is {one.dtype} of shape {one.shape}, not {kind.__name__} of {requests:,} requests"
            )
    lengths = found.lengths
    kinds = {name: str(lengths[name].dtype) for name in _LENGTH_KINDS}
    if kinds != _LENGTH_KINDS:
        raise ValueError(f"{_LENGTHS} has columns of other kinds: {kinds}")
    finite = all(np.isfinite(found.embedding[at : at + _AT_ONCE]).all() for at in range(0, requests, _AT_ONCE))
    for fits, told in (
        (found.surface.shape[1] == len(SURFACE), f"surface has {found.surface.shape[1]} features, not {len(SURFACE)}"),
        (len(np.unique(found.ids)) == requests, "ids are not those of different requests"),
        (finite, "embedding is not finite"),
        (np.isfinite(found.surface).all(), "surface is not finite"),
        (((found.counted >= 0) & (found.counted <= _LARGEST)).all(), "counted is no number of tokens"),
        ((found.needs >> len(_CAPABILITIES) == 0).all(), "needs has capabilities that there are none of"),
        (lengths["place"].between(0, requests - 1).all(), f"{_LENGTHS} is of other requests"),
        (lengths["tokens"].between(0, _LARGEST).all(), f"{_LENGTHS} has no numbers of tokens"),
    ):
        if not fits:
            raise ValueError(told)


@dataclass(frozen=True)
class Written:
    """Some requests to be kept: outcomes and what they are by (`ids`, n), and what `Features` has of each."""

    matrix: OutcomeMatrix
    lengths: Lengths | None
    ids: NDArray[np.uint64]
    embedding: Floats32
    surface: Floats32
    counted: NDArray[np.float64]
    seen: NDArray[np.uint64]


def write_features(folder: Path, parts: Sequence[Written]) -> None:
    """Writes the parts, one after the other."""
    total = sum(len(part.ids) for part in parts)
    dim = parts[0].embedding.shape[1]
    embedding = np.lib.format.open_memmap(folder / "embedding.npy", mode="w+", dtype=np.float32, shape=(total, dim))
    start, lengths = 0, []
    for part in parts:
        embedding[start : start + len(part.ids)] = part.embedding
        lengths.append(_lengths(part, start))
        start += len(part.ids)
    embedding.flush()
    del embedding
    _save(folder, "needs", parts, lambda part: np.fromiter(map(_needs, part.matrix.requests), np.uint8, len(part.ids)))
    for name in ("ids", "surface", "counted", "seen"):
        _save(folder, name, parts, lambda part, name=name: getattr(part, name))  # type: ignore[misc]
    table = pa.Table.from_pandas(pd.concat(lengths, ignore_index=True), preserve_index=False)
    pq.write_table(table, folder / _LENGTHS, compression="zstd")


def _save(folder: Path, name: str, parts: Sequence[Written], of: Callable[[Written], Any]) -> None:
    np.save(folder / f"{name}.npy", np.concatenate([of(part) for part in parts]), allow_pickle=False)


def _lengths(part: Written, start: int) -> pd.DataFrame:
    nothing = np.empty((0, len(part.matrix.candidates)))
    told = part.lengths or Lengths(nothing, nothing.astype(np.bool_))
    row, column = np.nonzero(np.isfinite(told.tokens))
    names = np.array(part.matrix.candidates, dtype=object)
    return pd.DataFrame(
        {
            "place": row.astype(np.int64) + start,
            "candidate": pd.Series(names[column], dtype="str"),
            "tokens": told.tokens[row, column],
            "counted": told.counted[row, column],
        }
    )


def _needs(request: RouteRequest | ReadRequest) -> int:
    """The bits of what a request takes."""
    if isinstance(request, RouteRequest) and all(isinstance(one.get("content"), str) for one in request.messages or ()):
        return 0
    return sum(1 << place for place, one in enumerate(_CAPABILITIES) if one in read(request).needs)
