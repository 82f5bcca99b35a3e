"""Names in a body that are spelt nearly like a demand: nobody reads them, so what they demand would not be kept.

A field that some LLM reads is never refused: only what demands privacy, by the name and by what stands there, is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.api.bodies.chat import may_resemble, resembling
from serving.integrations.litellm.refusals import RefusedError
from serving.integrations.litellm.request.constraints import IN_PRIVACY, OWN, PRIVATE

_FIELDS = tuple(name for name in OWN if name not in ("session_id", "objective"))
_COMPARED = frozenset(_FIELDS)
_LONGEST, _MOST = 40, 128


def slips(body: Mapping[str, Any]) -> list[str]:
    """The fields of ours that names in a body may mean. Raises RefusedError where privacy is demanded by one of them."""
    found: list[str] = []
    for name in list(body)[:_MOST]:
        if name in _COMPARED or len(name) > _LONGEST or not may_resemble(name, _COMPARED):
            continue
        meant = resembling(name, _FIELDS)
        if not meant:
            continue
        value = body[name]
        private = isinstance(value, Mapping) and not set(value).isdisjoint((*IN_PRIVACY, *PRIVATE))
        if (meant == "privacy" and private) or (meant in PRIVATE and value is True):
            raise RefusedError(422, f"nothing reads a field that is spelt so; did you mean {meant}?")
        found.append(meant)
    return found
