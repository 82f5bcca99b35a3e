"""Kinds of work that a log does not name: how many, what they are called, and that the served graph finds the same ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import pytest

from serving.bundle.arrays import Floats32
from serving.bundle.request import RouteRequest
from serving.decide.router import Router
from tests.conftest import ROOT
from training.config import DEFAULTS, Params, load_params
from training.dataset.kinds import Kinds, find_kinds
from training.learn.export import kinds_to_onnx
from training.learn.onnx_graph import Graph
from training.logs.outcomes import Outcomes
from training.logs.validate import validate
from training.prices.catalogue import SHIPPED, load_catalogue
from training.run import Run, train
from training.simulation.simulate import simulate

QUICK = [
    "fit.estimators=workflow-table,logistic",
    "fit.few_outcomes=0.0",
    "evaluate.splits=false",
    "evaluate.resamples=20",
]


def around(k: int, each: int, spread: float, seed: int = 0) -> tuple[Floats32, Floats32]:
    """Unit vectors around k orthogonal middles, `each` to one, and the middles."""
    middles = np.eye(k, 16, dtype=np.float32)
    noise = np.random.default_rng(seed).normal(0.0, spread, (k * each, 16)).astype(np.float32)
    values = np.repeat(middles, each, axis=0) + noise
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32), middles


@pytest.mark.parametrize("k", [2, 3, 7])
@pytest.mark.parametrize("seed", [0, 1])
def test_silhouette_finds_how_many_there_are(k: int, seed: int) -> None:
    embedding, middles = around(k, 150, 0.1, seed)
    texts = [f"prompt about topic{'abcdefgh'[row // 150]} please" for row in range(len(embedding))]
    kinds = find_kinds(embedding, texts, np.arange(len(embedding)), 12, seed)
    assert kinds is not None
    assert len(kinds.names) == k
    assert (kinds.centres @ middles.T).max(axis=1) == pytest.approx(1.0, abs=0.01)
    assert {name.split(" / ")[0] for name in kinds.names} == {f"topic{letter}" for letter in "abcdefgh"[:k]}
    assert (np.bincount(kinds.of(embedding)) == 150).all()


def test_a_name_holds_no_word_of_few_conversations() -> None:
    embedding, _ = around(2, 150, 0.1)
    texts = ["secretword " * 3 + f"number {row}" for row in range(300)]
    one_conversation_a_kind = np.repeat([0, 1], 150)
    kinds = find_kinds(embedding, texts, one_conversation_a_kind, 12, 0)
    assert kinds is not None
    assert kinds.names == ("kind 1", "kind 2")


@pytest.mark.parametrize(
    "prompt",
    [
        "Anna Schmidt asks",
        "mail anna.schmidt@firma.de",
        "see https://anna.example/schmidt",
        "张伟的电话是多少请帮我翻译",
        "a" * 2_000,
        "token sk-anna-schmidt-secret",
    ],
)
def test_a_name_is_of_plain_words(prompt: str) -> None:
    embedding, _ = around(2, 150, 0.1)
    texts = [prompt if row < 150 else "translate this" for row in range(300)]
    kinds = find_kinds(embedding, texts, np.arange(300), 12, 0)
    assert kinds is not None
    words = {word for name in kinds.names for word in name.split(" / ")}
    assert words <= {"kind 1", "kind 2", "asks", "mail", "token", "https", "translate", "example"}
    numbered = find_kinds(embedding, texts, np.arange(300), 12, 0, named=False)
    assert numbered is not None
    assert numbered.names == ("kind 1", "kind 2")


def test_no_kind_is_of_a_few_prompts_or_of_none() -> None:
    embedding, _ = around(2, 298, 0.05)
    few = np.vstack([embedding[:298], embedding[-10:]])
    assert find_kinds(few, [""] * 308, np.arange(308), 12, 0) is None
    empty = np.vstack([embedding, np.zeros((200, 16), np.float32)])
    kinds = find_kinds(empty, ["x"] * 796, np.arange(796), 12, 0)
    assert kinds is not None
    assert np.linalg.norm(kinds.centres, axis=1) == pytest.approx(1.0)
    two = np.repeat(np.eye(2, 4, dtype=np.float32), 100, axis=0)
    kinds = find_kinds(two, ["a"] * 200, np.arange(200), 12, 0)
    assert kinds is not None
    assert len(kinds.names) == 2


def test_too_few_prompts_or_the_same_one_again_and_again_have_no_kinds() -> None:
    embedding, _ = around(2, 50, 0.1)
    assert find_kinds(embedding, [""] * 100, np.arange(100), 12, 0) is None
    assert find_kinds(embedding, [""] * 100, np.arange(100), 0, 0) is None
    assert find_kinds(np.ones((300, 4), np.float32), ["hi"] * 300, np.arange(300), 12, 0) is None


def test_the_graph_finds_the_kind_that_training_finds() -> None:
    embedding, middles = around(5, 40, 0.3)
    kinds = Kinds(tuple("abcde"), middles)
    graph = Graph(16, 2)
    graph.widen(kinds_to_onnx(graph, kinds), 5)
    graph.output("wide", graph.feature_count, graph.features)
    session = onnxruntime.InferenceSession(graph.model().SerializeToString())
    sent = np.full((len(embedding), 2), 7.0, np.float32)
    (wide,) = session.run(["wide"], {"embedding": embedding, "features": sent})
    clear = kinds.clear(embedding)
    assert clear.mean() > 0.9
    assert (wide[clear] == np.hstack([sent, kinds.one_hot(embedding)])[clear]).all()


@pytest.fixture(scope="module")
def params() -> Params:
    return load_params(DEFAULTS, QUICK)


def trained_on(frame: pd.DataFrame, params: Params, folder: Path) -> Run:
    catalogue = load_catalogue(SHIPPED)
    table: Outcomes = validate(frame, source="simulated", format="simulated")
    return train(table, params, catalogue, out=folder, cache=ROOT / ".cache")


def test_a_log_without_workflows_is_learned_and_reported_by_kinds(params: Params, tmp_path: Path) -> None:
    catalogue = load_catalogue(SHIPPED)
    log = simulate([catalogue[name] for name in params.simulate.candidates], requests=2_500, seed=5).outcomes
    run = trained_on(log.assign(workflow=None), params, tmp_path / "kinds")
    manifest = run.bundle.manifest
    assert len(manifest.head.kinds) >= 2
    assert manifest.head.workflows == ()
    assert {line.workflow for line in run.evaluation.workflows} <= set(manifest.head.kinds)
    assert "workflow table" in {line.name for line in run.evaluation.lines}
    assert not any("withheld" in line.name for line in run.evaluation.lines)
    page = (run.bundle.folder / "report.html").read_text()
    assert "The log names no workflow" in page
    # A request that names a workflow all the same is decided by its prompt's kind, as training did.
    router = Router(run.bundle)
    plain, tagged = (
        router.route(RouteRequest("Translate this to French: hello", None, name)) for name in (None, "sql")
    )
    assert plain.candidate == tagged.candidate
    assert plain.alternatives == tagged.alternatives
    # Without kinds, the table knows one mean for all of them.
    none = trained_on(
        log.assign(workflow=None), replace(params, fit=replace(params.fit, most_kinds=0)), tmp_path / "none"
    )
    assert none.bundle.manifest.head.kinds == ()
    aiq = {
        name: next(line.aiq for line in one.evaluation.lines if line.name == "workflow table")
        for name, one in (("kinds", run), ("none", none))
    }
    assert aiq["kinds"] > aiq["none"]
    assert {line.workflow for line in none.evaluation.workflows} == {"(none)"}
