"""The encoder: what reaches the graph, and that a batch gives what its texts give alone."""

from __future__ import annotations

import gc
from pathlib import Path
from types import SimpleNamespace
from weakref import ref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bundle.encoder import CHARS_PER_WINDOW_TOKEN, Encoder
from tests import fake_bundle
from tests.fake_bundle import MAX_TOKENS, WORDS

texts = st.lists(st.lists(st.sampled_from((*WORDS[1:], "other", "世界")), max_size=40).map(" ".join), max_size=8)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder = fake_bundle.build(tmp_path_factory.mktemp("models"))
    return Encoder((folder / "encoder.onnx").read_bytes(), (folder / "tokenizer.json").read_bytes(), MAX_TOKENS)


def test_an_embedding_by_hand(encoder: Encoder) -> None:
    embedding = encoder.encode(["Hello hello world"])[0]
    expected = np.zeros(len(WORDS))
    expected[[WORDS.index("hello"), WORDS.index("world")]] = [2 / 5**0.5, 1 / 5**0.5]
    assert embedding == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("nothing", ["", " \n\t"])
def test_a_text_without_tokens_is_the_zero_vector(encoder: Encoder, nothing: str) -> None:
    assert encoder.encode([nothing]).tolist() == [[0.0] * encoder.dim]
    embeddings = encoder.encode(["hello", nothing, "world"])
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx([1, 0, 1], abs=1e-6)


def test_no_texts_is_no_rows(encoder: Encoder) -> None:
    assert encoder.encode([]).shape == (0, encoder.dim)


@pytest.mark.parametrize("between", [1, 1_000, 50_000])
def test_head_and_tail_are_kept_and_the_middle_does_not_matter(encoder: Encoder, between: int) -> None:
    half = MAX_TOKENS // 2
    long = f"{'hello ' * half}{'prove ' * between}{'world ' * half}"
    expected = encoder.encode(["hello " * half + "world " * half])
    assert encoder.encode([long]) == pytest.approx(expected, abs=1e-6)


def test_a_long_text_without_spaces_is_cut_before_it_is_tokenised(encoder: Encoder) -> None:
    half = MAX_TOKENS * CHARS_PER_WINDOW_TOKEN // 2
    glued = "hello " + "x" * 10 * half + " world"
    embedding = encoder.encode([glued])[0]
    assert embedding[WORDS.index("hello")] > 0
    assert embedding[WORDS.index("world")] > 0


@given(texts=texts)
def test_a_batch_gives_what_its_texts_give_alone_in_their_order(encoder: Encoder, texts: list[str]) -> None:
    together = encoder.encode(texts)
    assert together.shape == (len(texts), encoder.dim)
    for text, row in zip(texts, together, strict=True):
        assert row == pytest.approx(encoder.encode([text])[0], abs=1e-6)


def test_a_batch_larger_than_one_run_keeps_its_order(encoder: Encoder) -> None:
    words = [WORDS[1 + row % (len(WORDS) - 1)] for row in range(3_000)]
    embeddings = encoder.encode([f"{word} " * (1 + row % 20) for row, word in enumerate(words)])
    assert [WORDS[column] for column in embeddings.argmax(axis=1)] == words


def test_what_has_an_attention_mask_embeds_each_text_by_itself(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quantised transformer takes the scale of its numbers from the whole batch: a neighbour would change a decision."""
    shapes: list[tuple[int, ...]] = []
    run = encoder._session.run

    def noted(outputs: None, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert set(feed) == {"input_ids", "attention_mask"}
        assert (feed["attention_mask"] == 1).all()
        shapes.append(feed["input_ids"].shape)
        return run(outputs, feed)

    monkeypatch.setattr(encoder, "_session", SimpleNamespace(run=noted))
    encoder.encode(["hello", "hello world", "", "world"])
    assert sorted(shapes) == [(1, 1), (1, 1), (1, 2)]


def test_one_encoder_serves_all_bundles_that_have_the_same(tmp_path: Path) -> None:
    folder = fake_bundle.build(tmp_path)
    files = (folder / "encoder.onnx").read_bytes(), (folder / "tokenizer.json").read_bytes()
    window = 7_001  # that no other test's router has, for it would keep this one's encoder
    first, other = Encoder.of(*files, window), Encoder.of(*files, window + 1)
    assert Encoder.of(*files, window) is first is not other
    gone = ref(first)
    del first
    gc.collect()
    assert gone() is None, "an encoder that nobody uses is kept"
