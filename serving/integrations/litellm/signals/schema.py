"""Whether an answer fits the schema that it was asked for, within bounds on size and work.

The schema is a caller's and the answer an LLM's, and neither may hold up who looks: what takes too much work, what has patterns
or refers to other documents is not looked into, and then nothing is said.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from typing import Any

# In characters. What is larger is not looked into.
_LONGEST_ANSWER, _LONGEST_SCHEMA = 64 * 1024, 32 * 1024
# Keywords that are looked at before it is given up, some twenty microseconds each: a small schema can ask for 2 to the 30.
_MOST_STEPS = 4_000
# Not looked into: their work is bounded by no number of steps.
_COSTLY = ("pattern", "patternProperties", "uniqueItems", "format")


# How many steps are left to the validation that runs.
_left: ContextVar[list[int]] = ContextVar("_left")


class _TooMuchError(Exception):
    """More steps than are taken."""


def fits(text: str, asked: Mapping[str, Any]) -> bool | None:
    """Whether the text is JSON as asked; None where that is not known.

    `asked` is a request's `response_format`: of type json_object the text has to be a JSON object, of type json_schema one that
    its schema allows, as far as the library jsonschema is installed. Of another type nothing is asked.
    """
    kind = asked.get("type")
    if kind not in ("json_object", "json_schema") or len(text) > _LONGEST_ANSWER:
        return None
    try:
        answer = json.loads(text)
    except RecursionError:
        return None
    except ValueError:
        return False
    if kind == "json_object":
        return isinstance(answer, dict)
    named = asked.get("json_schema")
    schema = named.get("schema") if isinstance(named, Mapping) else None
    return True if not isinstance(schema, Mapping) or find_spec("jsonschema") is None else _allows(schema, answer)


def _allows(schema: Mapping[str, Any], answer: Any) -> bool | None:
    left = _left.set([_MOST_STEPS])
    try:
        if len(json.dumps(schema)) > _LONGEST_SCHEMA:
            return None
        return bool(_validator()(_undated(schema)).is_valid(answer))
    except Exception:  # noqa: BLE001 - whatever a caller's schema makes the library raise says nothing of the answer
        return None
    finally:
        _left.reset(left)


def _undated(schema: Any) -> Any:
    """Without the drafts that a schema names: the library would take its own validator for one, which knows no bounds."""
    if isinstance(schema, Mapping):
        return {name: _undated(value) for name, value in schema.items() if name != "$schema"}
    return [_undated(value) for value in schema] if isinstance(schema, list) else schema


@cache
def _validator() -> Callable[[Any], Any]:
    """Makes the validator of a schema: it reads no other document, and takes as many steps as are left."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend
    from referencing import Registry

    rules = {name: _counted(rule) for name, rule in Draft202012Validator.VALIDATORS.items()}
    kind = extend(Draft202012Validator, {**rules, **dict.fromkeys(_COSTLY, _nothing)})
    return lambda schema: kind(schema, registry=Registry())


def _counted(rule: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    # Which properties no pattern matches takes matching them.
    of_the_rest = rule.__name__ in ("additionalProperties", "unevaluatedProperties")

    def step(validator: Any, value: Any, instance: Any, whole: Any) -> Iterator[Any]:
        left = _left.get()
        left[0] -= 1
        if left[0] < 0:
            raise _TooMuchError
        if not (of_the_rest and "patternProperties" in whole):
            yield from rule(validator, value, instance, whole) or ()

    return step


def _nothing(*_: Any) -> tuple[()]:
    return ()
