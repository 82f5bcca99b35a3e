"""Embeddings of the logged prompts, cached: what an interrupted or earlier run embedded is not embedded again."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from serving.bundle.arrays import Floats32
from serving.bundle.encoder import Encoder
from training.dataset.encoders import EncoderFiles
from training.engine.engine import Engine
from training.engine.local import HERE
from training.owned import own_file

_CHUNK = 512
_LOOK_UP = 900  # bound variables that every SQLite allows in one statement


def embed(
    texts: Sequence[str],
    files: EncoderFiles,
    cache: Path,
    *,
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
    engine: Engine = HERE,
) -> Floats32:
    """(n, dim) float32: the embedding of each text by the exported encoder.

    The cache is one SQLite file per encoder, named by the hash of its files, keyed by the sha256 of the text; it holds
    no text. Each chunk is committed as soon as it is computed. `progress(done, total)` counts distinct new texts. Raises
    NotOwnError where others may have written into it.
    """
    keys = [hashlib.sha256(text.encode("utf-8", "replace")).digest() for text in texts]
    first: dict[bytes, int] = {}
    for row, key in enumerate(keys):
        first.setdefault(key, row)
    kept = own_file(cache / f"{files.fingerprint()[:32]}.sqlite")
    matrix = np.empty((len(texts), files.spec.dim), dtype=np.float32)
    with closing(sqlite3.connect(kept, timeout=60)) as database:
        database.execute("create table if not exists embedding (text blob primary key, vector blob not null)")
        missing = list(_missing(database, first, matrix))
        chunks = [missing[start : start + _CHUNK] for start in range(0, len(missing), _CHUNK)]
        done = 0
        for chunk, vectors in zip(chunks, _embedded(texts, first, chunks, files, threads, engine), strict=True):
            with database:
                database.executemany(
                    "insert or replace into embedding values (?, ?)",
                    [(key, vector.tobytes()) for key, vector in zip(chunk, vectors, strict=True)],
                )
            matrix[[first[key] for key in chunk]] = vectors
            done += len(chunk)
            if progress is not None:
                progress(done, len(missing))
    for row, key in enumerate(keys):
        if first[key] != row:
            matrix[row] = matrix[first[key]]
    return matrix


def _embedded(
    texts: Sequence[str],
    first: Mapping[bytes, int],
    chunks: Sequence[Sequence[bytes]],
    files: EncoderFiles,
    threads: int,
    engine: Engine,
) -> Iterable[Floats32]:
    """The vectors of each chunk of keys; the threads are shared out among the chunks that are worked on."""
    if not chunks:
        return []
    shared = _Shared(
        files.onnx.read_bytes(), files.tokenizer.read_bytes(), files.spec.max_tokens, max(1, threads // engine.workers)
    )
    parts = [[texts[first[key]] for key in chunk] for chunk in chunks]
    return engine.map(
        _encoded, shared, parts, "embed", name=lambda part: f"{len(part)} texts", ahead=4 * engine.workers
    )


@dataclass(frozen=True)
class _Shared:
    """The encoder's files, and what embeds with them once somebody asks: that is not sent anywhere."""

    onnx: bytes
    tokenizer: bytes
    max_tokens: int
    threads: int

    @cached_property
    def encoder(self) -> Encoder:
        return Encoder.of(self.onnx, self.tokenizer, self.max_tokens, self.threads)

    def __getstate__(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self)}


def _encoded(given: _Shared, texts: Sequence[str]) -> Floats32:
    return given.encoder.encode(texts)


def _missing(database: sqlite3.Connection, first: Mapping[bytes, int], matrix: Floats32) -> Iterator[bytes]:
    """The keys that the cache does not have; the vectors of the others go into their rows of the matrix."""
    keys = list(first)
    for start in range(0, len(keys), _LOOK_UP):
        part = keys[start : start + _LOOK_UP]
        marks = ",".join("?" * len(part))
        known = dict(database.execute(f"select text, vector from embedding where text in ({marks})", part))
        for key, vector in known.items():
            matrix[first[key]] = np.frombuffer(vector, dtype=np.float32)
        yield from (key for key in part if key not in known)
