"""A cluster of this machine's own: what is the same as without, what is survived, and what ends a run and how."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import LocalCluster

from serving.bundle.arrays import Floats
from tests.training.engine import parts
from tests.training.engine.leftovers import IGNORED
from training.dataset.inputs import Inputs
from training.engine import cluster, workers
from training.engine.address import ClusterError
from training.engine.cluster import ClusterEngine
from training.engine.local import HERE
from training.engine.named import engine_of
from training.engine.workers import Fitness, checked
from training.learn.estimators.base import Factory
from training.learn.estimators.linear import Ridge
from training.learn.estimators.logistic import LogisticPerCandidate
from training.learn.estimators.tables import ClusterTable, WorkflowTable
from training.learn.estimators.trees import LightGBMPerCandidate
from training.learn.heads.out_of_fold import by_fold, out_of_fold_of_all
from training.learn.heads.select import fit_head
from training.learn.sums import BLOCK
from training.learn.training_data import TrainingData
from training.logs.outcomes import OutcomeError
from training.owned import NotOwnError, made_own

pytestmark = IGNORED


@pytest.fixture(scope="module")
def said() -> list[str]:
    """What is told of the cluster."""
    return []


@pytest.fixture(scope="module")
def engine(said: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterEngine]:
    with engine_of("local:2", tmp_path_factory.mktemp("shared"), said.append) as found:
        assert isinstance(found, ClusterEngine)
        assert said == ["local:2: 2 workers on 1 machine"]
        yield found


def data(n: int = 400, seed: int = 0) -> TrainingData:
    """Requests whose first coordinate decides which of two candidates does well; arrays large enough to be shared as files."""
    draw = np.random.default_rng(seed)
    embedding = draw.normal(size=(n, 64)).astype(np.float32)
    features = np.zeros((n, 4), dtype=np.float32)
    features[:, 0] = draw.normal(size=n)
    features[np.arange(n), 1 + np.arange(n) % 3] = 1.0
    chance = np.column_stack([1 / (1 + np.exp(-2 * embedding[:, 0])), np.full(n, 0.7)])
    cost: Floats = np.tile([1.0, 5.0], (n, 1))
    return TrainingData(
        inputs=Inputs(embedding, features, surface=1, counted=np.ones(n)),
        labels=(draw.uniform(size=(n, 2)) < chance).astype(np.float64),
        weights=draw.uniform(0.5, 2.0, size=(n, 2)),
        propensity=np.ones((n, 2)),
        cost=cost,
        expected_cost=cost,
        complete=np.ones(n, dtype=np.bool_),
        groups=np.arange(n),
        folds=draw.permutation(n) % 3,
    )


def test_parts_are_worked_on_and_large_arrays_are_mapped(engine: ClusterEngine) -> None:
    values, told = np.random.default_rng(1).normal(size=(12, 5_000)), []
    found = engine.map(parts.total, {"large": values}, range(12), "sum", lambda *one: told.append(one), ahead=3)
    assert list(found) == [float(row.sum()) for row in values]
    assert told == [("sum", done, 12) for done in range(13)]
    assert all(engine.map(parts.mapped, {"large": values}, range(2), "look"))
    results = list(engine.map(parts.large, None, range(4), "fill"))
    assert [float(result[0, 0]) for result in results] == [0.0, 1.0, 2.0, 3.0]
    del values, found
    assert list(engine.folder.glob("*.npy")) == []
    assert list(engine.folder.glob("*.given")) == []


def test_workers_of_this_machine_keep_the_memory_that_they_free(engine: ClusterEngine) -> None:
    found = engine.client.run(os.environ.get, "MALLOC_TRIM_THRESHOLD_")
    assert found
    assert set(found.values()) == {os.environ.get("MALLOC_TRIM_THRESHOLD_")}


def test_an_error_of_ours_keeps_its_kind_and_message_and_says_where(engine: ClusterEngine) -> None:
    with pytest.raises(
        OutcomeError,
        match=r"^row 7: quality is 3, expected 0 to 1 \(read: part 3 of 4 \(file-2\.jsonl\)\)$",
    ):
        list(engine.map(parts.unusable, None, range(4), "read", name=lambda part: f"file-{part}.jsonl"))


def test_any_other_error_keeps_its_kind_and_has_a_note(engine: ClusterEngine) -> None:
    with pytest.raises(ZeroDivisionError) as error:
        list(engine.map(parts.at_fault, None, range(3), "divide", name=lambda part: f"row {part}"))
    assert error.value.__notes__ == ["raised in divide: part 2 of 3 (row 1)"]


def test_sums_are_the_same_to_the_last_bit(engine: ClusterEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    told = data(BLOCK + 500)
    here, there = by_fold(told, HERE), by_fold(told, engine)
    for name, values in vars(here).items():
        np.testing.assert_array_equal(getattr(there, name), values, err_msg=name)


KINDS: dict[str, Factory] = {
    "workflow-table": WorkflowTable,
    "ridge": Ridge,
    "k-means-table": ClusterTable,
    "logistic": LogisticPerCandidate,
    "lightgbm": LightGBMPerCandidate,
}


def test_a_worker_that_is_killed_half_way_changes_nothing_and_is_told(engine: ClusterEngine, said: list[str]) -> None:
    told = data()
    here = out_of_fold_of_all(KINDS, told, None, HERE)
    killed: list[int] = []
    said.clear()

    def half_way(_: str, done: int | None, total: int | None) -> None:
        if not killed and done and total and 2 * done >= total:
            killed.append(next(iter(engine.client.run(os.getpid).values())))
            os.kill(killed[0], signal.SIGKILL)

    there = out_of_fold_of_all(KINDS, told, None, engine, progress=half_way)
    assert len(killed) == 1
    for name, values in here.items():
        np.testing.assert_array_equal(there[name], values, err_msg=name)
    # A stage that ends soon after leaves it to the next one to tell.
    out_of_fold_of_all({"ridge": Ridge}, told, None, engine)
    (one,) = said
    assert re.search(r": gone from the cluster: tls://127\.0\.0\.1:\d+; others do what was not handed over$", one)


def test_a_head_is_the_same(engine: ClusterEngine) -> None:
    told = data()
    options: dict[str, Any] = {"calibration": "sigmoid", "blend": None, "knob_steps": 20, "seed": 3}
    here, there = (fit_head(told, KINDS, **options, engine=each) for each in (HERE, engine))
    assert here.scores == there.scores
    assert here.name == there.name
    np.testing.assert_array_equal(there.predict(told.inputs), here.predict(told.inputs))


def test_a_worker_that_dies_of_its_part_is_followed_by_another(engine: ClusterEngine, tmp_path: Path) -> None:
    assert list(engine.map(parts.dying_once, str(tmp_path), range(6), "die")) == [0, 1, 2, 3, 4, 5]
    assert (tmp_path / "died").exists()


def test_a_part_that_every_worker_dies_of_ends_the_run_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "FAILURES", 0)
    # The scheduler blames what the worker was at, what it had waiting and what it had not heard the end of alike: whichever is
    # told of first.
    with (
        engine_of("local:1", tmp_path, lambda _: None) as alone,
        pytest.raises(ClusterError, match=r"fit: part [123] of 3 \(fold [012]\): 1 worker died of it.*memory"),
    ):
        list(alone.map(parts.deadly, None, range(3), "fit", name=lambda part: f"fold {part}"))


def test_a_folder_that_others_can_write_in_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    with (
        pytest.raises(NotOwnError, match=r"others can write there .*--cluster-folder"),
        engine_of("local:1", folder, print),
    ):
        pass
    assert list(folder.iterdir()) == []


def test_a_scheduler_that_does_not_answer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (
        pytest.raises(ClusterError, match=rf"--cluster tcp://127.0.0.1:{port}: no scheduler answered within 1 seconds"),
        engine_of(f"tcp://127.0.0.1:{port}", tmp_path, print),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_encrypted_is_said_to_be(tmp_path: Path) -> None:
    said: list[str] = []
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, host="127.0.0.1", protocol="tcp", dashboard_address=None
    ) as running:
        port = running.scheduler.port
        for host in ("127.0.0.1", "0.0.0.0"):  # which is this machine, too, and no loopback address
            with engine_of(f"tcp://{host}:{port}", tmp_path, said.append):
                pass
    assert said == [
        f"tcp://127.0.0.1:{port}: 1 worker on 1 machine",
        f"tcp://0.0.0.0:{port}: 1 worker on 1 machine\n"
        f"tcp://0.0.0.0:{port}: not encrypted; whoever reaches it runs code there and reads prompts (docs/scale.md)",
    ]


def test_a_worker_of_another_user_is_named_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = fit(tmp_path)
    monkeypatch.setattr(workers, "_SEEN", 0.1)
    (tmp_path / "mine").chmod(0o620)  # as far as the worker can tell, another may have written it
    there = workers.looked(str(tmp_path / "mine"), "mine")
    assert workers._unfit(there, here, tmp_path).startswith(
        f"does not see {tmp_path} ({tmp_path / 'mine'}: others can write there (mode 0620)"
    )


class Asked:
    """A client whose workers find what they are told to."""

    def __init__(self, **found: Fitness | Exception) -> None:
        self.found = found

    def run(self, *_: object, **__: object) -> dict[str, Fitness | Exception]:
        return self.found


def fit(tmp_path: Path, **changed: Any) -> Fitness:
    probe = tmp_path / "mine"
    probe.unlink(missing_ok=True)
    with made_own(probe) as file:
        file.write(b"mine")
    return replace(workers.looked(str(probe), "mine"), **changed)


def probed(folder: Path) -> Path:
    """The folder as a run has it before it looks at workers."""
    (folder / "probe").unlink(missing_ok=True)
    return folder


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"versions": {"Python": "3.9"}}, r"has Python 3\.9 where this machine has 3\.\d+, outcome-router None where"),
        ({"code": "another"}, "has other code of outcome-router under the same version number"),
        (
            {"read": "FileNotFoundError: No such file"},
            r"does not see .* \(FileNotFoundError: No such file\).*--cluster-folder",
        ),
        ({"read": ""}, "the file there is another"),
    ],
)
def test_a_worker_that_is_not_fit_is_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], said: str
) -> None:
    monkeypatch.setattr(workers, "token_hex", lambda _: "mine")
    good, bad = fit(tmp_path), fit(tmp_path, **changed)
    assert checked(Asked(one=good, two=good), probed(tmp_path), "tcp://here:1") == [good.host]  # type: ignore[arg-type]
    with pytest.raises(ClusterError, match=rf"--cluster tcp://here:1: worker two: .*{said}"):
        checked(Asked(one=good, two=bad), probed(tmp_path), "tcp://here:1")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'training'"),
        Exception("""ModuleNotFoundError("No module named 'training'")"""),
    ],
)
def test_a_worker_without_the_package_is_named(tmp_path: Path, error: Exception) -> None:
    found = Asked(one=error)
    with pytest.raises(ClusterError, match=r"worker one: lacks what it is to run \(.*No module named 'training'"):
        checked(found, tmp_path, "tcp://here:1")  # type: ignore[arg-type]
