"""Thumbs that were given in Langfuse come back to the router's own store: by what its sink wrote beside them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from serving.integrations.langfuse import payload
from serving.integrations.langfuse.ids import span_of
from serving.integrations.outcome import ToldOutcome
from tests.conftest import router_train_here
from tests.serving.store.rows import decision, feedback
from tests.training.logs.sources.test_decisions import fill
from tests.training.logs.sources.test_langfuse import Server, keys, serving
from training.logs import rescale
from training.logs.outcomes import OutcomeError
from training.logs.sources import reading
from training.logs.sources.langfuse import live
from training.quality.scores import ScoreAccount, join_scores

__all__ = ["keys"]
TRACES = [f"{number:032x}" for number in range(1, 5)]
GENERATIONS = [f"{number:016x}" for number in range(1, 5)]


def store(folder: Path) -> Path:
    """Four decisions with their costs and without a grade; the third fell back to another candidate."""
    decided = [
        decision(f"d{n}", at=1.7e9 + n, candidate="mini", propensity=0.9, prompt=f"question {n}") for n in range(4)
    ]
    said = [feedback(f"d{n}", quality=None, cost_usd=0.01, candidate="large" if n == 2 else None) for n in range(4)]
    return Path(fill(str(folder / "decisions.db"), decided, said))


def written(number: int, **cells: Any) -> list[dict[str, Any]]:
    """What the sink writes of a decision."""
    outcome = ToldOutcome(
        decision_id=f"d{number}", trace_id=TRACES[number], observation_id=GENERATIONS[number], call_id=None, model="mini",
        started=1.7e9 + number, ended=1.7e9 + number + 1, cost_usd=0.01, input_tokens=1, output_tokens=1, latency_ms=1.0,
        error=False, decision={"model": "mini", "confidence": 0.9},
    )  # fmt: skip
    return payload.scores(ToldOutcome(**{**vars(outcome), **cells}), None)


def thumb(value: float, **subject: Any) -> dict[str, Any]:
    return {"id": f"thumb-{value}-{subject}", "name": "thumbs", "value": value, "dataType": "NUMERIC", **subject}


def joined(folder: Path, rows: list[dict[str, Any]], **options: Any) -> tuple[dict[str, float], ScoreAccount]:
    """Quality by decision and candidate, after the scores were joined to the store."""
    file = folder / "scores.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table, account = join_scores(reading.read([store(folder)]), file, rescale.rule("unit"), **options)
    frame = table.frame[table.frame["quality"].notna() & (table.frame["status"] == "success")]
    names = frame["request_id"] + " " + frame["candidate"]
    return dict(zip(names, frame["quality"], strict=True)), account


def test_a_thumb_on_the_trace_and_one_on_the_generation_reach_the_decision(tmp_path: Path) -> None:
    rows = [
        *(row for number in range(4) for row in written(number)),
        thumb(1.0, traceId=TRACES[0]),
        thumb(0.0, traceId=TRACES[1], observationId=GENERATIONS[1]),
        thumb(0.5, traceId=TRACES[2]),
    ]
    quality, account = joined(tmp_path, rows)
    assert quality == {"d0 mini": 1.0, "d1 mini": 0.0, "d2 large": 0.5}
    assert (account.used, account.read) == (3, len(rows))
    assert account.reasons == {"written by the router itself": len(rows) - 3}


def test_the_apis_subjects_say_the_same_as_columns(tmp_path: Path) -> None:
    def by_subject(row: dict[str, Any]) -> dict[str, Any]:
        trace, observation = row.pop("traceId"), row.pop("observationId", None)
        kind, id = ("observation", observation) if observation else ("trace", trace)
        return {**row, "subject": {"kind": kind, "id": id, **({"traceId": trace} if observation else {})}}

    rows = [
        *written(0),
        *written(1),
        thumb(1.0, traceId=TRACES[0]),
        thumb(0.0, traceId="", observationId=GENERATIONS[1]),
    ]
    assert joined(tmp_path, [by_subject(row) for row in rows])[0] == {"d0 mini": 1.0, "d1 mini": 0.0}


def test_a_decision_without_a_generation_is_found_by_its_own_span(tmp_path: Path) -> None:
    rows = [*written(0, observation_id=None), thumb(1.0, observationId=span_of("d0"))]
    assert joined(tmp_path, rows)[0] == {"d0 mini": 1.0}


def test_of_several_decisions_in_a_trace_the_last_is_judged_or_all_of_them(tmp_path: Path) -> None:
    rows = [*written(0), *written(1, trace_id=TRACES[0]), thumb(1.0, traceId=TRACES[0])]
    assert joined(tmp_path, rows)[0] == {"d1 mini": 1.0}
    (tmp_path / "all").mkdir()
    assert joined(tmp_path / "all", rows, trace_scores="all")[0] == {"d0 mini": 1.0, "d1 mini": 1.0}


def test_scores_of_other_traces_are_counted_and_the_routers_own_never_chosen(tmp_path: Path) -> None:
    rows = [*written(0), thumb(1.0, traceId=TRACES[0]), thumb(0.5, traceId=TRACES[3])]
    quality, account = joined(tmp_path, rows)
    assert quality == {"d0 mini": 1.0}
    assert account.reasons["no such trace_id in the log"] == 1
    for name in ("router_confidence", "router_saved_usd"):
        (tmp_path / name).mkdir()
        with pytest.raises(OutcomeError, match="that is what the router itself wrote"):
            joined(tmp_path / name, rows, name=name)
    (tmp_path / "own").mkdir()
    with pytest.raises(OutcomeError, match="no judgement could be used"):
        joined(tmp_path / "own", written(0))


def project() -> Server:
    """The scores of a project over its API: what the router wrote, thumbs, and another score."""
    rows = [row for number in range(4) for row in written(number)]
    rows += [
        thumb(1.0, traceId=TRACES[0]),
        thumb(0.0, traceId=TRACES[1]),
        {**thumb(3.0, traceId=TRACES[2]), "name": "length"},
    ]
    moment = "2026-05-29T13:46:19Z"
    shared = {
        "projectId": "p1", "source": "API", "environment": "default", "timestamp": moment, "createdAt": moment,
        "updatedAt": moment,
    }  # fmt: skip
    known = ("id", "name", "value", "dataType")
    subjects = [
        {"kind": "observation", "id": row["observationId"], "traceId": row["traceId"]}
        if "observationId" in row
        else {"kind": "trace", "id": row["traceId"]}
        for row in rows
    ]
    server = Server(
        [], [{**{n: row[n] for n in known}, **shared, "subject": s} for row, s in zip(rows, subjects, strict=True)]
    )
    server.page = 100
    return server


def test_a_live_projects_thumbs_are_joined_by_one_command(keys: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = project()
    data = store(tmp_path)
    with serving(server) as url:
        keys.setenv("LANGFUSE_HOST", url)
        done = router_train_here(
            "inspect", "--data", data, "--scores", "langfuse:", "--score-name", "thumbs", "--cache", tmp_path / "cache"
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 used" in done.stdout + done.stderr
    ((path, query),) = server.asked
    assert path == "/api/public/v3/scores"
    assert query["name"] == "thumbs,router_confidence,router_cost_usd"


def test_what_was_downloaded_before_is_taken_further_and_each_score_kept_as_it_was_last(
    keys: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = project()
    with serving(server) as url:
        keys.setenv("LANGFUSE_HOST", url)
        live.scores_file("langfuse:", tmp_path, None)
        (row, *_) = (one for one in server.tables["/api/public/v3/scores"] if one["name"] == "thumbs")
        row |= {"value": 0.25, "timestamp": datetime.now(UTC).isoformat()}
        lines = live.scores_file("langfuse:", tmp_path, None).read_text().splitlines()
        found = {one["id"]: one["value"] for one in map(json.loads, lines)}
        assert len(found) == len(lines) == 11
        assert found[row["id"]] == 0.25
        with pytest.raises(OutcomeError, match="as scores it takes from and to only"):
            live.scores_file("langfuse:?environment=production", tmp_path, None)
        with pytest.raises(OutcomeError, match="the project has no scores named helpful there"):
            live.scores_file("langfuse:?to=2026-01-01&from=2027-01-01", tmp_path, "helpful")
