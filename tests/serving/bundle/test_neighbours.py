"""Logged requests beside a bundle: what is near is found as in full precision, and a broken file is said by name."""

from __future__ import annotations

import json
import shutil
import stat
import zipfile
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bundle import manifest as bundled
from serving.bundle.manifest import (
    NEIGHBOURS,
    NEIGHBOURS_ABOUT,
    NEIGHBOURS_TEXTS,
    Bundle,
    BundleError,
    open_bundle,
    seal,
)
from serving.bundle.neighbours import LONGEST_TEXT, Neighbours, quantised, write
from serving.decide.router import Router
from tests import fake_bundle
from tests.fake_bundle import DIM, WORDS

ARRAYS = ("embedding", "scale", "quality", "cost_usd", "error", "logged")


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle.build(tmp_path_factory.mktemp("models"), neighbours=True)


@pytest.fixture
def folder(intact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(intact, tmp_path / "copy"))


def sealed(folder: Path) -> Path:
    """The bundle with the hashes of its files as they are now."""
    (folder / bundled.MANIFEST).unlink()
    seal(folder, fake_bundle.manifest())
    return folder


def many(rows: int, dim: int, seed: int = 0) -> tuple[Neighbours, np.ndarray[Any, Any]]:
    """Requests of random embeddings, of three workflows and none, and those embeddings."""
    rng = np.random.default_rng(seed)
    unit = rng.normal(size=(rows, dim)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    embedding, scale = quantised(unit)
    nan = np.full((rows, 1), np.nan, dtype=np.float32)
    made = Neighbours(
        candidates=("a",),
        total=rows,
        ids=[f"r{row}" for row in range(rows)],
        workflows=[("x", "y", "z", None)[row % 4] for row in range(rows)],
        at=[None] * rows,
        embedding=embedding,
        scale=scale,
        quality=nan,
        cost_usd=nan,
        error=np.isnan(nan),
        logged=np.ones((rows, 1), dtype=np.uint8),
    )
    return made, unit


def test_what_was_written_is_what_is_read(intact: Path) -> None:
    found, made = Router.load(intact).neighbours, fake_bundle.logged()
    assert found is not None
    assert (found.candidates, found.total, len(found), found.dim) == (made.candidates, 100, 24, DIM)
    assert (found.ids, found.workflows, found.at, found.texts) == (made.ids, made.workflows, made.at, made.texts)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(found, name), getattr(made, name))
        assert getattr(found, name).dtype == getattr(made, name).dtype


def test_a_bundle_without_them_has_none(tmp_path: Path) -> None:
    assert Router.load(fake_bundle.build(tmp_path)).neighbours is None


def test_the_same_requests_make_the_same_file(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, fake_bundle.logged())
    assert (tmp_path / "one" / NEIGHBOURS).read_bytes() == (tmp_path / "two" / NEIGHBOURS).read_bytes()


def test_texts_are_written_only_where_they_are_kept_cut_and_for_the_owner_alone(tmp_path: Path) -> None:
    write(tmp_path, replace(fake_bundle.logged(), texts=None))
    assert sorted(path.name for path in tmp_path.iterdir()) == [NEIGHBOURS_ABOUT, NEIGHBOURS]
    assert b"the text of" not in (tmp_path / NEIGHBOURS_ABOUT).read_bytes()
    write(tmp_path, replace(fake_bundle.logged(), texts=["x" * 5_000, None, *[""] * 22]))
    path = tmp_path / NEIGHBOURS_TEXTS
    kept = json.loads(path.read_text(encoding="utf-8"))["texts"]
    assert kept[:3] == ["x" * LONGEST_TEXT, None, ""]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_word_itself_is_nearest() -> None:
    made, query = fake_bundle.logged(), np.zeros(DIM, dtype=np.float32)
    query[WORDS.index("theorem")] = 3.0
    found = made.nearest(query, 4)
    assert [made.ids[one.row] for one in found[:3]] == ["theorem-easy", "theorem-hard", "theorem-None"]
    assert found[0].similarity == pytest.approx(1.0, abs=1e-6)
    assert found[3].similarity == 0.0
    assert [made.ids[one.row] for one in made.nearest(query, 2, workflows={"hard"})] == ["theorem-hard", "prove-hard"]
    assert made.nearest(query, 3, workflows=()) == []


@pytest.mark.parametrize("query", [np.zeros(DIM), np.full(DIM, np.nan), np.full(DIM, np.inf)])
def test_nothing_is_near_a_text_that_says_nothing(query: Any) -> None:
    assert fake_bundle.logged().nearest(query, 3) == []


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 300), dim=st.integers(2, 64), k=st.integers(0, 30))
def test_int8_finds_what_full_precision_finds(seed: int, rows: int, dim: int, k: int) -> None:
    made, unit = many(rows, dim, seed)
    query = np.random.default_rng(seed + 1).normal(size=dim)
    exact = unit @ (query / np.linalg.norm(query))
    found = made.nearest(query, k)
    assert len(found) == len({one.row for one in found}) == min(k, rows)
    # Half a step of each coordinate is what is off at most, and the largest step is 1 / 127.
    slack = np.sqrt(dim) / 254 + 1e-5
    for place, one in enumerate(found):
        assert one.similarity == pytest.approx(exact[one.row], abs=slack)
        assert exact[one.row] >= np.sort(exact)[::-1][place] - 2 * slack
    assert [one.similarity for one in found] == sorted((one.similarity for one in found), reverse=True)


@given(seed=st.integers(0, 10_000), allowed=st.sets(st.sampled_from(["x", "y", "z", "other"])))
def test_of_some_workflows_nothing_else_is_found(seed: int, allowed: set[str]) -> None:
    made, unit = many(50, 8, seed)
    found = made.nearest(unit[0], 50, workflows=allowed)
    assert {made.workflows[one.row] for one in found} == allowed - {"other"}
    assert len(found) == sum(one in allowed for one in made.workflows)


def test_more_rows_than_are_taken_at_a_time_are_all_looked_at() -> None:
    made, unit = many(20_000, 4)
    for row in (0, 8_191, 8_192, 19_999):
        assert made.nearest(unit[row], 1)[0].similarity > 0.99
        assert row in [one.row for one in made.nearest(unit[row], 20)]


def _npz(**changes: Any) -> bytes:
    made = fake_bundle.logged()
    arrays = {name: getattr(made, name) for name in ARRAYS} | changes
    file = BytesIO()
    np.savez(file, **{name: array for name, array in arrays.items() if array is not None})
    return file.getvalue()


def _compressed() -> bytes:
    file = BytesIO()
    np.savez_compressed(file, **{name: getattr(fake_bundle.logged(), name) for name in ARRAYS})
    return file.getvalue()


def _without_arrays() -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for name in ARRAYS:
            packed.writestr(f"{name}.npy", b"no array")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot be read"),
        (b"PK\x03\x04 cut short", "cannot be read"),
        (_without_arrays(), "embedding is .*expected int8"),
        (_compressed(), "is compressed"),
        (_npz(scale=None), "holds .* expected .*'scale'"),
        (_npz(more=np.zeros(1)), "holds"),
        (_npz(scale=np.zeros(24)), "scale is float64 .*expected float32"),
        (_npz(embedding=np.zeros((23, DIM), np.int8)), r"embedding is int8 \(23, 9\), expected int8 \(24, 9\)"),
        (_npz(embedding=np.zeros(24, np.int8)), "embedding is int8"),
        (_npz(quality=np.zeros((24, 2), np.float32)), "quality is float32"),
        (_npz(scale=np.full(24, np.inf, np.float32)), "not finite"),
        (_npz(error=np.array([[object()]], dtype=object)), "cannot be read.*allow_pickle"),
        (_npz(embedding=np.zeros((24, 3), np.int8)), "embeddings of 3 numbers, the bundle's encoder makes 9"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value[:24],
)
def test_broken_arrays_are_a_clear_error(folder: Path, content: bytes, said: str) -> None:
    (folder / NEIGHBOURS).write_bytes(content)
    with pytest.raises(BundleError, match=said) as error:
        Router.load(sealed(folder))
    assert str(folder) in str(error.value)
    assert "Train again" in str(error.value)


def _drop(document: dict[str, Any], *names: str) -> None:
    for name in names:
        del document[name][0]


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda d: d.pop("schema"), "schema: Field required"),
        (lambda d: d.update(schema=2), "schema: Input should be 1"),
        (lambda d: d.update(kept=10**9), "kept"),
        (lambda d: _drop(d, "ids"), "ids is of 23 requests, kept says 24"),
        (lambda d: d["ids"].__setitem__(3, 5), "ids.3: Input should be a valid string"),
        (lambda d: d.update(candidates=["a", "b", "c"]), "is about the candidates a, b, c"),
        (lambda d: d.update(kept=23) or _drop(d, "ids", "workflows", "at"), r"embedding is int8 \(24, 9\)"),
    ],
)
def test_a_broken_document_is_a_clear_error(folder: Path, edit: Callable[[dict[str, Any]], object], said: str) -> None:
    path = folder / NEIGHBOURS_ABOUT
    document = json.loads(path.read_text(encoding="utf-8"))
    edit(document)
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(BundleError, match=said):
        Router.load(sealed(folder))


def test_texts_of_other_requests_are_refused(folder: Path) -> None:
    (folder / NEIGHBOURS_TEXTS).write_text('{"texts": ["one"]}', encoding="utf-8")
    with pytest.raises(BundleError, match=r"neighbours_texts.json: texts is of 1 requests, kept says 24"):
        Router.load(sealed(folder))


@pytest.mark.parametrize("name", [NEIGHBOURS, NEIGHBOURS_ABOUT])
def test_half_of_them_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"has a part of its neighbours and no {name}"):
        Router.load(sealed(folder))


@pytest.mark.parametrize("name", [NEIGHBOURS, NEIGHBOURS_ABOUT, NEIGHBOURS_TEXTS])
def test_their_hashes_are_checked_as_all_files_are(folder: Path, name: str) -> None:
    with (folder / name).open("ab") as file:
        file.write(b" ")
    with pytest.raises(BundleError, match=rf"{name} has sha256"):
        open_bundle(folder)


def test_what_was_hashed_is_what_is_loaded(folder: Path) -> None:
    opened = open_bundle(folder)
    for name in (NEIGHBOURS, NEIGHBOURS_ABOUT, NEIGHBOURS_TEXTS):
        (folder / name).write_bytes(b"another bundle's")
    router = Router(opened)
    assert router.neighbours is not None
    assert len(router.neighbours) == 24
    assert not router.bundle.content


def test_a_bundle_that_is_being_made_has_none_yet(folder: Path) -> None:
    assert Router(Bundle(folder, fake_bundle.manifest())).neighbours is None
