"""Embeddings of the logged prompts, cached: what an interrupted or earlier run embedded is not embedded again."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.encoder import Encoder
from training.encoders import EncoderFiles

Matrix = NDArray[np.float32]
_CHUNK = 512
_LOOK_UP = 900  # bound variables that every SQLite allows in one statement


def embed(
    texts: Sequence[str],
    files: EncoderFiles,
    cache: Path,
    *,
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Matrix:
    """(n, dim) float32: the embedding of each text by the exported encoder.

    The cache is one SQLite file per encoder, named by the hash of its files, keyed by the sha256 of the text; it holds
    no text. Each chunk is committed as soon as it is computed. `progress(done, total)` counts distinct new texts.
    """
    keys = [hashlib.sha256(text.encode("utf-8", "replace")).digest() for text in texts]
    distinct = dict(zip(keys, texts, strict=True))
    cache.mkdir(parents=True, exist_ok=True)
    dim = files.spec.dim
    with closing(sqlite3.connect(cache / f"{files.fingerprint()[:32]}.sqlite")) as database:
        database.execute("pragma journal_mode = wal")
        database.execute("create table if not exists embedding (text blob primary key, vector blob not null)")
        known = _known(database, list(distinct))
        missing = [key for key in distinct if key not in known]
        if missing:
            encoder = Encoder(files.onnx, files.tokenizer, files.spec.max_tokens, threads)
            for start in range(0, len(missing), _CHUNK):
                chunk = missing[start : start + _CHUNK]
                vectors = encoder.encode([distinct[key] for key in chunk])
                with database:
                    database.executemany(
                        "insert or replace into embedding values (?, ?)",
                        [(key, vector.tobytes()) for key, vector in zip(chunk, vectors, strict=True)],
                    )
                known.update((key, vector.tobytes()) for key, vector in zip(chunk, vectors, strict=True))
                if progress is not None:
                    progress(start + len(chunk), len(missing))
    matrix = np.empty((len(texts), dim), dtype=np.float32)
    for row, key in enumerate(keys):
        matrix[row] = np.frombuffer(known[key], dtype=np.float32)
    return matrix


def _known(database: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for start in range(0, len(keys), _LOOK_UP):
        part = keys[start : start + _LOOK_UP]
        marks = ",".join("?" * len(part))
        found.update(database.execute(f"select text, vector from embedding where text in ({marks})", part))
    return found
