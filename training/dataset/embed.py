"""Embeddings of the logged prompts, cached: what an interrupted or earlier run embedded is not embedded again."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from serving.bundle.arrays import Floats32
from serving.bundle.encoder import Encoder
from training.dataset.encoders import EncoderFiles

_CHUNK = 512
_LOOK_UP = 900  # bound variables that every SQLite allows in one statement


def embed(
    texts: Sequence[str],
    files: EncoderFiles,
    cache: Path,
    *,
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Floats32:
    """(n, dim) float32: the embedding of each text by the exported encoder.

    The cache is one SQLite file per encoder, named by the hash of its files, keyed by the sha256 of the text; it holds
    no text. Each chunk is committed as soon as it is computed. `progress(done, total)` counts distinct new texts.
    """
    keys = [hashlib.sha256(text.encode("utf-8", "replace")).digest() for text in texts]
    first: dict[bytes, int] = {}
    for row, key in enumerate(keys):
        first.setdefault(key, row)
    cache.mkdir(parents=True, exist_ok=True)
    matrix = np.empty((len(texts), files.spec.dim), dtype=np.float32)
    with closing(sqlite3.connect(cache / f"{files.fingerprint()[:32]}.sqlite", timeout=60)) as database:
        database.execute("create table if not exists embedding (text blob primary key, vector blob not null)")
        missing = list(_missing(database, first, matrix))
        encoder: Encoder | None = None
        for start in range(0, len(missing), _CHUNK):
            chunk = missing[start : start + _CHUNK]
            encoder = encoder or files.encoder(threads)
            vectors = encoder.encode([texts[first[key]] for key in chunk])
            with database:
                database.executemany(
                    "insert or replace into embedding values (?, ?)",
                    [(key, vector.tobytes()) for key, vector in zip(chunk, vectors, strict=True)],
                )
            matrix[[first[key] for key in chunk]] = vectors
            if progress is not None:
                progress(start + len(chunk), len(missing))
    for row, key in enumerate(keys):
        if first[key] != row:
            matrix[row] = matrix[first[key]]
    return matrix


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
