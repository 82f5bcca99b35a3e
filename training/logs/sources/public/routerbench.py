"""RouterBench's wide tables (arXiv 2403.12031): one row per prompt, a quality and a cost column per candidate.

Each (row, candidate) cell becomes one outcome. A blank quality is an answer nobody judged. The published tables spread
some prompts over two rows, each judged for other candidates, with the prompt repeated inside one of them: identical
repeats within a prompt are read once, so that both rows belong to one request.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator

import pandas as pd

from training.logs.io import files
from training.logs.io.files import Records
from training.logs.io.partitions import outcomes_of
from training.logs.objects.path import LogPath
from training.logs.outcomes import OutcomeError, Outcomes
from training.logs.sources.importer import DEFAULT, ImportOptions

NAME = "routerbench"
EXPECTS = "a CSV with sample_id, prompt, eval_name and, per candidate X, the columns X and X|total_cost"
COMPANIONS: frozenset[str] = frozenset()

_COST = "|total_cost"
_IDENTITY = ("sample_id", "prompt", "eval_name")


def recognises(path: LogPath) -> bool:
    """Whether the CSV header has the identity columns and at least one candidate with its cost."""
    names = files.columns(path) if files.kind(path) == ".csv" else frozenset()
    return names.issuperset(_IDENTITY) and bool(_candidates(names))


def read(path: LogPath, _options: ImportOptions = DEFAULT) -> Iterator[Outcomes]:
    """Read one table of n prompts and m candidates as n x m outcomes; `*_train` and `*_test` files set the split."""
    if not recognises(path):
        raise OutcomeError(f"{path}: not a {NAME} file; expected {EXPECTS}; arrived: {files.shown_columns(path)}")
    split = next((part for part in ("train", "test") if files.stem(path).endswith(f"_{part}")), None)
    return outcomes_of(path, format=NAME, convert=lambda records: _outcomes(records, split))


def _outcomes(records: Records, split: str | None) -> Records:
    """Every row as m rows, one for each candidate."""
    wide = records.table
    candidates = _candidates(wide.columns)
    m = len(candidates)
    per_row = pd.DataFrame(
        {
            "request_id": wide["sample_id"],
            "prompt": wide["prompt"].map(_prompt),
            "workflow": wide["eval_name"],
            "split": split,
        }
    )
    long = per_row.loc[per_row.index.repeat(m)].reset_index(drop=True)
    long["candidate"] = candidates * len(wide)
    long["quality"] = wide[candidates].to_numpy(dtype=object).ravel()
    long["cost_usd"] = wide[[name + _COST for name in candidates]].to_numpy(dtype=object).ravel()
    return Records(long, [row for row in records.rows for _ in range(m)], records.unreadable)


def _candidates(names: frozenset[str] | pd.Index[str]) -> list[str]:
    present = set(names)
    return [str(name) for name in names if f"{name}{_COST}" in present]


def _prompt(cell: str) -> str:
    """The text of a prompt that was written as a Python list of strings; anything else is the text itself."""
    if not cell.lstrip().startswith("["):
        return cell
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a prompt may hold what Python calls an invalid escape
            turns = ast.literal_eval(cell.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return cell
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        return cell
    return "\n".join(dict.fromkeys(turns))
