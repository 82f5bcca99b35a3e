"""What a request demands: by its body, by its metadata, and by the metadata of its key and of that key's team.

In metadata the demands stand under `outcome_router`, as fields of POST /v1/route. All of them tighten: a candidate has to match
every `allow`, of limits the lower holds and of demands both. Of the aims the stricter holds if they are of one kind; of
different kinds the administrator's (key's or team's) holds, and among those `quality_target`, the certified one. `workflow` and
`objective` are the administrator's if they say it. So a client narrows what its key and team say, and never widens it.
What is no such demand is refused here, as the router would: it is not there at all times.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.decide.globs import matches
from serving.integrations.litellm.refusals import AdministratorsError, RefusedError, meant

# Fields of /v1/route that no LLM knows; each would be a 400 there.
OWN = (
    "workflow", "session_id", "allow", "deny", "quality_target", "cost_quality", "max_cost_usd", "max_latency_ms", "requires",
    "privacy", "objective", "zero_retention", "self_hosted", "no_training", "regions", "zdr", "data_collection",
)  # fmt: skip
# OpenRouter's, which would route behind the router's back where a candidate is served there. Of clients alone.
OPENROUTER = ("models", "provider", "plugins", "route", "transforms")
# What a client may not say: how much is routed is the proxy's to set.
_NOT_CLIENTS = ("share", "otherwise", "otherwise_candidate")
STRIPPED = (*OWN, *_NOT_CLIENTS)
KEY = "outcome_router"
# Whose metadata `demands` is given, in this order.
ADMINISTRATORS = ("key", "team")
READ_OF_OPENROUTER = ("models", "provider", "plugins")
# What may stand under the key in metadata, and how much is said of a name that may not.
_DEMANDS = tuple(name for name in OWN if name != "session_id")
_LONGEST_SHOWN = 40
# Of no account there: the proxy's settings, and a session, which the request names itself.
_PASSED_OVER = (*_NOT_CLIENTS, "session_id")
_LOWER, _HIGHER = ("max_cost_usd", "max_latency_ms"), ("quality_target", "cost_quality")
_UNITED = ("deny", "requires")
PRIVATE = ("zero_retention", "self_hosted", "no_training")
IN_PRIVACY = (*PRIVATE, "regions", "zdr", "data_collection")
# As in a body of /v1/route.
MOST_LISTED, LONGEST_LISTED = 64, 128
_LONGEST_REGION, _LARGEST = 256, 1e15


@dataclass(frozen=True)
class Demands:
    """Fields of /v1/route, without `allow`; and the groups of globs, of each of which a candidate has to match one."""

    fields: Mapping[str, Any]
    allow: tuple[tuple[str, ...], ...] = ()

    def allowed(self, candidates: Sequence[str]) -> tuple[str, ...]:
        """Those whom the names alone do not exclude."""
        deny = [glob for glob in _list(self.fields.get("deny")) if isinstance(glob, str)]
        return tuple(
            name
            for name in candidates
            if all(any(matches(name, glob) for glob in group) for group in self.allow)
            and not any(matches(name, glob) for glob in deny)
        )

    def strangers(self, candidates: Sequence[str]) -> tuple[str, ...]:
        """The globs that match none of the candidates, misspelt perhaps."""
        globs = [*(glob for group in self.allow for glob in group), *_list(self.fields.get("deny"))]
        return tuple(
            glob for glob in dict.fromkeys(map(str, globs)) if not any(matches(name, glob) for name in candidates)
        )

    @property
    def private(self) -> bool:
        """Whether anything is demanded of how the data is treated."""
        provider = self.fields.get("provider")
        asked = provider if isinstance(provider, Mapping) else {}
        return bool(self.fields.get("privacy")) or bool(asked.get("zdr")) or _denies_collection(asked)


def demands(
    bodies: Sequence[Mapping[str, Any]], metadata: Sequence[object], administrators: Sequence[object]
) -> Demands:
    """Of a request with these bodies, with what its client wrote into its metadata, and with key's and team's metadata.

    Raises RefusedError where what somebody says is no demand.
    """
    read = (*OWN, *READ_OF_OPENROUTER)
    said = [{name: one[name] for name in read if one.get(name) is not None} for one in bodies]
    client = [*said, *(_said_in(one) for one in metadata)]
    admin = [_said_by(who, one) for who, one in zip(ADMINISTRATORS, administrators, strict=False)]
    if not any((*client, *admin)):
        return Demands({}, ())
    for one in client:
        _check(one)
    fields = _of_openrouter(said)
    fields.update(_of_one_side(client))
    fields.pop("session_id", None)
    stricter = _of_one_side(admin)
    if any(name in stricter for name in _HIGHER):
        kept = "quality_target" if "quality_target" in stricter else "cost_quality"
        for name in _HIGHER:
            if name != kept:
                fields.pop(name, None)
                stricter.pop(name, None)
    _tighten(fields, stricter)
    for name in ("workflow", "objective"):
        if name in stricter:
            fields[name] = stricter[name]
    groups = [_list(one["allow"]) for one in (*client, *admin) if one.get("allow")]
    return Demands(fields, tuple(tuple(str(glob) for glob in group) for group in groups))


def _said_by(administrator: str, metadata: object) -> dict[str, Any]:
    """The demands in the metadata of a key or a team; raises AdministratorsError, for its client wrote nothing wrong."""
    try:
        said = _said_in(metadata)
        if said:
            _check(said)
    except RefusedError as error:
        raise AdministratorsError(error.status, f"in the metadata of the {administrator}: {error}") from None
    return said


def _of_openrouter(bodies: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Its fields, taken out of the bodies. Raises RefusedError where two of them say different things."""
    fields: dict[str, Any] = {}
    for body in bodies:
        for name in READ_OF_OPENROUTER:
            if name in body and fields.setdefault(name, body[name]) != body.pop(name):
                raise RefusedError(
                    422, f"{name}: it arrived twice, in the body and in extra_body; leave one of them out"
                )
    return fields


def _said_in(metadata: object) -> dict[str, Any]:
    """The demands in some metadata. OpenAI's holds text alone, so text is read as JSON.

    Raises RefusedError where it is none, or a name there is no demand: it would be passed over, and not be kept.
    """
    said = metadata.get(KEY) if isinstance(metadata, Mapping) else None
    if said is None:
        return {}
    if isinstance(said, str):
        try:
            said = json.loads(said)
        except (ValueError, RecursionError):
            raise _no_demand(KEY, "an object, or one as JSON text, and what arrived is no JSON") from None
    if not isinstance(said, Mapping):
        raise _no_demand(KEY, "an object, or one as JSON text")
    unknown = [name for name in said if name not in (*_DEMANDS, *_PASSED_OVER)]
    if unknown:
        shown = "".join(one if " " <= one <= "~" else "?" for one in str(unknown[0])[:_LONGEST_SHOWN])
        raise _no_demand(
            f"{KEY}.{shown}",
            f"one of {', '.join(_DEMANDS)} (OpenRouter's fields are read in the body alone)" + meant(shown, _DEMANDS),
        )
    return {name: said[name] for name in _DEMANDS if said.get(name) is not None}


def _of_one_side(sources: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all of a client's sources, or of the administrators', demand together."""
    fields: dict[str, Any] = {}
    for one in sources:
        for name in one:
            if name != "allow" and name not in (*_LOWER, *_HIGHER, *_UNITED, "privacy"):
                fields.setdefault(name, one[name])
        _tighten(fields, one)
    return fields


def _tighten(fields: dict[str, Any], other: Mapping[str, Any]) -> None:
    for names, choose in ((_LOWER, min), (_HIGHER, max)):
        for name in names:
            if name in other:
                fields[name] = _chosen(choose, fields.get(name), other[name])
    for name in _UNITED:
        if name in other:
            fields[name] = list(dict.fromkeys(str(one) for one in (*_list(fields.get(name)), *_list(other[name]))))
    if "privacy" in other:
        fields["privacy"] = _both(fields.get("privacy"), other["privacy"])


def _chosen(choose: Callable[[Any, Any], Any], first: Any, second: Any) -> Any:
    """One of two limits; what is no number is left to the router to refuse."""
    if first is None or not _number(second):
        return second
    return choose(first, second) if _number(first) else first


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST  # not NaN either


def _both(first: Any, second: Any) -> Any:
    """The demands on privacy of two sides; regions are those that both accept."""
    if not isinstance(first, Mapping) or not isinstance(second, Mapping):
        return first if isinstance(first, Mapping) else second
    both: dict[str, Any] = {**first, **{name: value for name, value in second.items() if value is not None}}
    for name in PRIVATE:
        if first.get(name) or second.get(name):
            both[name] = first.get(name) or second.get(name)
    named = [one["regions"] for one in (first, second) if isinstance(one.get("regions"), list)]
    if len(named) == 2:
        # An empty list would be no demand: a name that no region has is one that nobody keeps.
        both["regions"] = [region for region in named[0] if region in named[1]] or ["(none)"]
    return both


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _check(said: Mapping[str, Any]) -> None:
    """Raises RefusedError where one side says what is no demand. It looks at no more than a demand may be long."""
    for name in ("allow", *_UNITED):
        listed = said.get(name)
        if listed is not None and not _are_texts(listed if isinstance(listed, list) else [listed], LONGEST_LISTED):
            raise _no_demand(name, f"at most {MOST_LISTED} texts of at most {LONGEST_LISTED} characters")
    for name in (*_LOWER, *_HIGHER):
        if said.get(name) is not None and not _number(said[name]):
            raise _no_demand(name, "a number")
    if not isinstance(said.get("provider"), Mapping | str | None):
        raise _no_demand("provider", "an object")
    for name in IN_PRIVACY:
        if said.get(name) not in (None, "allow"):
            raise RefusedError(
                422,
                f"{name}: this goes into privacy: {{...}}, or where OpenRouter has it into provider: {{...}}",
            )
    privacy = said.get("privacy")
    if privacy is None:
        return
    if not isinstance(privacy, Mapping) or not set(privacy) <= {*PRIVATE, "regions"}:
        raise _no_demand("privacy", f"an object of {', '.join(PRIVATE)} and regions")
    for name in PRIVATE:
        if not isinstance(privacy.get(name, False), bool):
            raise _no_demand(f"privacy.{name}", "true or false")
    regions = privacy.get("regions")
    if regions is not None and not (isinstance(regions, list) and _are_texts(regions, _LONGEST_REGION)):
        raise _no_demand("privacy.regions", f"a list of at most {MOST_LISTED} texts")


def _are_texts(values: list[Any], longest: int) -> bool:
    return len(values) <= MOST_LISTED and all(isinstance(one, str) and 0 < len(one) <= longest for one in values)


def _no_demand(name: str, expected: str) -> RefusedError:
    return RefusedError(422, f"{name}: expected {expected}")


def _denies_collection(provider: Mapping[str, Any]) -> bool:
    return provider.get("data_collection") not in (None, "allow")


def keeps(candidate: Mapping[str, Any] | None, fields: Mapping[str, Any]) -> bool:
    """Whether a candidate is known to keep to what the fields demand of privacy: unknown counts as no."""
    if candidate is None:
        return False
    privacy, provider = fields.get("privacy"), fields.get("provider")
    asked = privacy if isinstance(privacy, Mapping) else {}
    router = provider if isinstance(provider, Mapping) else {}
    regions, own = asked.get("regions"), candidate.get("regions")
    return not (
        ((asked.get("zero_retention") or router.get("zdr")) and candidate.get("zero_retention") is not True)
        or (asked.get("self_hosted") and candidate.get("hosting") != "self")
        or ((asked.get("no_training") or _denies_collection(router)) and candidate.get("trains_on_data") is not False)
        or (regions and not (isinstance(own, list | tuple) and own and all(one in regions for one in own)))
    )
