"""Columns of anything -> typed columns: what cannot be read is marked, and nothing raises.

Logs arrive with numbers as text, dates in four notations and cells that a client filled with whatever it had. Each
function takes one raw column and returns `Coerced`: the typed values (null where the cell is missing or bad) and a
mask of the bad cells, so that the caller can say why a row was left out.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from training.logs.cells import blank, json_text, null, parsed, replace_surrogates

Mask = npt.NDArray[np.bool_]

_MISSING_WORDS = frozenset({"", "nan", "na", "n/a", "null", "none", "nat"})
_BAD: Any = object()
# Columns of these alone, the common case, are read at once; a bool is neither, nor is a number of another library.
_TEXT_TYPES = frozenset({str, type(None)})
_NUMBER_TYPES = frozenset({int, float, type(None)})
# Outside these bounds a date is a placeholder (year 1, the epoch itself) or a number in another unit.
_FIRST_YEAR, _LAST_YEAR = 1973, 2286
_ISO_DATE = re.compile(r"(\d{4})-\d{2}")
_BEYOND_MICROS = re.compile(r"([.,]\d{6})\d+")
_MAX_DEPTH = 40


class Coerced(NamedTuple):
    """A typed column, shape (n,), and the mask of the cells that hold something unreadable, shape (n,)."""

    values: pd.Series[Any]
    bad: Mask


def text(column: pd.Series[Any], *, strip: bool = True, numbers: bool = True) -> Coerced:
    """Text cells; blank is null. `numbers` also accepts numbers (identifiers often are); `strip` trims the ends."""
    if isinstance(column.dtype, pd.StringDtype):
        trimmed = column.astype("str").str.strip()
        values = (trimmed if strip else column.astype("str")).mask(trimmed == "")
        return Coerced(values.reset_index(drop=True), np.zeros(len(column), dtype=bool))
    arrived = column.tolist()
    if set(map(type, arrived)) <= _TEXT_TYPES:
        plain = [None if cell is None or not cell or cell.isspace() else cell for cell in arrived]
        try:
            values = pd.Series([cell and cell.strip() for cell in plain] if strip else plain, dtype="str")
            return Coerced(values, np.zeros(len(column), dtype=bool))
        except UnicodeEncodeError:
            pass  # half a surrogate pair in one of the cells: each is looked at below
    cells, bad = _each(column, lambda cell: _text(cell, strip, numbers))
    return Coerced(pd.Series(cells, dtype="str"), bad)


def number(column: pd.Series[Any], *, booleans: bool = False) -> Coerced:
    """Finite float64 cells, null as NaN; `booleans` reads true and false as 1 and 0 instead of marking them bad."""
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column)
    if numeric and (booleans or not pd.api.types.is_bool_dtype(column)):
        return _finite(column.to_numpy(dtype="float64", na_value=np.nan))
    arrived = column.tolist()
    if set(map(type, arrived)) <= _NUMBER_TYPES:
        try:
            return _finite(np.array(arrived, dtype="float64"))
        except OverflowError:
            pass  # an int beyond float64 in one of the cells: each is looked at below
    cells, bad = _each(column, lambda cell: _number(cell, booleans))
    return Coerced(pd.Series(cells, dtype="float64"), bad)


def _finite(array: npt.NDArray[np.float64]) -> Coerced:
    infinite = np.isinf(array)
    return Coerced(pd.Series(np.where(infinite, np.nan, array)), infinite)


def instant(column: pd.Series[Any]) -> Coerced:
    """UTC microsecond timestamps from dates, ISO 8601 text or epochs (s, ms, us, ns by size); naive means UTC."""
    if pd.api.types.is_datetime64_any_dtype(column):
        return _dates(column.reset_index(drop=True))
    if set(map(type, column.tolist())) <= _NUMBER_TYPES:
        epochs = number(column)
        from_epoch, known = _of_epochs(epochs.values.to_numpy(dtype="float64"))
        return Coerced(from_epoch, epochs.bad | (epochs.values.notna().to_numpy() & ~known))
    cells, bad = _each(column, _instant)
    epoch = np.array([c if isinstance(c, float) else np.nan for c in cells], dtype="float64")
    iso = pd.Series([c if isinstance(c, str) else None for c in cells], dtype="str")
    dates = pd.to_datetime(iso, errors="coerce", utc=True, format="ISO8601").astype("datetime64[us, UTC]")
    bad |= (iso.notna() & dates.isna()).to_numpy()
    from_epoch, known = _of_epochs(epoch)
    bad |= ~np.isnan(epoch) & ~known
    return Coerced(dates.where(~known, from_epoch), bad)


def _of_epochs(epoch: npt.NDArray[np.float64]) -> tuple[pd.Series[Any], Mask]:
    """The dates of epochs, null where one is none, and the mask of those that are."""
    micros, known = _epoch_to_micros(epoch)
    dates = pd.Series(pd.to_datetime(micros, unit="us", utc=True)).astype("datetime64[us, UTC]")
    return dates.where(known), known


def _dates(column: pd.Series[Any]) -> Coerced:
    """A column of dates: in the accepted years, as the text of each would have to be."""
    micros = pd.to_datetime(column, utc=True).astype("datetime64[us, UTC]")
    bad = (micros.notna() & ~column.dt.year.between(_FIRST_YEAR, _LAST_YEAR - 1)).to_numpy()
    return Coerced(micros.mask(bad), bad)


def messages(column: pd.Series[Any]) -> Coerced:
    """Lists of OpenAI messages (or the JSON text of one) as object cells; a list without any text is null."""
    cells, bad = _each(column, _messages)
    return Coerced(pd.Series(cells, dtype=object), bad)


def messages_key(value: list[dict[str, Any]]) -> str:
    """Text that is equal for equal conversations; one plain user message has the key of the same text as a prompt."""
    if len(value) == 1 and value[0].keys() == {"role", "content"} and value[0]["role"] == "user":
        content = value[0]["content"]
        if isinstance(content, str):
            return content
    return json_text(value, sort_keys=True)


def _each(column: pd.Series[Any], convert: Callable[[Any], Any]) -> tuple[list[Any], Mask]:
    """Apply `convert` to every cell; missing cells are None, and cells it returns `_BAD` for are None and marked."""
    arrived = column.astype(object).tolist()
    if set(map(type, arrived)) <= {type(None)}:
        return arrived, np.zeros(len(arrived), dtype=bool)
    cells = [None if null(cell) else convert(cell) for cell in arrived]
    bad = np.fromiter((cell is _BAD for cell in cells), dtype=bool, count=len(cells))
    for position in np.flatnonzero(bad):
        cells[position] = None
    return cells, bad


def _text(cell: Any, strip: bool, numbers: bool) -> Any:
    if isinstance(cell, bytes):
        cell = cell.decode("utf-8", "replace")
    if isinstance(cell, str):
        trimmed = cell.strip()
        if not trimmed:
            return None
        return replace_surrogates(trimmed if strip else cell)
    if isinstance(cell, np.generic):
        cell = cell.item()
    if not numbers or isinstance(cell, bool) or not isinstance(cell, int | float):
        return _BAD
    if isinstance(cell, float):
        if not math.isfinite(cell):
            return _BAD
        # A column of whole numbers with a gap in it arrives as floats: 7.0 is the identifier 7.
        return str(int(cell)) if cell.is_integer() else repr(cell)
    # Beyond 128 bits it is no identifier, and Python refuses to print very long integers.
    return str(cell) if cell.bit_length() <= 128 else _BAD


def _number(cell: Any, booleans: bool) -> Any:
    if isinstance(cell, np.generic):
        cell = cell.item()
    if isinstance(cell, str):
        word = cell.strip().lower()
        if word in _MISSING_WORDS:
            return None
        if booleans and word in ("true", "false"):
            return float(word == "true")
        if "_" in word:
            return _BAD
        cell = word
    elif isinstance(cell, bool):
        return float(cell) if booleans else _BAD
    elif not isinstance(cell, int | float | Decimal):
        return _BAD
    try:
        value = float(cell)
    except (ValueError, OverflowError):
        return _BAD
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else _BAD


def _instant(cell: Any) -> Any:
    """A cell as an epoch (float), an ISO 8601 text in the accepted years (str), None or `_BAD`."""
    if isinstance(cell, np.datetime64):
        cell = str(cell)
    if isinstance(cell, dt.date):
        cell = cell.isoformat()
    if not isinstance(cell, str):
        return _number(cell, False)
    word = cell.strip()
    if word.lower() in _MISSING_WORDS:
        return None
    found = _ISO_DATE.match(word)
    if found is None:
        return _number(word, False)
    if not (_FIRST_YEAR <= int(found.group(1)) < _LAST_YEAR and word.isascii()):
        return _BAD
    # One cell with nanoseconds would have pandas count all of them in these, which end in 2262.
    return _BEYOND_MICROS.sub(r"\1", word)


def _epoch_to_micros(epoch: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int64], Mask]:
    """Epochs in s, ms, us or ns, told apart by size, as int64 microseconds, and the mask of those in range.

    Seconds of the years 1973 to 2286 have nine or ten digits, and each smaller unit adds three: no overlap.
    """
    micros = np.zeros(len(epoch), dtype="float64")
    known = np.zeros(len(epoch), dtype=bool)
    for exponent in (0, 3, 6, 9):
        fits = (epoch >= 10.0 ** (8 + exponent)) & (epoch < 10.0 ** (10 + exponent))
        micros[fits] = epoch[fits] * 10.0 ** (6 - exponent)
        known |= fits
    return np.round(micros).astype("int64"), known


def _messages(cell: Any) -> Any:
    cell = parsed(cell, "")
    if blank(cell) or (isinstance(cell, str) and cell.strip().lower() == "nan"):
        return None
    try:
        plain = _plain(cell, 0)
    except TypeError:
        return _BAD
    if not isinstance(plain, list) or not all(_is_message(message) for message in plain):
        return _BAD
    return plain if any(_has_text(message.get("content")) for message in plain) else None


def _plain(value: Any, depth: int) -> Any:
    """JSON types only, without null fields (Parquet pads them in); TypeError for anything else or too deep."""
    if depth > _MAX_DEPTH:
        raise TypeError("nested too deeply")
    if isinstance(value, str):
        return replace_surrogates(value)
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("keys are text in JSON")
        pairs = ((replace_surrogates(key), _plain(item, depth + 1)) for key, item in value.items())
        return {key: item for key, item in pairs if item is not None}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item, depth + 1) for item in value]
    if null(value):
        return None
    if isinstance(value, bool | int | float) and not (isinstance(value, float) and math.isinf(value)):
        return value
    raise TypeError(f"{type(value).__name__} is not JSON")


def _is_message(message: Any) -> bool:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        return False
    content = message.get("content")
    return content is None or isinstance(content, str | list)


def _has_text(content: Any) -> bool:
    if isinstance(content, str):
        return bool(content.strip())
    if not isinstance(content, list):
        return False
    texts = (part.get("text") if isinstance(part, dict) else part for part in content)
    return any(isinstance(part, str) and bool(part.strip()) for part in texts)
