"""Parts of what is kept: features, parameters that may change, choices as JSON, and what a grown log's core would hold."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from serving.bundle.catalogue import Capability
from serving.bundle.request import ReadRequest, RouteRequest, read
from tests.training.kept.test_rows import _Kept, outcomes
from training.config import load_params
from training.dataset.kinds import Kinds
from training.dataset.matrix import build_matrix
from training.dataset.sampling.core import id_hashes
from training.kept.features import Written, read_features, write_features
from training.kept.files import KeptError, kept_folder, newest_kept, prune
from training.kept.settings import settings_since
from training.learn.heads.chosen import ChoiceError, Choices, HeadChoice, PairChoice, fit_chosen
from training.prices.costs import Lengths

TEXT = {"type": "text", "text": "What is this?"}
IMAGE = {"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}


def test_features_come_back_and_stand_for_a_request_without_its_text(tmp_path: Path) -> None:
    table = outcomes(
        {"request_id": "one", "prompt": "What is it, and why?", "workflow": "w"},
        {"request_id": "two", "messages": [{"role": "user", "content": [TEXT, IMAGE]}]},
        {"request_id": "three", "prompt": "Third."},
    )
    matrix = build_matrix(table.frame)
    n = len(matrix)
    draw = np.random.default_rng(0)
    embedding, surface = (draw.normal(size=(n, k)).astype(np.float32) for k in (4, 13))
    counted = np.array([read(one).said for one in matrix.requests], dtype=np.float64)
    lengths = Lengths(np.array([[7.0], [np.nan], [np.nan]]), np.array([[True], [False], [False]]))
    seen, ids = np.arange(n, dtype=np.uint64), id_hashes(matrix.request_id)
    written = Written(matrix, lengths, ids, embedding, surface, counted, seen)
    first, rest = np.array([True, False, False]), np.array([False, True, True])
    parts = [
        Written(
            matrix.take(rows), lengths.take(rows), ids[rows], embedding[rows], surface[rows], counted[rows], seen[rows]
        )
        for rows in (first, rest)
    ]
    write_features(tmp_path, parts)
    found = read_features(_Kept(tmp_path, learned=n))  # type: ignore[arg-type]
    for name in ("ids", "embedding", "surface", "counted", "seen"):
        assert np.array_equal(getattr(found, name), getattr(written, name)), name
    places = found.places(np.append(ids[::-1], np.uint64(5)))
    assert places.tolist() == [2, 1, 0, -1]
    stand = found.requests(places[:3], [None, None, "w"])
    assert all(isinstance(one, ReadRequest) and one.text == "" for one in stand)
    assert stand[1].needs == frozenset({Capability.VISION})
    assert [one.said for one in stand] == [read(one).said for one in matrix.requests[::-1]]
    assert [one.counted for one in stand] == [read(one).counted for one in matrix.requests[::-1]]
    assert stand[2].request == RouteRequest("", workflow="w")
    again = found.lengths_of(places, ["a", "other"])
    assert again.tokens[2].tolist() == [7.0, counted[0]]
    assert again.counted.tolist() == [[False, False], [False, False], [True, False], [False, False]]
    assert np.isnan(again.tokens[3]).all()


def _huge(folder: Path) -> None:
    with (folder / "seen.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<u8", "fortran_order": False, "shape": (10**13,)})


def _array(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / f"{name}.npy", change(np.load(folder / f"{name}.npy")))


def _lengths(**columns: Any) -> Callable[[Path], None]:
    row = {"place": [0], "candidate": ["a"], "tokens": [1.0], "counted": [True]} | columns
    return lambda folder: pq.write_table(pa.table(row), folder / "lengths.parquet")


def _filled(value: float) -> Callable[[Any], Any]:
    return lambda array: np.full_like(array, value)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_huge, "cannot be read"),
        (
            _array("embedding", lambda array: array[:1]),
            r"embedding is float32 of shape \(1, 4\), not float32 of 2 requests",
        ),
        (_array("embedding", np.ravel), "embedding is float32 of shape"),
        (_array("embedding", lambda array: array.astype("U8")), "embedding is <U8"),
        (_array("embedding", _filled(np.nan)), "embedding is not finite"),
        (_array("surface", _filled(np.inf)), "surface is not finite"),
        (_array("surface", lambda array: array[:, :3]), "surface has 3 features, not 13"),
        (_array("ids", lambda array: array.astype(float)), "ids is float64"),
        (_array("ids", _filled(7)), "ids are not those of different requests"),
        (_array("counted", _filled(np.nan)), "counted is no number of tokens"),
        (_array("counted", _filled(np.inf)), "counted is no number of tokens"),
        (_array("counted", _filled(-1)), "counted is no number of tokens"),
        (_array("needs", _filled(255)), "needs has capabilities"),
        (_lengths(place=["x"]), r"lengths\.parquet has columns of other kinds"),
        (_lengths(place=[-1]), r"lengths\.parquet is of other requests"),
        (_lengths(tokens=[np.inf]), r"lengths\.parquet has no numbers of tokens"),
        (lambda folder: pq.write_table(pa.table({"x": [1]}), folder / "lengths.parquet"), "cannot be read"),
    ],
)
def test_features_that_nobody_kept_so_are_an_error(damage: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    matrix = build_matrix(
        outcomes({"request_id": "one", "prompt": "One."}, {"request_id": "two", "prompt": "Two."}).frame
    )
    embedding, surface = np.ones((2, 4), dtype=np.float32), np.ones((2, 13), dtype=np.float32)
    ids = id_hashes(matrix.request_id)
    write_features(tmp_path, [Written(matrix, None, ids, embedding, surface, np.ones(2), ids)])
    kept = _Kept(tmp_path, learned=2)
    assert len(read_features(kept)) == 2  # type: ignore[arg-type]
    damage(tmp_path)
    with pytest.raises(KeptError, match=f"{said}.*remove it, and train on everything"):
        read_features(kept)  # type: ignore[arg-type]


def test_parameters_are_as_they_were_but_for_what_may_change() -> None:
    kept = load_params(overrides=("policy.delta=0.2", "split.seed=3", "evaluate.splits=true")).flat()
    shipped = load_params()
    found = settings_since(kept, shipped, ())
    assert (found.policy.delta, found.split.seed, found.evaluate.splits) == (0.2, 3, False)
    asked = load_params(overrides=("policy.delta=0.05", "fit.half_life_days=30", "evaluate.splits=true"))
    found = settings_since(kept, asked, ("policy.delta", "fit.half_life_days", "evaluate.splits"))
    assert (found.policy.delta, found.fit.half_life_days, found.evaluate.splits) == (0.05, 30.0, True)
    assert settings_since(kept, load_params(overrides=("split.seed=3",)), ("split.seed",)).split.seed == 3
    with pytest.raises(KeptError, match=r"split\.seed is 0, and what was kept was made with 3"):
        settings_since(kept, shipped, ("split.seed",))
    # A parameter that came with a later release is as it is shipped.
    del kept["fit.half_life_days"]
    assert settings_since(kept, shipped, ()).fit.half_life_days == 0.0


def test_what_is_kept_goes_with_its_bundle_and_belongs_to_its_other_points(tmp_path: Path) -> None:
    for name in ("one", "one-at-quality-0.9", "two-at-quality-0.9"):
        (tmp_path / name).mkdir()
    kept = tmp_path / "kept"
    for name in ("one", "two", "three", ".draft.01234567"):
        (kept / name).mkdir(parents=True)
    (tmp_path / "current").symlink_to("one-at-quality-0.9")
    assert kept_folder(tmp_path / "current") == kept / "one"
    assert kept_folder(tmp_path / "two-at-quality-0.9") == kept / "two"
    assert prune(tmp_path) == ["three"]
    assert sorted(path.name for path in kept.iterdir()) == [".draft.01234567", "one", "two"]
    os.utime(kept / ".draft.01234567", (0, 0))
    assert prune(tmp_path) == []
    assert sorted(path.name for path in kept.iterdir()) == ["one", "two"]


def test_a_folder_of_bundles_is_gone_on_from_by_the_newest_that_something_is_kept_of(tmp_path: Path) -> None:
    assert newest_kept(tmp_path / "nowhere") == tmp_path / "nowhere"
    for name in ("1", "2-at-quality-0.9", "4"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").touch()
    assert newest_kept(tmp_path) == tmp_path
    for name in ("1", "2", "3"):  # the bundle of 3 is gone, and nothing is kept of 4
        (tmp_path / "kept" / name).mkdir(parents=True)
        (tmp_path / "kept" / name / "kept.json").touch()
    assert newest_kept(tmp_path) == tmp_path / "2-at-quality-0.9"
    assert newest_kept(tmp_path / "1") == tmp_path / "1"


CHOICE = HeadChoice({"ridge": 0.25, "workflow-table": 0.75}, "sigmoid", "AIQ")
CENTRES = np.random.default_rng(1).normal(size=(2, 8)).astype(np.float32)
CHOICES = Choices(
    PairChoice(CHOICE, None),
    None,
    PairChoice(CHOICE, CHOICE),
    Kinds(("x", "y"), CENTRES),
    "static",
    "ab" * 32,
    "v1",
    "2026-01-01",
)


def test_choices_come_back_from_json_as_they_were() -> None:
    found = Choices.read(CHOICES.written())
    assert found.kinds is not None
    assert np.array_equal(found.kinds.centres, CENTRES)
    assert replace(found, kinds=None) == replace(CHOICES, kinds=None)
    unfit = {"members": {"ridge": float("nan")}, "calibrator": "sigmoid", "selected_by": "AIQ"}
    for damage in (
        {"acceptable": {"tagged": unfit, "untagged": None}},
        {"encoder": "other"},
        {"acceptable": None},
        {"kinds": {"names": ["x"]}},
    ):
        with pytest.raises((ValueError, KeyError, TypeError)):
            Choices.read(CHOICES.written() | damage)


def test_choices_that_do_not_fit_a_log_say_so() -> None:
    with pytest.raises(ChoiceError, match="quality between 0 and 1"):
        CHOICES.require(graded=True, workflows=False)
    with pytest.raises(ChoiceError, match="names workflows, and the choices have kinds of work in their place"):
        CHOICES.require(graded=False, workflows=True)
    with pytest.raises(ChoiceError, match="nothing was selected for requests without a tag"):
        CHOICES.acceptable.without_tags()
    with pytest.raises(ChoiceError, match="'ridge' was chosen before and is none of the estimators"):
        fit_chosen(None, {"workflow-table": None}, CHOICE)  # type: ignore[arg-type, dict-item]
