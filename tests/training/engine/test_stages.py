"""The stages that a cluster works on give what they give without: embedding, what a router says, and the other splits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serving.bundle.features import SURFACE, feature_matrix
from serving.bundle.manifest import EncoderSpec
from serving.decide.router import Router
from tests import fake_bundle
from tests.training.engine.leftovers import IGNORED
from training.certify.asked import asked
from training.config import load_params
from training.dataset.embed import embed
from training.dataset.encoders import EncoderFiles
from training.dataset.inputs import Inputs
from training.engine.engine import Engine, silent
from training.engine.local import HERE
from training.engine.named import engine_of
from training.evaluate.splits import split_figures
from training.learn.prepare import prepare
from training.logs.validate import validate
from training.prices.catalogue import SHIPPED, load_catalogue
from training.simulation.simulate import simulate

pytestmark = IGNORED


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with engine_of("local:1", tmp_path_factory.mktemp("shared"), lambda _: None) as found:
        yield found


def test_embeddings(engine: Engine, tmp_path: Path) -> None:
    spec = EncoderSpec(name="fake", source="tests", max_tokens=fake_bundle.MAX_TOKENS, dim=fake_bundle.DIM)
    files = EncoderFiles(fake_bundle.build(tmp_path / "models"), spec)
    texts = [f"hello {'world ' * (n % 7)}{n}" for n in range(1_100)]
    told: list[tuple[int, int]] = []
    here = embed(texts, files, tmp_path / "here", engine=HERE)
    there = embed(texts, files, tmp_path / "there", engine=engine, progress=lambda *one: told.append(one))
    np.testing.assert_array_equal(there, here)
    assert told == [(512, 1_100), (1_024, 1_100), (1_100, 1_100)]


def test_what_a_router_says(engine: Engine, tmp_path: Path) -> None:
    router = Router.load(fake_bundle.build(tmp_path / "models"))
    requests = np.array([f"prove {'the theorem ' * (n % 5)}{n}" for n in range(3_000)], dtype=object)
    (here, where), (there, columns) = (asked(router, requests, each, silent) for each in (HERE, engine))
    assert len(columns) == 3_000
    np.testing.assert_array_equal(columns, where)
    for name, values in vars(here).items():
        np.testing.assert_array_equal(getattr(there, name), values, err_msg=name)
    nothing, nowhere = asked(router, requests[:0], HERE, silent)
    assert (len(nothing.acceptable), len(nowhere)) == (0, 0)


def test_other_splits(engine: Engine) -> None:
    usual, catalogue = load_params(), load_catalogue(SHIPPED)
    params = replace(usual, evaluate=replace(usual.evaluate, resamples=20))
    wanted = [catalogue[name] for name in params.simulate.candidates]
    made = simulate(wanted, requests=500, seed=3, days=60.0, shadow_share=0.5)
    prepared = prepare(validate(made.outcomes, source="simulated", format="simulated").frame, params, catalogue)
    n = len(prepared.labels)
    embedding = np.random.default_rng(0).normal(size=(n, 64)).astype(np.float32)
    features = feature_matrix(list(prepared.matrix.requests), prepared.workflows)
    inputs = Inputs(embedding, features, len(SURFACE), np.full(n, 20.0))
    here, there = (split_figures(prepared, inputs, params, each) for each in (HERE, engine))
    assert any(line.why_not is None for line in here)
    assert [line.name for line in there] == [line.name for line in here]
    for one, other in zip(here, there, strict=True):
        assert other == one
