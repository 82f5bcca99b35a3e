"""What a decision leaves for the later hooks and the log events of the same call, and where it stands in LiteLLM's metadata.

It stands in `metadata.spend_logs_metadata.outcome_router` (`litellm_metadata` on some routes), which LiteLLM logs. A client may
write there too: a record is believed by its class alone, which no JSON can have, and any other is dropped.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from serving.client import Route

BUCKETS = ("litellm_metadata", "metadata")
LOGGED, KEY = "spend_logs_metadata", "outcome_router"
_MOST_USD = 1e9  # of one call
_PREFIX = "x-router-"
_LONGEST_HEADER = 200
_NOT_PRINTABLE = re.compile("[^ -~]")


class Decided(dict[str, Any]):
    """The record of a decision, as it is logged; beside it, what of this call has been tried.

    `ranks` are those who may answer, alone. `group` is whose rows they are about, `stays` whether the call is left on the
    group that it asked for, `call` tells a call from the next one that is given the same metadata (None: of a proxy, where
    each call has its own), `owner` whose call it is (`owner_of` its key; None without a key).
    `offered` are the deployments that each pick was left with; `failed` is how many failures were known then.
    """

    def __init__(self, values: Mapping[str, Any], group: str, *, stays: bool = False) -> None:
        super().__init__(values)
        self.group, self.stays = group, stays
        self.call: object = None
        self.owner: str | None = None
        self.offered: list[tuple[str, ...]] = []
        self.failed = 0

    @property
    def ranks(self) -> Sequence[str]:
        """The candidates that may answer, best first."""
        ranks: Sequence[str] = self["ranks"]
        return ranks


def bucket(data: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The metadata of a request that LiteLLM logs; made where there is none."""
    for name in BUCKETS:
        if isinstance(data.get(name), MutableMapping):
            found: MutableMapping[str, Any] = data[name]
            return found
    made: dict[str, Any] = {}
    data["metadata"] = made
    return made


def key_of(request: Mapping[str, Any]) -> Any:
    """The key (UserAPIKeyAuth) that the proxy left with a request; None where it left none. What is JSON a client wrote."""
    keys = (metadata.get("user_api_key_auth") for metadata in _metadata(request))
    return next((key for key in keys if hasattr(key, "model_copy")), None)


def owner_of(key: Any) -> str | None:
    """Whom sessions and decisions of a key (UserAPIKeyAuth) are told apart by: its hash.

    Where a request has no virtual key (JWT, SSO) a hash of its organisation, team, user and end user; None where it says none.
    """
    token, secret = getattr(key, "token", None), getattr(key, "api_key", None)
    if isinstance(token, str) and token:
        return token
    known: object = secret if isinstance(secret, str) and secret else None
    if known is None:
        said = tuple(getattr(key, name, None) for name in ("org_id", "team_id", "user_id", "end_user_id"))
        known = said if any(said) else None
    if known is None:
        return None
    return hashlib.blake2b(repr(known).encode("utf-8", "surrogatepass"), digest_size=32).hexdigest()


def put(data: MutableMapping[str, Any], decided: Decided) -> None:
    """Leaves the record in the request's metadata, in place: LiteLLM's logging holds the same objects."""
    metadata = bucket(data)
    logged = metadata.get(LOGGED)
    metadata[LOGGED] = {**(logged if isinstance(logged, Mapping) else {}), KEY: decided}


def found(data: Mapping[str, Any]) -> Decided | None:
    """The record of a request, None where the plug-in left none."""
    return next((one for one in _standing(data) if isinstance(one, Decided)), None)


def headers_of(decided: Decided) -> dict[str, str]:
    """x-router-*: printable ASCII, bounded."""
    values = {
        "model": decided["model"],
        "confidence": decided["confidence"],
        "reason": decided["reason"],
        "decision-id": decided["decision_id"],
        "held-back": decided["held_back"],
    }
    return {
        f"{_PREFIX}{name}": _NOT_PRINTABLE.sub("?", str(value)[:_LONGEST_HEADER])
        for name, value in values.items()
        if value is not None
    }


def drop_claimed(data: Mapping[str, Any]) -> None:
    """Takes out what a client wrote where the record stands, whatever the request is for."""
    for metadata in _metadata(data):
        logged = metadata.get(LOGGED)
        if isinstance(logged, Mapping) and KEY in logged and not isinstance(logged[KEY], Decided):
            metadata[LOGGED] = {name: value for name, value in logged.items() if name != KEY}


def record(
    route: Route, group: str, reference: str | None, held_back: Mapping[str, Any] | None, session: str | None
) -> dict[str, Any]:
    """What is logged of a decision; costs are expected ones, in USD. `picked` is whom the last pick was for,
    `stays` whether the call is left on the group that it asked for."""
    return {
        "decision_id": route.id,
        "model": route.model,
        "ranks": list(dict.fromkeys((route.model, *route.fallbacks))),
        "confidence": route.confidence,
        "reason": route.reason,
        "bundle": route.bundle,
        "expected_cost_usd": _amount(route.expected_cost_usd),
        "reference": reference,
        "reference_cost_usd": _cost(route.document, reference),
        "propensity": route.propensity,
        "held_back": None if held_back is None else held_back["model"],
        "held_back_cost_usd": None if held_back is None else _amount(held_back.get("expected_cost_usd")),
        "session": session,
        "group": group,
        "picked": None,
        "stays": False,
    }


def _cost(document: Mapping[str, Any], candidate: str | None) -> float | None:
    listed = document.get("candidates")
    rows = [row for row in listed if isinstance(row, Mapping)] if isinstance(listed, list | tuple) else []
    return _amount(next((row.get("expected_cost_usd") for row in rows if row.get("model") == candidate), None))


def _amount(value: object) -> float | None:
    """An amount of USD; None for what is none."""
    known = isinstance(value, float | int) and not isinstance(value, bool) and 0 <= value < _MOST_USD
    return float(value) if known and isinstance(value, float | int) else None


def _metadata(data: Mapping[str, Any]) -> Iterator[MutableMapping[str, Any]]:
    for name in BUCKETS:
        metadata = data.get(name)
        if isinstance(metadata, MutableMapping):
            yield metadata


def _standing(data: Mapping[str, Any]) -> Iterator[Any]:
    for metadata in _metadata(data):
        logged = metadata.get(LOGGED)
        if isinstance(logged, Mapping):
            yield logged.get(KEY)
