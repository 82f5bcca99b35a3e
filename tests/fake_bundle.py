"""A bundle that nobody trained: small graphs whose estimates can be worked out by hand.

The logit of P(acceptable) is a candidate's `BASE`, plus `HARD` if the workflow is "hard", plus `PROVE` times the
embedding's coordinate for "prove" (1 for a text of that word alone, 0 without it). Input tokens are the counted ones,
output tokens are `OUTPUT_TOKENS`, and the candidate without a price costs `LOGGED_COST`. Each word is a cluster's centre,
and novelty is 1 less the similarity to the nearest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace

from serving.bundle.catalogue import Candidate
from serving.bundle.features import SURFACE
from serving.bundle.layout import BY_CANDIDATE, ESTIMATES, Layout
from serving.bundle.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    REQUIRED_FILES,
    Certificate,
    EncoderSpec,
    HeadSpec,
    Manifest,
    Novelty,
    Objective,
    OperatingPoint,
    Usual,
    WorkflowBound,
    new_bundle,
    seal,
    switch_current,
)
from serving.bundle.neighbours import Neighbours, quantised
from serving.bundle.neighbours import write as write_neighbours

VERSION = "fake-1"
WORKFLOWS = ("easy", "hard")
WORDS = ("[UNK]", "prove", "the", "theorem", "hello", "world", "sum", "of", "two")
MAX_TOKENS = 16
DIM = len(WORDS)

SMALL, OPEN, LARGE = "acme/small", "open/medium", "acme/large"
CANDIDATES = (
    Candidate(
        name=SMALL,
        provider="acme",
        input_usd_per_mtok=0.1,
        output_usd_per_mtok=0.4,
        context_window=2_000,
        tools=False,
        vision=False,
        json_schema=False,
        hosting="external",
    ),
    Candidate(name=OPEN, context_window=8_000, vision=False, hosting="self"),
    Candidate(
        name=LARGE,
        provider="acme",
        input_usd_per_mtok=5.0,
        output_usd_per_mtok=20.0,
        context_window=200_000,
        tools=True,
        vision=True,
        json_schema=True,
        hosting="external",
    ),
)
BASE = (1.0, 2.0, 4.0)
HARD = (-3.0, -1.5, -0.5)
PROVE = (-2.0, -1.0, 0.0)
OUTPUT_TOKENS = (100.0, 200.0, 300.0)
LOGGED_COST = (0.0, 0.001, 0.0)
LATENCY_MS = (200.0, float("nan"), 900.0)
USUAL = {
    SMALL: Usual(
        output_tokens=100, cost_usd=5e-5, latency_p95_ms=600, input_ratio=1, counted_tokens=100, longest=1_000_000
    ),
    OPEN: Usual(
        output_tokens=200, cost_usd=0.001, latency_p95_ms=None, input_ratio=1, counted_tokens=100, longest=1_000_000
    ),
    LARGE: Usual(
        output_tokens=300, cost_usd=0.0065, latency_p95_ms=2_700, input_ratio=1, counted_tokens=100, longest=1_000_000
    ),
}

POINTS = (
    OperatingPoint(name="balanced", knob=20.0, calibration_requests=100, quality=0.9, saving=0.6),
    OperatingPoint(name="q0.8", quality_target=0.8, knob=100.0, calibration_requests=100, quality=0.82),
    OperatingPoint(name="q0.9", quality_target=0.9, knob=10.0, calibration_requests=100, quality=0.91),
    OperatingPoint(name="cheapest", knob=float("inf"), calibration_requests=100, quality=0.7),
)
KNOBS = (0.0, 1.0, 10.0, 100.0, 1_000.0, 10_000.0, float("inf"))


def certificate(**changes: Any) -> Certificate:
    """One made on requests with the tag "easy" and without a tag."""
    bound = WorkflowBound(requests=50, violation_rate=0.0, bound=0.02, saving=0.1)
    made = Certificate(
        alpha=0.1,
        delta=0.1,
        method="clopper-pearson",
        requests=100,
        effective_requests=100,
        violation_rate=0.0,
        bound=0.02,
        saving_low=0.1,
        saving_high=0.2,
        workflows={"(none)": bound, "easy": bound},
    )
    return made.model_copy(update=changes)


def build(root: Path, version: str = VERSION, *, neighbours: bool = False, frontier: bool = False) -> Path:
    """Writes the bundle to `root/version`, points `root/current` at it and gives its folder.

    With `neighbours` it has some logged requests, and their texts. With `frontier`, it has a certified default point and what a
    small log says of it.
    """

    with new_bundle(root, version) as folder:
        _tokenizer().save(str(folder / "tokenizer.json"))
        onnx.save(_encoder(), folder / "encoder.onnx")
        onnx.save(_head(), folder / "head.onnx")
        if neighbours:
            write_neighbours(folder, logged())
        made = manifest(version)
        if frontier:
            made = _measured(folder, made)
        seal(folder, made)
    switch_current(root, version)
    return (root / version).resolve()


def logged() -> Neighbours:
    """Logged requests: for each word one that is "easy", one that is "hard", and one without a workflow.

    The small one was tried on all and answered the easy ones well, the large one on those without a workflow, where it
    failed; the open one on none.
    """
    rows = [(word, workflow) for word in WORDS[1:] for workflow in ("easy", "hard", None)]
    easy = np.array([workflow == "easy" for _, workflow in rows], dtype=np.float32)
    untagged = np.array([workflow is None for _, workflow in rows])
    nan = np.full(len(rows), np.nan, dtype=np.float32)
    cost = np.float32(1e-4)
    embedding, scale = quantised(np.eye(DIM, dtype=np.float32)[[WORDS.index(word) for word, _ in rows]])
    return Neighbours(
        candidates=tuple(one.name for one in CANDIDATES),
        total=100,
        ids=[f"{word}-{workflow}" for word, workflow in rows],
        workflows=[workflow for _, workflow in rows],
        at=["2025-12-01T00:00:00Z"] * len(rows),
        embedding=embedding,
        scale=scale,
        quality=np.stack([easy, nan, nan], axis=1),
        cost_usd=np.stack([np.full_like(nan, cost), nan, np.where(untagged, np.float32(0.01), nan)], axis=1),
        error=np.stack([nan > 0, nan > 0, untagged], axis=1),
        logged=np.stack([nan != 0, nan > 0, untagged], axis=1).astype(np.uint8),
        texts=[f"the text of {word}, {workflow}" for word, workflow in rows],
    )


def _measured(folder: Path, made: Manifest) -> Manifest:
    """The manifest with a certified default point, a sweep that rises and the month's figures; writes `frontier.json`."""
    from tests import fake_frontier
    from training.publish.document import with_month, write_document

    certified = fake_frontier.CERTIFIED
    points = (certified, *(point for point in made.operating_points if point.name != certified.name))
    made = made.model_copy(
        update={
            "operating_points": points,
            "default_point": certified.name,
            "knobs": (0.0, *np.geomspace(0.1, 1e4, 24).tolist(), 1e9),
        }
    )
    seal(folder, made)
    document = fake_frontier.document(folder)
    (folder / MANIFEST).unlink()
    write_document(folder, document)
    return made.model_copy(update={"metrics": with_month(made.metrics, document)})


def manifest(version: str = VERSION) -> Manifest:
    """The manifest, before its files are hashed."""
    return Manifest(
        format_version=FORMAT_VERSION,
        version=version,
        created="2026-01-01T00:00:00Z",
        data_fingerprint="0" * 16,
        simulated=True,
        candidates=CANDIDATES,
        cost_from={SMALL: "tokens", OPEN: "logged", LARGE: "tokens"},
        usual=USUAL,
        reference=LARGE,
        acceptable=0.5,
        objective=Objective.ACCEPTABLE,
        graded=False,
        encoder=EncoderSpec(name="fake", source="tests", max_tokens=MAX_TOKENS, dim=DIM),
        head=HeadSpec(
            estimator="linear", estimator_untagged="linear", calibration="none", surface=SURFACE, workflows=WORKFLOWS
        ),
        operating_points=POINTS,
        default_point="balanced",
        knobs=KNOBS,
        novelty=Novelty(threshold=2.0, shares=(1.0 / DIM,) * DIM),
        metrics={"aiq": 0.8},
        files=dict.fromkeys(REQUIRED_FILES, ""),
    )


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer


def _encoder() -> onnx.ModelProto:
    """Each word is an axis; a text is the mean of its words, at unit length."""
    nodes = [
        helper.make_node("Gather", ["vectors", "input_ids"], ["words"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["words", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "middle"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "middle"], ["count"], keepdims=1),
        helper.make_node("Div", ["total", "count"], ["mean"]),
        helper.make_node("LpNormalization", ["mean"], ["embedding"], axis=1, p=2),
    ]
    constants: dict[str, NDArray[np.generic]] = {
        "vectors": np.eye(DIM, dtype=np.float32),
        "last": np.array([2], dtype=np.int64),
        "middle": np.array([1], dtype=np.int64),
    }
    ids = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "length"])
        for name in ("input_ids", "attention_mask")
    ]
    return _model(nodes, ids, [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", DIM])], constants)


def _head() -> onnx.ModelProto:
    columns, m = len(SURFACE) + len(WORKFLOWS), len(CANDIDATES)
    by_embedding = np.zeros((DIM, m), dtype=np.float32)
    by_embedding[WORDS.index("prove")] = PROVE
    by_feature = np.zeros((columns, m), dtype=np.float32)
    by_feature[len(SURFACE) + WORKFLOWS.index("hard")] = HARD
    zero = np.zeros((columns, m), dtype=np.float32)
    nodes = [
        helper.make_node("MatMul", ["embedding", "by_embedding"], ["from_text"]),
        helper.make_node("MatMul", ["features", "by_feature"], ["from_features"]),
        helper.make_node("Sum", ["from_text", "from_features", "base"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["acceptable"]),
        helper.make_node("Identity", ["acceptable"], ["quality"]),
        helper.make_node("Sub", ["one", "acceptable"], ["failing"]),
        helper.make_node("Gather", ["acceptable", "reference"], ["best"], axis=1),
        helper.make_node("Mul", ["failing", "best"], ["broken"]),
        helper.make_node("Mul", ["broken", "other_row"], ["violation"]),
        helper.make_node("MatMul", ["features", "zero"], ["nothing"]),
        *(
            helper.make_node("Add", ["nothing", f"{name}_row"], [name])
            for name in ("output_tokens", "logged_cost_usd", "latency_ms", "latency_p95_ms")
        ),
    ]
    rows = {
        "base": BASE,
        "one": (1.0,),
        "other_row": tuple(float(one.name != LARGE) for one in CANDIDATES),
        "output_tokens_row": OUTPUT_TOKENS,
        "logged_cost_usd_row": LOGGED_COST,
        "latency_ms_row": LATENCY_MS,
        "latency_p95_ms_row": tuple(3 * value for value in LATENCY_MS),
    }
    constants = {name: np.array(row, dtype=np.float32) for name, row in rows.items()}
    reference = [one.name for one in CANDIDATES].index(LARGE)
    constants |= {"reference": np.array([reference], dtype=np.int64)}
    constants |= {"by_embedding": by_embedding, "by_feature": by_feature, "zero": zero}
    inputs = [
        helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", DIM]),
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", columns]),
    ]
    nodes.append(helper.make_node("ReduceMax", ["embedding"], ["nearest"], axes=[1], keepdims=1))
    nodes.append(helper.make_node("Sub", ["one", "nearest"], ["novelty"]))
    nodes.append(helper.make_node("Concat", [*BY_CANDIDATE, "embedding", "novelty"], [ESTIMATES], axis=1))
    outputs = [helper.make_tensor_value_info(ESTIMATES, TensorProto.FLOAT, ["n", Layout(m, DIM).width])]
    return _model(nodes, inputs, outputs, constants)


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: Mapping[str, NDArray[np.generic]],
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "fake", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
