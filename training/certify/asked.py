"""What a router says of many requests, some thousand at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from serving.bundle.arrays import Columns
from serving.bundle.manifest import Bundle
from serving.bundle.request import RouteRequest
from serving.decide.decision import Estimates
from serving.decide.router import Router
from training.dataset.matrix import Objects
from training.engine.engine import Engine, Progress

_TOGETHER = 2048


class _Opened:
    """A router; what is sent of it is where its bundle is."""

    def __init__(self, router: Router) -> None:
        self.router = router

    def __reduce__(self) -> tuple[object, ...]:
        return _opened, (Bundle(self.router.bundle.folder, self.router.manifest),)


def _opened(bundle: Bundle) -> _Opened:
    return _Opened(Router(bundle))


def asked(router: Router, requests: Objects, engine: Engine, progress: Progress) -> tuple[Estimates, Columns]:
    """The estimates of n requests, and the columns (n,) that they go to."""
    parts = [list(requests[start : start + _TOGETHER]) for start in range(0, len(requests), _TOGETHER)]
    found = list(
        engine.map(
            _said,
            _Opened(router),
            parts,
            "evaluate",
            progress,
            name=lambda part: f"{len(part)} requests",
            ahead=4 * engine.workers,
        )
    )
    if not found:
        return router.estimate([]), np.empty(0, dtype=np.intp)
    estimates = {one.name: np.concatenate([getattr(each, one.name) for each, _ in found]) for one in fields(Estimates)}
    return Estimates(**estimates), np.concatenate([columns for _, columns in found])


def _said(given: _Opened, requests: Sequence[RouteRequest]) -> tuple[Estimates, Columns]:
    estimates = given.router.estimate(requests)
    return estimates, given.router.chosen(requests, estimates)
