"""What a run puts into the bundle beside its graphs: the manifest, and the test requests where text may be kept."""

from __future__ import annotations

from datetime import datetime
from math import inf
from pathlib import Path

import numpy as np
import pandas as pd

from serving.bundle.arrays import Floats
from serving.bundle.atomic_write import for_its_owner
from serving.bundle.features import SURFACE
from serving.bundle.manifest import (
    ALWAYS_REFERENCE,
    FORMAT_VERSION,
    REQUIRED_FILES,
    EncoderSpec,
    HeadSpec,
    Manifest,
    Novelty,
    Objective,
    OperatingPoint,
)
from serving.decide.router import Router
from serving.decide.value import Setting
from training.config import Params
from training.learn.learn import Learned
from training.learn.prepare import Prepared
from training.measure.frontier import knob_grid
from training.measure.metrics import quantile

TEST_REQUESTS = "test_requests.csv"


def draft_manifest(
    version: str,
    started: datetime,
    prepared: Prepared,
    learned: Learned,
    encoder: EncoderSpec,
    params: Params,
    novelty: Floats,
    standing: Floats | None = None,
    *,
    simulated: bool,
) -> Manifest:
    """The manifest of what was learned: nothing is certified yet, so every request goes to the reference.

    `novelty` is that of some requests to heads that have not seen them: what is more novel than nearly all of these is novel.
    `standing` is how many requests of the log each of them stands for; None: as many as any other.
    """
    reference = prepared.matrix.candidates[learned.reference]
    knobs = knob_grid(learned.data.expected_cost, params.policy.knob_steps)
    return Manifest(
        format_version=FORMAT_VERSION,
        version=version,
        created=started.isoformat(timespec="seconds"),
        data_fingerprint=prepared.fingerprint,
        simulated=simulated,
        candidates=prepared.candidates,
        cost_from=dict(learned.costs.cost_from),
        usual=learned.costs.usual,
        reference=reference,
        acceptable=params.label.acceptable,
        objective=Objective(params.policy.objective),
        graded=prepared.graded,
        encoder=encoder,
        head=HeadSpec(
            estimator=learned.acceptable.tagged.description,
            estimator_untagged=learned.acceptable.untagged.description,
            calibration=learned.acceptable.tagged.calibrator.name,
            surface=SURFACE,
            workflows=prepared.workflows,
            kinds=() if learned.kinds is None else learned.kinds.names,
            learned_from=learned.learned_from,
        ),
        operating_points=(OperatingPoint(name=ALWAYS_REFERENCE, knob=0.0, always=reference, calibration_requests=0),),
        default_point=ALWAYS_REFERENCE,
        knobs=tuple(knobs.tolist()),
        novelty=novelty_of(learned, novelty, params.policy.novel_share, standing),
        metrics={},
        files=dict.fromkeys(REQUIRED_FILES, ""),  # `seal` hashes them when all are there
    )


def novelty_of(learned: Learned, unseen: Floats, share: float, standing: Floats | None = None) -> Novelty:
    """The threshold that this share of `unseen` novelties exceeds, and the training clusters' shares, both of the log that the
    requests stand for: what is served is compared with it, and not with what was drawn of it."""
    member = (learned.data.inputs.embedding @ learned.centres.T).argmax(axis=1)
    counts = np.bincount(member, learned.data.standing, minlength=len(learned.centres))
    threshold = inf
    if len(unseen):
        threshold = (
            float(np.quantile(unseen, 1.0 - share, method="higher"))
            if standing is None
            else quantile(unseen, 1.0 - share, standing)
        )
    return Novelty(threshold=threshold, shares=tuple((counts / counts.sum()).tolist()))


def write_test_requests(folder: Path, router: Router, prepared: Prepared) -> None:
    """Writes request_id, workflow, text, the candidate at the default operating point and its quality, if observed."""
    rows = prepared.split.test
    part = prepared.matrix.take(rows)
    manifest = router.manifest
    estimates = router.estimate(list(part.requests))
    value = estimates.of(manifest.objective).astype(np.float64)
    columns = Setting.of(manifest, manifest.default).choose(value, estimates.violation, estimates.cost_usd)
    place = np.arange(len(part))
    table = {
        "request_id": part.request_id,
        "workflow": part.workflow,
        "text": part.texts,
        "chosen": np.array(part.candidates)[columns],
        "estimate": value[place, columns],
        "observed": prepared.value(manifest.objective)[rows][place, columns],
    }
    with for_its_owner():
        pd.DataFrame(table).to_csv(folder / TEST_REQUESTS, index=False)
