"""The words and asks of the simulated log, read from vocabulary.toml, which says what is what."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Rung = tuple[float, Sequence[str]]
Ladders = Mapping[str, Sequence[Rung]]


def _ladders(tables: Mapping[str, Mapping[str, Sequence[str]]]) -> Ladders:
    return {name: [(float(level), asks) for level, asks in rungs.items()] for name, rungs in tables.items()}


_WORDS: Mapping[str, Any] = tomllib.loads(Path(__file__).with_name("vocabulary.toml").read_text(encoding="utf-8"))

SLOTS: Mapping[str, Sequence[str]] = _WORDS["slots"]
LADDERS = _ladders(_WORDS["ladders"])
FOLLOW_UPS = _ladders(_WORDS["follow_ups"])
CUSTOMERS = _ladders(_WORDS["customers"])
ENGLISH: Mapping[str, Rung] = {
    name: (kind["difficulty"], kind["sentences"]) for name, kind in _WORDS["english"].items()
}
TARGETS: Mapping[str, float] = _WORDS["targets"]
SYSTEM_MESSAGES: Mapping[str, Sequence[str]] = _WORDS["system_messages"]
REPLIES: Mapping[str, Sequence[str]] = _WORDS["replies"]
PARTS: Mapping[str, Sequence[str]] = _WORDS["parts"]
