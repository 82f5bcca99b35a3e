"""Rows without a request id: paired by their prompt where the candidates differ, in one file or in several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from training.dataset.matrix import build_matrix
from training.logs.outcomes import Outcomes
from training.logs.sources import reading
from training.logs.sources.importer import ImportOptions


def written(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def graded(question: int, llm: str, **rest: Any) -> dict[str, Any]:
    return {"prompt": f"question {question}", "candidate": llm, "quality": question / 4, **rest}


def sizes(table: Outcomes) -> list[int]:
    return sorted(table.frame.groupby("request_id").size().tolist())


def test_an_evaluation_table_is_a_full_matrix(tmp_path: Path) -> None:
    rows = [graded(question, llm) for llm in "abc" for question in range(4)]
    matrix = build_matrix(reading.read([written(tmp_path / "log.jsonl", *rows)]).frame)
    assert matrix.quality.tolist() == [[n / 4] * 3 for n in range(4)]
    assert matrix.attempted.all()


def test_a_file_for_each_llm_pairs_too(tmp_path: Path) -> None:
    paths = [written(tmp_path / f"{llm}.jsonl", *(graded(n, llm) for n in range(4))) for llm in "ab"]
    assert sizes(reading.read(paths)) == [2, 2, 2, 2]
    mapped = [
        written(tmp_path / f"{llm}-mapped.jsonl", *({"question": f"q{n}", "llm": llm} for n in range(4)))
        for llm in "ab"
    ]
    mapping = ImportOptions(mapping={"prompt": "question", "candidate": "llm"})
    assert sizes(reading.read(mapped, options=mapping)) == [2, 2, 2, 2]


def test_a_second_row_of_a_candidate_is_another_request_and_the_same_row_again_a_duplicate(tmp_path: Path) -> None:
    rows = [graded(1, "a", cost_usd=0.5), graded(1, "b"), graded(1, "a", cost_usd=0.25), graded(1, "b")]
    table = reading.read([written(tmp_path / "log.jsonl", *rows)])
    assert sizes(table) == [1, 2]
    assert table.reasons == {"duplicate row": 1}
    assert build_matrix(table.frame).cost_usd[:, 0].tolist() == [0.5, 0.25]


def test_prompts_of_different_sessions_are_different_requests(tmp_path: Path) -> None:
    rows = [graded(1, llm, session_id=session) for llm, session in (("a", "s"), ("b", "s"), ("a", "t"), ("b", "u"))]
    assert sizes(reading.read([written(tmp_path / "log.jsonl", *rows)])) == [1, 1, 2]


def test_a_table_with_ids_keeps_them(tmp_path: Path) -> None:
    rows = [graded(1, "a", request_id="r1"), graded(1, "b", request_id="r2")]
    assert reading.read([written(tmp_path / "log.jsonl", *rows)]).frame["request_id"].tolist() == ["r1", "r2"]
