"""The promotion gate: which bundle is the champion, decided by comparing two bundles on the same test requests.

In a models folder `current` is the champion and `previous` the one before it, both symbolic links.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.bundle.arrays import Columns, Floats
from serving.bundle.manifest import MANIFEST, Bundle, BundleError, open_bundle, switch_current, switch_link
from serving.bundle.request import RouteRequest
from serving.decide.policy import Policy
from serving.decide.router import Router
from serving.decide.value import Setting, choose
from training.config import Params
from training.errors import TrainingError
from training.learn.prepare import Prepared
from training.measure.frontier import bootstrap_aiq, bootstrap_weights, frontier, singles

CURRENT = "current"
PREVIOUS = "previous"


class PromotionError(TrainingError):
    """A bundle that cannot be made the champion; the message says why and what to do."""


class NotComparableError(TrainingError):
    """Two bundles that the test requests cannot compare; the message says what is missing."""


@dataclass(frozen=True)
class Measured:
    """What one bundle gives on the compared requests: its policy value (AIQ), and its default operating point.

    `quality` is the mean quality there (the share of acceptable answers, where that is the objective), `cost_usd` the
    mean cost of a request.
    """

    version: str
    aiq: float
    quality: float
    cost_usd: float


@dataclass(frozen=True)
class Comparison:
    """Two bundles on the same `requests` complete test requests, choosing among `candidates`.

    `low` and `high` are the paired bootstrap 95% interval of the difference of their AIQ, new minus champion.
    """

    requests: int
    candidates: tuple[str, ...]
    new: Measured
    champion: Measured
    low: float
    high: float
    margin: float

    @property
    def difference(self) -> float:
        return self.new.aiq - self.champion.aiq

    @property
    def enough(self) -> bool:
        """Whether the new bundle is shown not to be worse by more than the margin (a test of non-inferiority)."""
        return self.low >= -self.margin


@dataclass(frozen=True)
class Promotion:
    """Whether a bundle becomes the champion, and why; `comparison` is None where the two were not compared."""

    promoted: bool
    reason: str
    comparison: Comparison | None


def compare(
    new: Router,
    champion: Router,
    requests: Sequence[str | RouteRequest],
    quality: Floats,
    cost_usd: Floats,
    groups: Columns,
    candidates: Sequence[str],
    *,
    margin: float,
    minimum: int,
    resamples: int,
    seed: int,
) -> Comparison:
    """Runs both bundles, as served, on the same test requests; raises NotComparableError.

    Parameters: n test `requests`; `quality` (what the new bundle's objective is about) and `cost_usd` (n, m), NaN where
    not observed, with the m `candidates` as columns; `groups` (n,) ties requests that are resampled together. Compared
    are the candidates that both bundles know and the log has, on the requests of which all of these were judged and
    costed; at least `minimum` such requests are needed. Each bundle maximises its own objective over its own knobs.

    Neither bundle is chosen on these requests. The new one was not trained on them, while the champion may have been,
    where its log overlaps with this one's test part. That flatters the champion, so it can hold back a better bundle but
    not let a worse one through.
    """
    shared = tuple(name for name in candidates if name in new.candidates and name in champion.candidates)
    if len(shared) < 2:
        raise NotComparableError(
            f"the log and both bundles have {len(shared)} candidates in common, and at least 2 are needed (the log has "
            f"{', '.join(candidates)}; the champion knows {', '.join(champion.candidates)})"
        )
    columns = [list(candidates).index(name) for name in shared]
    quality, cost_usd = quality[:, columns], cost_usd[:, columns]
    rows = np.flatnonzero((np.isfinite(quality) & np.isfinite(cost_usd)).all(axis=1))
    if len(rows) < minimum:
        raise NotComparableError(
            f"{len(rows)} of {len(quality)} test requests have a judged, costed outcome of each of {', '.join(shared)}, "
            f"and at least {minimum} are needed"
        )
    outcome = quality[rows], cost_usd[rows]
    asked = [requests[row] for row in rows.tolist()]
    weights = bootstrap_weights(groups[rows], resamples, seed)
    measured_new, resampled_new = _measure(new, asked, shared, *outcome, weights)
    measured_champion, resampled_champion = _measure(champion, asked, shared, *outcome, weights)
    low, high = np.quantile(resampled_new - resampled_champion, [0.025, 0.975]).tolist()
    return Comparison(len(rows), shared, measured_new, measured_champion, low, high, margin)


def compare_on_test_part(new: Router, champion: Router, prepared: Prepared, params: Params) -> Comparison:
    """Both bundles on the test part of the new one's log; raises NotComparableError."""
    tested = prepared.split.test
    return compare(
        new,
        champion,
        list(prepared.matrix.requests[tested]),
        prepared.value(new.manifest.objective)[tested],
        prepared.matrix.cost_usd[tested],
        prepared.groups[tested],
        prepared.matrix.candidates,
        margin=params.tracking.margin,
        minimum=params.tracking.minimum_requests,
        resamples=params.evaluate.resamples,
        seed=params.evaluate.seed,
    )


def _measure(
    router: Router,
    requests: Sequence[str | RouteRequest],
    candidates: Sequence[str],
    quality: Floats,
    cost_usd: Floats,
    weights: Floats,
) -> tuple[Measured, Floats]:
    """A bundle's figures on n requests with complete outcomes (n, m), and its AIQ on each resample, (repeats,)."""
    estimates = router.estimate(requests)
    columns = [router.candidates.index(name) for name in candidates]
    estimate = estimates.of(router.manifest.objective)[:, columns].astype(np.float64)
    expected_cost = estimates.cost_usd[:, columns].astype(np.float64)
    points = frontier(estimate, expected_cost, quality, cost_usd, np.array(router.manifest.knobs))
    point = router.operating_point(Policy())
    setting = Setting(0.0) if point is None else Setting.of(router.manifest, point)
    if point is not None and point.always in candidates:
        chosen = np.full(len(quality), candidates.index(point.always), dtype=np.intp)
    else:
        # A reference that is not among the candidates is left out, as by a request that does not allow it.
        worth = setting.worth(estimates.of(router.manifest.objective).astype(np.float64))[:, columns]
        chosen = choose(worth, expected_cost, setting.knob)
    rows = np.arange(len(quality))
    measured = Measured(
        router.manifest.version,
        aiq=singles(quality, cost_usd).aiq(points.cost, points.quality),
        quality=float(quality[rows, chosen].mean()),
        cost_usd=float(cost_usd[rows, chosen].mean()),
    )
    return measured, bootstrap_aiq(points, quality, cost_usd, weights)


def consider(root: Path, new: Router, compare_with: Callable[[Router], Comparison]) -> Promotion:
    """Whether the new bundle replaces `root/current`. `compare_with` measures it against a champion, or raises
    NotComparableError.

    The first bundle is promoted, and so is one whose champion cannot be loaded: nothing else could be served. Otherwise
    it has to be shown not to be worse, so a log that cannot show it promotes nothing. A simulated log decides nothing
    about real traffic: a champion of a simulated log never blocks a bundle of a real one, and is never put in its place.
    """
    current = root / CURRENT
    if not (current.is_symlink() or current.exists()):
        return Promotion(True, f"It is the first bundle in {root}: there is no champion to compare it with.", None)
    try:
        champion = Router.load(current)
    except BundleError as error:
        return Promotion(True, f"THE CHAMPION CANNOT BE LOADED, so nothing was compared: {error}", None)
    name = champion.manifest.version
    force = f"`router-train promote {new.manifest.version} --out {root}` makes it current all the same."
    if champion.manifest.simulated and not new.manifest.simulated:
        reason = f"The champion {name} was trained on a simulated log, which says nothing about real traffic."
        return Promotion(True, reason, None)
    if new.manifest.simulated and not champion.manifest.simulated:
        reason = f"It was trained on a simulated log, the champion {name} on a real one, about which that says nothing."
        return Promotion(False, f"{reason} {force}", None)
    try:
        comparison = compare_with(champion)
    except NotComparableError as error:
        mend = "Send a share of the traffic to all candidates (shadow requests), or give an evaluation run with --test."
        return Promotion(False, f"It cannot be compared with the champion {name}: {error}. {mend} {force}", None)
    reason = _figures(comparison, simulated=new.manifest.simulated)
    return Promotion(comparison.enough, reason if comparison.enough else f"{reason} {force}", comparison)


def _figures(found: Comparison, *, simulated: bool) -> str:
    """The comparison in two sentences."""
    new, champion = found.new, found.champion
    bound = f"the lower bound is {'not ' if found.enough else ''}below {0 - found.margin:g} (tracking.margin)"
    if not found.enough and found.high > 0:
        bound += "; more complete test requests would narrow the interval"
    return (
        f"On {found.requests:,} complete {'simulated ' if simulated else ''}test requests its AIQ is {new.aiq:.4f} and "
        f"the champion's ({champion.version}) {champion.aiq:.4f}, a difference of {found.difference:+.4f} "
        f"(95% {found.low:+.4f} … {found.high:+.4f}): {bound}. At their operating points the quality is {new.quality:.1%} "
        f"for {1000 * new.cost_usd:.3f} USD per 1,000 requests, against {champion.quality:.1%} for "
        f"{1000 * champion.cost_usd:.3f}."
    )


def version_at(root: Path, name: str) -> str | None:
    """The version that the link `root/name` points at, whether or not it is there; None without a link."""
    link = root / name
    return link.readlink().name if link.is_symlink() else None


def versions(root: Path) -> list[str]:
    """The names of the bundles' folders in `root`, whether or not they can be opened."""
    return sorted(path.parent.name for path in root.glob(f"[!.]*/{MANIFEST}") if not path.parent.is_symlink())


def make_current(root: Path, version: str) -> None:
    """Makes `root/version` the champion; the champion before it, if it can still be opened, becomes `previous`.

    Raises PromotionError where `current` is no link, which nothing here made and nothing here overwrites.
    """
    current = root / CURRENT
    if current.exists() and not current.is_symlink():
        raise PromotionError(f"{current} is not a symbolic link. Move it away, then `router-train promote {version}`.")
    before = version_at(root, CURRENT)
    if before is not None and before != version and _opened(root / before) is not None:
        switch_link(root, PREVIOUS, before)
    switch_current(root, version)


def promote(root: Path, version: str | None = None) -> Bundle:
    """Makes a bundle the champion, without a comparison; raises PromotionError, or BundleError if it cannot be served.

    `version` is the name of its folder; by default the newest bundle that is not the champion.
    """
    current = version_at(root, CURRENT)
    known = versions(root)
    if version is None:
        opened = [bundle for name in known if name != current and (bundle := _opened(root / name)) is not None]
        if not opened:
            raise PromotionError(f"{root} has no bundle beside the current one. `router-train run` makes one.")
        version = max(opened, key=lambda bundle: (bundle.manifest.created, bundle.folder.name)).folder.name
    if version not in known:
        raise PromotionError(f"{root} has no bundle {version!r}. `router-train bundles --out {root}` lists them.")
    if version == current:
        raise PromotionError(f"{version} is the current bundle of {root} already.")
    bundle = Router.load(root / version).bundle
    make_current(root, version)
    return bundle


def roll_back(root: Path) -> Bundle:
    """Makes the previous champion the champion again, and the other way round; raises as `promote`."""
    previous = version_at(root, PREVIOUS)
    if previous is None:
        raise PromotionError(f"{root} has no previous champion to go back to. `router-train promote` picks one.")
    return promote(root, previous)


def _opened(folder: Path) -> Bundle | None:
    try:
        return open_bundle(folder)
    except BundleError:
        return None
