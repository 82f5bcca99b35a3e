"""Writes what a bundle runs on: heads, calibration and cost model as one `head.onnx`, checked against training."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx

from serving.bundle.arrays import AnyFloats, Columns, Floats
from serving.bundle.encoder import onnx_session
from serving.bundle.layout import ESTIMATES, Layout
from training.dataset.encoders import EncoderFiles
from training.dataset.inputs import Inputs
from training.dataset.kinds import Kinds
from training.errors import TrainingError
from training.learn.costs import to_onnx
from training.learn.heads.pair import Pair
from training.learn.heads.recognise import LEAST_NOVELTY, Recogniser
from training.learn.heads.select import Head
from training.learn.heads.violation import others
from training.learn.learn import Learned
from training.learn.onnx_graph import Graph

# So many requests are compared: a graph that computes something else does so on most of them.
_COMPARED = 4_096


class ParityError(TrainingError):
    """The exported graph does not compute what training computes; the bundle is not written."""


def head_graph(learned: Learned, dim: int, features: int, surface: int) -> onnx.ModelProto:
    """`embedding` (n, dim) and `features` (n, k) in; `ESTIMATES` out, as `Layout` says."""
    graph = Graph(dim, features)
    if learned.kinds is not None:
        graph.widen(kinds_to_onnx(graph, learned.kinds), len(learned.kinds.names))
    as_said, recogniser = graph.features, learned.acceptable.recogniser
    if recogniser is not None:
        graph.add_columns(recognised_to_onnx(graph, recogniser, surface), features - surface)
    acceptable = pair_to_onnx(graph, learned.acceptable, surface)
    quality = acceptable if learned.quality is None else pair_to_onnx(graph, learned.quality, surface)
    violation = _violation(graph, learned, acceptable, surface)
    graph.features = as_said
    costs = learned.costs
    usual, tail = costs.latency.factors
    expected = to_onnx(
        graph,
        [
            (costs.output_tokens, costs.output_tokens.factors[0]),
            (costs.logged_cost, costs.logged_cost.factors[0]),
            (costs.latency, usual),
            (costs.latency, tail),
        ],
    )
    nearness = graph.linear(graph.embedding, learned.centres.T, 0.0)
    width = Layout(len(costs.candidates), len(learned.centres)).width
    graph.output(ESTIMATES, width, acceptable, quality, violation, expected, nearness, learned.spread.to_onnx(graph))
    return graph.model()


def kinds_to_onnx(graph: Graph, kinds: Kinds) -> str:
    """The tensor (n, k) that `kinds.one_hot` gives of the embeddings."""
    nearness = graph.add("MatMul", graph.embedding, graph.constant(kinds.centres.T))
    nearest = graph.add("ArgMax", nearness, axis=1, keepdims=0)
    return graph.add("Gather", graph.constant(np.eye(len(kinds.names))), nearest, axis=0)


def recognised_to_onnx(graph: Graph, recogniser: Recogniser, surface: int) -> str:
    """The tensor (n, workflows) that tells the workflow of each request without a known tag, and is 0 for the others."""
    dim, weight = len(recogniser.weight) - graph.feature_count, recogniser.weight.copy()
    weight[dim + surface :] = 0.0
    text = graph.add("MatMul", graph.embedding, graph.constant(weight[:dim]))
    counts = graph.add("MatMul", graph.features, graph.constant(weight[dim:]))
    scores = graph.add("Sum", text, counts, graph.constant(recogniser.bias))
    likeliest = graph.add(
        "Gather",
        graph.constant(np.eye(weight.shape[1])[:, :-1]),
        graph.add("ArgMax", scores, axis=1, keepdims=0),
        axis=0,
    )
    return graph.where(_tagged(graph, surface), graph.constant(np.zeros((1, weight.shape[1] - 1))), likeliest)


def _tagged(graph: Graph, surface: int) -> str:
    """The tensor (n, 1) that is true where the features that were sent say a workflow."""
    tags = np.zeros((graph.feature_count, 1))
    tags[surface:] = 1.0
    return graph.add("Greater", graph.add("MatMul", graph.sent, graph.constant(tags)), graph.constant(0.0))


def pair_to_onnx(graph: Graph, pair: Pair, surface: int) -> str:
    """The tagged head, mixed with the untagged one on features without workflow as `Pair` says."""
    tagged = _calibrated(graph, pair.tagged)
    if pair.untagged is pair.tagged:
        return tagged
    mask = np.concatenate([np.ones(surface), np.zeros(graph.feature_count - surface)])
    whole = graph.features
    graph.features = graph.scale(graph.features, mask)
    without = _calibrated(graph, pair.untagged)
    graph.features = whole
    if pair.recogniser is None:
        return graph.where(_tagged(graph, surface), tagged, without)
    recogniser = pair.recogniser
    novelty = graph.add("Log", graph.add("Max", recogniser.spread.to_onnx(graph), graph.constant(LEAST_NOVELTY)))
    falling = graph.add("Mul", novelty, graph.constant(-recogniser.slope))
    chance = graph.add("Sigmoid", graph.add("Add", falling, graph.constant(recogniser.level)))
    known = graph.where(_tagged(graph, surface), graph.constant([[1.0]]), chance)
    lead = graph.add("Mul", known, graph.add("Sub", tagged, without))
    return graph.add("Add", without, lead)


def _violation(graph: Graph, learned: Learned, acceptable: str, surface: int) -> str:
    """The tensor (n, m) of `Learned.violations`."""
    m, reference = len(learned.costs.candidates), learned.reference
    whole = np.eye(m)
    failing, best = graph.add("Sub", graph.constant(1.0), acceptable), graph.columns(acceptable, [reference])
    if learned.violation is None:
        broken = graph.add("Mul", failing, best)
        return graph.add("Mul", broken, graph.constant(1.0 - whole[reference]))
    kept = pair_to_onnx(graph, learned.violation.kept, surface)
    placed = graph.add("MatMul", kept, graph.constant(-whole[others(m, reference)]))
    violation = graph.add("Add", placed, graph.constant(1.0 - whole[reference]))
    least = graph.add("Max", graph.add("Sub", best, acceptable), graph.constant(0.0))
    return graph.add("Max", graph.add("Min", violation, graph.add("Min", failing, best)), least)


def _calibrated(graph: Graph, head: Head) -> str:
    return head.calibrator.to_onnx(graph, head.estimator.to_onnx(graph))


def check_parity(path: Path, learned: Learned, inputs: Inputs, tolerance: float) -> float:
    """The largest |graph - training| of P(acceptable) and expected quality, over requests with and without their tags.

    Expected costs are compared relative to their size. Raises ParityError above `tolerance` (ten times it for costs, which
    pass through an exponential).
    """
    session = onnx_session(path.read_bytes())
    worst = 0.0
    layout = Layout(len(learned.costs.candidates), len(learned.centres))
    if learned.kinds is not None:
        clear = learned.kinds.clear(inputs.embedding)
        if 2 * clear.sum() < len(clear):
            raise ParityError(
                f"{(~clear).sum()} of {len(clear)} requests are as near to one kind of work as to another"
            )
        inputs = inputs.take(clear)
    recogniser = learned.acceptable.recogniser
    for part in (inputs,) if inputs.derived else (inputs, inputs.untagged()):
        if recogniser is not None:
            part = part.take(part.tagged | recogniser.clear(part))
        feed = {"embedding": part.embedding, "features": part.sent}
        outputs = layout.parts(session.run([ESTIMATES], feed)[0])
        worst = max(worst, _worst(outputs["acceptable"], learned.acceptable.predict(part), "P(acceptable)", tolerance))
        worst = max(worst, _worst(outputs["violation"], learned.violations(part), "P(violation)", tolerance))
        quality = learned.quality or learned.acceptable
        worst = max(worst, _worst(outputs["quality"], quality.predict(part), "expected quality", tolerance))
        costs = learned.costs
        for name, expected in (
            ("output_tokens", costs.output_tokens.predict(part)),
            ("logged_cost_usd", costs.logged_cost.predict(part)),
            ("latency_ms", costs.latency.predict(part)),
            ("latency_p95_ms", costs.latency.predict_tail(part)),
        ):
            scale = np.maximum(np.abs(expected), 1e-12)  # a free candidate is compared as it is
            _worst(outputs[name] / scale, expected / scale, name, 10 * tolerance)
        novelty = learned.spread.novelty(part.embedding)[:, None]
        _worst(outputs["novelty"] / novelty, np.ones_like(novelty), "novelty", 10 * tolerance)
    return worst


def _worst(graph: AnyFloats, training: Floats, what: str, tolerance: float) -> float:
    if (np.isnan(graph) != np.isnan(training)).any():
        raise ParityError(f"{what}: the exported graph and training disagree on what is unknown")
    gaps = np.abs(graph - training)
    if np.isnan(gaps).all():
        return 0.0
    worst = float(np.nanmax(gaps))
    if worst > tolerance:
        row, column = np.unravel_index(int(np.nanargmax(gaps)), gaps.shape)
        raise ParityError(
            f"{what}: the exported graph gives {graph[row, column]:.7g} where training gives {training[row, column]:.7g} "
            f"(request {row}, candidate {column}); {tolerance:g} is allowed. The bundle was not written."
        )
    return worst


def write_files(folder: Path, learned: Learned, encoder: EncoderFiles, inputs: Inputs, tolerance: float) -> float:
    """Puts the encoder, the tokenizer and the head into `folder`; returns the parity measured on `inputs`.

    Of many requests a part is compared: training's side of it takes longer than the graph's.
    """
    model = head_graph(learned, inputs.embedding.shape[1], inputs.sent.shape[1], inputs.surface)
    shutil.copyfile(encoder.onnx, folder / "encoder.onnx")
    shutil.copyfile(encoder.tokenizer, folder / "tokenizer.json")
    onnx.save(model, folder / "head.onnx")
    return check_parity(folder / "head.onnx", learned, inputs.take(compared(inputs)), tolerance)


def compared(inputs: Inputs) -> Columns:
    """Places of at most 4,096 requests drawn at random, and of one of each workflow; of all where there are no more."""
    if len(inputs) <= _COMPARED:
        return np.arange(len(inputs))
    drawn = np.random.default_rng(0).choice(len(inputs), _COMPARED, replace=False)
    _, first = np.unique(inputs.features[:, inputs.surface :], axis=0, return_index=True)
    return np.union1d(drawn, first)
