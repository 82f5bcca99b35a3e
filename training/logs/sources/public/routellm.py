"""RouteLLM's evaluation files (arXiv 2406.18665): GSM8K and MMLU tables, and MT-Bench judgements.

The tables have a prompt and a True/False column per candidate. A judgement scores one answer from 1 to 10; its
question is in question.jsonl beside it. A second turn is imported as both user messages without the answer between
them: that answer differs by candidate, and a request has one prompt. There are no costs, and the judgements' dates are
those of judging, not of traffic, so both stay null.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pandas as pd

from training.logs.io import files
from training.logs.io.files import Records
from training.logs.io.partitions import Convert, outcomes_of
from training.logs.objects.path import LogPath
from training.logs.outcomes import OutcomeError, Outcomes
from training.logs.sources.importer import DEFAULT, ImportOptions

NAME = "routellm"
EXPECTS = "a CSV with prompt and a True/False column per candidate, or judgements.jsonl beside question.jsonl"
QUESTIONS = "question.jsonl"
COMPANIONS: frozenset[str] = frozenset({QUESTIONS})

_JUDGEMENT = frozenset({"question_id", "model", "score", "turn"})
_MAX_SCORE = 10.0
_VERDICTS = frozenset({"true", "false", ""})


def recognises(path: LogPath) -> bool:
    """Whether the head is a table of verdicts or of judgements."""
    if files.kind(path) in files.LINES:
        return files.columns(path) >= _JUDGEMENT
    if files.kind(path) != ".csv":
        return False
    first = next(iter(files.head_records(path)), {})
    verdicts = {first[name].strip().lower() for name in _candidates(list(first))} if "prompt" in first else set()
    return bool(verdicts) and verdicts <= _VERDICTS and verdicts != {""}


def read(path: LogPath, _options: ImportOptions = DEFAULT) -> Iterator[Outcomes]:
    """Read one file; raises OutcomeError when it is neither kind or when the judgements' questions are missing."""
    if path.name in COMPANIONS:
        raise OutcomeError(f"{path}: holds questions, not outcomes; give judgements.jsonl beside it, or the folder")
    if not recognises(path):
        raise OutcomeError(f"{path}: not a {NAME} file; expected {EXPECTS}; arrived: {files.shown_columns(path)}")
    if files.kind(path) != ".csv":
        return outcomes_of(path, format=NAME, convert=_judgements(path), wanted=_JUDGEMENT)
    counted = count(1)
    return outcomes_of(path, format=NAME, convert=lambda records: _answers(records, files.stem(path), counted))


def _candidates(names: list[str]) -> list[str]:
    return [name for name in names if name != "prompt" and not name.endswith("_response")]


def _answers(records: Records, name: str, counted: Iterator[int]) -> Records:
    """Every row as m rows, one for each candidate; requests are `counted` through the file."""
    wide = records.table
    candidates = _candidates(list(wide.columns))
    m = len(candidates)
    per_row = pd.DataFrame(
        {
            "request_id": [f"{name}-{next(counted)}" for _ in range(len(wide))],
            "prompt": wide["prompt"],
            "workflow": name.removesuffix("_responses"),
        }
    )
    long = per_row.loc[per_row.index.repeat(m)].reset_index(drop=True)
    long["candidate"] = candidates * len(wide)
    long["quality"] = wide[candidates].to_numpy(dtype=object).ravel()
    return Records(long, [row for row in records.rows for _ in range(m)], records.unreadable)


def _judgements(path: LogPath) -> Convert:
    beside = path.with_name(QUESTIONS)
    if not beside.is_file():
        raise OutcomeError(f"{path}: the questions it judges are expected in {beside}, which is missing; copy it there")
    questions = {_key(q.get("question_id")): q for part in files.partitions(beside) for _, q in part.numbered()}

    def convert(records: Records) -> Records:
        rows = [_outcome(judgement, questions) for _, judgement in records.numbered()]
        return records._replace(table=pd.DataFrame(rows, dtype=object))

    return convert


def _outcome(judgement: dict[str, Any], questions: dict[str, dict[str, Any]]) -> dict[str, Any]:
    key, turn = _key(judgement.get("question_id")), judgement.get("turn")
    question = questions.get(key, {})
    turns = question.get("turns")
    known = isinstance(turns, list) and isinstance(turn, int) and 1 <= turn <= len(turns)
    return {
        "request_id": f"mt-bench-{key}-turn-{turn}" if key else None,
        "messages": [{"role": "user", "content": text} for text in turns[:turn]] if known and turns else None,
        "candidate": judgement.get("model"),
        "quality": _quality(judgement.get("score")),
        "session_id": f"mt-bench-{key}" if key else None,
        "workflow": f"mt-bench-{question['category']}" if "category" in question else "mt-bench",
    }


def _key(question_id: Any) -> str:
    return "" if question_id is None else str(question_id)


def _quality(score: Any) -> Any:
    """A score of 1 to 10 in [0, 1]; negative means that the judge gave none. Anything else is left to validation."""
    if not isinstance(score, int | float) or score > _MAX_SCORE:
        return score
    return None if score < 0 else score / _MAX_SCORE
