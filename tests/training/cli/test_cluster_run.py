"""`router-train run` and `import` on a cluster of this machine's own: the same folder, the same bundle."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

import training.run
from serving.decide.router import Router
from tests.conftest import QUICK, router_train_here
from tests.training.engine.leftovers import IGNORED
from training.config import load_params
from training.engine.cluster import ClusterEngine
from training.engine.engine import Engine
from training.engine.local import HERE
from training.engine.named import engine_of
from training.logs.outcomes import Outcomes
from training.logs.validate import validate
from training.prices.catalogue import SHIPPED, load_catalogue
from training.run import Run, train
from training.simulation.simulate import simulate

CATALOGUE = load_catalogue(SHIPPED)
EQUAL = 1e-6
pytestmark = IGNORED


def test_a_folder_is_imported_as_without(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    for number in range(5):
        rows = [
            {
                "request_id": f"r{(number * 40 + place) % 130}",  # some are in two files, and the first one's count
                "prompt": f"Why is {(number * 40 + place) % 130} so?",
                "candidate": "small" if (number + place) % 2 else "large",
                "quality": 0.5 + 0.5 * (place % 2),
                "cost_usd": 0.001 * (number + 1),
            }
            for place in range(40)
        ]
        lines = [*map(json.dumps, rows), *(["not JSON"] if number == 3 else [])]
        (logs / f"hour-{number}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    cluster = ["--cluster", "local:1", "--cluster-folder", tmp_path / "shared"]
    found = []
    for name, more in (("here", []), ("there", cluster)):
        out = tmp_path / name
        done = router_train_here("import", "--data", logs, "--out", out, *more)
        assert done.returncode == 0, done.stderr
        assert ("local:1: 1 worker on 1 machine" in done.stdout) == (name == "there")
        found.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert found[0] == found[1]
    account = json.loads(found[0]["_account.json"])
    assert account["rows_read"] == 201
    assert account["skipped"]["unreadable line"] == 1
    assert list((tmp_path / "shared").iterdir()) == []


@pytest.fixture(scope="module")
def log() -> Outcomes:
    wanted = [CATALOGUE[name] for name in load_params().simulate.candidates]
    made = simulate(wanted, requests=400, seed=3, days=60.0, shadow_share=0.3)
    return validate(made.outcomes, source="simulated", format="simulated")


def trained(log: Outcomes, out: Path, cache: Path, engine: Engine, kill: bool = False) -> tuple[Run, int]:
    """A run, and how many workers were killed in it: the first, once half of the fits out of fold are done."""
    killed: list[int] = []

    def tell(stage: str, done: int | None = None, total: int | None = None) -> None:
        fitting = stage == "acceptable, with workflow tags" and done and total and 2 * done >= total
        if kill and fitting and not killed and isinstance(engine, ClusterEngine):
            killed.append(next(iter(engine.client.run(os.getpid).values())))
            os.kill(killed[0], signal.SIGKILL)

    # Splits are evaluated, and a part is kept aside to certify on, as of a large log.
    params = load_params(overrides=(*QUICK, "evaluate.splits=true", "policy.cross_fit_below=0"))
    return train(log, params, CATALOGUE, out=out, cache=cache, progress=tell, engine=engine), len(killed)


def test_a_run_makes_the_bundle_of_a_run_without_though_a_worker_is_killed_half_way(
    log: Outcomes, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is drawn rests on what is compared here, and takes longer than all else of a log this small.
    monkeypatch.setattr(training.run.report, "write", lambda *_: None)
    here, _ = trained(log, tmp_path / "here", cache, HERE)
    for embedded in (cache / "embeddings").iterdir():  # by the cluster they are made anew
        embedded.unlink()
    with engine_of("local:2", tmp_path / "shared", lambda _: None) as engine:
        there, killed = trained(log, tmp_path / "there", cache, engine, kill=True)
    assert killed == 1
    requests = list(here.prepared.matrix.requests[:300])
    first, second = (Router(run.bundle).estimate(requests) for run in (here, there))
    for name, values in vars(first).items():
        np.testing.assert_allclose(getattr(second, name), values, atol=EQUAL, rtol=0, err_msg=name)
    one, other = here.bundle.manifest, there.bundle.manifest
    assert one.operating_points == other.operating_points
    assert one.reference == other.reference
    assert {**one.metrics} == pytest.approx({**other.metrics}, nan_ok=True)
    assert here.evaluation.splits == there.evaluation.splits
    assert list((tmp_path / "shared").iterdir()) == []
