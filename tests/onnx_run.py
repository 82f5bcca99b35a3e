"""Runs graphs made with `training.learn.onnx_graph.Graph` on arrays, for tests that compare them with numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import ArrayLike, NDArray

from training.learn.onnx_graph import Graph


def run(graph: Graph, tensor: str, columns: int, *, embedding: ArrayLike, features: ArrayLike) -> NDArray[np.float64]:
    """(n, columns) values of `tensor`, which becomes the graph's only output."""
    graph.output("result", columns, tensor)
    feed = {"embedding": np.asarray(embedding, dtype=np.float32), "features": np.asarray(features, dtype=np.float32)}
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(graph.model().SerializeToString(), options, providers=["CPUExecutionProvider"])
    taken = {node.name for node in session.get_inputs()}
    result: Any = session.run(["result"], {name: value for name, value in feed.items() if name in taken})[0]
    return np.asarray(result, dtype=np.float64)


def of_embedding(build: Callable[[Graph, str], str], values: ArrayLike, columns: int) -> NDArray[np.float64]:
    """What `build(graph, source)` makes of `values` (n, d) fed as the embedding."""
    array = np.asarray(values, dtype=np.float32)
    graph = Graph(array.shape[1], 1)
    tensor = build(graph, graph.embedding)
    return run(graph, tensor, columns, embedding=array, features=np.zeros((len(array), 1)))
