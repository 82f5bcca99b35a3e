"""What is said of a log: figures by hand, every row accounted for, and no claim that training would not bear out."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from serving.bundle.catalogue import Candidate
from tests.conftest import router_train, router_train_here
from tests.examples import examples
from training.config import DEFAULTS, Params, load_params
from training.inspect.log import best_bound, inspect_log, requests_needed
from training.inspect.page import page
from training.inspect.report import Finding, LogReport
from training.logs.aliases import resolve
from training.logs.sources import reading
from training.logs.validate import validate
from training.measure.bounds import clopper_pearson_upper

PARAMS = load_params(DEFAULTS, ())
KEPT_ASIDE = replace(PARAMS, policy=replace(PARAMS.policy, cross_fit_below=0))
PRICED = {name: Candidate(name=name, input_usd_per_mtok=1.0, output_usd_per_mtok=1.0) for name in ("a", "b")}
ROWS: list[dict[str, Any]] = [
    {"request_id": "1", "candidate": "a", "quality": 1.0, "cost_usd": 0.10, "input_tokens": 10, "workflow": "w",
     "timestamp": "2026-01-02", "session_id": "s", "latency_ms": 100},
    {"request_id": "1", "candidate": "b", "quality": 0.5, "cost_usd": 0.20, "output_tokens": 7, "workflow": "w",
     "timestamp": "2026-01-02", "session_id": "s"},
    {"request_id": "2", "candidate": "a", "quality": None, "cost_usd": 0.01, "timestamp": "2026-01-01",
     "session_id": "s", "latency_ms": 300},
    {"request_id": "3", "candidate": "a", "status": "error", "workflow": "w"},
    {"request_id": "4", "candidate": "b", "quality": 2.0},
]  # fmt: skip


def reported(
    rows: list[dict[str, Any]], catalogue: dict[str, Candidate] = PRICED, params: Params = PARAMS
) -> LogReport:
    frame = pd.DataFrame([{"prompt": f"prompt {row['request_id']}", **row} for row in rows])
    return inspect_log(validate(frame, source="log", format="test"), catalogue, params)


def shadowed(n: int, complete: int, **more: Any) -> list[dict[str, Any]]:
    """n requests to a, of which the first `complete` also went to b; all judged and costed."""
    return [
        {"request_id": str(i), "candidate": name, "quality": 1.0, "cost_usd": 1.0, **more}
        for i in range(n)
        for name in (("a", "b") if i < complete else ("a",))
    ]


def found(report: LogReport, start: str) -> Finding:
    return next(finding for finding in report.findings if finding.what.startswith(start))


def test_the_figures_by_hand() -> None:
    report = reported(ROWS)
    assert (report.rows_read, report.rows_used, report.rows_skipped) == (5, 4, 1)
    assert [(skip.reason, skip.rows, skip.row) for skip in report.skipped] == [("quality outside [0, 1]", 1, 5)]
    assert (report.requests, report.requests_of_several_candidates, report.requests_of_all_candidates) == (3, 1, 1)
    assert (report.complete, report.sessions, report.timestamped_requests) == (1, 1, 2)
    assert report.judged == 0.75  # an error is judged: 0
    assert (report.cost_usd, report.input_tokens, report.output_tokens) == (pytest.approx(0.31), 10, 7)
    assert (report.first, report.last) == ("2026-01-01T00:00:00+00:00", "2026-01-02T00:00:00+00:00")
    a, b = report.candidates
    assert (a.name, a.rows, a.requests, a.judged, a.quality, a.errors) == ("a", 3, 3, 2 / 3, 0.5, 1 / 3)
    assert (a.cost_usd, a.costed, a.latency_ms, a.input_tokens) == (
        pytest.approx(0.11),
        1.0,
        200.0,
        10,
    )  # an error without a cost cost nothing
    assert (b.name, b.rows, b.quality, b.cost_usd, b.output_tokens, b.latency_ms) == ("b", 1, 0.5, 0.2, 7, None)
    assert [(w.name, w.rows, w.requests, w.cost_usd) for w in report.workflows] == [
        ("(none)", 1, 1, 0.01),
        ("w", 3, 2, pytest.approx(0.3)),
    ]


def test_what_answered_after_a_failure_is_told_apart() -> None:
    chain = [
        {"request_id": "f", "candidate": "a", "status": "error"},
        {"request_id": "f", "candidate": "b", "quality": 1.0},
    ]
    report = reported([*shadowed(5, 0), *chain])
    assert (report.chained, report.requests, report.requests_of_several_candidates, report.complete) == (1, 6, 0, 0)
    assert found(report, "chains: 1 outcomes").supported
    assert reported(ROWS).chained == 0


def test_the_bound_is_the_exact_one_without_a_failure() -> None:
    for n in (1, 30, 252):
        assert best_bound(n, 0.1) == pytest.approx(clopper_pearson_upper(0, n, 0.1))
    assert best_bound(0, 0.1) == 1.0


@pytest.mark.parametrize(
    ("alpha", "needed"),
    # ln 0.1 / ln(1 - alpha), rounded up: 22 at 0.1, which the minimum of 30 raises.
    [(0.01, 230), (0.025, 91), (0.05, 45), (0.1, 30)],
)
def test_how_many_requests_a_certificate_takes(alpha: float, needed: int) -> None:
    assert requests_needed(alpha, 0.1, 30) == needed


@given(alpha=st.floats(0.001, 0.5), delta=st.floats(0.001, 0.5))
def test_one_request_fewer_would_not_do(alpha: float, delta: float) -> None:
    needed = requests_needed(alpha, delta, 1)
    assert best_bound(needed, delta) <= alpha
    assert needed == 1 or best_bound(needed - 1, delta) > alpha * (1 - 1e-9)


def test_a_certificate_is_possible_where_enough_calibration_requests_are_complete() -> None:
    report = reported(shadowed(300, 300), params=KEPT_ASIDE)  # no timestamps: at random, a fifth for calibration
    by_target = {target.quality_target: target for target in report.targets}
    assert list(by_target) == [0.99, 0.975, 0.95, 0.9]
    assert {target.requests for target in report.targets} == {60}
    assert by_target[0.95].possible
    assert by_target[0.95].best_bound == pytest.approx(1 - 0.1 ** (1 / 60))
    assert (by_target[0.95].more_requests, by_target[0.95].more_judged_rows) == (0, 0)
    # 230 - 60 more calibration requests are 850 more in all parts, each on both candidates.
    assert not by_target[0.99].possible
    assert (by_target[0.99].more_requests, by_target[0.99].more_judged_rows) == (850, 1700)
    assert found(report, "a certificate at 5%").supported
    assert not found(report, "a certificate at 1%").supported


def test_a_small_log_is_certified_on_whole() -> None:
    report = reported(shadowed(300, 100))
    by_target = {target.quality_target: target for target in report.targets}
    assert {target.requests for target in report.targets} == {100}
    assert by_target[0.975].possible
    # 230 complete ones do, wherever they fall: 130 more, each of which lacks one judgement.
    assert (by_target[0.99].more_requests, by_target[0.99].more_judged_rows) == (130, 130)


def test_requests_that_lack_the_fewest_judgements_are_counted_first() -> None:
    unjudged = [{"request_id": f"u{n}", "candidate": "b"} for n in range(200)]
    report = reported([*shadowed(100, 0), *unjudged], params=KEPT_ASIDE)
    target = next(target for target in report.targets if target.quality_target == 0.95)
    # 45 calibration requests are 225 of all: 100 that lack one of two judgements, 125 that lack both.
    assert (target.requests, target.more_requests, target.more_judged_rows) == (0, 225, 100 + 2 * 125)


def test_propensities_give_an_effective_sample() -> None:
    rows = [*shadowed(40, 0, propensity=0.8)]
    rows += [
        {**row, "request_id": f"b{n}", "candidate": "b", "propensity": 0.2 if n % 2 else 0.4}
        for n, row in enumerate(rows)
    ]
    a, b = (report := reported(rows)).candidates
    assert a.effective_sample == pytest.approx(40)
    # 20 weights of 5 and 20 of 2.5: (150)^2 / (20 * 25 + 20 * 6.25)
    assert b.effective_sample == pytest.approx(150**2 / 625)
    assert report.propensities == 80
    assert found(report, "propensities: logged for 80 of 80 rows").supported
    few = reported([*rows[:40], *rows[40:60]])
    assert not found(few, "propensities").supported
    assert "estimates of b" in found(few, "propensities").what


def test_what_is_missing_is_said_with_its_remedy() -> None:
    alone = reported(shadowed(30, 0), {})
    assert "second candidate" in found(alone, "a choice").what
    assert not found(alone, "a choice").supported
    silent = reported([*shadowed(30, 0), {"request_id": "x", "candidate": "b"}], {})
    assert not found(silent, "quality: no outcome of b").supported
    assert "router-train catalogue" in found(silent, "costs: rows of b").what
    assert not found(silent, "propensities: not logged").supported
    assert not found(silent, "workflows").supported
    tiny = reported(shadowed(2, 2))
    assert not found(tiny, "a split: not possible: 2 requests").supported
    alike = reported([{**row, "candidate": f"x/{row['candidate']}"} for row in shadowed(30, 0)], PRICED)
    assert found(alike, "names: x/a may be a by another name").supported is False


@pytest.mark.parametrize("text", ["[bold]x[/]", "[/]", "x\x1b[31m"])
def test_names_from_a_log_are_no_markup(text: str) -> None:
    rows = [{**row, "candidate": row["candidate"] + text, "workflow": text} for row in shadowed(10, 10)]
    console = Console(width=200, record=True, file=None, quiet=False)
    with console.capture() as caught:
        console.print(page(reported([*rows, {"request_id": "z", "candidate": "a" + text, "quality": text}])))
    assert text.replace("\x1b", "\ufffd") in caught.get()


DIRT = st.sampled_from(
    [
        '{"request_id": "1", "prompt": "p", "candi',
        "[]",
        "\x00",
        '{"request_id": "c", "prompt": null, "candidate": "a"}',
        '{"request_id": "c", "prompt": "canary", "candidate": "a", "cost_usd": -1}',
        '{"request_id": "c", "prompt": "canary", "candidate": "a", "input_tokens": "many"}',
        '{"request_id": {}, "prompt": "canary", "candidate": "a", "quality": NaN}',
        '{"request_id": "0", "prompt": "canary", "candidate": "a"}',
        '{"request_id": "d", "prompt": "ok", "candidate": "unheard-of", "workflow": "caf\\u00e9"}',
    ]
)


@examples(15)
@given(dirt=st.lists(DIRT, max_size=12), encoding=st.sampled_from(["utf-8", "latin-1"]))
def test_every_row_of_a_dirty_log_is_used_or_skipped(
    tmp_path_factory: pytest.TempPathFactory, dirt: list[str], encoding: str
) -> None:
    clean = [json.dumps({"prompt": f"p é {row['request_id']}", **row}, ensure_ascii=False) for row in shadowed(5, 3)]
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    path.write_text("\n".join([*clean, *dirt]), encoding=encoding)
    report = inspect_log(resolve(reading.read([path]), PRICED), PRICED, PARAMS)
    assert report.rows_used + report.rows_skipped == report.rows_read == len(clean) + len(dirt)
    assert sum(skip.rows for skip in report.skipped) == report.rows_skipped
    assert sum(one.rows for one in report.candidates) == sum(one.rows for one in report.workflows) == report.rows_used
    assert math.isclose(sum(one.cost_usd for one in report.candidates), report.cost_usd)
    assert "canary" not in json.dumps(report.document())


def test_the_command_prints_a_page_and_writes_json(tmp_path: Path) -> None:
    log, out = tmp_path / "log.jsonl", tmp_path / "report.json"
    rows = [json.dumps({"prompt": f"p{row['request_id']}", **row}) for row in shadowed(50, 50)]
    log.write_text("\n".join([*rows, rows[0][:30]]), encoding="utf-8")
    finished = router_train_here("inspect", "--data", log, "--json", out)
    assert finished.returncode == 0, finished.stderr
    assert "101 rows read as canonical: 100 used, 1 skipped" in finished.stdout
    assert "What it can and cannot support" in finished.stdout
    document = json.loads(out.read_text(encoding="utf-8"))
    assert (document["rows_read"], document["complete"], document["cost_usd"]) == (101, 50, 100.0)
    assert document["targets"][0]["requests_needed"] == 230


def test_the_command_says_what_it_cannot_read(tmp_path: Path) -> None:
    finished = router_train("inspect", "--data", tmp_path / "nowhere.jsonl")
    assert finished.returncode == 2
    assert "does not exist" in finished.stderr


def test_weak_qualities_are_counted_and_are_no_judgements() -> None:
    rows = [
        {"request_id": "1", "candidate": "a", "quality": 1.0},
        {"request_id": "1", "candidate": "b", "quality": 0.0, "quality_source": "retried"},
        {"request_id": "2", "candidate": "a", "quality": 1.0, "quality_source": "thumb"},
        {"request_id": "2", "candidate": "b", "quality": 1.0},
    ]
    report = reported(rows)
    assert report.labels == {"judged": 2, "thumb": 1, "retried": 1}
    assert (report.judged, report.complete) == (0.75, 1)
    assert {one.name: one.quality for one in report.candidates} == {"a": 1.0, "b": 1.0}
    console = Console(width=200)
    with console.capture() as shown:
        console.print(page(report))
    assert (
        "labels: 2 judged, 1 thumbs; not used: 1 retried (--set signals.retried=WEIGHT fits on them too)" in shown.get()
    )
    assert reported(ROWS).labels_said is None
