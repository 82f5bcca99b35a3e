"""A log that is looked at a partition at a time is said the same of as one that is held in memory, to the last digit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import training.inspect.large
import training.inspect.tried
from serving.bundle.catalogue import Candidate
from training.cli.main import app
from training.config import DEFAULTS, load_params
from training.dataset.label import judged_quality
from training.dataset.matrix import build_matrix
from training.dataset.split import connected_requests, group_requests, split_requests
from training.dataset.tries import one_outcome_each
from training.inspect.exact import exact_sums, rounded
from training.inspect.large import large
from training.inspect.log import inspect_log, inspect_rows, notes, rows_of
from training.inspect.report import LogReport
from training.logs import aliases
from training.logs.io import files
from training.logs.outcomes import Outcomes
from training.logs.sources import reading
from training.prices.catalogue import SHIPPED, load_catalogue
from training.simulation.simulate import simulate

PARAMS = load_params(DEFAULTS, ())
CATALOGUE = load_catalogue(SHIPPED)
ALIASED = {"a": Candidate(name="a", aliases=("a-1", "a-2")), "b": Candidate(name="b", aliases=("b-1",))}


def simulated(path: Path) -> Mapping[str, Candidate]:
    """The simulated log, some of it twice and some of it unusable."""
    made = simulate(list(CATALOGUE.values())[:4], requests=1500, days=30, seed=5).outcomes
    made.loc[7, "quality"] = 3.0
    made.loc[900, "propensity"] = -1.0
    pd.concat([made, made.iloc[100:140]]).to_json(path, orient="records", lines=True, date_format="iso")
    return CATALOGUE


def shuffled(path: Path) -> Mapping[str, Candidate]:
    """Tries of a request far apart: failures and what came after, other names, purchases, weak signals, parts, no dates."""
    draw = np.random.default_rng(3)
    rows: list[dict[str, Any]] = []
    for _ in range(2000):
        request = int(draw.integers(400))
        purpose = str(draw.choice(["certify", "learn"])) if draw.random() < 0.1 else None
        row = {
            "request_id": f"r{request}",
            "prompt": f"what is said on day {request % 150} "
            + "of the long and telling year that was " * (request % 2),
            "candidate": str(draw.choice(["a", "a-1", "a-2", "b", "b-1", "c"])),
            "quality": float(draw.integers(5)) / 4 if draw.random() < 0.6 else None,
            "quality_source": str(draw.choice(["thumb", "retried", "judge"])) if draw.random() < 0.2 else None,
            "cost_usd": float(draw.random()) * 10.0 ** float(draw.integers(-9, 3)) if draw.random() < 0.9 else None,
            "input_tokens": int(draw.integers(1000)) if draw.random() < 0.9 else None,
            "output_tokens": int(draw.integers(1000)) if draw.random() < 0.9 else None,
            "latency_ms": float(draw.random()) * 1000,
            "timestamp": f"2026-01-{draw.integers(1, 28):02}T10:00:00.{draw.integers(999):03}Z"
            if request % 9
            else None,
            "session_id": f"s{request // 3}" if request % 4 else None,
            "workflow": str(draw.choice(["x", "y"])) if draw.random() < 0.8 else None,
            "propensity": 0.25 if purpose or draw.random() < 0.5 else None,
            "purpose": purpose,
            "split": "test" if request % 40 == 0 else None,
            "status": "error" if not purpose and draw.random() < 0.3 else "success",
        }
        rows.append({name: value for name, value in row.items() if value is not None})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ALIASED


def by_prompt(path: Path) -> Mapping[str, Candidate]:
    """Answers without ids: requests are equal prompts, in Windows' line ends and other capitals as well."""
    rows = [
        {"prompt": f"Question  {number // 3 % 90}" if number % 2 else f"question {number // 3 % 90}\r\n",
         "candidate": "abc"[number % 3] if number < 60 else "a", "quality": number % 5 / 4, "latency_ms": number / 7}
        for number in range(500)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ALIASED


def fallbacks(path: Path) -> Mapping[str, Candidate]:
    """A gateway that asks another candidate where the first fails; none of one candidate's answers is judged."""
    rows: list[dict[str, Any]] = []
    for number in range(300):
        asked = ["a", "b", "c"] if number % 7 == 0 else ["a", "b"] if number % 5 == 0 else ["abd"[number % 3]]
        for place, candidate in enumerate(asked):
            row = {
                "request_id": f"r{number}",
                "prompt": f"p{number % 100}",
                "candidate": candidate,
                "latency_ms": 1.1 * number,
            }
            failed = place < len(asked) - 1 or number % 11 == 0
            rows.append(row | ({"status": "error"} if failed else {"quality": 1.0} if candidate != "d" else {}))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ALIASED


LOGS = [simulated, shuffled, by_prompt, fallbacks]
Written = Callable[[Path], Mapping[str, Candidate]]


@pytest.mark.parametrize("write", LOGS)
def test_in_parts_as_in_memory(write: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue = write(tmp_path / "log.jsonl")
    whole = reading.read([tmp_path / "log.jsonl"])
    expected = inspect_log(aliases.resolve(whole, catalogue), catalogue, PARAMS)
    monkeypatch.setattr(files, "_RECORDS", 37)
    monkeypatch.setattr(training.inspect.tried, "_AT_ONCE", 50)
    monkeypatch.setattr(training.inspect.log, "_AT_ONCE", 50)
    parts = list(reading.stream([tmp_path / "log.jsonl"]))
    assert len(parts) > 10
    rows = rows_of(parts)
    assert inspect_rows(rows, catalogue, PARAMS).document() == expected.document()
    assert notes(rows) == whole.notes


@pytest.mark.parametrize("write", LOGS)
def test_the_figures_are_those_of_the_tables_that_training_makes(write: Written, tmp_path: Path) -> None:
    catalogue = write(tmp_path / "log.jsonl")
    table = aliases.resolve(reading.read([tmp_path / "log.jsonl"]), catalogue)
    check_against_tables(inspect_log(table, catalogue, PARAMS), table)


def check_against_tables(report: LogReport, table: Outcomes) -> None:
    frame = table.frame.assign(quality=judged_quality(table.frame))
    outcomes = one_outcome_each(frame)
    chosen = outcomes[~outcomes["chained"]].assign(judged=lambda one: one["quality"].notna())
    tries = chosen.groupby("request_id", sort=False).agg(tried=("candidate", "size"), judged=("judged", "sum"))
    names = sorted(frame["candidate"].unique())
    everywhere = tries["tried"] == len(names)
    assert report.requests == len(tries)
    assert report.requests_of_several_candidates == (tries["tried"] > 1).sum()
    assert report.requests_of_all_candidates == everywhere.sum()
    assert report.complete == (tries["judged"] == len(names)).sum()
    assert report.chained == outcomes["chained"].sum()
    assert report.sessions == frame["session_id"].nunique()
    assert report.aliases == table.aliases
    assert report.propensities == frame["propensity"].notna().sum()
    assert report.cost_usd == math.fsum(frame["cost_usd"].dropna())
    assert report.timestamped_requests == frame.loc[frame["timestamp"].notna(), "request_id"].nunique()
    assert [one.name for one in report.candidates] == names
    for one, (_, rows) in zip(report.candidates, frame.groupby("candidate", sort=True), strict=True):
        judged = rows[rows["quality"].notna()]
        known = judged["propensity"].mask(judged["request_id"].map(everywhere).astype(bool), 1.0).dropna()
        sample = float((1 / known).sum()) ** 2 / float((1 / known**2).sum()) if len(known) else None
        assert one.effective_sample == (None if sample is None else pytest.approx(sample, rel=1e-12))
    for lines, column in ((report.candidates, "candidate"), (report.workflows, "workflow")):
        grouped = frame.assign(workflow=frame["workflow"].fillna("(none)")).groupby(column, sort=True)
        for one, (name, rows) in zip(lines, grouped, strict=True):
            assert (one.name, one.rows, one.requests) == (name, len(rows), rows["request_id"].nunique())
            assert (one.judged, one.errors) == (rows["quality"].notna().mean(), (rows["status"] == "error").mean())
            assert one.cost_usd == math.fsum(rows["cost_usd"].dropna())
            assert (one.input_tokens, one.output_tokens) == (rows["input_tokens"].sum(), rows["output_tokens"].sum())
            for found, values in ((one.quality, rows["quality"]), (one.latency_ms, rows["latency_ms"])):
                assert found == (pytest.approx(values.mean(), rel=1e-12) if values.notna().any() else None)
    requests = build_matrix(frame.assign(candidate="any"))
    fractions = (PARAMS.split.train, PARAMS.split.calibration, 1 - PARAMS.split.train - PARAMS.split.calibration)
    groups = group_requests(list(requests.texts), list(requests.session_id))
    split = split_requests(groups, requests.timestamp, requests.given_split, fractions=fractions)
    assert report.split == split.note


@given(st.lists(st.tuples(st.floats(allow_nan=False, allow_infinity=False, width=64, min_value=-1e300, max_value=1e300),
                          st.integers(0, 3)), max_size=60), st.integers(0, 60))  # fmt: skip
def test_sums_are_exact_in_whatever_parts(numbers: list[tuple[float, int]], cut: int) -> None:
    parts = [exact_sums(np.array([v for v, _ in part]), np.array([g for _, g in part], dtype=np.intp), 4)
             for part in (numbers[:cut], numbers[cut:])]  # fmt: skip
    for group in range(4):
        assert rounded(parts[0][group] + parts[1][group]) == math.fsum(v for v, g in numbers if g == group)


@given(st.lists(st.tuples(st.sampled_from(["", "yes", "the same eight words or more of it here", "a b c d e f g h i"]),
                          st.sampled_from([None, "s", "t", "u"])), min_size=1, max_size=40))  # fmt: skip
def test_connected_by_numbers_as_by_texts(requests: list[tuple[str, str | None]]) -> None:
    texts, sessions = zip(*requests, strict=True)
    text, session = pd.factorize(np.array(texts, dtype=object))[0], pd.factorize(np.array(sessions, dtype=object))[0]
    enough = np.array([len(one.split()) >= 8 for one in texts])
    assert (connected_requests(text, enough, session) == group_requests(texts, sessions)).all()


def test_nothing_is_kept_of_a_partition_but_numbers(tmp_path: Path) -> None:
    simulated(tmp_path / "log.jsonl")
    rows = rows_of(reading.stream([tmp_path / "log.jsonl"]))
    held = [column for columns in rows._columns for column in columns]
    held += [getattr(first, name) for first in rows._firsts for name in first.__dataclass_fields__]
    assert all(column.dtype.kind in "biuf" for column in held)
    assert sum(column.nbytes for column in held) < 30 * rows.rows_used + 30 * rows.requests


def test_a_log_is_large_by_its_rows_or_its_bytes(tmp_path: Path) -> None:
    frame = pd.DataFrame({"prompt": ["x" * 100] * 1000})
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_json(tmp_path / "b.jsonl", orient="records", lines=True)
    size = (tmp_path / "b.jsonl").stat().st_size
    rows = pq.read_metadata(tmp_path / "a.parquet").num_rows
    assert large([str(tmp_path / "a.parquet")], rows=rows - 1)
    assert not large([str(tmp_path / "a.parquet")], rows=rows)
    assert large([str(tmp_path)], size=size)
    assert not large([str(tmp_path / "b.jsonl")], rows=0, size=size)
    assert not large(["postgresql://host/db", str(tmp_path / "none.jsonl")], 0, 0)


def test_the_command_says_the_same_of_a_large_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log.parquet"
    simulate(list(CATALOGUE.values())[:3], requests=900, seed=1).outcomes.to_parquet(log, index=False)
    words = ["inspect", "--data", str(log), "--redact", "--json"]
    whole = CliRunner().invoke(app, [*words, str(tmp_path / "whole.json")])
    monkeypatch.setattr(training.inspect.large, "large", lambda _: True)
    monkeypatch.setattr("training.inspect.log.inspect_log", None)  # so that it is not held in memory after all
    parts = CliRunner().invoke(app, [*words, str(tmp_path / "parts.json")])
    assert (whole.exit_code, parts.exit_code) == (0, 0), parts.output
    assert parts.stdout.replace("parts.json", "") == whole.stdout.replace("whole.json", "")
    assert (tmp_path / "parts.json").read_text() == (tmp_path / "whole.json").read_text()


def test_a_large_log_that_certifies_nothing_is_planned_on_in_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"request_id": str(i), "prompt": f"p{i}", "candidate": "ab"[i % 2], "quality": 1.0, "cost_usd": 0.01}
        for i in range(90)
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "log.parquet")
    monkeypatch.setattr(training.inspect.large, "large", lambda _: True)
    done = CliRunner().invoke(app, ["inspect", "--data", str(tmp_path / "log.parquet")])
    assert done.exit_code == 0, done.output
    assert "What now: what to buy is planned with all requests in memory" in done.output


def test_a_part_that_is_empty_changes_nothing(tmp_path: Path) -> None:
    catalogue = shuffled(tmp_path / "log.jsonl")
    part = next(reading.stream([tmp_path / "log.jsonl"]))
    empty = replace(
        part,
        frame=part.frame.iloc[:0],
        origin=part.origin.iloc[:0],
        skipped=part.skipped.iloc[:0],
        rows_read=0,
    )
    assert inspect_rows(rows_of([empty, part, empty]), catalogue, PARAMS) == inspect_rows(
        rows_of([part]), catalogue, PARAMS
    )
