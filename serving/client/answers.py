"""What the router answers, read from bytes that may be anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, NoReturn

from serving.client.errors import RouterFailedError

# The reason of a route that the router did not give.
UNAVAILABLE = "router_unavailable"
_TAKEN = ("recorded", "repeated")
# Of one item: the decision is not known, or another value was told before. What else there is says nothing of the item.
_OF_AN_ITEM = (404, 409)


@dataclass(frozen=True)
class Also:
    """Who is to be sent the same request too, so that both outcomes are known: feedback on it has its name as `model`."""

    model: str
    propensity: float
    expected_cost_usd: float | None


@dataclass(frozen=True)
class Route:
    """Where a request should go: `model`, and `fallbacks`, best first, where that one fails.

    `id` is what feedback refers to. `document` is the whole answer, as POST /v1/route documents it. `failed`: the router did
    not answer, and `model` is the fallback that the caller named, for the reason "router_unavailable" and without an id.
    """

    id: str | None
    model: str
    confidence: float | None
    fallbacks: tuple[str, ...]
    reason: str
    expected_cost_usd: float | None
    bundle: str | None
    propensity: float | None
    also: Also | None
    document: Mapping[str, Any]
    failed: bool = False


def unavailable(fallback: str) -> Route:
    """The route to the caller's own fallback."""
    return Route(None, fallback, None, (), UNAVAILABLE, None, None, None, None, {}, failed=True)


def route_of(content: bytes) -> Route:
    """A decision's document, as it came; raises RouterFailedError where it is none."""
    return route_from(_object(content))


def route_from(said: Mapping[str, Any]) -> Route:
    """A decision's document, read; raises RouterFailedError where it is none."""
    return Route(
        id=_text(said, "id"),
        model=_text(said, "model"),
        confidence=_number(said, "confidence"),
        fallbacks=_names(said, "fallbacks"),
        reason=_text(said, "reason"),
        expected_cost_usd=_number(said, "expected_cost_usd"),
        bundle=_text(said, "bundle") if said.get("bundle") is not None else None,
        propensity=_number(said, "propensity"),
        also=_also(said.get("also")),
        document=said,
    )


def problem_of(content: bytes, status: int) -> Mapping[str, Any] | None:
    """The problem document of an answer; None where it is no such document, and so not the router's own."""
    try:
        said = _object(content)
    except RouterFailedError:
        return None
    return said if said.get("status") == status and isinstance(said.get("type"), str) else None


def results_of(content: bytes, sent: int) -> list[str | Mapping[str, Any]]:
    """What became of each of the feedback that was sent; raises RouterFailedError where the answer does not say it."""
    results = _object(content).get("results")
    if not isinstance(results, list) or len(results) != sent:
        raise RouterFailedError(f"results: expected a list of {sent}, got {_shown(results)}")
    for place, one in enumerate(results):
        if not (one in _TAKEN if isinstance(one, str) else isinstance(one, dict) and one.get("status") in _OF_AN_ITEM):
            raise RouterFailedError(f"results.{place}: neither stored nor refused for itself: {_shown(one)}")
    return results


def _object(content: bytes) -> dict[str, Any]:
    try:
        said = json.loads(content, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise RouterFailedError(f"its answer is no JSON ({error.__class__.__name__})") from None
    if not isinstance(said, dict):
        raise RouterFailedError(f"its answer is no JSON object but {_shown(said)}")
    return said


def _no_number(said: str) -> NoReturn:
    raise ValueError(f"{said} is no number of JSON")


def _text(said: Mapping[str, Any], name: str) -> str:
    value = said.get(name)
    if not isinstance(value, str) or not value:
        raise RouterFailedError(f"{name}: expected a string, got {_shown(value)}")
    return value


def _number(said: Mapping[str, Any], name: str) -> float | None:
    value = said.get(name)
    if value is None:
        return None
    try:
        if not isinstance(value, bool) and isinstance(value, int | float) and isfinite(value):
            return float(value)
    except OverflowError:  # an integer beyond every float
        pass
    raise RouterFailedError(f"{name}: expected a number or null, got {_shown(value)}")


def _names(said: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = said.get(name)
    if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
        raise RouterFailedError(f"{name}: expected a list of strings, got {_shown(value)}")
    return tuple(value)


def _also(said: object) -> Also | None:
    if said is None:
        return None
    if not isinstance(said, dict):
        raise RouterFailedError(f"also: expected an object or null, got {_shown(said)}")
    propensity = _number(said, "propensity")
    if propensity is None:
        raise RouterFailedError("also.propensity: expected a number, got null")
    return Also(_text(said, "model"), propensity, _number(said, "expected_cost_usd"))


def _shown(value: object) -> str:
    """What kind of value it is: what it says may be somebody's prompt."""
    return "null" if value is None else value.__class__.__name__
