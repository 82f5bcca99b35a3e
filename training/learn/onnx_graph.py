"""A small builder for `head.onnx`: estimators and calibrators add their nodes to it, converters' graphs are merged in."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import TensorProto, compose, helper, numpy_helper

from serving.bundle.arrays import Floats

OPSET = 18
ML_OPSET = 3
# How near to 0 and 1 a logit looks. Nearer, float32 rounding of 1 - p would show in what follows it.
_EPSILON = 1e-3


class Graph:
    """Collects nodes over two inputs, `embedding` (n, dim) and `features` (n, k), both float32.

    Every method that adds something returns the name of the tensor it makes.
    """

    def __init__(self, dim: int, features: int) -> None:
        self.embedding = "embedding"
        self.features = "features"
        self._sizes = {"embedding": dim, "features": features}
        self.feature_count = features
        # A name stands for the product of all maps of the tensor of that name, which are known when the model is made.
        self._nodes: list[onnx.NodeProto | str] = []
        self._maps: dict[str, list[tuple[str, Floats, Floats]]] = {}
        self._joined: dict[tuple[str, ...], str] = {}
        self._constants: list[onnx.TensorProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    def widen(self, tensor: str, columns: int) -> None:
        """Puts the columns of a tensor (n, columns) behind the features, for whatever is added from here on."""
        self.features = self.concat(self.features, tensor)
        self.feature_count += columns

    def constant(self, values: ArrayLike, dtype: type[np.generic] = np.float32) -> str:
        name = self._fresh("constant")
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(np.asarray(values, dtype=dtype)), name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = self._fresh(operator.lower())
        self._nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def linear(self, source: str, weight: ArrayLike, bias: ArrayLike) -> str:
        """source (n, a) @ weight (a, b) + bias (b,). All such maps of one tensor are computed as one."""
        if source not in self._maps:
            self._maps[source] = []
            self._nodes.append(source)
        name, columns = self._fresh("linear"), np.asarray(weight, dtype=np.float64)
        shift = np.broadcast_to(np.asarray(bias, dtype=np.float64), (columns.shape[1],))
        self._maps[source].append((name, columns, shift))
        return name

    def columns(self, source: str, which: ArrayLike) -> str:
        """The given columns of a (n, a) tensor, in that order."""
        return self.add("Gather", source, self.constant(which, np.int64), axis=1)

    def concat(self, *sources: str) -> str:
        if len(sources) == 1:
            return sources[0]
        if sources not in self._joined:
            self._joined[sources] = self.add("Concat", *sources, axis=1)
        return self._joined[sources]

    def where(self, condition: str, yes: str, no: str) -> str:
        return self.add("Where", condition, yes, no)

    def top(self, source: str, size: int) -> tuple[str, str]:
        """The `size` largest values of each row, falling, and their columns: both (n, size)."""
        values, columns = self._fresh("top_values"), self._fresh("top_columns")
        size_name = self.constant([size], np.int64)
        self._nodes.append(helper.make_node("TopK", [source, size_name], [values, columns], axis=1))
        return values, columns

    def row_sum(self, source: str) -> str:
        """(n, 1) sum over columns."""
        return self.add("ReduceSum", source, self.constant([1], np.int64), keepdims=1)

    def clip(self, source: str, low: float, high: float) -> str:
        return self.add("Clip", source, self.constant(low), self.constant(high))

    def logit(self, probability: str) -> str:
        """log(p / (1 - p)) with p kept `_EPSILON` away from 0 and 1."""
        inside = self.clip(probability, _EPSILON, 1.0 - _EPSILON)
        return self.add("Sub", self.add("Log", inside), self.add("Log", self.add("Sub", self.constant(1.0), inside)))

    def merge(self, model: onnx.ModelProto, source: str) -> list[str]:
        """Another model's nodes, its only input fed by `source`; returns the names of its outputs."""
        prefix = self._fresh("model") + "_"
        graph = compose.add_prefix(model, prefix).graph
        self._constants.extend(graph.initializer)
        for node in graph.node:
            node.input[:] = [source if name == graph.input[0].name else name for name in node.input]
            self._nodes.append(node)
        return [output.name for output in graph.output]

    def output(self, tensor: str, name: str, columns: int) -> None:
        """Gives a tensor (n, columns) out under `name`."""
        self._nodes.append(helper.make_node("Identity", [tensor], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", columns]))

    def model(self) -> onnx.ModelProto:
        """The checked model, once everything was added. Its IR version is one that every onnxruntime since 1.18 reads."""
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in self._sizes.items()
        ]
        nodes = [node for one in self._nodes for node in (self._product(one) if isinstance(one, str) else (one,))]
        graph = helper.make_graph(nodes, "head", inputs, self._outputs, self._constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="outcome-router")
        onnx.checker.check_model(model)
        return model

    def _product(self, source: str) -> list[onnx.NodeProto]:
        """The nodes of all maps of one tensor: one product, one sum, and a cut where there are several."""
        names, weights, biases = zip(*self._maps[source], strict=True)
        weight, bias = self.constant(np.hstack(weights)), self.constant(np.concatenate(biases))
        product, total = self._fresh("product"), names[0] if len(names) == 1 else self._fresh("maps")
        nodes = [
            helper.make_node("MatMul", [source, weight], [product]),
            helper.make_node("Add", [product, bias], [total]),
        ]
        if len(names) > 1:
            sizes = self.constant([len(one) for one in biases], np.int64)
            nodes.append(helper.make_node("Split", [total, sizes], list(names), axis=1))
        return nodes

    def _fresh(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._count}"


def logit(probability: Floats) -> Floats:
    """The same function as `Graph.logit`, for training's side."""
    inside = np.clip(probability, _EPSILON, 1.0 - _EPSILON)
    value: Floats = np.log(inside) - np.log1p(-inside)
    return value
