"""One call's decision: what is asked, who may answer, and what is left where nobody decides."""

from __future__ import annotations

import time
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.client import Route
from serving.integrations.litellm import counters
from serving.integrations.litellm.decided import Decided, bucket, put, record
from serving.integrations.litellm.deciders import NOBODY, Decider
from serving.integrations.litellm.request.access import Access
from serving.integrations.litellm.request.body import label, session_of, shape, workflow_of
from serving.integrations.litellm.request.constraints import OPENROUTER, STRIPPED, Demands, demands
from serving.integrations.litellm.rows import candidates_of, rows_of
from serving.integrations.litellm.settings import LiteLLMSettings

_MOST_ALLOWED, _LONGEST_GLOB = 64, 128
UNREADABLE = "unreadable"  # a prompt of tokens, which has no text


class RefusedError(Exception):
    """Nobody may answer: by the rights of the key (403), or because what is demanded cannot be checked now (503)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Call:
    """A call of LiteLLM's: its data, the group asked, the key (None without a proxy) and LiteLLM's Router (None: not known)."""

    data: MutableMapping[str, Any]
    group: str
    key: Any
    router: Any

    @property
    def key_hash(self) -> str | None:
        """What sessions of the key are told apart by."""
        token = getattr(self.key, "token", None) or getattr(self.key, "api_key", None)
        return token if isinstance(token, str) else None


class Asking:
    """Asks the decider about calls, and leaves the decision in their metadata."""

    def __init__(self, settings: LiteLLMSettings, decider: Decider) -> None:
        self.settings, self.decider = settings, decider
        self._access = Access(settings.access_seconds)

    async def about(self, call: Call, rows: Sequence[Mapping[str, Any]] | None = None) -> Decided | None:
        """The decision, left in the call's metadata; None where the call is left as it is. `rows`: the group's, if known.

        Raises RefusedError, and RouteRefusedError where the router's rules refuse.
        """
        own = self.settings.own(call.group)
        target = call.group if own else self.settings.group
        demanded = _demands(call)
        candidates = candidates_of(rows_of(call.router, target) if rows is None else rows)
        share = self.settings.share if own or candidates else 0.0
        permitted = await self._access.permitted(call.key, call.router, target, candidates)
        may = demanded.allowed([name for name in candidates if name in permitted])
        if own and candidates and not self._mapped(candidates):
            counters.UNROUTED.labels("unmapped").inc()
            return None
        if candidates and not may:
            counters.DENIED.labels(call.group).inc()
            if own:
                raise RefusedError(403, _nobody(permitted))
            return None
        session = session_of(call.data, bucket(call.data), call.key_hash)
        body = shape(call.data)
        started = time.perf_counter()
        if body is None:
            route = Route(None, NOBODY, None, (), UNREADABLE, None, None, None, None, {}, failed=True)
        else:
            body.update(demanded.fields)
            body.update(_asked(may, len(candidates), demanded, share, None if own else call.group, session))
            route = await self.decider.decide(body)
        counters.SECONDS.observe(time.perf_counter() - started)
        decided = self._decided(call, route, may, demanded, session, own=own)
        if decided is not None:
            put(call.data, decided)
        return decided

    def _mapped(self, candidates: Sequence[str]) -> bool:
        """Whether any row names a candidate, as far as the candidates are known."""
        return not self.decider.catalogue or any(name in self.decider.catalogue for name in candidates)

    def _decided(
        self, call: Call, route: Route, may: Sequence[str], demanded: Demands, session: str | None, *, own: bool
    ) -> Decided | None:
        if route.failed:
            counters.FAILED_OPEN.labels(call.group).inc()
            if not own:
                return None
            route = self._without_router(route, may, demanded)
        held_back = route.document.get("held_back")
        held = held_back.get("model") if isinstance(held_back, Mapping) else None
        values = record(route, call.group, self.decider.reference, held, session)
        counters.DECISIONS.labels(call.group, route.reason).inc()
        if held is not None:
            counters.HELD_BACK.labels(call.group).inc()
        elif route.model in may:
            counters.CHOSEN.labels(route.model).inc()
        cost, reference = values["expected_cost_usd"], values["reference_cost_usd"]
        if cost is not None and reference is not None:
            counters.EXPECTED_USD.inc(cost)
            counters.REFERENCE_USD.inc(reference)
        stays = not own and (held is not None or route.model == call.group)
        values["picked"] = call.group if stays else None
        return Decided(values, call.group if own or stays else self.settings.group, stays=stays)

    def _without_router(self, route: Route, may: Sequence[str], demanded: Demands) -> Route:
        """The reference, then the others; raises RefusedError where a demand on privacy cannot be checked."""
        if demanded.private:
            may = [name for name in may if keeps(self.decider.catalogue.get(name), demanded.fields)]
            if not may:
                raise RefusedError(
                    503, "the router is away, and what this request demands of privacy cannot be checked without it"
                )
        reference = self.decider.reference
        others = [name for name in may if name != reference]
        ranks = [*([reference] if reference in may else []), *others]
        first, *rest = [one for one in ranks if one is not None] or [NOBODY]
        return Route(None, first, None, tuple(rest), route.reason, None, None, None, None, {}, failed=True)


def _demands(call: Call) -> Demands:
    metadata = bucket(call.data)
    administrators = (getattr(call.key, "metadata", None), getattr(call.key, "team_metadata", None))
    client = metadata.get("requester_metadata") if call.key is not None else metadata
    demanded = demands(call.data, client, administrators)
    workflow = demanded.fields.get("workflow") or workflow_of(metadata.get("tags"))
    fields = {name: value for name, value in demanded.fields.items() if name != "workflow"}
    named = label(workflow)
    return Demands({**fields, "workflow": named} if named else fields, demanded.allow)


def _asked(
    may: Sequence[str], rows: int, demanded: Demands, share: float, otherwise: str | None, session: str | None
) -> dict[str, Any]:
    """What the plug-in itself says in the body."""
    said: dict[str, Any] = {}
    names = [name for name in may if len(name) <= _LONGEST_GLOB][:_MOST_ALLOWED]
    if rows:
        said["allow"] = [_literal(name) for name in names]
    elif demanded.allow:
        said["allow"] = list(demanded.allow[0])
    if share < 1:
        said["share"] = share
    if otherwise is not None:
        said["otherwise"] = otherwise
    if session is not None:
        said["session_id"] = session
    return said


def _literal(name: str) -> str:
    """A glob that this name alone matches."""
    return "".join(f"[{one}]" if one in "*?[" else one for one in name)


def strip(data: MutableMapping[str, Any], *, routed: bool) -> None:
    """Takes the router's own fields out of a body, and OpenRouter's where it goes to a candidate."""
    for name in (*STRIPPED, *(OPENROUTER if routed else ())):
        data.pop(name, None)


def strip_metadata(data: MutableMapping[str, Any]) -> None:
    """Takes the demands out of a request's metadata: on some routes it is the provider's, which gets it."""
    metadata = data.get("metadata")
    if isinstance(metadata, MutableMapping):
        metadata.pop("outcome_router", None)


def keeps(candidate: Mapping[str, Any] | None, fields: Mapping[str, Any]) -> bool:
    """Whether a candidate is known to keep to what the fields demand of privacy: unknown counts as no."""
    if candidate is None:
        return False
    privacy, provider = fields.get("privacy"), fields.get("provider")
    asked = privacy if isinstance(privacy, Mapping) else {}
    router = provider if isinstance(provider, Mapping) else {}
    regions = asked.get("regions")
    return not (
        ((asked.get("zero_retention") or router.get("zdr")) and candidate.get("zero_retention") is not True)
        or (asked.get("self_hosted") and candidate.get("hosting") != "self")
        or (
            (asked.get("no_training") or router.get("data_collection") == "deny")
            and candidate.get("trains_on_data") is not False
        )
        or (regions and not (candidate.get("regions") and set(candidate["regions"]) <= set(regions)))
    )


def _nobody(permitted: frozenset[str]) -> str:
    if not permitted:
        return "the key may use none of the candidates of this model group"
    return "allow and deny, of the request and of its key and team, leave none of the candidates that the key may use"
