"""Drift: whether traffic still looks like the training data, and whether confidence still means what it says.

Three figures over sliding windows: the population stability index of prompts' clusters against training's shares, less what
chance makes of it, the share of prompts unlike anything in training, and the calibration error of confidence against feedback.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass
from typing import Literal

import numpy as np
from cachetools import LRUCache

from serving.bundle.arrays import Floats
from serving.bundle.manifest import Manifest
from serving.decide.decision import Decision
from serving.settings import Settings
from serving.traffic.stability import beyond_chance

logger = logging.getLogger(__name__)

Figure = Literal["psi", "novel_share", "calibration_error"]
_BINS = 10
# What was above its threshold is well again below this share of it, so that a figure at the threshold warns once.
_WELL_BELOW = 0.8


def calibration_error(confidence: Floats, accepted: Floats) -> float:
    """Expected calibration error (Naeini et al., 2015) with 10 bins of equal width; 0 without any feedback.

    `confidence` (n,) in [0, 1], `accepted` (n,) 0 or 1: the mean over bins of |mean confidence - share accepted|, each
    weighted by its share of the n.
    """
    if len(confidence) == 0:
        return 0.0
    bins = np.minimum((confidence * _BINS).astype(np.intp), _BINS - 1)
    gaps = np.bincount(bins, weights=confidence - accepted, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


@dataclass(frozen=True)
class Thresholds:
    """From where on a figure is worth a warning, and how much has to be seen (prompts, feedback) before it counts."""

    psi: float
    novel_share: float
    calibration_error: float
    prompts: int
    feedback: int

    @classmethod
    def of(cls, settings: Settings) -> Thresholds:
        return cls(
            psi=settings.drift_psi,
            novel_share=settings.drift_novel_share,
            calibration_error=settings.drift_calibration_error,
            prompts=settings.drift_prompts,
            feedback=settings.drift_feedback,
        )


@dataclass(frozen=True)
class Measured:
    """The figures over their windows; None where too little was seen."""

    psi: float | None
    novel_share: float | None
    calibration_error: float | None


class Drift:
    """Keeps the last `window` prompts' clusters and the last `window` judged decisions. Safe to share between threads.

    A new bundle has other clusters and another calibration, and starts the windows anew, whatever its version is called.
    Feedback counts if this process made the decision and it is among the last `remembered`: with several workers, each sees
    its part.
    """

    def __init__(self, window: int, thresholds: Thresholds, remembered: int = 50_000) -> None:
        self._thresholds = thresholds
        self._lock = threading.Lock()
        self._manifest: Manifest | None = None
        self._seen: deque[tuple[int, bool, int]] = deque(maxlen=window)
        self._judged: deque[tuple[float, bool]] = deque(maxlen=window)
        self._open: LRUCache[str, tuple[str, float]] = LRUCache(remembered)
        self._shares: tuple[float, ...] = ()
        self._threshold = self._acceptable = 0.0
        self._high: set[Figure] = set()

    def decided(self, identifier: str, decision: Decision, manifest: Manifest, session: str | None = None) -> None:
        """Counts a prompt that was decided on with estimates; `manifest` is that of the bundle that decided.

        What is of one `session` is not taken for independent.
        """
        if decision.cluster is None or decision.novelty is None or decision.bundle != manifest.version:
            return
        with self._lock:
            if manifest is not self._manifest:
                if manifest != self._manifest:
                    self._start(manifest)
                self._manifest = manifest
            together = hash(identifier if session is None else session)
            self._seen.append((decision.cluster, decision.novelty > self._threshold, together))
            if decision.confidence is not None:
                self._open[identifier] = (decision.candidate, decision.confidence)

    def judged(self, identifier: str, quality: float, candidate: str | None) -> None:
        """Counts feedback on the answer of the chosen candidate (`candidate` is who answered; None: that one)."""
        with self._lock:
            chosen, confidence = self._open.get(identifier, (None, 0.0))
            if chosen is not None and candidate in (None, chosen):  # another's answer may be told before this one
                del self._open[identifier]
                self._judged.append((confidence, quality >= self._acceptable))

    def measure(self) -> Measured:
        """The figures now."""
        least = self._thresholds
        with self._lock:
            seen, shares = np.array(self._seen, dtype=np.int64).reshape(-1, 3), self._shares
            judged = np.array(self._judged, dtype=np.float64).reshape(-1, 2)
        enough = len(seen) >= least.prompts
        return Measured(
            psi=beyond_chance(shares, seen[:, 0], seen[:, 2]) if enough else None,
            novel_share=float(seen[:, 1].mean()) if enough else None,
            calibration_error=calibration_error(judged[:, 0], judged[:, 1]) if len(judged) >= least.feedback else None,
        )

    def check(self) -> Measured:
        """As `measure`, and one warning for each figure that has come to be above its threshold."""
        measured = self.measure()
        self._compare("psi", measured.psi, self._thresholds.psi)
        self._compare("novel_share", measured.novel_share, self._thresholds.novel_share)
        self._compare("calibration_error", measured.calibration_error, self._thresholds.calibration_error)
        return measured

    def _compare(self, figure: Figure, value: float | None, threshold: float) -> None:
        if value is None:
            return
        if figure not in self._high and value > threshold:
            self._high.add(figure)
            logger.warning("drift: %s is %.3f, above %g: train again on recent traffic", figure, value, threshold)
        elif figure in self._high and value < _WELL_BELOW * threshold:
            self._high.discard(figure)
            logger.info("drift: %s is %.3f, well below %g again", figure, value, threshold)

    def _start(self, manifest: Manifest) -> None:
        self._shares, self._threshold = manifest.novelty.shares, manifest.novelty.threshold
        self._acceptable = manifest.acceptable
        self._seen.clear()
        self._judged.clear()
        self._open.clear()
        self._high.clear()
