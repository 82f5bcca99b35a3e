"""One cell as it arrived: whether it says anything, what JSON it holds, and how a report shows it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pandas as pd

_LONGEST_SHOWN = 40


def null(cell: Any) -> bool:
    """Whether a cell is missing: None, NaN or one of pandas' own words for it."""
    return cell is None or cell is pd.NA or cell is pd.NaT or (isinstance(cell, float | np.generic) and cell != cell)


def blank(cell: Any) -> bool:
    """Whether a cell says nothing: it is missing, or text without anything but white space."""
    return not cell.strip() if isinstance(cell, str) else null(cell)


def first_of(*cells: Any) -> Any:
    """The first cell that says something, or None."""
    return next((cell for cell in cells if not blank(cell)), None)


def parse_json(line: bytes | str) -> Any:
    """One JSON value; raises ValueError. Lone surrogates, NaN and undecodable bytes are let through."""
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:
        # The standard parser accepts what real clients write: NaN, Infinity, half a surrogate pair.
        decoded = line.decode("utf-8", "replace") if isinstance(line, bytes) else line
        try:
            return json.loads(decoded)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error


def parsed(cell: Any, openings: str = "{[") -> Any:
    """A cell that is JSON text as what it says, an array as a list; anything else as it arrived, bytes as text.

    JSON is text that begins with one of `openings` ("": with anything) and can be parsed.
    """
    if isinstance(cell, np.ndarray):
        return cell.tolist()
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", "replace")
    if not isinstance(cell, str) or (openings and cell.lstrip()[:1] not in openings):
        return cell
    try:
        return parse_json(cell)
    except ValueError:
        return cell


def json_object(cell: Any) -> dict[str, Any] | None:
    """A cell that is an object, or the JSON text of one; None for anything else."""
    found = parsed(cell, "{")
    return found if isinstance(found, dict) else None


def fields(cell: Any) -> dict[str, Any]:
    """The same, {} for anything else."""
    return json_object(cell) or {}


def json_text(value: Any, *, sort_keys: bool = False) -> str:
    """A value as JSON."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS if sort_keys else None).decode()
    except orjson.JSONEncodeError:  # an int beyond 64 bits
        return json.dumps(value, sort_keys=sort_keys)


def replace_surrogates(value: str) -> str:
    """The text with halves of surrogate pairs joined where they can be and replaced by U+FFFD where not."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return value


def shown(cell: Any, *, phrase: bool = False) -> str:
    """A cell in a report: numbers and single short words (with `phrase`, several). Longer text and addresses are only
    measured: in a shifted row any cell may hold a prompt, and a rating may be a comment."""
    if isinstance(cell, str):
        wordy = "@" in cell or (len(cell.split()) > 1 and not phrase)
        if wordy or len(cell) > _LONGEST_SHOWN or not cell.isprintable():  # nor what a terminal would act on
            return f"text, {len(cell)} characters"
        return cell
    if isinstance(cell, bool | float | np.number) or (isinstance(cell, int) and cell.bit_length() <= 128):
        return str(cell)
    return "" if cell is None else type(cell).__name__
