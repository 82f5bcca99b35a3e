"""An LLM as the grader of answers nobody graded: through LiteLLM, within a budget, blind to who answered, resumable.

The grader sees the request and the answer, never the candidate: names that look like model identifiers are taken out of
the answer, and the order is random by a seed.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from training.config import Judge
from training.dataset.label import judged_quality, with_judgements
from training.logs.outcomes import Outcomes
from training.owned import own_file
from training.quality.llm_calls import LEAST, MOST, RUBRIC, Grading, Item, Ledger
from training.quality.llm_prices import GraderError, Price, listed_price, quiet_litellm
from training.quality.paid_calls import Progress

_DATABASE = "judgements.sqlite"


@dataclass(frozen=True)
class GraderAccount:
    """What the grader did, in tries of the log: `judged` by calls of this run, `cached` by grades of earlier ones,
    `left` unjudged because the budget was spent, `left_out` for other reasons. `spent_usd` counts an interrupted run's
    calls as well, and calls whose price is not known for certain at the most that they can have cost."""

    model: str
    judged: int
    cached: int
    left: int
    left_out: Mapping[str, int]
    calls: int
    spent_usd: float
    budget_usd: float


def grade_answers(
    table: Outcomes,
    model: str,
    *,
    budget_usd: float,
    cache: Path,
    settings: Judge,
    price: Price | None = None,
    progress: Progress | None = None,
) -> tuple[Outcomes, GraderAccount]:
    """The outcomes with the LLM's grades, in [0, 1], where an answer was logged and nobody judged it.

    `model` is named as LiteLLM does, `price` overrules LiteLLM's price map, `progress(done, total)` counts distinct
    answers. Raises GraderError when the price is not known, the budget is no amount, or the provider refuses.
    """
    if not 0 < budget_usd < math.inf:
        raise GraderError(f"--judge-budget-usd {budget_usd}: expected an amount of US dollars above 0")
    litellm = quiet_litellm()
    cost = price or listed_price(litellm, model)
    items, left_out = _items(table, model)
    quality = judged_quality(table.frame).to_numpy(dtype="float64", copy=True)
    with closing(Ledger(own_file(cache / _DATABASE), model)) as store:
        known = store.grades([item.key for item in items])
        cached = _note(quality, ((item, known[item.key]) for item in items if item.key in known))
        new = [item for item in items if item.key not in known]
        order = np.random.default_rng(settings.seed).permutation(len(new))
        run = Grading(litellm, model, settings, store, cost, budget_usd, listed=price is None)
        run.run([new[place] for place in order], progress)
        spent = store.spent
        if run.fatal:
            raise GraderError(run.fatal)
        store.finish()
    judged = _note(quality, run.grades)
    left = sum(len(item.rows) for item in run.unaffordable)
    account = GraderAccount(
        model, judged, cached, left, dict((left_out + run.failed).most_common()), run.calls, spent, budget_usd
    )
    return replace(table, frame=with_judgements(table.frame, quality)), account


def _items(table: Outcomes, model: str) -> tuple[list[Item], Counter[str]]:
    """What is to be graded, equal ones once; and how many tries are left alone, by reason."""
    frame, left_out = table.frame, Counter[str]()
    answers = table.beside["answer"].tolist() if "answer" in table.beside else [None] * len(frame)
    expected = table.beside["expected"].tolist() if "expected" in table.beside else [None] * len(frame)
    names = _name_pattern(frame["candidate"].unique())
    contents: dict[str, list[int]] = {}
    judged = np.isfinite(judged_quality(frame).to_numpy(dtype="float64"))
    for row, (prompt, messages) in enumerate(zip(frame["prompt"], frame["messages"], strict=True)):
        answer = answers[row]
        if judged[row]:
            left_out["already judged"] += 1
        elif not isinstance(answer, str):
            left_out["no answer text"] += 1
        elif not answer.strip():
            left_out["empty answer"] += 1
        else:
            content = _content(
                messages if isinstance(messages, list) else prompt, names.sub("[model]", answer), expected[row]
            )
            contents.setdefault(content, []).append(row)
    items = [Item(_key(model, content), content, tuple(rows)) for content, rows in contents.items()]
    return items, left_out


def _content(request: Any, answer: str, expected: Any) -> str:
    """The user message: JSON, so that no text can close the field it is in."""
    if isinstance(request, list):
        request = [{"role": message["role"], "content": _text_parts(message.get("content"))} for message in request]
    document = {"request": request, "answer": answer}
    if isinstance(expected, str) and expected.strip():
        document["reference"] = expected
    return json.dumps(document, ensure_ascii=False)


def _text_parts(content: Any) -> Any:
    """A message's text; of other parts (pictures, files) only that they were there."""
    if not isinstance(content, list):
        return content
    parts = (part if isinstance(part, dict) else {"type": "text", "text": part} for part in content)
    return [part["text"] if isinstance(part.get("text"), str) else f"[{part.get('type', 'part')}]" for part in parts]


def _name_pattern(candidates: Iterable[str]) -> re.Pattern[str]:
    """Matches the candidates' names where an answer gives itself away; plain words among them are left alone."""
    names = {part for name in candidates for part in (name, name.rpartition("/")[2])}
    telling = sorted((name for name in names if len(name) > 3 and re.search(r"[\d/_:-]", name)), key=len, reverse=True)
    if not telling:
        return re.compile(r"(?!)")
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, telling))})(?!\w)", re.IGNORECASE)


def _key(model: str, content: str) -> bytes:
    return hashlib.sha256("\0".join((model, RUBRIC, content)).encode("utf-8", "replace")).digest()


def _note(quality: np.ndarray[Any, Any], grades: Iterable[tuple[Item, int]]) -> int:
    """Writes grades into the quality of their rows; how many rows these are."""
    count = 0
    for item, score in grades:
        quality[list(item.rows)] = (score - LEAST) / (MOST - LEAST)
        count += len(item.rows)
    return count
