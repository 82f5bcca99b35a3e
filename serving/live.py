"""The router that is being served, and its replacement while requests go on.

A new bundle is loaded and warmed beside the old one and takes its place in one assignment, so that no request is dropped. A
bundle that cannot be loaded is refused, with the reason, and the old one stays.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from cachetools import LRUCache

from serving.bundle import MANIFEST, BundleError
from serving.encoder import Matrix
from serving.router import Router

logger = logging.getLogger(__name__)

_WARM_UP = ("Is it warm?", "", "A longer text, so that both paths have run. " * 500)
MLFLOW = "models:/"
_TIMED = "How long does it take to embed a prompt of about this length? " * 4
_INLINE_SECONDS = 0.001


@dataclass(frozen=True)
class Reload:
    """What came of a reload: whether another bundle is served now, which one is, and why not where it was refused."""

    changed: bool
    version: str
    refused: str | None = None


class Embeddings:
    """Embeddings of recent texts, at most `most`; the least recently used go. Keys are hashes: no text is held."""

    def __init__(self, most: int) -> None:
        self._known: LRUCache[bytes, Matrix] = LRUCache(most)
        self._lock = threading.Lock()
        self.hits = self.misses = 0

    def get(self, text: str) -> Matrix | None:
        """(1, dim) or None."""
        with self._lock:
            found: Matrix | None = self._known.get(_key(text))
        if found is None:
            self.misses += 1
        else:
            self.hits += 1
        return found

    def put(self, text: str, embedding: Matrix) -> None:
        with self._lock:
            self._known[_key(text)] = embedding


def _key(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@dataclass(frozen=True)
class Serving:
    """A loaded, warm router with its own embedding cache: embeddings of one encoder are of no use to another."""

    router: Router
    embeddings: Embeddings
    identity: tuple[str, int, int]
    inline: bool

    def embed(self, text: str) -> Matrix:
        """(1, dim), kept in the cache."""
        return self.embed_many([text])

    def embed_many(self, texts: Sequence[str]) -> Matrix:
        """(n, dim), kept in the cache."""
        embeddings = self.router.encoder.encode(texts)
        for row, text in enumerate(texts):
            self.embeddings.put(text, embeddings[row : row + 1].copy())  # a view would hold the whole batch
        return embeddings


class Live:
    """The current `Serving`, reloaded on demand (`reload`) or when the bundle's folder comes to be another one (`watch`)."""

    def __init__(self, source: str, *, threads: int, context_margin: float, cache: int) -> None:
        self.source = source
        self._threads = threads
        self._margin = context_margin
        self._cache = cache
        self._loading = threading.Lock()
        self._stop = threading.Event()
        self.reloads = self.refusals = 0
        self.refused: str | None = None
        self.current = self._load()

    def reload(self) -> Reload:
        """Loads the source again; what is served already is left as it is. Never raises for a bad bundle."""
        with self._loading:
            try:
                if identity_of(self.source) == self.current.identity:
                    self.refused = None
                    return Reload(False, self.current.router.manifest.version)
                fresh = self._load()
            except (BundleError, OSError) as error:
                self.refusals += 1
                if str(error) != self.refused:
                    logger.error("the bundle at %s is refused, %s stays: %s", self.source, self._version, error)
                self.refused = str(error)
                return Reload(False, self._version, str(error))
            self.current, self.refused = fresh, None
            _give_back()
            self.reloads += 1
            logger.info("serving bundle %s", self._version)
            return Reload(True, self._version)

    @property
    def _version(self) -> str:
        return self.current.router.manifest.version

    def _load(self) -> Serving:
        folder = locate(self.source)
        if not (folder / MANIFEST).is_file():
            Router.load(folder)  # says what is missing
        identity = identity_of(self.source)
        router = Router.load(folder, self._threads, self._margin)
        for text in _WARM_UP:
            router.estimate([text])
        router.estimate(_WARM_UP)
        return Serving(router, Embeddings(self._cache), identity, _fast(router))

    def watch(self, seconds: float, after: Callable[[], None] = lambda: None) -> threading.Thread:
        """Looks every so many seconds whether the source is another bundle now; `stop` ends it."""

        def look() -> None:
            while not self._stop.wait(seconds):
                try:
                    same = identity_of(self.source) == self.current.identity
                except (BundleError, OSError):
                    same = False
                if not same:
                    self.reload()
                after()

        thread = threading.Thread(target=look, name="bundle-watch", daemon=True)
        thread.start()
        return thread

    def stop(self) -> None:
        self._stop.set()


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


def identity_of(source: str) -> tuple[str, int, int]:
    """What tells one bundle from another without reading it; raises BundleError or OSError where there is none.

    Of a folder: where it really is, and its manifest's time and size. Of a registered model: its version.
    """
    if source.startswith(MLFLOW):
        from serving.registry import version_of

        return source, version_of(source), 0
    folder = Path(source).resolve()
    found = (folder / MANIFEST).stat()
    return str(folder), found.st_mtime_ns, found.st_size


def locate(source: str) -> Path:
    """The folder of a source: a path, or a model in MLflow's registry ("models:/router@champion"); raises BundleError."""
    if not source.startswith(MLFLOW):
        return Path(source).resolve()
    from serving.registry import download

    return download(source)
