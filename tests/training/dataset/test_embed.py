"""Cached embeddings: nothing is computed twice, nothing finished is lost, and no text is written down."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import training.dataset.embed
from serving.bundle.manifest import EncoderSpec
from tests import fake_bundle
from tests.fake_bundle import WORDS
from training.dataset.embed import embed
from training.dataset.encoders import EncoderFiles
from training.owned import NotOwnError

Calls = list[tuple[int, int]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> EncoderFiles:
    folder = fake_bundle.build(tmp_path_factory.mktemp("models"))
    spec = EncoderSpec(name="fake", source="tests", max_tokens=fake_bundle.MAX_TOKENS, dim=fake_bundle.DIM)
    return EncoderFiles(folder, spec)


def counted(calls: Calls) -> Callable[[int, int], None]:
    return lambda done, total: calls.append((done, total))


def direct(files: EncoderFiles, texts: list[str]) -> np.ndarray:
    return files.encoder().encode(texts)


def test_rows_are_the_encoder_s_in_the_order_given(files: EncoderFiles, tmp_path: Path) -> None:
    texts = ["hello world", "prove the theorem", "hello world", "", "sum of two"]
    made = embed(texts, files, tmp_path)
    assert made.dtype == np.float32
    assert made.shape == (5, fake_bundle.DIM)
    assert made == pytest.approx(direct(files, texts), abs=1e-6)
    assert made[0].tolist() == made[2].tolist()


def test_the_second_call_computes_nothing(files: EncoderFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Calls = []
    first = embed(["hello", "world", "hello"], files, tmp_path, progress=counted(calls))
    assert calls == [(2, 2)]  # distinct texts
    monkeypatch.setattr(training.dataset.embed, "Encoder", None)  # nothing may even be loaded
    second = embed(["world", "hello"], files, tmp_path, progress=counted(calls))
    assert calls == [(2, 2)]
    assert second.tolist() == first[[1, 0]].tolist()


def test_only_new_texts_are_computed(files: EncoderFiles, tmp_path: Path) -> None:
    calls: Calls = []
    embed(["hello", "world"], files, tmp_path, progress=counted(calls))
    made = embed(["hello", "sum", "world"], files, tmp_path, progress=counted(calls))
    assert calls == [(2, 2), (1, 1)]
    assert made == pytest.approx(direct(files, ["hello", "sum", "world"]), abs=1e-6)


def test_an_interrupted_run_keeps_the_chunks_that_were_finished(files: EncoderFiles, tmp_path: Path) -> None:
    chunk = training.dataset.embed._CHUNK
    texts = [f"hello {'world ' * (n % 9)}number{n}" for n in range(2 * chunk + 10)]

    def stop(done: int, total: int) -> None:
        if done > chunk:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(texts, files, tmp_path, progress=stop)
    calls: Calls = []
    made = embed(texts, files, tmp_path, progress=counted(calls))
    assert calls == [(10, 10)]  # both chunks before it were finished
    assert made == pytest.approx(direct(files, texts), abs=1e-6)


def test_no_text_is_in_the_cache(files: EncoderFiles, tmp_path: Path) -> None:
    secret = "the password of Ada Lovelace is correcthorse"
    embed([secret, "hello"], files, tmp_path)
    found = list(tmp_path.rglob("*"))
    assert found
    written = b"".join(path.read_bytes() for path in found if stat.S_ISREG(os.lstat(path).st_mode))
    assert len(written) > 0
    for word in ("correcthorse", "Lovelace", "password"):
        assert word.encode() not in written


def test_another_encoder_does_not_get_this_one_s_embeddings(files: EncoderFiles, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for source in (files.onnx, files.tokenizer):
        (other / source.name).write_bytes(source.read_bytes())
    tokens = files.tokenizer.read_text(encoding="utf-8").replace('"theorem"', '"lemma"')
    (other / "tokenizer.json").write_text(tokens, encoding="utf-8")
    changed = replace(files, folder=other)
    assert changed.fingerprint() != files.fingerprint()
    calls: Calls = []
    for one in (files, changed, files):
        embed(["prove the lemma"], one, tmp_path / "cache", progress=counted(calls))
    assert calls == [(1, 1), (1, 1)]
    assert len(list((tmp_path / "cache").glob("*.sqlite"))) == 2


def test_no_texts_are_no_rows(files: EncoderFiles, tmp_path: Path) -> None:
    assert embed([], files, tmp_path).shape == (0, fake_bundle.DIM)


def test_more_texts_than_one_look_up_takes_are_all_found(files: EncoderFiles, tmp_path: Path) -> None:
    texts = [f"hello {'world ' * (n % 7)}{n}" for n in range(2 * training.dataset.embed._LOOK_UP + 1)]
    calls: Calls = []
    first = embed(texts, files, tmp_path)
    assert (embed(texts, files, tmp_path, progress=counted(calls)) == first).all()
    assert calls == []


def test_runs_at_the_same_time_share_a_cache(files: EncoderFiles, tmp_path: Path) -> None:
    texts = [f"hello {'world ' * (n % 7)}{n}" for n in range(50)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: embed(texts, files, tmp_path), range(8)))
    assert all((one == made[0]).all() for one in made)


@settings(max_examples=20, deadline=None)
@given(
    batches=st.lists(
        st.lists(st.lists(st.sampled_from(WORDS[1:]), max_size=4).map(" ".join), max_size=6), min_size=1, max_size=4
    )
)
def test_however_texts_arrive_the_cache_changes_nothing(
    files: EncoderFiles, tmp_path_factory: pytest.TempPathFactory, batches: list[list[str]]
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    for texts in batches:
        made = embed(texts, files, cache)
        assert made.shape == (len(texts), fake_bundle.DIM)
        for text, row in zip(texts, made, strict=True):
            assert row == pytest.approx(direct(files, [text])[0], abs=1e-6)


def test_vectors_that_others_may_have_written_are_not_read(files: EncoderFiles, tmp_path: Path) -> None:
    embed(["hello"], files, tmp_path / "cache")
    kept = next((tmp_path / "cache").glob("*.sqlite"))
    kept.chmod(0o666)
    with pytest.raises(NotOwnError, match=r"sqlite: others can write there \(mode 0666\)"):
        embed(["hello"], files, tmp_path / "cache")
    kept.chmod(0o600)
    (tmp_path / "cache").chmod(0o777)
    with pytest.raises(NotOwnError, match="cache: others can write there"):
        embed(["hello"], files, tmp_path / "cache")
