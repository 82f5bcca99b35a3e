"""The router that is being served, and its replacement while requests go on.

A new bundle is loaded and warmed beside the old one and takes its place in one assignment, so that no request is dropped. A
bundle that cannot be loaded is refused, with the reason, and the old one stays.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np

from serving.bundle.arrays import Floats32
from serving.bundle.manifest import MANIFEST, BundleError, Manifest, open_bundle
from serving.decide.router import Router
from serving.runtime.upkeep import Periodic

logger = logging.getLogger(__name__)

_WARM_UP = ("Is it warm?", "", "A longer text, so that both paths have run. " * 500)
MLFLOW = "models:/"
_ARENA_MAX = -8  # M_ARENA_MAX of malloc.h
_TIMED = "How long does it take to embed a prompt of about this length? " * 4
_INLINE_SECONDS = 0.001
# A refused bundle is tried again after so long, for what was wrong may have been the network.
_TRY_AGAIN_SECONDS = 60.0
# What an embedding takes in memory beside its numbers, about: its key, and its place in the order of use.
_ENTRY = 250
_ENCODER_FILES = ("encoder.onnx", "tokenizer.json")
FRONTIER = "frontier.json"

Identity = tuple[object, ...]


@dataclass(frozen=True)
class Reload:
    """What came of a reload: whether another bundle is served now, which one is, and why not where it was refused."""

    changed: bool
    version: str
    refused: str | None = None


class Embeddings:
    """Embeddings of recent texts, in at most `most_bytes`; the least recently used go. Keys are hashes: no text is held.

    The numbers are in one array, which goes back to the system as a whole: thousands of small ones, freed when a bundle
    goes, would leave holes that nothing fits into.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._slots: OrderedDict[bytes, int] = OrderedDict()
        self._rows: Floats32 | None = None
        self._lock = threading.Lock()
        self.hits = self.misses = 0

    def get(self, text: str) -> Floats32 | None:
        """(1, dim) or None."""
        key = _hashed(text)
        with self._lock:
            slot = self._slots.get(key)
            if slot is None or self._rows is None:
                self.misses += 1
                return None
            self._slots.move_to_end(key)
            self.hits += 1
            return self._rows[slot : slot + 1].copy()  # another text may have the slot at the next call

    def put(self, text: str, embedding: Floats32) -> None:
        """Keeps an embedding (1, dim); all have one dim."""
        key = _hashed(text)
        with self._lock:
            if self._rows is None:
                self._rows = np.empty((self._most_bytes // (embedding.nbytes + _ENTRY), embedding.shape[1]), np.float32)
            if not len(self._rows):
                return
            slot = self._slots.pop(key, len(self._slots))
            if slot == len(self._rows):
                _, slot = self._slots.popitem(last=False)
            self._rows[slot] = embedding[0]
            self._slots[key] = slot


def _hashed(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclass(frozen=True)
class Serving:
    """A loaded, warm router with its embedding cache: embeddings of one encoder are of no use to another.

    `frontier` is the bundle's frontier.json as it was when it was loaded, for a registered model's folder is gone then; None
    where it has none.
    """

    router: Router
    embeddings: Embeddings
    identity: Identity
    inline: bool
    frontier: bytes | None = None

    def embed(self, text: str) -> Floats32:
        """(1, dim), kept in the cache."""
        return self.embed_many([text])

    def embed_many(self, texts: Sequence[str]) -> Floats32:
        """(n, dim), kept in the cache."""
        embeddings = self.router.encoder.encode(texts)
        for row, text in enumerate(texts):
            self.embeddings.put(text, embeddings[row : row + 1])
        return embeddings

    def same_encoder(self, other: Router) -> bool:
        """Whether another router embeds as this one does."""
        mine, its = self.router.manifest, other.manifest
        alike = all(mine.files[name] == its.files[name] for name in _ENCODER_FILES)
        return alike and mine.encoder.max_tokens == its.encoder.max_tokens


class Live:
    """The current `Serving`, reloaded on demand (`reload`) or when the source comes to be another bundle (`watch`).

    `cache` is how many bytes of embeddings are kept; `check` raises BundleError for a new bundle that must not be taken over.
    """

    def __init__(
        self,
        source: str,
        *,
        threads: int,
        context_margin: float,
        cache: int,
        check: Callable[[Manifest], None] | None = None,
    ) -> None:
        self.source = source
        self._check = check
        self._threads = threads
        self._margin = context_margin
        self._cache = cache
        self._loading = threading.Lock()
        self._watcher: Periodic | None = None
        self._tried: tuple[Identity | None, float] = (None, 0.0)
        self.reloads = self.refusals = 0
        self.refused: str | None = None
        self.current = self._load(identity_of(source), None)

    def reload(self) -> Reload:
        """Loads the source again; what is served already is left as it is. Never raises for a bad bundle."""
        with self._loading:
            try:
                identity = identity_of(self.source)
                self._tried = (identity, time.monotonic())
                if identity == self.current.identity:
                    self.refused = None
                    return Reload(False, self.version)
                loaded = self._load(identity, self.current)
                if self._check is not None:
                    self._check(loaded.router.manifest)
                self.current = loaded
            except (BundleError, OSError) as error:
                return self._refuse(str(error))
            self.refused = None
            _give_back()
            self.reloads += 1
            logger.info("serving bundle %s", self.version)
            return Reload(True, self.version)

    def _refuse(self, why: str) -> Reload:
        self.refusals += 1
        if why != self.refused:
            logger.error("the bundle at %s is refused, %s stays: %s", self.source, self.version, why)
        self.refused = why
        return Reload(False, self.version, why)

    @property
    def version(self) -> str:
        """The version of the bundle that is served."""
        return self.current.router.manifest.version

    def _load(self, identity: Identity, previous: Serving | None) -> Serving:
        """Loads and warms what `identity` names; raises BundleError.

        The identity was taken before: a bundle that changes while it is read is then seen to be another one.
        """
        with opened(self.source, identity) as folder:
            try:
                router = Router.load(folder, self._threads, self._margin)
                frontier = frontier_of(folder, router.manifest)
                _warm(router)
            except (BundleError, OSError):
                raise
            except Exception as error:  # a graph that loads and does not run, a tokenizer that is none
                raise BundleError(f"{folder}: it cannot be used: {type(error).__name__}: {error}") from error
        known = Embeddings(self._cache)
        if previous is not None and previous.same_encoder(router):
            known = previous.embeddings
        return Serving(router, known, identity, _fast(router), frontier)

    def watch(self, seconds: float, name: str = "bundle-watch") -> None:
        """Looks every so many seconds whether the source is another bundle now, until `stop`; its log lines have the name.

        A bundle that was refused is tried again when anything of it has changed, or after a minute.
        """
        self._watcher = Periodic(name, seconds, self._look)

    def _look(self) -> None:
        try:
            identity = identity_of(self.source)
        except (BundleError, OSError) as error:
            if str(error) != self.refused:
                self.reload()
            return
        tried, at = self._tried
        again = time.monotonic() - at > _TRY_AGAIN_SECONDS
        if identity != self.current.identity and (identity != tried or again):
            self.reload()

    def stop(self) -> None:
        """Ends the watch."""
        if self._watcher is not None:
            self._watcher.stop()


def _warm(router: Router) -> None:
    """Runs both graphs on short and long texts, alone and together; raises BundleError if what they give is no estimate."""
    for texts in (*([text] for text in _WARM_UP), list(_WARM_UP)):
        chances = router.estimate(texts).acceptable
        if chances.shape != (len(texts), len(router.candidates)) or not np.all((chances >= 0) & (chances <= 1)):
            raise BundleError(
                f"{router.bundle.folder}: head.onnx gives no probability for each of {len(router.candidates)} candidates. "
                f"Train again."
            )


def share_arenas() -> None:
    """Has glibc keep memory in two arenas, where each thread would come to have its own and keep what it once needed.

    Before there are threads; elsewhere than in glibc it does nothing.
    """
    limit = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if limit is not None:
        limit(_ARENA_MAX, 2)


def _give_back() -> None:
    """Hands the old bundle's memory back to the system; glibc keeps it otherwise, and every reload seems to cost some."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _fast(router: Router) -> bool:
    """Whether the encoder is quicker than handing a text to a thread: a look-up of word vectors is, a transformer is not."""

    def taken() -> float:
        started = time.perf_counter()
        router.encoder.encode([_TIMED])
        return time.perf_counter() - started

    # The quickest of several: a busy machine makes any one of them slow.
    return min(taken() for _ in range(20)) < _INLINE_SECONDS


def frontier_of(folder: Path, manifest: Manifest) -> bytes | None:
    """The bundle's frontier.json, None where it has none; raises BundleError for another one than the manifest lists."""
    expected = manifest.files.get(FRONTIER)
    if expected is None:
        return None
    try:
        content = (folder / FRONTIER).read_bytes()
    except FileNotFoundError:
        raise BundleError(f"{folder / FRONTIER} is missing from the bundle. Copy the whole folder.") from None
    if hashlib.sha256(content).hexdigest() != expected:
        raise BundleError(f"{folder / FRONTIER} is not the one that the manifest lists. Copy the bundle again.")
    return content


def identity_of(source: str) -> Identity:
    """What tells one bundle from another without reading it; raises BundleError or OSError where there is none.

    Of a folder: where it really is, and the name, time and size of each of its files. Of a registered model: its version.
    """
    if source.startswith(MLFLOW):
        from serving.runtime.sources import version_of

        return source, version_of(source)
    folder = Path(source).resolve()
    if not (folder / MANIFEST).is_file():
        open_bundle(folder)  # says what is missing
    found = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    return str(folder), tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in found)


@contextmanager
def opened(source: str, identity: Identity) -> Iterator[Path]:
    """The folder of an identified bundle; a registered model is there only as long as the context. Raises BundleError."""
    if not source.startswith(MLFLOW):
        yield Path(str(identity[0]))
        return
    from serving.runtime.sources import downloaded

    with downloaded(source, int(str(identity[1]))) as folder:
        yield folder
