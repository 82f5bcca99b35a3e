"""Calls that reach a candidate's row without its group: LiteLLM asks no filter there, so whose it is is checked before."""

from __future__ import annotations

from serving.integrations.litellm.asking import Asking, Call
from serving.integrations.litellm.refusals import RefusedError
from serving.integrations.litellm.request.names import (
    aliased,
    fallbacks_of,
    has_fallbacks,
    in_front,
    lists_one,
    names_of_rows,
    ours_alone,
)
from serving.integrations.litellm.request.said import keep, strip, strip_entry, strip_metadata


async def goes_by_name(asking: Asking, call: Call) -> bool:
    """Whether the call is of candidates' rows and of no group; its fields are out of its body then.

    Raises RefusedError where it, or one of its fallbacks, names a row whose candidate may not answer, and for a list of models
    with candidates in it, each of which LiteLLM would ask beside the others.
    """
    data, own, router = call.data, asking.settings.own, call.router
    if "," in call.group and lists_one(call.group, own, router):
        raise RefusedError(
            422, "model: a list of models is not routed; name one model group of candidates, and it alone"
        )
    anywhere = in_front(data)
    named = [] if own(call.group) and not anywhere else ours_alone(router, call.group, own, by_model=anywhere)
    if named:
        await asking.by_name(call, named)
    if has_fallbacks(data):
        await _check_fallbacks(asking, call, anywhere=anywhere)
    if named:
        keep(data)
        strip(data, routed=True)
        strip_metadata(data)
    return bool(named)


async def _check_fallbacks(asking: Asking, call: Call, *, anywhere: bool) -> None:
    own, router = asking.settings.own, call.router
    known = names_of_rows(router, own)
    for name, entry in list(fallbacks_of(call.data)):
        rows = ours_alone(router, name, own, by_model=anywhere or in_front(entry)) if name in known else []
        if rows or own(aliased(router, name)):
            strip_entry(entry)
        if rows:
            await asking.by_name(call, rows)
