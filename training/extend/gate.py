"""Whether a bundle with one more candidate becomes the champion: by what is certified, else by what the probes tell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from serving.bundle.manifest import Manifest
from serving.decide.router import Router
from serving.decide.value import Setting
from training.config import Params
from training.extend.points import Used
from training.measure.frontier import bootstrap_aiq, bootstrap_weights, frontier, singles
from training.publish.compare import Comparison, Measured, NotComparableError
from training.publish.promote import Promotion, consider


def decided(root: Path, new: Router, champion: Router, used: Used | None, params: Params) -> Promotion:
    """Whether `new` replaces `root/current`, by the requests `used`; None where there are none to go by.

    What it saves at its default point may not be less than the champion's, and where the champion's is certified, it has to be
    certified. What its knobs give that have no certificate, its AIQ, may not be estimated to be lower. Where neither default
    point is certified, its AIQ has to be shown not to be lower, as the gate asks of any bundle.
    """
    before, after = champion.manifest.default, new.manifest.default
    force = f"`router-train promote {new.manifest.version} --out {root}` makes it current all the same."
    if used is None:
        why = (
            f"Nothing can be estimated on this log: too few requests of it, outside its test part, have a known probability of "
            f"what was tried. {force}"
        )
        return Promotion(False, why, None)
    m = len(champion.candidates)
    found = consider(root, new, lambda _: compared(new.manifest, champion.manifest, used, params))
    if (before.certificate is None and after.certificate is None) or found.comparison is None:
        return found
    reference = champion.candidates.index(champion.manifest.reference)
    saved = used.saving(Setting.of(new.manifest, after), reference, m + 1)
    saves = used.saving(Setting.of(champion.manifest, before), reference, m)
    lead = found.comparison.difference
    what = (
        f"On {len(used.data):,} requests it saves {saved:.1%} at its default point, {after.name}, and the champion "
        f"{saves:.1%}; its AIQ is {lead:+.4f} against the champion's (95% {found.comparison.low:+.4f} … "
        f"{found.comparison.high:+.4f}), by what its answers on these tell"
    )
    if after.certificate is None and before.certificate is not None:
        return replace(
            found, promoted=False, reason=f"{what}; the champion's point is certified, its own is not. {force}"
        )
    if saved < saves or lead < 0:
        return replace(
            found, promoted=False, reason=f"{what}: {'it saves less' if saved < saves else 'it is lower'}. {force}"
        )
    return replace(found, promoted=True, reason=f"{what}: neither is less.")


def compared(new: Manifest, champion: Manifest, used: Used, params: Params) -> Comparison:
    """The two on these requests, each choosing among its own candidates; raises NotComparableError.

    The costs between which AIQ is taken are those of all candidates, the new one too, and what is expected of it is by columns
    that did not see the request.
    """
    data, m = used.data, len(champion.candidates)
    probes = int((np.isfinite(data.labels[:, -1]) & np.isfinite(data.propensity[:, -1])).sum())
    if probes < params.tracking.minimum_requests:
        raise NotComparableError(
            f"{probes} of its answers are on requests that the champion's heads never saw, and at least "
            f"{params.tracking.minimum_requests} are needed"
        )
    weights = bootstrap_weights(data.groups, params.evaluate.resamples, params.evaluate.seed)
    alone = singles(used.quality, used.cost)
    rows, measured, resampled, qualities = np.arange(len(data)), [], [], []
    for manifest, candidates in ((new, m + 1), (champion, m)):
        some = np.s_[:, :candidates]
        expected = data.acceptable[some], data.violation[some], data.expected_cost[some]
        points = frontier(expected[0], expected[2], used.quality[some], used.cost[some], np.array(manifest.knobs))
        columns = Setting.of(manifest, manifest.default).choose(*expected)
        got = used.quality[rows, columns]
        measured.append(
            Measured(
                manifest.version,
                aiq=alone.aiq(points.cost, points.quality),
                quality=float(got.mean()),
                cost_usd=float(used.cost[rows, columns].mean()),
            )
        )
        resampled.append(bootstrap_aiq(points, used.quality, used.cost, weights))
        qualities.append(weights @ got / weights.sum(axis=1))
    low, high = np.quantile(resampled[0] - resampled[1], [0.025, 0.975]).tolist()
    return Comparison(
        requests=len(data),
        candidates=tuple(candidate.name for candidate in new.candidates),
        new=measured[0],
        champion=measured[1],
        low=low,
        high=high,
        margin=params.tracking.margin,
        method="doubly robust",
        quality_high=float(np.quantile(qualities[0] - qualities[1], 0.975)),
    )
