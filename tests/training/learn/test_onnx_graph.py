"""The graph builder: each piece gives what numpy gives, and the model it makes is a valid one."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests import onnx_run
from tests.onnx_run import of_embedding
from training.learn.onnx_graph import ML_OPSET, OPSET, Graph, logit

X = np.array([[1.0, 2.0, 3.0], [-1.0, 0.0, 4.0]])


def doubling(dim: int) -> onnx.ModelProto:
    """A model of its own: x -> (2x, 2x + 1), with names that a builder's graph might use as well."""
    vector = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Mul", ["embedding", "constant_1"], ["add_1"]),
        helper.make_node("Add", ["add_1", "one"], ["other"]),
    ]
    constants = [
        numpy_helper.from_array(np.array(2.0, dtype=np.float32), "constant_1"),
        numpy_helper.from_array(np.array(1.0, dtype=np.float32), "one"),
    ]
    outputs = [vector(name, TensorProto.FLOAT, ["n", dim]) for name in ("add_1", "other")]
    inputs = [vector("embedding", TensorProto.FLOAT, ["n", dim])]
    graph = helper.make_graph(nodes, "doubling", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def test_linear_by_hand() -> None:
    weight = [[1.0, 0.0], [0.0, 1.0], [2.0, -1.0]]
    made = of_embedding(lambda graph, source: graph.linear(source, weight, [0.5, 0.0]), X, 2)
    assert made.tolist() == [[7.5, -1.0], [7.5, -4.0]]


def test_columns_are_picked_in_the_order_asked() -> None:
    assert of_embedding(lambda graph, source: graph.columns(source, [2, 0]), X, 2).tolist() == [[3.0, 1.0], [4.0, -1.0]]


def test_concat_puts_tensors_side_by_side() -> None:
    def build(graph: Graph, source: str) -> str:
        return graph.concat(graph.columns(source, [1]), graph.columns(source, [0]))

    assert of_embedding(build, X, 2).tolist() == [[2.0, 1.0], [0.0, -1.0]]


def test_concat_of_one_adds_no_node() -> None:
    graph = Graph(3, 1)
    assert graph.concat(graph.embedding) == graph.embedding


def test_both_inputs_reach_the_graph() -> None:
    graph = Graph(3, 2)
    tensor = graph.concat(graph.embedding, graph.features)
    features = [[8.0, 9.0], [10.0, 11.0]]
    assert graph.feature_count == 2
    made = onnx_run.run(graph, tensor, 5, embedding=X, features=features)
    assert made.tolist() == np.hstack([X, features]).tolist()


def test_where_chooses_row_by_row() -> None:
    def build(graph: Graph, source: str) -> str:
        positive = graph.add("Greater", graph.columns(source, [0]), graph.constant(0.0))
        return graph.where(positive, source, graph.constant([[7.0, 8.0, 9.0]]))

    assert of_embedding(build, X, 3).tolist() == [[1.0, 2.0, 3.0], [7.0, 8.0, 9.0]]


def test_row_sum_and_clip() -> None:
    assert of_embedding(lambda graph, source: graph.row_sum(source), X, 1).tolist() == [[6.0], [3.0]]
    made = of_embedding(lambda graph, source: graph.clip(source, 0.5, 2.5), X, 3)
    assert made.tolist() == [[1.0, 2.0, 2.5], [0.5, 0.5, 2.5]]


def test_logit_by_hand() -> None:
    p = np.array([[0.5, 0.75, 0.25]])
    expected = [[0.0, np.log(3), -np.log(3)]]
    assert logit(p) == pytest.approx(np.array(expected))
    assert of_embedding(lambda graph, source: graph.logit(source), p, 3) == pytest.approx(np.array(expected), abs=1e-6)


def test_logit_of_certainty_is_finite_on_both_sides() -> None:
    p = np.array([[0.0, 1.0]])
    numpy_side, graph_side = logit(p), of_embedding(lambda graph, source: graph.logit(source), p, 2)
    assert np.isfinite(numpy_side).all()
    assert np.isfinite(graph_side).all()
    assert numpy_side == pytest.approx(np.array([[-6.9068, 6.9068]]), abs=1e-4)
    assert graph_side == pytest.approx(numpy_side, abs=1e-4)


def test_a_merged_model_keeps_its_own_names_apart() -> None:
    def build(graph: Graph, source: str) -> str:
        shifted = graph.add("Add", source, graph.constant(1.0))  # the merged model uses such names too
        twice, plus_one = graph.merge(doubling(3), shifted)
        again = graph.merge(doubling(3), twice)[1]
        return graph.concat(plus_one, again)

    made = of_embedding(build, X, 6)
    assert made.tolist() == np.hstack([2 * (X + 1) + 1, 4 * (X + 1) + 1]).tolist()


def test_outputs_are_named_and_shaped_and_versions_are_set() -> None:
    graph = Graph(3, 2)
    graph.output("acceptable", 4, graph.linear(graph.embedding, np.ones((3, 4)), np.zeros(4)))
    model = graph.model()
    assert [node.name for node in model.graph.input] == ["embedding", "features"]
    (output,) = model.graph.output
    assert output.name == "acceptable"
    assert [size.dim_value or size.dim_param for size in output.type.tensor_type.shape.dim] == ["n", 4]
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": OPSET, "ai.onnx.ml": ML_OPSET}


def test_a_graph_whose_node_reads_nothing_that_exists_is_refused() -> None:
    graph = Graph(3, 2)
    graph.output("acceptable", 3, graph.add("Sigmoid", "nowhere"))
    with pytest.raises(onnx.checker.ValidationError, match="nowhere"):
        graph.model()


def matrices(columns: int) -> st.SearchStrategy[NDArray[np.float64]]:
    cells = st.floats(-100, 100, width=32)
    return st.lists(st.lists(cells, min_size=columns, max_size=columns), min_size=1, max_size=5).map(np.array)


@settings(deadline=None)
@given(matrices(3))
def test_linear_agrees_with_numpy_for_any_number_of_rows(x: NDArray[np.float64]) -> None:
    weight, bias = np.array([[0.3, -1.2], [0.01, 4.0], [2.5, 0.0]]), np.array([0.1, -7.0])
    made = of_embedding(lambda graph, source: graph.linear(source, weight, bias), x, 2)
    assert made == pytest.approx(x @ weight + bias, rel=1e-5, abs=1e-3)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=8))
def test_logit_agrees_with_numpy(values: list[float]) -> None:
    p = np.array([values])
    made = of_embedding(lambda graph, source: graph.logit(source), p, len(values))
    assert made == pytest.approx(logit(p), rel=1e-4, abs=1e-5)


def test_all_maps_of_one_tensor_are_one_product() -> None:
    generator = np.random.default_rng(0)
    embedding, features = generator.normal(size=(5, 3)), generator.normal(size=(5, 2))
    weights, biases = [generator.normal(size=(5, n)) for n in (1, 4, 2)], [0.5, np.arange(4.0), -1.0]
    graph = Graph(3, 2)
    made = [
        graph.linear(graph.concat(graph.embedding, graph.features), weight, bias)
        for weight, bias in zip(weights, biases, strict=True)
    ]
    between = graph.add("Mul", made[0], graph.constant(2.0))
    both = graph.concat(between, graph.linear(graph.features, np.ones((2, 1)), 0.0), *made)
    result = onnx_run.run(graph, both, 9, embedding=embedding, features=features)
    expected = [np.hstack([embedding, features]) @ weight + bias for weight, bias in zip(weights, biases, strict=True)]
    by_hand = [2 * expected[0], features.sum(axis=1, keepdims=True), *expected]
    assert result == pytest.approx(np.hstack(by_hand), abs=1e-5)
    operators = [node.op_type for node in graph.model().graph.node]
    assert (operators.count("MatMul"), operators.count("Split"), operators.count("Concat")) == (1, 1, 2)


def test_sums_multiples_and_columns_of_maps_are_maps() -> None:
    generator = np.random.default_rng(1)
    embedding, features = generator.normal(size=(5, 3)), generator.normal(size=(5, 2))
    weight = generator.normal(size=(5, 4))
    graph = Graph(3, 2)
    text = graph.linear(graph.concat(graph.embedding, graph.features), weight, 1.0)
    graph.features = graph.scale(graph.features, [1.0, 0.0])
    picked = graph.columns(graph.linear(graph.features, np.ones((2, 4)), 0.0), [3, 0])
    summed = graph.total(
        graph.scale(graph.columns(text, [0, 1]), 2.0), picked, graph.add("Abs", graph.columns(text, [2, 3]))
    )
    result = onnx_run.run(graph, graph.concat(summed, graph.row_sum(text)), 3, embedding=embedding, features=features)
    by_hand = np.hstack([embedding, features]) @ weight + 1.0
    expected = 2 * by_hand[:, :2] + features[:, :1] + np.abs(by_hand[:, 2:])
    assert result == pytest.approx(np.hstack([expected, by_hand.sum(axis=1, keepdims=True)]), abs=1e-5)
    assert [node.op_type for node in graph.model().graph.node].count("MatMul") == 1


def test_what_is_the_same_is_made_once() -> None:
    graph = Graph(3, 2)
    assert graph.constant([1.0, 2.0]) == graph.constant([1.0, 2.0]) != graph.constant([1.0, 2.5])
    assert graph.linear(graph.embedding, np.ones((3, 1)), 0.0) == graph.linear(graph.embedding, np.ones((3, 1)), 0.0)
    assert graph.add("Abs", graph.embedding) == graph.add("Abs", graph.embedding) != graph.add("Neg", graph.embedding)
