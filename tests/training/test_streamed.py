"""A log that is read from disk in part is learned from as one in memory is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from serving.decide.router import Router
from tests.conftest import QUICK
from training.config import Params, load_params
from training.dataset.matrix import Objects
from training.learn.prepare import prepare, prepare_stored
from training.logs.dataset import ImportAccount, store
from training.logs.outcomes import Outcomes
from training.logs.stored.memory import MemoryTooSmallError
from training.logs.stored.rows import StoredLog, open_stored
from training.logs.validate import validate
from training.prices.catalogue import SHIPPED, load_catalogue
from training.run import Run, train
from training.simulation.simulate import simulate

CATALOGUE = load_catalogue(SHIPPED)
EQUAL = 1e-6


def params_of(*overrides: str) -> Params:
    return load_params(overrides=(*QUICK, *overrides))


@pytest.fixture(scope="module")
def log() -> Outcomes:
    params = load_params()
    wanted = [CATALOGUE[name] for name in params.simulate.candidates]
    made = simulate(wanted, requests=3_000, seed=3, days=params.simulate.days, shadow_share=0.2)
    return validate(made.outcomes, source="simulated", format="simulated")


@pytest.fixture(scope="module")
def stored(log: Outcomes, tmp_path_factory: pytest.TempPathFactory) -> StoredLog:
    """The log on disk, in files of which most requests have rows in one alone, and some in two."""
    return on_disk(log, tmp_path_factory.mktemp("stored") / "log", 1_111)


def on_disk(log: Outcomes, folder: Path, rows: int) -> StoredLog:
    parts = []
    for start in range(0, len(log.frame), rows):
        frame = log.frame.iloc[start : start + rows].reset_index(drop=True)
        parts.append(replace(log, frame=frame, rows_read=len(frame)))
    store(parts, folder, ImportAccount(["simulated"]), rows=rows)
    found = open_stored(folder)
    assert found is not None
    assert len(found.account.files) > 1
    return found


def trained(log: Outcomes, params: Params, out: Path, cache: Path, stored: StoredLog | None = None) -> Run:
    known = None
    if stored is not None:
        table = stored.skeleton()
        known = prepare_stored(table.frame, params, CATALOGUE, stored.requests_of)
        log = replace(table, frame=table.frame.iloc[:0])
    return train(log, params, CATALOGUE, out=out, cache=cache, prepared=known)


def test_a_log_that_is_its_own_core_is_prepared_as_in_memory(log: Outcomes, stored: StoredLog) -> None:
    params = params_of()
    held = prepare(log.frame, params, CATALOGUE)
    table = stored.skeleton()
    read = prepare_stored(table.frame, params, CATALOGUE, stored.requests_of)
    assert read.sampled is None
    assert stored.requests() == len(held.matrix)
    for name, values in vars(held.matrix).items():
        np.testing.assert_array_equal(getattr(read.matrix, name), values, err_msg=name)
    for name in ("labels", "groups", "candidates", "workflows", "cost_notes", "volume"):
        np.testing.assert_array_equal(getattr(read, name), getattr(held, name), err_msg=name)
    for name in ("train", "calibration", "test", "dropped"):
        np.testing.assert_array_equal(getattr(read.split, name), getattr(held.split, name), err_msg=name)
    assert read.split.note == held.split.note


def test_a_log_that_is_its_own_core_makes_the_bundle_of_memory(
    log: Outcomes, stored: StoredLog, tmp_path: Path, cache: Path
) -> None:
    params = params_of("evaluate.splits=false")
    held = trained(log, params, tmp_path / "held", cache)
    read = trained(log, params, tmp_path / "read", cache, stored)
    requests = list(held.prepared.matrix.requests[:300])
    first, second = (Router(run.bundle).estimate(requests) for run in (held, read))
    for name, values in vars(first).items():
        if isinstance(values, np.ndarray) and values.dtype.kind == "f":
            np.testing.assert_allclose(getattr(second, name), values, atol=EQUAL, rtol=0, err_msg=name)
    one, other = held.bundle.manifest, read.bundle.manifest
    assert one.operating_points == other.operating_points
    assert one.reference == other.reference
    assert {**one.metrics} == pytest.approx({**other.metrics}, nan_ok=True)


CORE = ("scale.core_train=500", "scale.core_measured=200", "scale.floor=20")


def test_the_core_is_the_same_however_the_log_was_cut(log: Outcomes, stored: StoredLog, tmp_path: Path) -> None:
    params, again = params_of(*CORE), on_disk(log, tmp_path / "log", 400)
    one, other = (
        prepare_stored(each.skeleton().frame, params, CATALOGUE, each.requests_of) for each in (stored, again)
    )
    assert one.sampled == other.sampled
    assert one.sampled is not None
    assert 700 < len(one.matrix) < 1_100
    assert one.fingerprint == other.fingerprint
    for name in ("request_id", "texts", "quality", "cost_usd", "weight"):
        np.testing.assert_array_equal(getattr(one.matrix, name), getattr(other.matrix, name), err_msg=name)


def test_what_was_drawn_is_allowed_before_texts_are_read(stored: StoredLog) -> None:
    told: list[tuple[int, ...]] = []

    def refuse(*counts: int) -> None:
        told.append(counts)
        raise MemoryTooSmallError("too much")

    def texts(_: Objects) -> Objects:
        raise AssertionError("read")

    with pytest.raises(MemoryTooSmallError, match="too much"):
        prepare_stored(stored.skeleton().frame, params_of(*CORE), CATALOGUE, texts, allow=refuse)
    requests, learned, workflows = told[0]
    assert requests == stored.requests()
    assert 700 < learned < 1_100
    assert workflows > 1


@pytest.mark.parametrize("held_out", [0.0, 0.3])
def test_a_core_has_the_parts_groups_and_outcomes_of_the_whole_log(
    log: Outcomes, tmp_path: Path, held_out: float
) -> None:
    ids = log.frame["request_id"]
    drawn = pd.Series(pd.util.hash_array(ids.to_numpy(dtype=object)) % 100 < 100 * held_out, index=ids.index)
    given = replace(log, frame=log.frame.assign(split=log.frame["split"].mask(drawn, "test")))
    stored, params = on_disk(given, tmp_path / "log", 2_000), params_of(*CORE)
    whole = prepare(given.frame, params, CATALOGUE)
    core = prepare_stored(stored.skeleton().frame, params, CATALOGUE, stored.requests_of)
    place = pd.Index(whole.matrix.request_id).get_indexer(pd.Index(core.matrix.request_id))
    assert (place >= 0).all()
    assert (np.diff(place) > 0).all()
    for name in ("train", "calibration", "test"):
        np.testing.assert_array_equal(getattr(core.split, name), getattr(whole.split, name)[place], err_msg=name)
    assert not core.split.dropped.any()
    for name in ("texts", "quality", "propensity", "attempted", "chained", "timestamp"):
        np.testing.assert_array_equal(getattr(core.matrix, name), getattr(whole.matrix, name)[place], err_msg=name)
    np.testing.assert_array_equal(core.labels, whole.labels[place])
    groups = whole.groups[place]
    assert len(set(zip(groups, core.groups, strict=True))) == len(set(groups)) == len(set(core.groups))
    assert (core.candidates, core.workflows) == (whole.candidates, whole.workflows)
    assert core.volume is not None
    assert core.volume.requests == len(whole.matrix)
    assert float(core.matrix.weight[core.split.train].sum()) == pytest.approx(float(whole.split.train.sum()), rel=0.15)
