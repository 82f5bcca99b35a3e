"""`router-train run` on a table of any shape with quality from elsewhere; no text in any artefact; the order of judges."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import router_train_here, tracked_in
from training.cli import options as cli_import
from training.logs.outcomes import OutcomeError
from training.quality.llm_prices import GraderError

MAP = ["candidate=llm", "prompt=question.text", "answer=choices.0.message.content", "cost_usd=usd", "trace_id=trace"]


def given(**options: Any) -> cli_import.Judging:
    plain: dict[str, Any] = dict.fromkeys(
        ("map", "score_paths", "score_rules", "score_name", "checks", "judge", "budget_usd", "price")
    )
    return cli_import.judging(**{**plain, "trace_scores": cli_import.TraceScores.last, **options})


def write_log(folder: Path, requests: int = 300) -> tuple[Path, Path]:
    """Two LLMs on every request, answers that are JSON or not; stars for the first half, and two judgements too many."""
    draw = random.Random(0)
    log, stars = [], []
    for number in range(requests):
        hard = draw.random() < 0.4
        text = f"CANARYPROMPT {'prove' if hard else 'say'} item {number} about {draw.choice(['cats', 'tax', 'law'])}"
        for llm, usd in (("small-1", 0.001), ("big-2", 0.01)):
            good = draw.random() < (0.4 if hard and llm == "small-1" else 0.95)
            content = '{"CANARYANSWER": 1}' if good else "CANARYANSWER: no"
            record = {"llm": llm, "question": {"text": text}, "usd": usd, "trace": f"t{number}-{llm}"}
            log.append({**record, "choices": [{"message": {"content": content}}]})
            if number < requests // 2:
                stars.append({"trace_id": f"t{number}-{llm}", "rating": 5 if good else 1})
    stars += [{"trace_id": "nope", "rating": 5}, {"trace_id": "t1-small-1", "rating": 7}]
    paths = folder / "log.jsonl", folder / "stars.jsonl"
    for path, rows in zip(paths, (log, stars), strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return paths


def test_a_table_of_any_shape_trains_a_router_and_leaves_no_text_behind(tmp_path: Path, cache: Path) -> None:
    log, stars = write_log(tmp_path)
    made = tmp_path / "made"
    mapping = [word for pair in MAP for word in ("--map", pair)]
    judged = ["--scores", stars, "--score-rule", "stars", "--check", "json"]
    small = ["--set", "fit.estimators=workflow-table,ridge", "--set", "evaluate.resamples=50"]
    places = ["--out", made / "models", "--cache", cache, *tracked_in(made)]
    done = router_train_here("run", "--data", log, *mapping, *judged, *small, *places)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "600 rows read as mapped: 600 used, 0 skipped" in done.stdout
    assert "302 judgements read, 300 used, 2 left out; 300 outcomes judged by them" in done.stdout
    assert "no such trace_id in the log" in done.stdout
    assert "left alone: already judged: 300" in done.stdout
    assert (made / "models" / "current" / "manifest.json").is_file()
    artefacts = [path for folder in (made, cache) for path in folder.rglob("*") if path.is_file()]
    assert {".html", ".onnx", ".sqlite"} <= {path.suffix for path in artefacts}
    assert [path for path in artefacts if b"CANARY" in path.read_bytes()] == []


def test_a_missing_field_is_one_message(tmp_path: Path) -> None:
    log, _ = write_log(tmp_path, requests=2)
    done = router_train_here(
        "run", "--data", log, "--map", "candidate=llm", "--map", "prompt=question.txt", "--no-track"
    )
    assert done.returncode == 2
    assert "no question.txt (for prompt); the columns found are: llm, question.text, usd, trace" in done.stderr


def test_a_check_fails_answers_before_the_judge_grades_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, stars = write_log(tmp_path, requests=4)
    asked: list[list[float]] = []

    def graded(table: Any, model: str, **options: Any) -> tuple[Any, Any]:
        asked.append(table.frame["quality"].fillna(-1).tolist())
        assert table.beside["answer"].str.contains("CANARYANSWER").all()
        return table, options["budget_usd"]

    monkeypatch.setattr(cli_import.llm_grader, "grade_answers", graded)
    judging = given(
        map=MAP, score_paths=[stars], score_rules=["stars"], checks=["regex:1"], judge="x/y", budget_usd=2.5
    )
    table, accounts = cli_import.read_logs([str(log)], [], "auto", {}, judging, None, tmp_path, lambda *_: None)  # type: ignore[arg-type]
    answers = [json.loads(line)["choices"][0]["message"]["content"] for line in log.read_text().splitlines()]
    good = [answer.endswith("1}") for answer in answers]
    assert asked == [[float(ok) for ok in good[:4]] + [-1 if ok else 0.0 for ok in good[4:]]]
    assert accounts[2] == 2.5
    assert table.beside.empty


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"judge": "x/y"}, GraderError, "belong together"),
        ({"budget_usd": 1.0}, GraderError, "belong together"),
        ({"score_rules": ["stars", "ten"], "score_paths": [Path("a")]}, OutcomeError, "--score-rule was given 2 times"),
        ({"score_rules": ["five"]}, OutcomeError, "rule 'five' is not known"),
        ({"checks": ["jsn"]}, OutcomeError, "check 'jsn' is not known"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_read(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        given(**options)


def test_a_rule_reaches_the_importers_that_read_scores_themselves() -> None:
    assert given(score_rules=["stars"]).options.score_range == (1.0, 5.0)
    assert given(score_rules=["categorical:good=1,bad=0"]).options.score_mapping == {"good": 1.0, "bad": 0.0}
    assert given(score_name="helpful").options.score_name == "helpful"
    with pytest.raises(OutcomeError, match="give --data as well"):
        given(map=MAP).require_nothing()
