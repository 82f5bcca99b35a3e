"""Which of the router's decisions a generation is a call of, and of which candidate.

LiteLLM's callback writes what the plug-in recorded into the generation's metadata, as `spend_logs_metadata`. Where it is not
there, the router's own span says it, which stands below the generation, or, where the generation was not known, somewhere in
the trace: then only a trace with one decision and one generation is sure. What a client sent (`requester_metadata`) is not
believed. Of each decision two identifiers are held and an 8-byte key.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from serving.integrations.langfuse.ids import hex_observation, hex_trace, parent_of
from serving.integrations.langfuse.payload import SPAN
from training.logs.cells import fields, first_of
from training.logs.sources.langfuse.fields import column, identifier, is_generation, is_internal, mapping
from training.logs.sources.litellm.payload import served
from training.logs.sources.otel.nesting import Nested, key_of

SHAPE = ("id", "trace_id", "parent_observation_id", "type", "environment", "name", "metadata")
_DECISION, _ANSWERED, _CHOSEN = "router_decision_id", "router_answered", "router_model"


class Decided(NamedTuple):
    """A decision, and the candidate that was called where that is known."""

    id: str
    candidate: str | None


class _ByKey:
    """Decisions by a key, as one text; of two with one key the first, unless they differ and `one` is asked for."""

    def __init__(self) -> None:
        self._keys, self._ends, self._text = array("q"), array("q"), bytearray()
        self._order: np.ndarray[Any, np.dtype[np.int64]] | None = None

    def add(self, key: int, decided: Decided) -> None:
        self._keys.append(key)
        self._text += f"{decided.id}\0{decided.candidate or ''}".encode("utf-8", "surrogatepass")
        self._ends.append(len(self._text))
        self._order = None

    def find(self, key: int, *, one: bool = False) -> Decided | None:
        if self._order is None:
            self._order = np.argsort(np.array(self._keys, dtype=np.int64), kind="stable")
            self._sorted = np.array(self._keys, dtype=np.int64)[self._order]
        first, last = (int(np.searchsorted(self._sorted, key, side)) for side in ("left", "right"))
        found = [self._at(int(place)) for place in self._order[first:last]]
        return found[0] if found and not (one and len({each.id for each in found}) > 1) else None

    def _at(self, place: int) -> Decided:
        start = self._ends[place - 1] if place else 0
        id, _, candidate = self._text[start : self._ends[place]].decode("utf-8", "surrogatepass").partition("\0")
        return Decided(id, candidate or None)


class Decisions:
    """What an export says of the router's decisions: filled from all its observations, asked for each generation."""

    def __init__(self) -> None:
        self._own, self._below, self._within = _ByKey(), _ByKey(), _ByKey()
        self._traces = array("q")  # of each generation
        self._counted: np.ndarray[Any, np.dtype[np.int64]] | None = None

    def add(self, table: pd.DataFrame) -> None:
        """Takes in some observations of any type."""
        for cells in zip(*(column(table, name) for name in SHAPE), strict=True):
            id, trace, parent = (identifier(cell) for cell in cells[:3])
            kind, environment, name, metadata = cells[3:]
            if id is None:
                continue
            if is_generation(kind):
                if trace is not None and not is_internal(environment):
                    self._traces.append(_trace(trace))
                if (own := _recorded(mapping(metadata))) is not None:
                    self._own.add(key_of(id), own)
            elif name == SPAN and (told := _told(mapping(metadata))) is not None:
                if parent is not None and parent != parent_of(told.id):
                    self._below.add(key_of(hex_observation(parent)), told)
                elif trace is not None:
                    self._within.add(_trace(trace), told)

    def of(self, id: str | None, trace: str | None, nested: Nested) -> Decided | None:
        """The decision of a generation, or of one that is the same call; None where nothing says it."""
        if id is None:
            return None
        keys = (key_of(id), *nested.stands_for.get(key_of(id), ()))
        found = next((one for key in keys if (one := self._own.find(key)) is not None), None)
        below = (key_of(hex_observation(id)), *keys)
        found = found or next((one for key in below if (one := self._below.find(key)) is not None), None)
        if found is not None or trace is None:
            return found
        told = self._within.find(_trace(trace), one=True)
        return told if told is not None and self._generations(_trace(trace)) == len(keys) else None

    def _generations(self, trace: int) -> int:
        if self._counted is None:
            self._counted = np.sort(np.array(self._traces, dtype=np.int64))
        first, last = (np.searchsorted(self._counted, trace, side) for side in ("left", "right"))
        return int(last - first)


def _trace(trace: str) -> int:
    return key_of(hex_trace(trace))


def _recorded(metadata: Mapping[str, Any]) -> Decided | None:
    """What the plug-in recorded, as LiteLLM's callback writes it."""
    recorded = fields(fields(metadata.get("spend_logs_metadata")).get("outcome_router"))
    id = identifier(recorded.get("decision_id"))
    if id is None:
        return _told(metadata)
    row = first_of(fields(metadata.get("hidden_params")).get("model_id"), metadata.get("model_id"))
    called = served({"metadata": {"spend_logs_metadata": {"outcome_router": recorded}}, "model_id": row})
    return Decided(id, identifier(called))


def _told(metadata: Mapping[str, Any]) -> Decided | None:
    id = identifier(metadata.get(_DECISION))
    return None if id is None else Decided(id, identifier(first_of(metadata.get(_ANSWERED), metadata.get(_CHOSEN))))
