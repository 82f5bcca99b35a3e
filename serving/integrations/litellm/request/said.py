"""What a client says of a call in its body and metadata: all of it that is read, what is taken out, and what is kept.

LiteLLM may bring a call to the candidates by a second way, a fallback, when its body no longer has the demands. So they are
left with the request, in an object that no JSON can be: what a client writes there is not believed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from serving.integrations.litellm.decided import BUCKETS, bucket
from serving.integrations.litellm.refusals import RefusedError
from serving.integrations.litellm.request.constraints import KEY, OPENROUTER, OWN, READ_OF_OPENROUTER, STRIPPED

_KEPT, _EXTRA = "outcome_router_demands", "extra_body"
_DEMANDS = frozenset(OWN) - {"session_id"} | frozenset(READ_OF_OPENROUTER)


class Kept(dict[str, Any]):
    """The fields of a request that demand something. To whatever logs the metadata it is an empty object."""

    def __init__(self, said: Mapping[str, Any]) -> None:
        super().__init__()
        self.said = said


def bodies_of(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The bodies that may demand something: the request's, its `extra_body`, and the same of what was kept of it."""
    bodies: list[Mapping[str, Any]] = []
    for one in (data, *(kept.said for kept in _kept(data))):
        bodies.append(one)
        extra = one.get(_EXTRA)
        if isinstance(extra, Mapping):
            bodies.append(extra)
    return bodies


def metadata_of(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The metadata in which a client may demand something, and LiteLLM's copies of it."""
    found: list[Mapping[str, Any]] = []
    for one in (data, *(kept.said for kept in _kept(data))):
        for name in BUCKETS:
            metadata = one.get(name)
            if not isinstance(metadata, Mapping):
                continue
            copied = metadata.get("requester_metadata")
            found += [some for some in (metadata, copied) if isinstance(some, Mapping) and KEY in some]
    return found


def keep(data: MutableMapping[str, Any]) -> None:
    """Leaves what the request demands in its metadata, for the next pick, before it is taken out."""
    said: dict[str, Any] = {name: data[name] for name in _DEMANDS if data.get(name) is not None}
    extra = data.get(_EXTRA)
    asked = _demanded(extra)
    if isinstance(extra, Mapping) and asked:
        said[_EXTRA] = {name: extra[name] for name in asked}
    for name in BUCKETS:
        metadata = data.get(name)
        if isinstance(metadata, Mapping) and metadata.get(KEY) is not None:
            said[name] = {KEY: metadata[KEY]}
    if said:
        bucket(data)[_KEPT] = Kept(said)


def strip(data: MutableMapping[str, Any], *, routed: bool) -> None:
    """Takes the router's own fields out of a body, and OpenRouter's where it goes to a candidate.

    There out of `extra_body` too, which is laid over the body that is sent: its `model` would be another than the candidate's.
    """
    for name in (*STRIPPED, *(OPENROUTER if routed else ())):
        data.pop(name, None)
    extra = data.get(_EXTRA)
    if routed and isinstance(extra, Mapping):
        taken = (*STRIPPED, *OPENROUTER, "model")
        data[_EXTRA] = {name: value for name, value in extra.items() if name not in taken}


def strip_metadata(data: Mapping[str, Any]) -> None:
    """Takes the demands out of a request's metadata: on some routes it is the provider's, which gets it."""
    for name in BUCKETS:
        metadata = data.get(name)
        if isinstance(metadata, MutableMapping):
            metadata.pop(KEY, None)


def strip_entry(entry: MutableMapping[str, Any]) -> None:
    """Takes the same out of a fallback that goes to a candidate.

    Raises RefusedError where it demands something: LiteLLM lays it over the request when nobody looks at demands any more.
    """
    wrong = [*_demanded(entry), *_demanded(entry.get(_EXTRA))]
    if wrong:
        raise RefusedError(422, f"fallbacks: {wrong[0]} is not read there, it goes into the body beside them")
    strip(entry, routed=True)


def _demanded(said: object) -> Sequence[str]:
    return [name for name in said if name in _DEMANDS and said[name] is not None] if isinstance(said, Mapping) else ()


def _kept(data: Mapping[str, Any]) -> Iterator[Kept]:
    for name in BUCKETS:
        metadata = data.get(name)
        kept = metadata.get(_KEPT) if isinstance(metadata, Mapping) else None
        if isinstance(kept, Kept):
            yield kept
