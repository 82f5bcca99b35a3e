"""Every engine gives the parts' results in their order, tells how many are done, and says where one failed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.training.engine import parts
from training.engine.address import ClusterError, is_open, require_host, workers_of
from training.engine.engine import in_order
from training.engine.files import SharedFiles, opened
from training.engine.local import ALONE, HERE, LocalEngine
from training.engine.named import engine_of, shared_folder
from training.logs.outcomes import OutcomeError


@pytest.mark.parametrize("ahead", [None, 1, 2, 5])
def test_results_come_in_the_parts_order_and_no_more_are_begun_than_are_allowed(ahead: int | None) -> None:
    begun: list[int] = []
    taken: list[int] = []
    most = []

    def last_first(running: object) -> list[int]:
        most.append(len(begun) - len(taken))
        return [max(running)]  # type: ignore[call-overload]

    def begin(place: int) -> int:
        begun.append(place)
        return place

    told: list[int] = []
    for found in in_order(6, begin, last_first, lambda one, place: (one, place), told.append, ahead):
        taken.append(found[1])
    assert taken == [0, 1, 2, 3, 4, 5]
    assert told == [1, 2, 3, 4, 5, 6]
    assert max(most) == (ahead or 6) if ahead != 1 else max(most) == 1


@pytest.mark.parametrize("engine", [ALONE, HERE, LocalEngine(5)], ids=["alone", "here", "five"])
def test_an_engine_of_this_process(engine: LocalEngine) -> None:
    values, told = np.arange(40.0).reshape(8, 5), []
    found = engine.map(parts.total, {"large": values}, range(8), "sum", lambda *one: told.append(one))
    assert list(found) == values.sum(axis=1).tolist()
    assert told == [("sum", done, 8) for done in range(9)]
    assert list(engine.map(parts.total, {}, [], "nothing")) == []


@pytest.mark.parametrize("engine", [ALONE, HERE], ids=["alone", "here"])
def test_what_a_function_raises_is_raised_with_a_note_of_where(engine: LocalEngine) -> None:
    with pytest.raises(OutcomeError, match=r"^row 7: quality is 3, expected 0 to 1") as error:
        list(engine.map(parts.unusable, None, range(4), "read", name=lambda part: f"file-{part}.jsonl"))
    assert str(error.value) == "row 7: quality is 3, expected 0 to 1"
    assert error.value.__notes__ == ["raised in read: part 3 of 4 (file-2.jsonl)"]


def test_a_large_array_is_one_file_for_as_long_as_it_is_in_use(tmp_path: Path) -> None:
    files, array, small = SharedFiles(tmp_path), np.random.default_rng(0).normal(size=(300, 100)), np.arange(3.0)
    turned = array.T.copy()
    one, other = files.put({"array": array, "small": small}), files.put([array, turned])
    assert len(list(tmp_path.glob("*.npy"))) == 2
    found = opened(one)
    np.testing.assert_array_equal(found["array"], array)
    np.testing.assert_array_equal(found["small"], small)
    found["array"][0] = 0.0  # stays with who makes it
    np.testing.assert_array_equal(opened(other)[0], array)
    np.testing.assert_array_equal(opened(other)[1], turned)
    files.remove(one)
    assert not one.exists()
    del array
    assert len(list(tmp_path.glob("*.npy"))) == 1
    del turned
    assert list(tmp_path.glob("*.npy")) == []


def test_what_comes_of_a_part_is_taken_from_its_files_once(tmp_path: Path) -> None:
    array = np.arange(20_000.0)
    sent = SharedFiles(tmp_path, keeps=True).packed((1, array))
    assert len(sent) < 1_000
    number, found = SharedFiles(tmp_path).unpacked(sent)
    assert number == 1
    np.testing.assert_array_equal(found, array)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("named", "workers"), [("local:4", 4), ("tcp://host:8786", None), ("tls://10.0.0.1:1", None)])
def test_a_cluster_is_named_by_an_address_or_a_number_of_workers(named: str, workers: int | None) -> None:
    assert workers_of(named) == workers


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("tcp://scheduler:8786", True),
        ("tcp://10.0.0.1:8786", True),
        ("tcp://[fd00::1]:8786", True),
        ("tcp://localhost.example.org:8786", True),
        ("tcp://0.0.0.0:8786", True),
        ("tls://10.0.0.1:8786", False),
        ("tcp://127.0.0.1:8786", False),
        ("tcp://127.8.9.10:8786", False),
        ("tcp://[::1]:8786", False),
        ("tcp://localhost:8786", False),
        ("local:4", False),
    ],
)
def test_an_address_beyond_this_machine_is_open_unless_it_is_encrypted(named: str, said: bool) -> None:
    assert is_open(named) == said


@pytest.mark.parametrize("named", ["local", "local:0", "local:two", "host:8786", "http://host:1", "tcp://host", ""])
def test_another_name_says_what_is_expected(named: str, tmp_path: Path) -> None:
    with (
        pytest.raises(ClusterError, match=r"expected a scheduler's address, as tcp://scheduler:8786"),
        engine_of(named, tmp_path, print),
    ):
        pass


def test_without_a_cluster_no_dask_is_imported() -> None:
    code = """
import sys
from pathlib import Path
import training.cli.main, training.cli.logs, training.cli.reading, training.run
from training.engine.named import engine_of
with engine_of(None, Path("nowhere"), print) as engine:
    assert list(engine.map(lambda given, part: given + part, 1, [1, 2], "add")) == [2, 3]
print(sorted(name for name in sys.modules if name.partition(".")[0] in ("dask", "distributed")))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
    assert not (ROOT / "nowhere").exists()


def test_a_shared_folder_goes_with_a_cluster_alone(tmp_path: Path) -> None:
    assert shared_folder(None, None, tmp_path) == shared_folder("local:2", None, tmp_path) == tmp_path / "cluster"
    assert shared_folder("local:2", Path("x"), tmp_path) == Path("x")
    with pytest.raises(ClusterError, match="--cluster-folder x: give --cluster as well"):
        shared_folder(None, Path("x"), tmp_path)


def test_a_schedulers_host_is_looked_up_before_it_is_waited_for(tmp_path: Path) -> None:
    with (
        pytest.raises(ClusterError, match=r"--cluster tcp://nohost.invalid:8786: no such host: nohost.invalid \("),
        engine_of("tcp://nohost.invalid:8786", tmp_path, print),
    ):
        pass
    for cluster in ("local:2", "tcp://127.0.0.1:1", "tls://[::1]:1", "tcp://localhost:8786"):
        require_host(cluster)
