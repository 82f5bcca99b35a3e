"""`making.json`: how a bundle was made, as its report tells it beside what `frontier.json` says it was measured to give."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training.config import Params, load_params
from training.evaluate.evaluation import Evaluation
from training.learn.learn import Learned
from training.learn.prepare import Prepared
from training.logs.outcomes import Outcomes

MAKING = "making.json"
# Where this machine keeps its runs is no part of what was made.
_OF_THE_MACHINE = "tracking."


def making(
    sentence: str,
    evaluation: Evaluation,
    prepared: Prepared,
    learned: Learned,
    table: Outcomes,
    settings: Sequence[str] = (),
    evidence: str | None = None,
) -> dict[str, Any]:
    """All that the report says of a run beside `frontier.json`; `settings` are those that differ from the shipped ones, and
    `evidence` is what to do where nothing was certified."""
    split, matrix = prepared.split, prepared.matrix
    counts = {
        "rows read": table.rows_read,
        "rows used": table.rows_read - len(table.skipped),
        "rows skipped": len(table.skipped),
        "requests": len(matrix) if prepared.sampled is None else prepared.sampled.requests,
        **({} if prepared.sampled is None else {"requests in the core": len(matrix)}),
        "requests with every candidate observed": int(matrix.complete().sum()),
        "training requests": int(split.train.sum()),
        "calibration requests": int(split.calibration.sum()),
        "test requests": int(split.test.sum()),
        "requests dropped to keep conversations together": int(split.dropped.sum()),
        "costs logged": prepared.cost_notes.logged,
        "costs computed from tokens and price": prepared.cost_notes.priced,
        "input token counts not logged, counted with the LLM's encoding": prepared.cost_notes.counted_input_tokens,
        "input token counts not logged, estimated from length": prepared.cost_notes.estimated_input_tokens,
        "output token counts not logged, estimated": prepared.cost_notes.estimated_output_tokens,
    }
    heads = {"with a workflow tag": learned.acceptable.tagged, "without one": learned.acceptable.untagged}
    document = {
        "sentence": sentence,
        "added": None,
        "counts": counts,
        "reasons": dict(table.reasons),
        "aliases": [use._asdict() for use in table.aliases],
        "formats": list(table.formats),
        "split": {"method": split.method, "note": split.note},
        "sampled": None if prepared.sampled is None else prepared.sampled.said(),
        "since": list(prepared.told),
        "added_to": None if prepared.added_to is None else asdict(prepared.added_to),
        "going_on": prepared.going_on,
        "reference_note": learned.reference_note,
        "propensity_note": learned.propensity_note,
        "zero_router": evaluation.zero_router,
        "confidence": None if evaluation.confidence is None else asdict(evaluation.confidence),
        "off_policy": [asdict(line) for line in evaluation.off_policy],
        "heads": [
            {
                "requests": requests,
                "description": head.description,
                "selected_by": head.selected_by,
                "calibrator": head.calibrator.name,
                "scores": [{**asdict(score), "selected": score.name == head.estimator.name} for score in head.scores],
            }
            for requests, head in heads.items()
        ],
        "settings": list(settings),
        "evidence": evidence,
    }
    return dict(_finite(document))


def of_addition(before: Mapping[str, Any] | None, name: str, sentence: str) -> dict[str, Any]:
    """Of a bundle that is another one, made as `before` says, with the candidate `name` added and nothing measured anew."""
    told: dict[str, Any] = dict.fromkeys(
        ("split", "sampled", "added_to", "going_on", "zero_router", "confidence", "evidence")
    )
    told |= {key: [] for key in ("formats", "aliases", "off_policy", "heads", "settings")}
    told |= {"counts": {}, "reasons": {}, "reference_note": "", "propensity_note": ""}
    kept = ("reference_note", "propensity_note", "settings")
    return {**told, **{key: before[key] for key in kept if before}, "sentence": sentence, "added": name}


def changed(params: Params) -> list[str]:
    """The settings that differ from the shipped ones, as `--set` takes them."""
    shipped = load_params().flat()
    return [
        f"{name}={_written(value)}"
        for name, value in params.flat().items()
        if value != shipped[name] and not name.startswith(_OF_THE_MACHINE)
    ]


def read_making(folder: Path) -> dict[str, Any] | None:
    """How the bundle in a folder was made; None where it does not say."""
    path = folder / MAKING
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def write_making(folder: Path, document: Mapping[str, Any]) -> None:
    (folder / MAKING).write_text(json.dumps(document, indent=1, allow_nan=False), encoding="utf-8")


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
