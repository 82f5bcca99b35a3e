"""The plan of what to buy: pairs of a request and a candidate, as a file that is read line by line.

The first line is `{"plan": {...}}`, by which readers of logs know that no outcomes follow; each further line is a pair.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pandas as pd
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from serving.bundle.atomic_write import for_its_owner, written_whole
from training.errors import TrainingError
from training.logs import typed
from training.logs.cells import replace_surrogates

Purpose = Literal["certify", "learn"]
VERSION = 1
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_LONGEST_LINE = 64 << 20
_LONGEST_VALUE = 80
_AGAIN = "Correct the line, or write the plan again: router-train plan."


class PlanError(TrainingError):
    """A plan file that cannot be used; the message names the file, the line and the field."""


@dataclass(frozen=True)
class Pair:
    """A request that is to be asked of a candidate.

    `purpose`: certify, the request was drawn uniformly at random from the log; learn, it was chosen for what it teaches.
    `propensity`: the probability in (0, 1] with which the plan chose this pair (certify: given that its request was drawn).
    One of `prompt` and `messages` is set. `parameters`: tools, tool_choice and response_format as logged, {} where none were.
    `timestamp`: ISO 8601, of the logged request. `expected`: the answer known to be right, where the log has it. `answer`: what
    this candidate answered, where the log has it and nobody judged it: it is graded and not bought.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    request_id: Annotated[str, Field(min_length=1)]
    candidate: Annotated[str, Field(min_length=1)]
    purpose: Purpose
    propensity: Annotated[float, Field(gt=0, le=1)]
    expected_usd: Annotated[float, Field(ge=0)]
    prompt: str | None
    messages: list[dict[str, Any]] | None
    parameters: dict[str, Any]
    workflow: str | None
    session_id: str | None
    timestamp: str | None
    expected: str | None = None
    answer: str | None = None


@dataclass(frozen=True)
class PlanHeader:
    """What a plan was made from and with: the log's fingerprint, the seed, the budget, and the reference it expects."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    log: str
    seed: int
    budget_usd: Annotated[float, Field(ge=0)]
    reference: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlanFile:
    """A plan: its header, and its pairs in the order in which they are to be bought."""

    header: PlanHeader
    pairs: tuple[Pair, ...]


_HEADER, _PAIR = TypeAdapter(PlanHeader), TypeAdapter(Pair)


def write_plan(path: Path, plan: PlanFile) -> None:
    """Writes the plan, whole or not at all, readable by its owner alone: it holds prompts."""
    with for_its_owner(), written_whole(path) as draft, draft.open("w", encoding="utf-8", newline="\n") as file:
        file.write(_line({"plan": {**asdict(plan.header), "version": VERSION}}))
        file.writelines(_line(asdict(pair)) for pair in plan.pairs)


def require_free(path: Path) -> None:
    """Raises PlanError where something else than a plan would be written over, or nothing can be written."""
    if path.is_dir():
        raise PlanError(f"--out {path}: is a folder; expected the name of a file, as in {path / 'plan.jsonl'}")
    if path.exists() and path.stat().st_size:
        try:
            _header(path, next(_lines(path))[1])
        except PlanError:
            raise PlanError(
                f"--out {path}: is there already and is no plan, so that it is not written over; give another name"
            ) from None


def read_plan(path: Path) -> PlanFile:
    """Reads a plan; raises PlanError where it is none, where a line is not what it should be, or a pair comes twice."""
    lines = _lines(path)
    header = _header(path, next(lines, (1, b""))[1])
    pairs: dict[tuple[str, str], Pair] = {}
    first: dict[tuple[str, str], int] = {}
    for number, line in lines:
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        pair: Pair = _valid(_PAIR, line, where)
        if (pair.prompt is None) == (pair.messages is None):
            arrived = "neither" if pair.prompt is None else "both"
            raise PlanError(f"{where}: prompt, messages: {arrived} arrived; expected one of the two. {_AGAIN}")
        key = (pair.request_id, pair.candidate)
        if key in pairs:
            raise PlanError(
                f"{where}: request_id, candidate: {_shown(pair.request_id)} of {_shown(pair.candidate)} is line "
                f"{first[key]} already; expected each pair once. Remove one of the two lines."
            )
        pairs[key], first[key] = pair, number
    for number, wrong in zip(first.values(), _unaskable(list(pairs.values())), strict=True):
        if wrong:
            raise PlanError(f"{path}, line {number}: {wrong}. {_AGAIN}")
    return PlanFile(header, tuple(pairs.values()))


def _unaskable(pairs: Sequence[Pair]) -> Iterator[str]:
    """What of each pair no outcome could be made of, told before it is paid for; "" where all can be."""
    messages = typed.messages(pd.Series([pair.messages for pair in pairs], dtype=object))
    bad_times = typed.instant(pd.Series([pair.timestamp for pair in pairs], dtype=object)).bad
    for pair, bad, read, bad_time in zip(pairs, messages.bad, messages.values, bad_times, strict=True):
        if pair.messages is not None and (bad or read is None):
            yield "messages: expected a list of messages with roles, one of them with text"
        elif pair.messages is None and not (pair.prompt or "").strip():
            yield "prompt: expected text"
        elif bad_time:
            yield f"timestamp: {_shown(pair.timestamp)} arrived; expected an ISO 8601 date"
        else:
            yield ""


def _line(document: dict[str, Any]) -> str:
    return replace_surrogates(json.dumps(document, ensure_ascii=False)) + "\n"


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines, none longer than the limit."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(_LONGEST_LINE + 1):
                number += 1
                if len(line) > _LONGEST_LINE:
                    raise PlanError(
                        f"{path}, line {number}: longer than {_LONGEST_LINE:,} bytes; expected a pair. {_AGAIN}"
                    )
                yield number, line
    except OSError as error:
        raise PlanError(
            f"{path}: cannot be read ({error.strerror}); expected a plan, which router-train plan writes"
        ) from error


def _header(path: Path, line: bytes) -> PlanHeader:
    expected = 'expected {"plan": {...}}, the first line of what router-train plan writes'
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("plan"), dict):
        arrived = "nothing" if not line.strip() else "something else"
        raise PlanError(f"{path}, line 1: {arrived} arrived; {expected}")
    fields = dict(found["plan"])
    if (version := fields.pop("version", None)) != VERSION:
        raise PlanError(
            f"{path}, line 1: version: {_shown(version)} arrived; expected {VERSION}. Write the plan again: router-train plan."
        )
    header: PlanHeader = _valid(_HEADER, json.dumps(fields).encode(), f"{path}, line 1")
    return header


def _valid(kind: TypeAdapter[Any], line: bytes, where: str) -> Any:
    try:
        return kind.validate_json(line)
    except ValidationError as error:
        one = error.errors()[0]
        field = ".".join(map(str, one["loc"])) or "the line"
        arrived = "nothing" if one["type"].startswith("missing") else _shown(one["input"])
        if one["type"] == "json_invalid":
            arrived = "no JSON"
        expected = one["msg"].replace("Input should be", "it has to be")
        raise PlanError(f"{where}: {field}: {arrived} arrived; expected: {expected}. {_AGAIN}") from None


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"
