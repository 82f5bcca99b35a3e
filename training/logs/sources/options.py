"""What the importers can be told about a log; every field has a default that suits most logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class ImportOptions:
    """How logs are read.

    `score_name`: which score becomes quality where a log carries several. `score_range`: the lowest and highest value of
    a numeric score, which become 0 and 1. `score_mapping`: categories and the quality each stands for. `trace_scores`:
    whether a score of a whole trace applies to its last generation or to every one. `mapping`: column of the outcome
    table -> column or dotted path in the source, for tables of any shape. `answers`: whether answers and expected
    answers are carried beside the outcomes (`Outcomes.beside`), for checks and the judge; `parameters`: whether tools,
    tool_choice and response_format are, for asking again. `cache`: where downloads are kept.
    `batch_requests`: files with the requests of a batch that were named beside its answers.
    """

    score_name: str | None = None
    score_range: tuple[float, float] | None = None
    score_mapping: Mapping[str, float] = field(default_factory=dict)
    trace_scores: Literal["last", "all"] = "last"
    mapping: Mapping[str, str] = field(default_factory=dict)
    answers: bool = False
    parameters: bool = False
    cache: Path = Path(".cache")
    batch_requests: tuple[Path, ...] = ()


DEFAULT = ImportOptions()
