"""Which requests a bundle was made from, so that a log that has them is not taken for a test of it."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serving.bundle.arrays import Bools
from serving.bundle.manifest import Bundle

SEEN = "seen.npy"
# So few that a fingerprint tells a log's requests from others, and does not prove what a prompt was.
_BYTES = 5


def write_fingerprints(folder: Path, found: NDArray[np.uint64]) -> None:
    """Writes `SEEN` into a bundle's folder: the `fingerprints` of its texts, sorted."""
    np.save(folder / SEEN, np.unique(found), allow_pickle=False)


def seen_by(bundle: Bundle, texts: Iterable[str]) -> Bools:
    """(n,) whether the bundle was made from a request of each text; all False of a bundle that does not say."""
    found = fingerprints(texts)
    if SEEN not in bundle.manifest.files:
        return np.zeros(len(found), dtype=np.bool_)
    return np.isin(found, np.load(BytesIO(bundle.read(SEEN)), allow_pickle=False))


def fingerprints(texts: Iterable[str]) -> NDArray[np.uint64]:
    """(n,) a number for each text."""
    digests = (blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_BYTES).digest() for text in texts)
    return np.array([int.from_bytes(digest) for digest in digests], dtype=np.uint64)
