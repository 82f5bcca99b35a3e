"""One call's decision: what is asked, who may answer, and what is left where nobody decides."""

from __future__ import annotations

import time
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from serving.client import Route, RouteRefusedError
from serving.client.answers import UNAVAILABLE, unavailable
from serving.decide.decision import Reason
from serving.integrations.litellm import counters
from serving.integrations.litellm.counters import UNMAPPED, UNREADABLE
from serving.integrations.litellm.decided import Decided, bucket, owner_of, put, record
from serving.integrations.litellm.deciders import NOBODY, Decider
from serving.integrations.litellm.refusals import RefusedError, is_about_the_text
from serving.integrations.litellm.request.access import Access
from serving.integrations.litellm.request.body import label, neutral, session_of, shape, workflow_of
from serving.integrations.litellm.request.constraints import (
    LONGEST_LISTED,
    MOST_LISTED,
    Demands,
    demands,
    keeps,
)
from serving.integrations.litellm.request.said import bodies_of, metadata_of
from serving.integrations.litellm.request.slips import slips
from serving.integrations.litellm.rows import behind, candidate_of, candidates_of, listed, rows_of
from serving.integrations.litellm.settings import LiteLLMSettings

_RARELY_SECONDS = 3600.0


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
        return owner_of(self.key)


@dataclass(frozen=True)
class _Rights:
    """Who may answer a call, by its key and by names; the candidates that its rows serve; and what else is demanded."""

    may: tuple[str, ...]
    permitted: frozenset[str]
    candidates: tuple[str, ...]
    demanded: Demands


class Asking:
    """Asks the decider about calls, and leaves the decision in their metadata.

    Who may answer is found first, and apart: a decision orders those and adds nobody, and where there is none, they answer.
    """

    def __init__(self, settings: LiteLLMSettings, decider: Decider) -> None:
        self.settings, self.decider = settings, decider
        self._access = Access(settings.access_seconds)
        self._complaints = counters.Complaints()

    async def about(self, call: Call, rows: Sequence[Mapping[str, Any]] | None = None) -> Decided | None:
        """The decision, left in the call's metadata. None: an existing group's call is left as it is. `rows`: if known.

        Raises RefusedError, and RouteRefusedError where the router's rules refuse.
        """
        own = self.settings.own(call.group)
        if own:
            self._tell_slips(call)
        rights = await self._rights_or_refusal(call, rows, own=own)
        if not rights.may and (own or rights.candidates):
            counters.DENIED.labels(self.settings.label(call.group)).inc()
            if own:
                raise RefusedError(403, _nobody(rights))
            if not rights.permitted:
                self._undecided(call.group)
            return None
        try:
            decided = await self._asked(call, rights, own=own)
        except (RefusedError, RouteRefusedError):
            raise
        except Exception as error:
            if not own:
                raise
            counters.FAULTS.labels("decision").inc()
            self._complaints.say("decision", "a decision failed, whoever may answers in the order of the rows", error)
            decided = self._decided(call, _nothing(UNAVAILABLE), rights, None, own=own)
        if decided is not None:
            decided.owner = call.key_hash
            put(call.data, decided)
        return decided

    def _undecided(self, group: str) -> None:
        """Says of an existing group, once and then rarely, that some of its calls are not decided on."""
        self._complaints.say(
            f"undecided {self.settings.label(group)}",
            f"{group}: calls of keys that may use no candidate are served and not decided on, in shadow mode too; "
            f"give those keys {self.settings.group} as well",
            seconds=_RARELY_SECONDS,
        )

    def _tell_slips(self, call: Call) -> None:
        for meant in slips(call.data):
            self._complaints.say(f"slip {meant}", f"a field that is spelt nearly like {meant} is read by nobody")

    async def by_name(self, call: Call, rows: Sequence[Mapping[str, Any]]) -> None:
        """Raises RefusedError where one of the rows that a call names may not answer it: no filter is asked there."""
        for group in dict.fromkeys(str(row["model_name"]) for row in rows):
            rights = await self._rights_or_refusal(replace(call, group=group), None, own=True)
            named = {candidate_of(row) or "" for row in rows if row["model_name"] == group}
            if not named <= set(rights.may):
                counters.DENIED.labels(self.settings.label(group)).inc()
                raise RefusedError(
                    403, "the key may not use the candidate of this deployment, or what is demanded denies it"
                )
            if rights.demanded.private:
                await self.decider.known()
                if not all(keeps(self.decider.catalogue.get(name), rights.demanded.fields) for name in named):
                    status, known = (403, "is not") if self.decider.catalogue else (503, "is not at present")
                    raise RefusedError(
                        status, f"the candidate of this deployment {known} known to keep what is demanded of privacy"
                    )

    async def _rights_or_refusal(self, call: Call, rows: Sequence[Mapping[str, Any]] | None, *, own: bool) -> _Rights:
        try:
            return await self._rights(call, rows, own=own)
        except RefusedError:
            raise
        except Exception as error:
            if not own:
                raise
            counters.FAULTS.labels("rights").inc()
            self._complaints.say("rights", "who may answer could not be found, so nobody does", error)
            raise RefusedError(503, "it cannot be told at present who may answer this request") from None

    async def _rights(self, call: Call, rows: Sequence[Mapping[str, Any]] | None, *, own: bool) -> _Rights:
        target = call.group if own else self.settings.group
        demanded = _demands(call)
        candidates = candidates_of(rows_of(call.router, target) if rows is None else rows)
        permitted = await self._access.permitted(call.key, call.router, target, candidates)
        may = demanded.allowed([name for name in candidates if name in permitted])
        return _Rights(may, permitted, candidates, demanded)

    async def _asked(self, call: Call, rights: _Rights, *, own: bool) -> Decided | None:
        session = session_of(call.data, bucket(call.data), call.key_hash)
        if own and not self._mapped(rights.candidates):
            counters.UNROUTED.labels("unmapped").inc()
            return self._decided(call, _nothing(UNMAPPED), rights, session, own=own)
        body, route = shape(call.data), _nothing(UNREADABLE)
        started = time.perf_counter()
        if body is not None or own:
            share = self.settings.share if own or rights.candidates else 0.0
            said = self._said(rights, share, {} if own else await self._otherwise(call), session)
            route = await self._routed(call, body, said, own=own)
        counters.SECONDS.observe(time.perf_counter() - started)
        return self._decided(call, route, rights, session, own=own)

    async def _routed(self, call: Call, body: Mapping[str, Any] | None, said: Mapping[str, Any], *, own: bool) -> Route:
        """The router's answer. Of an own group's call whose text it cannot read, that on a text that it can.

        For whom its own rules let answer, and what they have spent, does not depend on the text.
        """
        if body is not None:
            try:
                return await self.decider.decide({**body, **said})
            except RouteRefusedError as error:
                if not own or not is_about_the_text(error):
                    raise
        try:
            return await self.decider.decide({**neutral(call.data), **said})
        except RouteRefusedError as error:
            if not is_about_the_text(error):
                raise
            return _nothing(UNREADABLE)

    def _mapped(self, candidates: Sequence[str]) -> bool:
        """Whether any row names a candidate, as far as the candidates are known."""
        return not self.decider.catalogue or any(name in self.decider.catalogue for name in candidates)

    async def _otherwise(self, call: Call) -> dict[str, Any]:
        """Who answers an existing group's calls that are not routed: its name, and the candidate behind it."""
        await self.decider.known()
        candidate = behind(rows_of(call.router, call.group), self.decider.catalogue)
        return {"otherwise": call.group, **({} if candidate is None else {"otherwise_candidate": candidate})}

    def _said(self, rights: _Rights, share: float, otherwise: Mapping[str, Any], session: str | None) -> dict[str, Any]:
        """What is demanded, and what the plug-in itself says in the body."""
        said = dict(rights.demanded.fields)
        if rights.candidates:
            said.update(self._names(rights))
        elif rights.demanded.allow:
            said["allow"] = list(rights.demanded.allow[0])
        if share < 1:
            said["share"] = share
        said.update(otherwise)
        if session is not None:
            said["session_id"] = session
        return said

    def _names(self, rights: _Rights) -> dict[str, Any]:
        """Whom the router may choose, as far as its lists have room. Its answer is held to all of them in any case."""
        catalogue, reference = self.decider.catalogue, self.decider.reference
        known = [name for name in rights.may if name in catalogue] or list(rights.may)
        fitting = [name for name in known if len(_literal(name)) <= LONGEST_LISTED]
        if (len(fitting) > MOST_LISTED or len(fitting) < len(known)) and catalogue:
            others = [_literal(name) for name in catalogue if name not in rights.may]
            if len(others) <= MOST_LISTED and all(len(name) <= LONGEST_LISTED for name in others):
                return {"deny": others}
        first = sorted(fitting, key=lambda name: name != reference)[:MOST_LISTED]
        denied = _denied(rights.demanded.fields)  # nobody in `may` is; kept for the record while there is room
        return {"allow": [_literal(name) for name in first], **({"deny": denied} if denied else {})}

    def _decided(self, call: Call, route: Route, rights: _Rights, session: str | None, *, own: bool) -> Decided | None:
        label, may = self.settings.label(call.group), rights.may
        if route.failed:
            counters.FAILED_OPEN.labels(label).inc()
            if not own:
                return None
            route = self._without_router(route.reason, rights)
        held_back = route.document.get("held_back")
        held_back = held_back if isinstance(held_back, Mapping) and isinstance(held_back.get("model"), str) else None
        stays = not own and (route.reason == Reason.HELD_BACK or route.model == call.group)
        if (
            not own and not stays and self.settings.share == 0
        ):  # in shadow mode nothing moves, whatever the rules exclude
            counters.FAILED_OPEN.labels(label).inc()
            return None
        if not stays and not {route.model, *route.fallbacks} <= set(may):
            kept = _within(route, may)
            if kept is None:
                counters.FAILED_OPEN.labels(label).inc()
                if not own:
                    return None
            route = kept or self._without_router(UNAVAILABLE, rights)
        values = record(route, call.group, self.decider.reference, held_back, session)
        counters.DECISIONS.labels(label, counters.reason_of(route.reason)).inc()
        if held_back is not None:
            counters.HELD_BACK.labels(label).inc()
        elif route.model in may:
            counters.CHOSEN.labels(route.model).inc()
        cost, reference = values["expected_cost_usd"], values["reference_cost_usd"]
        if cost is not None and reference is not None:
            counters.EXPECTED_USD.inc(cost)
            counters.REFERENCE_USD.inc(reference)
        if stays:
            values["picked"], values["stays"] = route.model, True
        return Decided(values, call.group if own or stays else self.settings.group, stays=stays)

    def _without_router(self, reason: str, rights: _Rights) -> Route:
        """The reference, then the others; raises RefusedError where a demand on privacy cannot be checked."""
        may, demanded = rights.may, rights.demanded
        if demanded.private:
            may = tuple(name for name in may if keeps(self.decider.catalogue.get(name), demanded.fields))
            if not may:
                raise RefusedError(
                    503, "nobody decided, and of those who may answer none is known to keep what is demanded of privacy"
                )
        first, *rest = sorted(may, key=lambda name: name != self.decider.reference)
        return replace(_nothing(reason), model=first, fallbacks=tuple(rest))


def _nothing(reason: str) -> Route:
    """The route where nobody decided."""
    return replace(unavailable(NOBODY), reason=reason)


def _within(route: Route, may: Sequence[str]) -> Route | None:
    """The route to those alone who may answer; None where it names none of them."""
    ranks = [name for name in (route.model, *route.fallbacks) if name in may]
    if not ranks:
        return None
    first, *rest = ranks
    if first == route.model:
        return replace(route, fallbacks=tuple(rest))
    return replace(route, model=first, fallbacks=tuple(rest), expected_cost_usd=None, propensity=None)


def _demands(call: Call) -> Demands:
    administrators = (getattr(call.key, "metadata", None), getattr(call.key, "team_metadata", None))
    demanded = demands(bodies_of(call.data), metadata_of(call.data), administrators)
    workflow = demanded.fields.get("workflow") or workflow_of(bucket(call.data).get("tags"))
    fields = {name: value for name, value in demanded.fields.items() if name != "workflow"}
    named = label(workflow)
    return Demands({**fields, "workflow": named} if named else fields, demanded.allow)


def _denied(fields: Mapping[str, Any]) -> list[str]:
    return list(fields.get("deny") or ())[:MOST_LISTED]


@lru_cache(maxsize=1024)
def _literal(name: str) -> str:
    """A glob that this name alone matches."""
    return "".join(f"[{one}]" if one in "*?[" else one for one in name)


def _nobody(rights: _Rights) -> str:
    if not rights.permitted:
        return "the key may use none of the candidates of this model group"
    said = "allow and deny, of the request and of its key and team, leave none of the candidates that the key may use"
    strangers = rights.demanded.strangers(rights.candidates)
    if not strangers:
        return said
    there = [name for name in rights.candidates if name in rights.permitted]
    verb = "matches" if len(strangers) == 1 else "match"
    return f"{said}; {listed(strangers)} {verb} no candidate; there are {listed(there)}"
