"""One log under one set of options is the same to every command; no text in any artefact; the order of what grades."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

import training.evaluate.served
import training.inspect.log
import training.run
from serving.bundle.catalogue import Candidate
from tests.conftest import router_train_here, tracked_in
from training.cli import reading, show
from training.cli.main import app
from training.cli.options import LogOptions
from training.config import load_params
from training.errors import TrainingError
from training.logs.outcomes import OutcomeError, Outcomes
from training.logs.redact import STAND_INS
from training.logs.sources import reading as sources
from training.quality.llm_prices import GraderError

JUDGE = load_params().judge
EMAIL = "jane.doe@corp.com"

MAP = ["candidate=llm", "prompt=question.text", "answer=choices.0.message.content", "cost_usd=usd", "trace_id=trace"]


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


class StoppedError(TrainingError):
    """Ends a command at the point where it would begin its own work on the outcomes."""


def outcomes_seen_by(command: str, options: list[str], folder: Path, patch: pytest.MonkeyPatch) -> Outcomes:
    """The outcomes on which the command would do its own work."""
    seen: list[Outcomes] = []

    def stop(*given: Any, **_: Any) -> None:
        seen.extend(each for each in given if isinstance(each, Outcomes))
        raise StoppedError("seen")

    patch.setattr(training.run, "train", stop)
    patch.setattr(training.inspect.log, "inspect_log", stop)
    patch.setattr(training.evaluate.served, "evaluate_bundle", stop)
    patch.setattr("serving.bundle.manifest.open_bundle", lambda _: None)
    extra = ["--out", str(folder / "dataset")] if command == "import" else []
    done = CliRunner().invoke(app, [command, *options, *extra])
    if command == "import":
        assert done.exit_code == 0, done.output
        return sources.read([folder / "dataset"])
    assert (done.exit_code, "error: seen" in done.output) == (2, True), done.output
    return seen[0]


@pytest.mark.parametrize("more", [[], ["--redact"], ["--scores", "--check"], ["--scores", "--check", "--redact"]])
def test_what_is_inspected_is_what_is_trained_imported_and_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    log, stars = write_log(tmp_path, requests=20)
    log.write_text(log.read_text().replace("item 7", f"item 7 of {EMAIL}"), encoding="utf-8")
    options = ["--data", str(log), "--cache", str(tmp_path / "cache"), *(w for pair in MAP for w in ("--map", pair))]
    options += ["--scores", str(stars), "--score-rule", "stars"] if "--scores" in more else []
    options += ["--check", "json"] if "--check" in more else []
    options += ["--redact"] if "--redact" in more else []
    trained = outcomes_seen_by("run", options, tmp_path, monkeypatch)
    assert len(trained.frame) == 40
    assert trained.frame["quality"].notna().sum() == (40 if "--check" in more else 0)
    assert trained.frame["prompt"].str.contains(EMAIL).any() != ("--redact" in more)
    assert trained.frame["prompt"].str.contains(STAND_INS["e-mail"]).any() == ("--redact" in more)
    assert trained.beside.empty
    for command in ("inspect", "evaluate", "import"):
        found = outcomes_seen_by(command, options, tmp_path, monkeypatch)
        pd.testing.assert_frame_equal(found.frame, trained.frame)
        assert (len(found.frame), found.rows_read) == (len(trained.frame), trained.rows_read)


def test_inspect_and_run_say_the_same_of_a_log(tmp_path: Path) -> None:
    log, stars = write_log(tmp_path, requests=20)
    options = [word for pair in MAP for word in ("--map", pair)] + ["--redact", "--check", "json"]
    options += ["--scores", str(stars), "--score-rule", "stars"]
    shown = CliRunner().invoke(app, ["inspect", "--data", str(log), *options, "--json", str(tmp_path / "report.json")])
    assert shown.exit_code == 0, shown.output
    assert "22 judgements read, 20 used, 2 left out; 20 outcomes judged by them" in shown.output
    assert "left alone: already judged: 20" in shown.output
    assert "masked: nothing found" in shown.output
    document = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    same = LogOptions(
        (str(log),), map=tuple(MAP), redact=True, check=("json",), scores=(stars,), score_rule=("stars",)
    )  # fmt: skip
    read = reading.read(same, {}, JUDGE, lambda *_: None)
    assert document["rows_used"] == len(read.outcomes.frame) == 40
    assert document["judged"] == read.outcomes.frame["quality"].notna().mean() == 1.0


def test_a_score_finds_a_request_whose_identifier_is_masked(tmp_path: Path) -> None:
    log, scores = tmp_path / "log.jsonl", tmp_path / "scores.csv"
    row = {"request_id": EMAIL, "prompt": f"who is {EMAIL}?", "candidate": "a"}
    log.write_text(json.dumps(row), encoding="utf-8")
    scores.write_text(f"request_id,quality\n{EMAIL},0.5\n", encoding="utf-8")
    read = reading.read(LogOptions((str(log),), scores=(scores,), redact=True), {}, JUDGE, lambda *_: None)
    assert read.outcomes.frame["quality"].tolist() == [0.5]
    assert read.outcomes.frame["request_id"][0].startswith("redacted-")
    assert read.masked == {"e-mail": 2}


def test_an_import_keeps_the_names_that_were_logged(tmp_path: Path) -> None:
    log, scores, prices = tmp_path / "log.jsonl", tmp_path / "scores.csv", tmp_path / "candidates.toml"
    rows = [{"request_id": "1", "prompt": "p", "candidate": name} for name in ("prod-chat", "b")]
    log.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    scores.write_text("request_id,candidate,quality\n1,a,0.5\n", encoding="utf-8")
    prices.write_text('[[candidate]]\nname = "a"\naliases = ["prod-chat"]\n', encoding="utf-8")
    options = ["--data", str(log), "--scores", str(scores), "--catalogue", str(prices), "--out", str(tmp_path / "made")]
    done = CliRunner().invoke(app, ["import", *options])
    assert done.exit_code == 0, done.output
    made = sources.read([tmp_path / "made"]).frame
    assert made["candidate"].tolist() == ["prod-chat", "b"]
    assert made["quality"].fillna(-1).tolist() == [0.5, -1]


def test_a_check_fails_answers_before_the_judge_grades_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, stars = write_log(tmp_path, requests=4)
    asked: list[list[float]] = []

    def graded(table: Any, model: str, **options: Any) -> tuple[Any, Any]:
        asked.append(table.frame["quality"].fillna(-1).tolist())
        assert table.beside["answer"].str.contains("CANARYANSWER").all()
        return table, options["budget_usd"]

    monkeypatch.setattr(reading.llm_grader, "grade_answers", graded)
    quality: dict[str, Any] = {"scores": (stars,), "score_rule": ("stars",), "check": ("regex:1",)}
    options = LogOptions((str(log),), map=tuple(MAP), **quality, judge="x/y", judge_budget_usd=2.5)
    read = reading.read(options, {}, JUDGE, lambda *_: None)
    answers = [json.loads(line)["choices"][0]["message"]["content"] for line in log.read_text().splitlines()]
    good = [answer.endswith("1}") for answer in answers]
    assert asked == [[float(ok) for ok in good[:4]] + [-1 if ok else 0.0 for ok in good[4:]]]
    assert read.quality[2] == 2.5
    assert read.outcomes.beside.empty


def test_the_judge_is_sent_what_is_masked_and_the_catalogue_asks_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Outcomes] = []

    def graded(table: Outcomes, model: str, **_: Any) -> tuple[Outcomes, Any]:
        sent.append(table)
        raise StoppedError("seen")

    monkeypatch.setattr(reading.llm_grader, "grade_answers", graded)
    log = tmp_path / "log.jsonl"
    row = {"prompt": f"who is {EMAIL}?", "candidate": "a", "reply": f"{EMAIL} is Jane"}
    log.write_text(json.dumps(row), encoding="utf-8")
    options = ["--data", str(log), "--map", "answer=reply", "--redact", "--judge", "x/y", "--judge-budget-usd", "2.5"]
    shown = CliRunner().invoke(app, ["inspect", *options])
    assert "x/y grades answers that have no quality, for at most 2.5 USD" in shown.output
    assert sent[0].beside["answer"].tolist() == ["user@example.com is Jane"]
    assert sent[0].frame["prompt"].tolist() == ["who is user@example.com?"]
    listed = CliRunner().invoke(app, ["catalogue", *options, "--catalogue", str(tmp_path / "candidates.toml")])
    assert listed.exit_code == 0, listed.output
    assert "x/y is not asked: prices need no grades" in listed.output
    assert len(sent) == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"judge": "x/y"}, GraderError, "belong together"),
        ({"judge_budget_usd": 1.0}, GraderError, "belong together"),
        ({"score_rule": ("stars", "ten"), "scores": (Path("a"),)}, OutcomeError, "--score-rule was given 2 times"),
        ({"score_rule": ("five",)}, OutcomeError, "rule 'five' is not known"),
        ({"check": ("jsn",)}, OutcomeError, "check 'jsn' is not known"),
        ({"redact": True, "phone_region": ("XX",)}, OutcomeError, "phone region 'XX' is not known"),
        ({}, OutcomeError, "no data given"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_read(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        reading.read(LogOptions(**options), {}, JUDGE, lambda *_: None)


def test_a_rule_reaches_the_importers_that_read_scores_themselves() -> None:
    def importing(**options: Any) -> Any:
        return reading.plan(LogOptions(**options)).importing

    assert importing(score_rule=("stars",)).score_range == (1.0, 5.0)
    assert importing(score_rule=("categorical:good=1,bad=0",)).score_mapping == {"good": 1.0, "bad": 0.0}
    assert importing(score_name="helpful").score_name == "helpful"
    assert importing(cache=Path("elsewhere")).cache == Path("elsewhere")


def test_options_on_a_log_need_one() -> None:
    done = CliRunner().invoke(app, ["run", "--map", "a=b", "--redact", "--score-name", "x", "--test", "t.jsonl"])
    assert done.exit_code == 2
    assert "--map, --score-name, --redact, --test: give --data as well" in done.output


def test_what_the_catalogue_does_not_say_of_candidates_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    bare = Candidate(name="own/llm", tools=True)
    priced: dict[str, Any] = {
        "input_usd_per_mtok": 1.0,
        "output_usd_per_mtok": 2.0,
        "context_window": 8_000,
        "hosting": "self",
    }
    whole = Candidate(name="whole", **priced, **dict.fromkeys(("tools", "json_schema", "vision"), True))
    show.print_gaps([whole])
    assert capsys.readouterr().out == ""
    show.print_gaps([bare, whole])
    told = " ".join(capsys.readouterr().out.split())
    assert "own/llm price, context window, json schema, vision, hosting" in told
    assert "whole" not in told
    assert "`router-train catalogue --write`" in told
