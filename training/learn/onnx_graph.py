"""A small builder for `head.onnx`: estimators and calibrators add their nodes to it, converters' graphs are merged in."""

from __future__ import annotations

from collections.abc import Sequence
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

    Every method that adds something returns the name of the tensor it makes. What is an affine map of the inputs is kept as
    its matrix, and so are sums, multiples and columns of such: all that other nodes read of them is one product in the end.
    """

    def __init__(self, dim: int, features: int) -> None:
        self.embedding = "embedding"
        self.features = self.sent = "features"
        self.feature_count = features
        self._sizes = {"embedding": dim, "features": features}
        # The tensors that stand side by side in the product, and the maps by name: a matrix of their columns, and a bias.
        self._base = ["embedding", "features"]
        whole = np.eye(dim + features)
        self._maps: dict[str, tuple[Floats, Floats]] = {
            "embedding": (whole[:, :dim], np.zeros(dim)),
            "features": (whole[:, dim:], np.zeros(features)),
        }
        self._read: dict[str, None] = {}  # maps that a node reads
        self._known: dict[object, str] = {}  # what was made before, by what it is
        self._nodes: list[onnx.NodeProto] = []
        self._product_at = 0
        self._constants: list[onnx.TensorProto] = []
        self._output: onnx.ValueInfoProto | None = None
        self._count = 0

    def widen(self, tensor: str, columns: int) -> None:
        """Puts the columns of a tensor (n, columns) behind the features, for whatever is added from here on."""
        rows = sum(self._sizes.values())
        self._sizes[tensor] = columns
        self._base.append(tensor)
        self._product_at = len(self._nodes)
        whole = np.eye(rows + columns)[:, self._sizes["embedding"] :]
        self.features = self._map(whole, np.zeros(whole.shape[1]))
        self.feature_count += columns

    def add_columns(self, tensor: str, columns: int) -> None:
        """Adds a tensor (n, columns) to the last columns of the features, for whatever is added from here on."""
        kept = self.feature_count
        self.widen(tensor, columns)
        both = np.eye(kept + columns)[:, :kept]
        both[kept:, kept - columns :] = np.eye(columns)
        self.features = self.linear(self.features, both, 0.0)
        self.feature_count = kept

    def constant(self, values: ArrayLike, dtype: type[np.generic] = np.float32) -> str:
        array = np.ascontiguousarray(np.asarray(values, dtype=dtype))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = self._fresh("constant")
            self._constants.append(numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output; the same one is not added twice."""
        key = (operator, inputs, tuple(sorted(attributes.items())))
        if key not in self._known:
            self._known[key] = self._fresh(operator.lower())
            self._node(operator, inputs, [self._known[key]], **attributes)
        return self._known[key]

    def linear(self, source: str, weight: ArrayLike, bias: ArrayLike) -> str:
        """source (n, a), a map of the inputs, @ weight (a, b) + bias (b,)."""
        matrix, shift = self._maps[source]
        columns = np.asarray(weight, dtype=np.float64)
        moved = np.broadcast_to(np.asarray(bias, dtype=np.float64), (columns.shape[1],))
        return self._map(matrix @ columns, shift @ columns + moved)

    def scale(self, source: str, by: ArrayLike) -> str:
        """source (n, a) times `by`, a number or (a,)."""
        if source not in self._maps:
            return self.add("Mul", source, self.constant(by))
        matrix, shift = self._maps[source]
        return self._map(matrix * np.asarray(by), shift * np.asarray(by))

    def total(self, *sources: str) -> str:
        """The sum of tensors (n, a)."""
        maps = [self._maps[one] for one in sources if one in self._maps]
        others = [one for one in sources if one not in self._maps]
        if maps:
            together = [_padded(matrix, max(len(matrix) for matrix, _ in maps)) for matrix, _ in maps]
            others.append(self._map(np.sum(together, axis=0), np.sum([shift for _, shift in maps], axis=0)))
        return others[0] if len(others) == 1 else self.add("Sum", *others)

    def columns(self, source: str, which: ArrayLike) -> str:
        """The given columns of a (n, a) tensor, in that order."""
        if source not in self._maps:
            return self.add("Gather", source, self.constant(which, np.int64), axis=1)
        matrix, shift = self._maps[source]
        return self._map(matrix[:, np.asarray(which)], shift[np.asarray(which)])

    def concat(self, *sources: str) -> str:
        if len(sources) == 1:
            return sources[0]
        if any(one not in self._maps for one in sources):
            return self.add("Concat", *sources, axis=1)
        matrices, shifts = zip(*(self._maps[one] for one in sources), strict=True)
        rows = max(map(len, matrices))
        return self._map(np.hstack([_padded(one, rows) for one in matrices]), np.concatenate(shifts))

    def where(self, condition: str, yes: str, no: str) -> str:
        return self.add("Where", condition, yes, no)

    def top(self, source: str, size: int) -> tuple[str, str]:
        """The `size` largest values of each row, falling, and their columns: both (n, size)."""
        values, columns = self._fresh("top_values"), self._fresh("top_columns")
        self._node("TopK", (source, self.constant([size], np.int64)), [values, columns], axis=1)
        return values, columns

    def row_sum(self, source: str) -> str:
        """(n, 1) sum over columns."""
        if source not in self._maps:
            return self.add("ReduceSum", source, self.constant([1], np.int64), keepdims=1)
        return self.linear(source, np.ones((self._maps[source][0].shape[1], 1)), 0.0)

    def clip(self, source: str, low: float, high: float) -> str:
        return self.add("Clip", source, self.constant(low), self.constant(high))

    def logit(self, probability: str) -> str:
        """log(p / (1 - p)) with p kept `_EPSILON` away from 0 and 1."""
        inside = self.clip(probability, _EPSILON, 1.0 - _EPSILON)
        return self.add("Log", self.add("Div", inside, self.add("Sub", self.constant(1.0), inside)))

    def merge(self, model: onnx.ModelProto, source: str) -> list[str]:
        """Another model's nodes, its only input fed by `source`; returns the names of its outputs."""
        prefix = self._fresh("model") + "_"
        graph = compose.add_prefix(model, prefix).graph
        self._constants.extend(graph.initializer)
        self._uses(source)
        for node in graph.node:
            node.input[:] = [source if name == graph.input[0].name else name for name in node.input]
            self._nodes.append(node)
        return [output.name for output in graph.output]

    def output(self, name: str, columns: int, *tensors: str) -> None:
        """Gives tensors side by side out under `name`, (n, columns)."""
        operator, axis = ("Identity", {}) if len(tensors) == 1 else ("Concat", {"axis": 1})
        self._node(operator, tensors, [name], **axis)
        self._output = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", columns])

    def model(self) -> onnx.ModelProto:
        """The checked model, once everything was added. Its IR version is one that every onnxruntime since 1.18 reads."""
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", self._sizes[name]])
            for name in ("embedding", "features")
        ]
        nodes = [*self._nodes[: self._product_at], *self._product(), *self._nodes[self._product_at :]]
        graph = helper.make_graph(nodes, "head", inputs, [self._output], self._constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", ML_OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10, producer_name="outcome-router")
        onnx.checker.check_model(model)
        return model

    def _node(self, operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> None:
        for name in inputs:
            self._uses(name)
        self._nodes.append(helper.make_node(operator, list(inputs), list(outputs), **attributes))

    def _uses(self, name: str) -> None:
        if name in self._maps and name not in self._base:
            self._read[name] = None

    def _map(self, matrix: Floats, shift: Floats) -> str:
        key = (matrix.shape, matrix.tobytes(), shift.tobytes())
        if key not in self._known:
            self._known[key] = self._fresh("map")
            self._maps[self._known[key]] = matrix, shift
        return self._known[key]

    def _product(self) -> list[onnx.NodeProto]:
        """The nodes of all maps that are read: the inputs side by side, one product, one sum, and a cut."""
        if not self._read:
            return []
        rows = sum(self._sizes.values())
        weight = self.constant(np.hstack([_padded(self._maps[name][0], rows) for name in self._read]))
        bias = self.constant(np.concatenate([self._maps[name][1] for name in self._read]))
        base, product, total = (self._fresh(kind) for kind in ("base", "product", "maps"))
        total = next(iter(self._read)) if len(self._read) == 1 else total
        nodes = [
            helper.make_node("Concat", self._base, [base], axis=1),
            helper.make_node("MatMul", [base, weight], [product]),
            helper.make_node("Add", [product, bias], [total]),
        ]
        if len(self._read) > 1:
            sizes = self.constant([len(self._maps[name][1]) for name in self._read], np.int64)
            nodes.append(helper.make_node("Split", [total, sizes], list(self._read), axis=1))
        return nodes

    def _fresh(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._count}"


def _padded(matrix: Floats, rows: int) -> Floats:
    """The matrix with rows of zeros below, for inputs that came to stand behind those it is of."""
    return np.vstack([matrix, np.zeros((rows - len(matrix), matrix.shape[1]))])


def logit(probability: Floats) -> Floats:
    """The same function as `Graph.logit`, for training's side."""
    inside = np.clip(probability, _EPSILON, 1.0 - _EPSILON)
    value: Floats = np.log(inside) - np.log1p(-inside)
    return value
