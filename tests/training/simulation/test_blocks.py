"""A simulated log of any size is made some requests at a time: the same law, each block by its seed and number alone."""

from __future__ import annotations

import hashlib
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from serving.bundle.catalogue import Candidate
from training.cli.main import app
from training.logs.sources import reading
from training.prices.catalogue import SHIPPED, load_catalogue
from training.simulation import simulate as simulation
from training.simulation.simulate import BLOCK, SimulatedLog, simulate, simulate_blocks


@pytest.fixture(scope="module")
def candidates() -> list[Candidate]:
    return list(load_catalogue(SHIPPED).values())[:4]


def test_one_block_is_the_log_as_it_always_was(candidates: list[Candidate]) -> None:
    (only,) = simulate_blocks(candidates, requests=300, seed=3)
    pd.testing.assert_frame_equal(only.outcomes, simulate(candidates, requests=300, seed=3).outcomes)
    priced = [Candidate(name=name, input_usd_per_mtok=price, output_usd_per_mtok=4 * price)
              for name, price in (("small", 0.1), ("large", 2.0))]  # fmt: skip
    text = simulate(priced, requests=200, days=10, seed=11).outcomes.to_csv(index=False, float_format="%.6g")
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "a07e578c902a2c66"


def test_a_block_is_drawn_by_its_seed_and_number_alone(candidates: list[Candidate]) -> None:
    few, many = (list(simulate_blocks(candidates, requests=n, seed=2, block=100)) for n in (200, 350))
    assert [len(one.acceptable) for one in many] == [100, 100, 100, 50]
    for one, other in zip(few, many, strict=False):
        pd.testing.assert_frame_equal(one.outcomes, other.outcomes)
        pd.testing.assert_frame_equal(one.acceptable, other.acceptable)
    for one, other in pairwise(many[:3]):
        assert not np.array_equal(one.acceptable.to_numpy(), other.acceptable.to_numpy())


def test_no_id_comes_twice(candidates: list[Candidate]) -> None:
    blocks = list(simulate_blocks(candidates, requests=450, block=100))
    ids = [name for one in blocks for name in one.acceptable.index]
    assert ids == [f"req-{number:07d}" for number in range(450)]
    for one in blocks:
        assert set(one.outcomes["request_id"]) == set(one.acceptable.index)


def test_blocks_have_the_law_of_one_log(candidates: list[Candidate]) -> None:
    one = simulate(candidates, requests=6000, seed=1)
    blocks = list(simulate_blocks(candidates, requests=6000, seed=9, block=1500))
    parts = SimulatedLog(*(pd.concat([getattr(block, name) for block in blocks])
                           for name in ("outcomes", "acceptable", "cost_usd")))  # fmt: skip

    def figures(log: SimulatedLog) -> dict[str, float]:
        rows = log.outcomes
        single = rows[rows["propensity"] < 1]
        asked = rows.drop_duplicates("request_id")
        texts = asked["prompt"].dropna()
        return {
            "rows": len(rows) / 6000,
            "judged": rows["quality"].notna().mean(),
            "quality": rows["quality"].mean(),
            "errors": (rows["status"] == "error").mean(),
            "acceptable": log.acceptable.to_numpy().mean(),
            "conversations": asked["session_id"].nunique() / 6000,
            "repeats": texts.duplicated().mean(),
            "middle": (asked["timestamp"] - asked["timestamp"].min()).dt.total_seconds().median() / 86400 / 60,
            **{f"to {name}": share for name, share in single["candidate"].value_counts(normalize=True).items()},
            **{f"of {name}": share for name, share in asked["workflow"].value_counts(normalize=True).items()},
        }

    whole, put_together = figures(one), figures(parts)
    assert whole.keys() == put_together.keys()
    for name, share in whole.items():
        assert put_together[name] == pytest.approx(share, abs=0.03), name
    assert parts.cost_usd.to_numpy().mean() == pytest.approx(one.cost_usd.to_numpy().mean(), rel=0.1)


def test_blocks_are_made_one_at_a_time(candidates: list[Candidate], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held does not grow with the log: nothing is drawn before its block is asked for, and nothing is kept of it."""
    asked: list[int] = []
    written = simulation.write_requests
    monkeypatch.setattr(
        simulation, "write_requests", lambda count, *rest: (asked.append(count), written(count, *rest))[1]
    )
    blocks = simulate_blocks(candidates, requests=10**12, block=200)
    peaks = []
    for number in range(4):
        assert asked == [200] * number
        tracemalloc.start()
        next(blocks)
        peaks.append(tracemalloc.get_traced_memory()[1])
        left = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert left < peaks[-1] / 4
    assert max(peaks[1:]) < 1.5 * peaks[1]
    assert BLOCK <= 50_000


def test_several_blocks_are_one_log_by_time(candidates: list[Candidate]) -> None:
    log = simulate(candidates, requests=250, block=100)
    assert log.outcomes["timestamp"].is_monotonic_increasing
    assert log.outcomes.index.equals(pd.RangeIndex(len(log.outcomes)))
    assert set(log.outcomes["request_id"]) == set(log.acceptable.index) == set(log.cost_usd.index)
    assert len(log.acceptable) == 250


def test_the_command_writes_a_folder_that_data_takes(tmp_path: Path) -> None:
    words = ["--set", "simulate.requests=600", "--set", "scale.part_rows=200"]
    made = CliRunner().invoke(app, ["simulate", str(tmp_path / "log"), *words])
    assert made.exit_code == 0, made.output
    assert CliRunner().invoke(app, ["simulate", str(tmp_path / "log.parquet"), *words]).exit_code == 0
    folder, file = (reading.read([tmp_path / name]) for name in ("log", "log.parquet"))
    pd.testing.assert_frame_equal(folder.frame, file.frame)
    assert f"{len(file.frame):,} simulated outcomes written" in made.output
    assert len(list((tmp_path / "log").glob("part-*.parquet"))) < 3  # small parts share a file
    again = CliRunner().invoke(app, ["simulate", str(tmp_path / "log"), *words])
    assert again.exit_code == 2
    assert "exists already" in again.output
