"""What inspect says of columns that nothing reads: by their names and their cells, and never many of them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from tests.conftest import router_train_here
from training.inspect.unread import Unread, sentence, unread
from training.logs.sources.mapped import parse_mapping


def table(path: Path, **columns: list[object]) -> Path:
    rows = {
        "request_id": [str(number) for number in range(40)],
        "prompt": [f"question {number}" for number in range(40)],
        "candidate": ["a", "b"] * 20,
    }
    pd.DataFrame({**rows, **columns}).to_csv(path, index=False)
    return path


def test_a_column_that_looks_like_grades_is_named_with_the_map_that_reads_it(tmp_path: Path) -> None:
    log = table(tmp_path / "log.csv", user_rating=[1, 5] * 20, took_seconds=[0.5] * 40, region=["eu"] * 40)
    found = unread([log], {})
    assert found == (
        Unread("user_rating", "quality=user_rating:stars"),
        Unread("took_seconds", "latency_ms=took_seconds:seconds"),
        Unread("region"),
    )
    assert sentence(found) == (
        "columns that nothing reads: user_rating (quality? --map quality=user_rating:stars), took_seconds "
        "(latency_ms? --map latency_ms=took_seconds:seconds), region"
    )
    done = router_train_here("inspect", "--data", log, folder=tmp_path)
    assert "(quality? --map quality=user_rating:stars)" in " ".join(done.stdout.split())


def test_what_a_mapping_reads_is_not_missed_and_what_is_filled_is_not_proposed(tmp_path: Path) -> None:
    log = table(tmp_path / "log.csv", user_rating=[1, 5] * 20, second_score=[0.5] * 40)
    assert unread([log], parse_mapping(["quality=user_rating:stars"])) == (Unread("second_score"),)
    assert unread([log], parse_mapping(["quality="])) == (Unread("user_rating"), Unread("second_score"))


def test_nested_fields_beside_those_that_are_read_are_named(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    rows = [
        {"request": {"text": f"q {n}", "team": "red"}, "llm": "ab"[n % 2], "user": {"rating": n % 2}} for n in range(30)
    ]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = unread([log], parse_mapping(["prompt=request.text", "candidate=llm"]))
    assert found == (Unread("user.rating", "quality=user.rating"), Unread("request.team"))


def test_of_many_columns_few_are_named(tmp_path: Path) -> None:
    more: dict[str, list[object]] = {f"column_{number}": [number] * 40 for number in range(300)}
    found = unread([table(tmp_path / "log.csv", **more, score=[0.5] * 40)], {})
    assert len(found) == 100
    assert found[0] == Unread("score", "quality=score")
    said = sentence(found)
    assert said.endswith(", and 90 more")
    assert len(said) < 300


def test_a_known_format_has_fields_of_its_own(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"id": "x", "model": "a", "messages": [], "score": 1}\n', encoding="utf-8")
    assert unread([log, tmp_path / "nothing.csv", tmp_path], {}) == ()
