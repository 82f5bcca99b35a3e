"""Metrics of routers, pure functions. Each carries the source of its definition."""

from __future__ import annotations

import numpy as np

from serving.bundle.arrays import Bools, Columns, Floats


def mean_of(values: Floats | Bools, standing: Floats | None = None) -> Floats:
    """Means over the n rows of `values` (n,) or (n, k), each counting for what it stands for, `standing` (n,): None, alike."""
    return np.asarray(np.average(values, axis=0, weights=standing))


def known_mean(values: Floats, standing: Floats | None = None) -> Floats:
    """(k,) the same of what is known of `values` (n, k), NaN where nothing is."""
    if standing is None:
        return np.asarray(np.nanmean(values, axis=0))
    known = np.isfinite(values)
    total, count = standing @ np.where(known, values, 0.0), standing @ known
    return np.asarray(np.where(count > 0, total / np.where(count > 0, count, 1.0), np.nan))


def as_standing(known: Bools | Floats, standing: Floats) -> Floats:
    """(n, m) what the `known` cells (n, m) count for by what their rows stand for, `standing` (n,): 1 on average in each
    column, 0 where not known."""
    cells = np.where(known > 0, standing[:, None], 0.0)
    mean = cells.sum(axis=0) / np.maximum((known > 0).sum(axis=0), 1)
    return np.asarray(cells / np.where(mean > 0, mean, 1.0))


def quantile(values: Floats, share: float, standing: Floats) -> float:
    """The least of `values` (n,) that at least this share of what they stand for, `standing` (n,), does not exceed."""
    return float(np.quantile(values, share, weights=standing, method="inverted_cdf"))


def of_cells(standing: Floats | None, seen: Bools) -> Floats | None:
    """What the cells `seen` (n, m) stand for, as many as there are, by the `standing` (n,) of their rows."""
    return None if standing is None else np.broadcast_to(standing[:, None], seen.shape)[seen]


def non_decreasing_hull(cost: Floats, quality: Floats) -> tuple[Floats, Floats]:
    """The upper convex hull of the points, made non-decreasing: costs rise, qualities never fall.

    Any point on it can be reached by mixing two routers at random. Source: RouterBench, arXiv 2403.12031, section 3.
    """
    order = np.lexsort((-quality, cost))
    hull: list[tuple[float, float]] = []
    for c, q in zip(cost[order].tolist(), quality[order].tolist(), strict=True):
        if hull and q <= hull[-1][1]:
            continue  # dearer and no better
        while len(hull) >= 2 and _turns_left(hull[-2], hull[-1], (c, q)):
            hull.pop()
        if hull and hull[-1][0] == c:
            hull.pop()
        hull.append((c, q))
    points = np.array(hull)
    return points[:, 0], points[:, 1]


def _turns_left(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> bool:
    """Whether b lies on or below the line from a to c."""
    return (b[0] - a[0]) * (c[1] - a[1]) >= (b[1] - a[1]) * (c[0] - a[0])


def quality_at(cost: Floats, hull_cost: Floats, hull_quality: Floats) -> Floats:
    """Quality of the hull at each cost; flat to the right of its last point, -inf to the left of its first."""
    values: Floats = np.interp(cost, hull_cost, hull_quality, left=-np.inf)
    return values


def aiq(cost: Floats, quality: Floats, c_min: float, c_max: float) -> float:
    """Average improvement in quality: the mean height of the points' non-decreasing hull over [c_min, c_max].

    c_min and c_max are the mean costs of the cheapest and of the best single candidate. The points have to include one
    at or left of c_min, such as the cheapest candidate, to which any router can be turned down. Where
    c_max <= c_min (the best candidate is the cheapest) it is the quality at c_min. Source: RouterBench, section 3.
    """
    hull_cost, hull_quality = non_decreasing_hull(cost, quality)
    if c_max <= c_min:
        return float(quality_at(np.array([c_min]), hull_cost, hull_quality)[0])
    inside = hull_cost[(hull_cost > c_min) & (hull_cost < c_max)]
    knots = np.concatenate([[c_min], inside, [c_max]])
    return float(np.trapezoid(quality_at(knots, hull_cost, hull_quality), knots) / (c_max - c_min))


def headroom_captured(value: float, zero: float, oracle: float) -> float:
    """(AIQ - AIQ_zero) / (AIQ_oracle - AIQ_zero); NaN when the oracle has no headroom."""
    return (value - zero) / (oracle - zero) if oracle > zero else float("nan")


def cost_save(cost: Floats, quality: Floats, best_quality: float, best_cost: float) -> float:
    """1 - (least cost on the hull that reaches the best single candidate's quality) / that candidate's cost.

    Negative when only dearer mixtures reach it; NaN when none does. Source: LLMRouterBench, arXiv 2601.07206.
    """
    return 1.0 - qnc(cost, quality, best_quality, best_cost)


def qnc(cost: Floats, quality: Floats, best_quality: float, best_cost: float) -> float:
    """Query-normalised cost: the least relative cost that matches the best single's quality. Source: UniRoute."""
    hull_cost, hull_quality = non_decreasing_hull(cost, quality)
    if hull_quality[-1] < best_quality or best_cost <= 0:
        return float("nan")
    return float(np.interp(best_quality, hull_quality, hull_cost) / best_cost)


def performance_gain(quality: Floats, best_quality: float) -> float:
    """max quality / best single candidate's quality - 1. Source: LLMRouterBench, arXiv 2601.07206."""
    return float(quality.max() / best_quality - 1.0) if best_quality > 0 else float("nan")


def equal_mass_bins(
    probability: Floats, outcome: Floats, bins: int = 15, standing: Floats | None = None
) -> tuple[Floats, Floats, Floats]:
    """(mean probability, mean outcome, count) of up to `bins` bins with as equal a number of points as can be.

    Where points stand for more than one, `standing` (n,), the means are of what they stand for, and so is the count.
    """
    order = np.argsort(probability, kind="stable")
    parts = [part for part in np.array_split(order, min(bins, len(order))) if len(part)]
    of = [None if standing is None else standing[part] for part in parts]
    mean_p = np.array([mean_of(probability[part], counts) for part, counts in zip(parts, of, strict=True)])
    mean_y = np.array([mean_of(outcome[part], counts) for part, counts in zip(parts, of, strict=True)])
    count = [float(len(part) if counts is None else counts.sum()) for part, counts in zip(parts, of, strict=True)]
    return mean_p, mean_y, np.array(count)


def expected_calibration_error(
    probability: Floats, outcome: Floats, bins: int = 15, standing: Floats | None = None
) -> float:
    """Mean |outcome - probability| over equal-mass bins. Source: Nguyen & O'Connor 2015; bins as in design: 15."""
    if len(probability) == 0:
        return float("nan")
    mean_p, mean_y, count = equal_mass_bins(probability, outcome, bins, standing)
    return float(np.average(np.abs(mean_p - mean_y), weights=count))


def brier(probability: Floats, outcome: Floats, standing: Floats | None = None) -> float:
    """Mean squared error of the probability. Source: Brier 1950."""
    if len(probability) == 0:
        return float("nan")
    return float(np.average((probability - outcome) ** 2, weights=standing))


def aurc(confidence: Floats, correct: Floats) -> float:
    """Area under the risk-coverage curve: the error rate among the k most confident, averaged over k = 1 to n.

    `confidence` and `correct` (n,), the latter 0/1 or in [0, 1]; ties in confidence count as shuffled. Sources: Geifman &
    El-Yaniv 2017 (the curve); Geifman, Uziel & El-Yaniv 2019 (its area).
    """
    if len(confidence) == 0:
        return float("nan")
    _, level, count = np.unique(-confidence, return_inverse=True, return_counts=True)
    error = np.bincount(level, weights=1.0 - correct) / count
    coverage = np.arange(1, len(confidence) + 1)
    return float(np.mean(np.cumsum(np.repeat(error, count)) / coverage))


def strong_weak(
    win_score: Floats, quality_strong: Floats, quality_weak: Floats, thresholds: Floats
) -> tuple[Floats, Floats]:
    """(k,) share of requests sent to the strong candidate and (k,) mean quality, at each of k thresholds.

    A request goes to the strong one where its `win_score` (n,) reaches the threshold. Source: RouteLLM, arXiv 2406.18665.
    """
    strong = win_score[:, None] >= thresholds[None, :]
    quality = np.where(strong, quality_strong[:, None], quality_weak[:, None])
    return np.asarray(strong.mean(axis=0)), np.asarray(quality.mean(axis=0))


def pgr(quality: float, weak: float, strong: float) -> float:
    """Performance gap recovered, (quality - weak) / (strong - weak); NaN when there is no gap. Source: RouteLLM."""
    return (quality - weak) / (strong - weak) if strong > weak else float("nan")


def apgr(share_strong: Floats, quality: Floats, weak: float, strong: float) -> float:
    """Average PGR over the share of calls sent to the strong candidate, 0 to 1: 1/2 for sending calls at random.

    `share_strong` and `quality` (k,) are a router's points, to which all-weak and all-strong are added. RouteLLM takes
    the mean over ten shares, here it is the area by trapezoids.
    """
    share, curve = _strong_curve(share_strong, quality, weak, strong)
    return pgr(float(np.trapezoid(curve, share)), weak, strong)


def cpt(share_strong: Floats, quality: Floats, weak: float, strong: float, target: float) -> float:
    """Call-performance threshold: the least share of strong calls at which PGR >= target, between points by line.

    Parameters as of `apgr`; NaN where no share reaches it or there is no gap. Source: RouteLLM.
    """
    share, curve = _strong_curve(share_strong, quality, weak, strong)
    needed = weak + target * (strong - weak)
    reached = curve >= needed - 1e-12
    if not strong > weak or not reached.any():
        return float("nan")
    at = int(reached.argmax())
    if at == 0:
        return float(share[0])
    return float(np.interp(needed, curve[at - 1 : at + 1], share[at - 1 : at + 1]))


def _strong_curve(share_strong: Floats, quality: Floats, weak: float, strong: float) -> tuple[Floats, Floats]:
    """The points in the order of their share, from (0, weak) to (1, strong)."""
    order = np.lexsort((quality, share_strong))
    share = np.concatenate([[0.0], share_strong[order], [1.0]])
    return share, np.concatenate([[weak], quality[order], [strong]])


def collapse(columns: Columns, strongest: int, oracle_columns: Columns) -> float:
    """Routing collapse: the share of n requests sent to the strongest candidate, minus the oracle's share.

    `columns` and `oracle_columns` (n,), where -1 (no candidate was acceptable) is not the strongest. Source: Lai & Ye
    2026, arXiv 2602.03478, describe it; the difference of shares is this project's measure of it.
    """
    return float(np.mean(columns == strongest) - np.mean(oracle_columns == strongest))
