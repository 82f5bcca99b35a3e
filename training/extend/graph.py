"""The champion's head with one more candidate behind its own: its nodes stay as they are, a few follow them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper

from serving.bundle.arrays import AnyFloats, Floats, Floats32
from serving.bundle.encoder import onnx_session
from serving.bundle.layout import BY_CANDIDATE, ESTIMATES, Layout
from training.extend.amounts import AMOUNTS, Amount
from training.extend.column import CAUTION, Column
from training.learn.export import ParityError
from training.learn.heads.calibrate import FLOOR

# How near to 0 and 1 a logit looks, as in `learn.onnx_graph`.
_EPSILON = 1e-3
_PREFIX = "added"


@dataclass(frozen=True)
class NewColumn:
    """Everything that the head says of the new candidate. `quality` is None where answers are acceptable or not, no more.

    `harm` is how much of the way from the least to what two independent chances make the violation goes.
    """

    acceptable: Column
    quality: Column | None
    harm: float
    reference: int
    amounts: dict[str, Amount]

    def predict(self, known: dict[str, AnyFloats], workflows: AnyFloats) -> dict[str, Floats]:
        """By name, (n,) each: what the graph says of n requests, of what the champion's head says, `known` (n, m) each."""
        acceptable = self.acceptable.predict(known["acceptable"], workflows)
        quality = acceptable if self.quality is None else self.quality.predict(known["quality"], workflows)
        best = known["acceptable"][:, self.reference].astype(np.float64)
        least = np.maximum(best - acceptable, 0.0)
        violation = least + self.harm * ((1.0 - acceptable) * best - least)
        amounts = {name: self.amounts[name].predict(known[name]) for name in AMOUNTS}
        return {"acceptable": acceptable, "quality": quality, "violation": violation, **amounts}


class _Nodes:
    """Nodes that are put behind those of a model."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self._count = 0

    def constant(self, values: ArrayLike, dtype: type[np.generic] = np.float32) -> str:
        name = self._fresh("constant")
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(values, dtype=dtype), name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: object) -> str:
        name = self._fresh(operator.lower())
        self.graph.node.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def columns(self, source: str, which: ArrayLike) -> str:
        return self.add("Gather", source, self.constant(which, np.int64), axis=1)

    def _fresh(self, kind: str) -> str:
        self._count += 1
        return f"{_PREFIX}_{kind}_{self._count}"


def extended(head: bytes, column: NewColumn, candidates: int, surface: int) -> onnx.ModelProto:
    """The head of so many `candidates` with `column` behind them; the first `surface` features are no workflows."""
    model = onnx.load_from_string(head)
    before, output = f"{_fresh_prefix(model)}_champion", model.graph.output[0]
    width = output.type.tensor_type.shape.dim[1].dim_value
    clusters = width - Layout(candidates, 0).width
    for node in model.graph.node:
        node.output[:] = [before if name == ESTIMATES else name for name in node.output]
        node.input[:] = [before if name == ESTIMATES else name for name in node.input]
    nodes = _Nodes(model)

    def known(name: str, columns: ArrayLike) -> str:
        return nodes.columns(before, BY_CANDIDATE.index(name) * candidates + np.asarray(columns, dtype=np.int64))

    everyone = np.arange(candidates)
    features = next(one for one in model.graph.input if one.name == "features")
    tags = np.arange(surface, features.type.tensor_type.shape.dim[1].dim_value)
    workflows = nodes.columns("features", tags) if len(tags) else None
    chances = known("acceptable", everyone)
    acceptable = _chance(nodes, column.acceptable, chances, workflows)
    quality = acceptable
    if column.quality is not None:
        quality = _chance(nodes, column.quality, known("quality", everyone), workflows)
    best, one = known("acceptable", [column.reference]), nodes.constant(1.0)
    least = nodes.add("Max", nodes.add("Sub", best, acceptable), nodes.constant(0.0))
    alone = nodes.add("Mul", nodes.add("Sub", one, acceptable), best)
    more = nodes.add("Mul", nodes.add("Sub", alone, least), nodes.constant(column.harm))
    parts = [acceptable, quality, nodes.add("Add", least, more)]
    parts.append(_amounts(nodes, column, before, candidates))
    whole = nodes.add("Concat", before, *parts, axis=1)
    places = [
        [*(place * candidates + everyone), width + place]  # the new one's stand behind everything as yet
        for place in range(len(BY_CANDIDATE))
    ]
    order = np.concatenate([*places, np.arange(width - clusters - 1, width)])
    model.graph.node.append(helper.make_node("Gather", [whole, nodes.constant(order, np.int64)], [ESTIMATES], axis=1))
    del model.graph.output[:]
    wider = Layout(candidates + 1, clusters).width
    model.graph.output.append(helper.make_tensor_value_info(ESTIMATES, TensorProto.FLOAT, ["n", wider]))
    onnx.checker.check_model(model)
    return model


def _amounts(nodes: _Nodes, column: NewColumn, before: str, candidates: int) -> str:
    """(n, 4) what each `Amount.predict` gives, in one product of logarithms; one without columns is its factor."""
    amounts = [column.amounts[name] for name in AMOUNTS]
    which, share = [0], [np.zeros(len(AMOUNTS))]  # a chance has a logarithm, and counts for nothing
    for place, (name, amount) in enumerate(zip(AMOUNTS, amounts, strict=True)):
        which += [BY_CANDIDATE.index(name) * candidates + one for one in amount.columns]
        share += [np.eye(len(AMOUNTS))[place] / len(amount.columns)] * len(amount.columns)
    mean = nodes.add("MatMul", nodes.add("Log", nodes.columns(before, which)), nodes.constant(np.array(share)))
    return nodes.add("Mul", nodes.add("Exp", mean), nodes.constant([one.factor for one in amounts]))


def _fresh_prefix(model: onnx.ModelProto) -> str:
    """Names of this extension; one of a head that was extended before has its nodes renamed out of the way."""
    taken = {name for node in model.graph.node for name in node.output}
    if not any(name.startswith(f"{_PREFIX}_") for name in taken):
        return _PREFIX
    again = {name: f"before_{name}" for name in _added(model)}
    for node in model.graph.node:
        node.input[:] = [again.get(name, name) for name in node.input]
        node.output[:] = [again.get(name, name) for name in node.output]
    for tensor in model.graph.initializer:
        tensor.name = again.get(tensor.name, tensor.name)
    return _PREFIX


def _added(model: onnx.ModelProto) -> set[str]:
    names = {name for node in model.graph.node for name in node.output} | {one.name for one in model.graph.initializer}
    return {name for name in names if name.startswith(("before_", f"{_PREFIX}_"))}


def _chance(nodes: _Nodes, column: Column, chances: str, workflows: str | None) -> str:
    """(n, 1) what `Column.predict` gives."""
    inside = nodes.add("Clip", chances, nodes.constant(_EPSILON), nodes.constant(1.0 - _EPSILON))
    odds = nodes.add("Div", inside, nodes.add("Sub", nodes.constant(1.0), inside))
    features = nodes.add("MatMul", nodes.add("Log", odds), nodes.constant(column.structure.weight))
    features = nodes.add("Add", features, nodes.constant(column.structure.shift))
    if workflows is not None:
        features = nodes.add("Concat", features, workflows, axis=1)
    level = nodes.add("MatMul", features, nodes.constant(column.coefficients[:, None]))
    apart = nodes.add("MatMul", features, nodes.constant(column.root))
    spread = nodes.add("ReduceSumSquare", apart, nodes.constant([1], np.int64), keepdims=1)
    caution = nodes.add("Mul", nodes.add("Sqrt", spread), nodes.constant(CAUTION))
    chance = nodes.add("Sigmoid", nodes.add("Sub", level, caution))
    return nodes.add("Clip", chance, nodes.constant(FLOOR), nodes.constant(1.0 - FLOOR))


def check_extension(
    before: bytes,
    after: bytes,
    column: NewColumn,
    candidates: int,
    feed: dict[str, Floats32],
    surface: int,
    tolerance: float,
) -> float:
    """The largest |graph - prediction| of the new column's chances; raises ParityError above `tolerance`.

    Amounts are compared relative to their size, at ten times it. What is said of the others has to be the same bit by bit.
    """
    (old,), (new,) = (onnx_session(head).run([ESTIMATES], feed) for head in (before, after))
    clusters = old.shape[1] - Layout(candidates, 0).width
    known, found = Layout(candidates, clusters).parts(old), Layout(candidates + 1, clusters).parts(new)
    for name, values in known.items():
        others = found[name][:, :candidates] if name in BY_CANDIDATE else found[name]
        if not np.array_equal(values, others, equal_nan=True):
            raise ParityError(f"{name} of the candidates that the champion knows is not what it was before")
    worst = 0.0
    for name, expected in column.predict(known, feed["features"][:, surface:]).items():
        arrived = found[name][:, candidates]
        if (np.isnan(arrived) != np.isnan(expected)).any():
            raise ParityError(f"{name}: the extended graph and its fit disagree on what is unknown")
        size = np.maximum(np.abs(expected), 1e-12) if name in AMOUNTS else 1.0
        gap = float(np.nanmax(np.abs(arrived - expected) / size, initial=0.0))
        allowed = 10 * tolerance if name in AMOUNTS else tolerance
        if gap > allowed:
            raise ParityError(f"{name}: the extended graph is {gap:.2g} off its fit; {allowed:g} is allowed")
        worst = max(worst, 0.0 if name in AMOUNTS else gap)
    return worst
