"""Deterministic checks of answers that were logged with their text: JSON, schema, exact, regex, numeric, answered.

They read `Outcomes.beside`, fill the quality of tries that nobody judged with 1 or 0, and leave everything else
alone. Where several apply to a try, all of them have to pass.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from training.dataset.label import judged_quality, with_judgements
from training.logs.outcomes import OutcomeError, Outcomes

NAMES = "json, json_schema:FILE, exact, regex:PATTERN, numeric or numeric:TOLERANCE, answered"

_TOLERANCE = 1e-6
_DIGITS = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
_NUMBER = re.compile(rf"(?<![\w.])[-+]?{_DIGITS}(?:[eE][-+]?\d+)?")
_OPENING = 160  # characters: a refusal says so at once, and a long answer that mentions one is none
_REFUSAL = re.compile(
    r"""
    \b(?:
      i['’]?\s?(?:m|am)\s+(?:(?:very|so|really|truly)\s+)?sorry\b.{0,40}
        \b(?:can(?:no|['’])t|cannot|won['’]t|unable|not\ able|not\ going)
    | i\s+(?:can(?:no|['’])t|cannot|won['’]t|will\ not|must\ decline\ to|have\ to\ decline\ to|refuse\ to|decline\ to)\s+
        (?:help|assist|do\ (?:that|this)|comply|provide|answer|fulfil|support|share|discuss|create|write|generate|engage)\b
    | i['’]?\s?(?:m|am)\s+(?:unable|not\ able|not\ allowed|not\ permitted)\s+to\b
    | as\ an?\ (?:ai|artificial|large\ language|language)\b.{0,60}\b(?:can(?:no|['’])t|cannot|unable|not\ able)
    | (?:es\ tut\ mir\ leid|tut\ mir\ leid|leider)\b.{0,60}\bkann\ ich\b.{0,60}\bnicht
    | ich\ kann\ (?:ihnen|dir)\ (?:dabei|damit|hierbei)\ nicht
    | je\ ne\ (?:peux|suis)\s+pas\s+(?:vous\ aider|t['’]aider|en\ mesure)
    | (?:lo\ siento|lamento)\b.{0,40}\bno\ puedo
    | no\ puedo\ (?:ayudar|asistir)
    )
    """,
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)

# An answer and what was expected of it (None: not logged) -> whether it passes; None: cannot be said.
Passes = Callable[[str, str | None], bool | None]


@dataclass(frozen=True)
class Check:
    """One check, the workflows (glob) it applies to, and its name as it was given."""

    name: str
    workflow: str
    passes: Passes


@dataclass(frozen=True)
class CheckAccount:
    """What the checks did: tries that `passed`, that `failed`, and that were left alone, by reason."""

    checks: tuple[str, ...]
    passed: int
    failed: int
    left_out: Mapping[str, int]


def check(text: str) -> Check:
    """A check as the command line names it, `[WORKFLOW=]CHECK` (`NAMES`); raises OutcomeError."""
    workflow, named = "*", text.strip()
    if not _is_known(named):
        glob, equals, rest = named.partition("=")
        if equals and _is_known(rest.strip()):
            workflow, named = glob.strip(), rest.strip()
    name, _, argument = named.partition(":")
    if name not in _MAKERS:
        raise OutcomeError(f"check {text!r} is not known; expected [WORKFLOW=]CHECK with one of: {NAMES}")
    return Check(text.strip(), workflow, _MAKERS[name](argument, text))


def apply_checks(
    table: Outcomes, checks: Sequence[Check], *, failures_only: bool = False
) -> tuple[Outcomes, CheckAccount]:
    """The outcomes with 1 or 0 where nobody judged an answer that some check applies to.

    With `failures_only` an answer that passes stays unjudged, for an LLM to grade. Raises OutcomeError when no
    answer text came with the log.
    """
    _require_answers(table, "answer")
    quality = judged_quality(table.frame).to_numpy(dtype="float64", copy=True)
    answers, expected = _texts(table, "answer"), _texts(table, "expected")
    workflows = _texts_of(table.frame["workflow"].tolist())
    left_out: Counter[str] = Counter()
    passed = failed = 0
    for row in range(len(quality)):
        if np.isfinite(quality[row]):
            left_out["already judged"] += 1
            continue
        passes = _passes(checks, workflows[row] or "", answers[row], expected[row])
        if isinstance(passes, str):
            left_out[passes] += 1
            continue
        passed, failed = passed + passes, failed + (not passes)
        if not (passes and failures_only):
            quality[row] = float(passes)
    account = CheckAccount(tuple(each.name for each in checks), passed, failed, dict(left_out.most_common()))
    return replace(table, frame=with_judgements(table.frame, quality)), account


def _require_answers(table: Outcomes, column: str) -> None:
    if column not in table.beside or table.beside[column].isna().all():
        raise OutcomeError(
            f"no {column} text came with the log, so nothing can be judged by it. Log the answers, or name their column: "
            f"--map {column}=FIELD, for example --map answer=choices.0.message.content"
        )


def _texts(table: Outcomes, name: str) -> list[str | None]:
    if name not in table.beside:
        return [None] * len(table.frame)
    return _texts_of(table.beside[name].tolist())


def _texts_of(cells: Sequence[Any]) -> list[str | None]:
    return [cell if isinstance(cell, str) else None for cell in cells]


def _passes(checks: Sequence[Check], workflow: str, answer: str | None, expected: str | None) -> bool | str:
    """Whether all checks that apply pass; or the reason why that cannot be said."""
    applying = [each for each in checks if fnmatchcase(workflow, each.workflow)]
    if not applying:
        return "no check for its workflow"
    if answer is None:
        return "no answer text"
    found = [each.passes(answer, expected) for each in applying]
    if False in found:
        return False
    return "nothing to compare with" if None in found else True


def _is_known(text: str) -> bool:
    return text.partition(":")[0] in _MAKERS


def _plain(make: Passes) -> Callable[[str, str], Passes]:
    """A maker of a check that takes no argument."""

    def maker(argument: str, text: str) -> Passes:
        if argument:
            raise OutcomeError(f"check {text!r}: takes nothing after the colon; expected one of: {NAMES}")
        return make

    return maker


def _parse(answer: str) -> Any:
    def refuse(word: str) -> Any:
        raise ValueError(f"{word} is not JSON")

    return json.loads(answer, parse_constant=refuse)


def _is_json(answer: str, _expected: str | None) -> bool:
    try:
        _parse(answer)
    except (ValueError, RecursionError):
        return False
    return True


def _json_schema(argument: str, text: str) -> Passes:
    if not argument:
        raise OutcomeError(f"check {text!r}: expected json_schema:FILE")
    path = Path(argument)
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))
        kind = validator_for(schema, default=Draft202012Validator)
        kind.check_schema(schema)
    except (OSError, ValueError, SchemaError) as error:
        reason = error.message if isinstance(error, SchemaError) else error
        raise OutcomeError(f"check {text!r}: {path} is no JSON schema ({reason})") from error
    # An empty registry: a reference to elsewhere is an error, never a download.
    validator = kind(schema, registry=Registry())

    def passes(answer: str, _expected: str | None) -> bool:
        try:
            return bool(validator.is_valid(_parse(answer)))
        except Unresolvable as error:
            raise OutcomeError(
                f"check {text!r}: {path} refers to {error.ref!r}, which is not in it; put it there"
            ) from error
        except (ValueError, RecursionError):
            return False

    return passes


def _regex(argument: str, text: str) -> Passes:
    try:
        pattern = re.compile(argument)
    except re.error as error:
        raise OutcomeError(f"check {text!r}: not a regular expression ({error})") from error
    if not argument:
        raise OutcomeError(f"check {text!r}: expected regex:PATTERN; an empty pattern fits every answer")
    return lambda answer, _expected: pattern.search(answer) is not None


def _exact(answer: str, expected: str | None) -> bool | None:
    return None if expected is None else _normal(answer) == _normal(expected)


def _normal(text: str) -> str:
    """Unicode NFC with runs of white space as one blank: what looks the same is the same."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _numeric(argument: str, text: str) -> Passes:
    try:
        tolerance = float(argument) if argument else _TOLERANCE
    except ValueError:
        tolerance = -1.0
    if not 0 <= tolerance < math.inf:
        raise OutcomeError(f"check {text!r}: expected numeric:TOLERANCE with a number >= 0, as in numeric:0.01")

    def passes(answer: str, expected: str | None) -> bool | None:
        wanted = None if expected is None else last_number(expected)
        if wanted is None:
            return None
        got = last_number(answer)
        return got is not None and math.isclose(got, wanted, rel_tol=tolerance, abs_tol=tolerance)

    return passes


def last_number(text: str) -> float | None:
    """The last number in a text, with or without commas between thousands; None where there is none."""
    found = _NUMBER.findall(text.replace("−", "-"))
    return float(found[-1].replace(",", "")) if found else None


def _answered(answer: str, _expected: str | None) -> bool:
    """Whether an answer has text and does not open with a refusal (English, and the commonest de, fr, es ones)."""
    return bool(answer.strip()) and _REFUSAL.search(answer.strip()[:_OPENING]) is None


_MAKERS: Mapping[str, Callable[[str, str], Passes]] = {
    "json": _plain(_is_json),
    "json_schema": _json_schema,
    "exact": _plain(_exact),
    "regex": _regex,
    "numeric": _numeric,
    "answered": _plain(_answered),
}
