"""With which probability a log observed each outcome: as logged, or estimated; and what an outcome counts for then.

n requests, m candidates. A propensity (n, m) is that of the cell, NaN where there was no attempt. `weight` (n,) is how many
requests of the log each stands for, 1 where it is None: what is estimated of a sample is estimated of the log then.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.linear_model import LogisticRegression

from serving.bundle.arrays import AnyFloats, Bools, Columns, Floats

# A candidate with fewer single attempts than this gets its share of them; a model of so few would be made of noise.
_RARE = 20
# Fewer single attempts than this do not tell how whoever made them chose.
_FEW = 100


def observation_propensity(
    attempted: Bools,
    error: Bools,
    logged: Floats,
    labels: Floats,
    features: AnyFloats,
    folds: Callable[[], Columns],
    weight: Floats | None = None,
) -> tuple[Floats, str]:
    """(n, m) the probability with which each cell was tried and judged, NaN where it was not tried, and where it is from.

    A request on which every candidate was tried counts as certain. Where the log has a propensity (`logged`, (n, m)) it is
    used; that of a request with one attempt and no propensity is estimated from the features (n, k), out of `folds` () ->
    (n,). `labels` (n, m) are NaN where nobody judged, and `error` (n, m) is True where the
    attempt gave no answer.
    """
    everywhere = np.asarray(attempted.all(axis=1))
    tried = np.where(attempted & everywhere[:, None], 1.0, np.where(attempted, logged, np.nan))
    somewhere = ~everywhere & attempted.any(axis=1)
    known = np.asarray(np.isfinite(tried[somewhere]).any(axis=1))
    if everywhere.all():
        note = "every candidate was tried on every request"
    elif not known.any():
        tried, note = estimate_propensities(attempted, features.astype(np.float64), folds(), weight)
    else:
        note = f"logged for {int(known.sum())} of {len(known)} requests with some candidates only"
        if not known.all():
            tried, more = _estimated_where_missing(attempted, tried, features, folds(), weight)
            note += more
    return judged_propensity(attempted, error, labels, tried, weight), note


def _estimated_where_missing(
    attempted: Bools, tried: Floats, features: AnyFloats, folds: Columns, weight: Floats | None
) -> tuple[Floats, str]:
    """`tried` (n, m) with the propensity of each single attempt that has none estimated, and what to add to the note.

    From the other single attempts without one, for whoever wrote none down may have chosen otherwise than who did; from all of
    them where those are few.
    """
    missing = ~np.isfinite(tried).any(axis=1) & attempted.any(axis=1)
    single = missing & (attempted.sum(axis=1) == 1)
    like = single if single.sum() >= _FEW else attempted.sum(axis=1) == 1
    found = np.full(tried.shape, np.nan)
    counts = None if weight is None else weight[like]
    found[like], _ = estimate_propensities(attempted[like], features[like].astype(np.float64), folds[like], counts)
    note = (
        f"; for {int(single.sum())} tried on one it is estimated by out-of-fold logistic regression"
        if single.any()
        else ""
    )
    if missing.sum() > single.sum():
        note += f"; {int(missing.sum() - single.sum())} tried on several without any are left out"
    return np.where(single[:, None], found, tried), note


def judged_propensity(
    attempted: Bools, error: Bools, labels: Floats, propensity: Floats, weight: Floats | None = None
) -> Floats:
    """(n, m) the probability of an attempt that was also judged: propensity times `judged_share`. All arrays (n, m)."""
    product: Floats = propensity * judged_share(attempted, error, labels, weight)
    return product


def judged_share(
    attempted: Bools, error: Bools, labels: Floats, weight: Floats | None = None, *, together: bool = False
) -> Floats:
    """(n, m) the probability that an attempt was judged: 1 for an error, which is always known; of an answer estimated.

    An answer nobody judged is no observation of quality (it is one of cost, which needs no such factor). The share is
    that of a candidate's answers, apart for requests on which every candidate was tried unless all are taken `together`;
    within these, which answers were judged is assumed to be chance (missing at random). NaN where there was no attempt, and for
    the errors of a candidate none of whose answers was judged: with nothing to weigh them against they say nothing. All arrays
    (n, m).
    """
    everywhere = attempted.all(axis=1) & (not together)
    answered = attempted & ~error
    counts = _counts(weight, len(attempted))
    shares = np.full(attempted.shape, np.nan)
    for stratum in (everywhere, ~everywhere):
        answers = counts[stratum] @ answered[stratum]
        judged = counts[stratum] @ (answered[stratum] & np.isfinite(labels[stratum]))
        known = np.where((answers > 0) & (judged == 0), np.nan, 1.0)
        shares[stratum] = np.where(error[stratum], known, judged / np.where(answers > 0, answers, 1.0))
    return np.where(attempted, shares, np.nan)


def estimate_propensities(
    attempted: Bools, features: AnyFloats, folds: Columns, weight: Floats | None = None
) -> tuple[Floats, str]:
    """Propensities (n, m) for a log that has none, NaN where there was no attempt, and a note that says how.

    Given how many candidates a request was tried on: all of them, 1; a single one, the multinomial logistic regression
    of which one on `features` (n, k), fitted without the request's own fold (`folds` (n,), at least two) and kept above
    1 / (20 m); some but not all, NaN, since why the others were added is not known. A candidate with few single
    attempts gets its share of them, shrunk. Right only if nothing outside the features moved the choice; what is wrong
    with them `ips` passes on in full, `snips` and `doubly_robust` less.
    """
    n, m = attempted.shape
    if len(features) != n or len(folds) != n:
        raise ValueError(f"expected {n} rows of features and folds, got {len(features)} and {len(folds)}")
    tries = attempted.sum(axis=1)
    everywhere, single = tries == m, (tries == 1) & (m > 1)
    if single.any() and len(np.unique(folds)) < 2:
        raise ValueError("expected at least two folds to estimate propensities out of fold, got one")
    propensity = np.full((n, m), np.nan)
    propensity[everywhere] = 1.0
    chosen, counts = attempted.argmax(axis=1), _counts(weight, n)
    for fold in np.unique(folds[single]):
        held, rest = single & (folds == fold), single & (folds != fold)
        shares = _choice_shares(features[rest], chosen[rest], features[held], m, counts[rest])
        propensity[held] = np.maximum(shares, 1.0 / (20 * m))
    note = (
        f"propensities were not logged; {int(everywhere.sum())} requests tried on every candidate count with propensity 1"
        f", {int(single.sum())} tried on one with a propensity estimated by out-of-fold logistic regression"
    )
    left_out = n - int(everywhere.sum()) - int(single.sum())
    if left_out:
        note += f"; {left_out} tried on some candidates are left out"
    return np.where(attempted, propensity, np.nan), note


def fitting_weights(propensity: Floats, judged: Floats, clip: float, weight: Floats | None = None) -> Floats:
    """(n, m) what each cell counts for in fitting: 1 / propensity, with mean 1 over each candidate's attempts, times
    what its request stands for.

    `propensity` is that of the choice and of being judged together, `judged` the second alone (`judged_share`). Only the
    choice's weight is clipped, at `clip`: it varies from request to request, where a share of 5% judged is the same for all
    answers, and to clip it would count errors, which are always known, for more than they are. An attempt whose choice has
    no propensity counts as the average one. Among n attempts of which a share s of the answers was judged, a judged answer
    counts for about 1 and an error for about s: together they are as many as their effective number. Source: Horvitz &
    Thompson 1952, clipped as in Ionides 2008.
    """
    counts = np.isfinite(judged) & (judged > 0)
    share = np.where(counts, judged, 1.0)
    choice = propensity / share
    known = counts & np.isfinite(choice)
    chosen = np.where(known, 1.0 / np.maximum(np.where(known, choice, 1.0), 1.0 / clip), 0.0)
    standing = _counts(weight, len(judged))[:, None]
    number = np.where(known, standing, 0.0).sum(axis=0)
    usual = np.where(known.any(axis=0), (standing * chosen).sum(axis=0) / np.where(number > 0, number, 1.0), 1.0)
    total = standing * np.where(counts, np.where(known, chosen, usual) / share, 0.0)
    mean = total.sum(axis=0) / np.maximum(counts.sum(axis=0), 1)
    return np.asarray(total / np.where(mean > 0, mean, 1.0))


def _counts(weight: Floats | None, n: int) -> Floats:
    """(n,) what each of n requests counts for: 1 on average."""
    return np.ones(n) if weight is None or not n else weight * (n / weight.sum())


def _choice_shares(features: AnyFloats, chosen: Columns, at: AnyFloats, m: int, weight: Floats) -> Floats:
    """(len(at), m) probability of each candidate at the features `at`, learned from the choices made at `features`."""
    counts = np.bincount(chosen, minlength=m)
    weighted = np.bincount(chosen, weight, minlength=m)
    marginal = (weighted + 1.0) / (weighted.sum() + m)
    shares = np.tile(marginal, (len(at), 1))
    common = np.flatnonzero(counts >= _RARE)
    if len(common) < 2:
        return shares
    rows = np.isin(chosen, common)
    mean, deviation = features[rows].mean(axis=0), features[rows].std(axis=0)
    scale = np.where(deviation > 1e-9, 1.0 / np.maximum(deviation, 1e-9), 0.0)
    model = LogisticRegression(max_iter=1000).fit((features[rows] - mean) * scale, chosen[rows], weight[rows])
    # scikit-learn sorts its classes, and so is `common`.
    shares[:, common] = model.predict_proba((at - mean) * scale) * marginal[common].sum()
    return shares
