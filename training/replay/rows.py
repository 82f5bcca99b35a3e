"""From answers to outcomes: a row of the outcome table each, and the file in which `--data` finds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from serving.bundle.atomic_write import for_its_owner, written_whole
from training.logs.cells import replace_surrogates
from training.logs.outcomes import Outcomes
from training.logs.validate import validate
from training.replay.answers import Answer
from training.replay.errors import ReplayError
from training.replay.ledger import NAME as LEDGER
from training.replay.ledger import Key, Ledger
from training.replay.pairs import Pair
from training.replay.providers import Endpoint
from training.replay.request import roughly_tokens

NAME = "outcomes.jsonl"


def cost_of(answer: Answer, endpoint: Endpoint, body: dict[str, Any]) -> float:
    """USD by the usage that the response states; where it states none, by the length of the texts."""
    if answer.input_tokens is not None and answer.output_tokens is not None:
        return endpoint.cost(answer.input_tokens, answer.output_tokens)
    said = (answer.text or "") + (json.dumps(answer.tool_calls) if answer.tool_calls else "")
    return endpoint.cost(roughly_tokens(json.dumps(body, ensure_ascii=False)), roughly_tokens(said))


def outcome_of(pair: Pair, answer: Answer, usd: float | None, latency_ms: float | None) -> dict[str, Any]:
    """The row of an answer; its quality comes later, and what nobody knows is left out: of an answer that was logged, `usd` and
    the latency too, which the log has.

    `cost_estimated`: the response did not say what was billed.
    """
    row = {
        "request_id": pair.request_id,
        "prompt": pair.prompt,
        "messages": pair.messages,
        "candidate": pair.candidate,
        "cost_usd": usd,
        "input_tokens": answer.input_tokens,
        "output_tokens": answer.output_tokens,
        "latency_ms": latency_ms,
        "timestamp": pair.timestamp,
        "session_id": pair.session_id,
        "workflow": pair.workflow,
        "propensity": pair.propensity,
        "purpose": pair.purpose,
        "status": "error" if answer.error else "success",
        "answer": answer.text,
        "tool_calls": answer.tool_calls,
        "finish_reason": answer.finish_reason,
        "expected": pair.expected,
        "parameters": pair.parameters or None,
        "cost_estimated": True if answer.input_tokens is None and usd is not None else None,
    }
    return {name: value for name, value in row.items() if value is not None}


def require_own(folder: Path) -> None:
    """Raises ReplayError where a folder has outcomes that no replay wrote: they would be written over."""
    if (folder / NAME).exists() and not (folder / LEDGER).exists():
        raise ReplayError(
            f"{folder / NAME} is there, and no replay wrote it: there is no {LEDGER} beside it; expected a folder of replay's "
            "own. Give another --out."
        )


def write_outcomes(ledger: Ledger, folder: Path) -> int:
    """Writes every answer of the ledger, whole or not at all, readable by its owner alone; how many there are.

    Without any there is no file: an empty one is no log.
    """
    count = 0
    if not ledger.answered():
        return count
    with (
        for_its_owner(),
        written_whole(folder / NAME) as draft,
        draft.open("w", encoding="utf-8", newline="\n") as file,
    ):
        for outcome, quality in ledger.outcomes():
            row = outcome if quality is None else {**outcome, "quality": quality}
            file.write(replace_surrogates(json.dumps(row, ensure_ascii=False)) + "\n")
            count += 1
    return count


def table_of(ledger: Ledger) -> Outcomes | None:
    """The answers as the outcome table, not graded yet, with the texts that grading reads beside it; None without any."""
    rows = [outcome for outcome, _ in ledger.outcomes()]
    if not rows:
        return None
    # Not the parameters: nothing that grades reads them.
    frame = pd.DataFrame(rows, dtype=object).drop(columns=["parameters", "tool_calls"], errors="ignore")
    return validate(frame.where(frame.notna(), None), source=NAME, format="replay")


def keep_quality(ledger: Ledger, graded: Outcomes) -> None:
    """Keeps what grading made of the table in the ledger."""
    qualities: dict[Key, float | None] = {
        (str(request), str(candidate)): None if pd.isna(quality) else float(quality)
        for request, candidate, quality in graded.frame[["request_id", "candidate", "quality"]].itertuples(index=False)
    }
    ledger.grade(qualities)
