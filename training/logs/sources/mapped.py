"""Tables of any shape: a mapping says which column, or which nested field, is which column of the outcome table.

A field is named by dots (`question.text`, `choices.0.message.content`); a name with dots in it wins over nesting, and
JSON text in a cell is opened where the path goes on. Columns that are not mapped are read under their own names. In a table
without request_id, answers of different candidates to the same prompt are one request (`training.logs.pairing`). What stands
behind an equals sign is the same in every row (`candidate==gpt-4o`), and a latency or a cost may have a unit behind its field
(`latency_ms=took:seconds`), a date its form (`timestamp=asked_at:%d.%m.%Y %H:%M`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from training.logs import dates, rescale, typed
from training.logs.cells import parsed, shown
from training.logs.io import files
from training.logs.io.files import Records
from training.logs.io.partitions import outcomes_of
from training.logs.objects.path import LogPath, for_parquet
from training.logs.outcomes import ALIASES, BESIDE, COLUMNS, OutcomeError, Outcomes, Unreadable
from training.logs.pairing import prompt_ids
from training.logs.rescale import MISFIT
from training.logs.sources.chat_bodies import PARAMETER_FIELDS, with_parameters
from training.logs.sources.importer import DEFAULT, ImportOptions
from training.logs.validate import status_words

_TARGETS = (*COLUMNS, *BESIDE)
_TEXTS = ("answer", "expected")
_ABSENT: Any = object()
# Before what stands for a field in every row: candidate==gpt-4o for a file of one LLM.
CONSTANT = "="
# For columns with a unit: what may stand behind a field, by what it is multiplied, and how names of fields end that are in it.
UNITS: dict[str, dict[str, tuple[float, frozenset[str]]]] = {
    "latency_ms": {"ms": (1.0, frozenset({"ms"})), "seconds": (1e3, frozenset({"s", "sec", "secs", "seconds"}))},
    "cost_usd": {"usd": (1.0, frozenset({"usd"})), "cents": (1e-2, frozenset({"cent", "cents"}))},
}
_SHOWN_FIELDS, _SHOWN_DEPTH, _SHOWN_NAME = 60, 4, 40


def parse_mapping(pairs: Sequence[str]) -> dict[str, str]:
    """`COLUMN=FIELD` pairs as a mapping; a column with no field is not read.

    Raises OutcomeError for an unknown column, a repeated one, or a candidate without a field.
    """
    mapping: dict[str, str] = {}
    for pair in pairs:
        target, equals, field = (part.strip() for part in pair.partition("="))
        if not equals or (not field and ALIASES.get(target, target) == "candidate"):
            raise OutcomeError(
                f"--map {pair!r}: expected COLUMN=FIELD, for example candidate=llm or prompt=question.text"
            )
        target = ALIASES.get(target, target)
        if target not in _TARGETS:
            turned = f" Did you mean {field}={target}?" if ALIASES.get(field, field) in _TARGETS else ""
            raise OutcomeError(
                f"--map {pair!r}: {target!r} is no column of the outcome table: {', '.join(_TARGETS)}.{turned}"
            )
        if target in mapping:
            raise OutcomeError(f"--map {pair!r}: {target} is already mapped to {mapping[target]!r}; map it once")
        form = dates.split(field)[1] if target == "timestamp" else ""
        if form and dates.wrong(form):
            raise OutcomeError(
                f"--map {pair!r}: {form!r} is no form of dates; expected one with a year, such as {dates.EXAMPLE} "
                "(the signs are those of Python's strptime)"
            )
        mapping[target] = field
    return mapping


@dataclass(frozen=True)
class Mapped:
    """The importer of tables that `mapping` (column of the outcome table -> field) describes.

    The field of quality may end in the rule that rescales it: `rating:stars`, `score:minmax:0:10` (`training.logs.rescale`).
    """

    mapping: Mapping[str, str]
    NAME: ClassVar[str] = "mapped"
    EXPECTS: ClassVar[str] = "any table, with --map COLUMN=FIELD for the columns that are named otherwise"
    COMPANIONS: ClassVar[frozenset[str]] = frozenset()

    def recognises(self, path: LogPath) -> bool:
        """Whether the file has the column of at least one mapped field, or all are constants.

        A broken Parquet file counts: reading says why.
        """
        columns = files.columns(path)
        if files.kind(path) == ".parquet" and not columns:
            return True
        fields = [field for field in self._fields().values() if not field.startswith(CONSTANT)]
        return not fields or any(_prefixes(field) & columns for field in fields)

    def read(self, path: LogPath, options: ImportOptions = DEFAULT) -> Iterator[Outcomes]:
        """Read one file; raises OutcomeError with the fields that were found when a mapped one is in no record."""
        fields, rule = self._fields(), self._rule()
        factors = {
            column: _factor(path, column, field) for column, field in self.mapping.items() if column in UNITS and field
        }
        form = dates.split(self.mapping.get("timestamp", ""))[1]
        dropped = {target for target, field in self.mapping.items() if not field}
        asked = {**dict.fromkeys(_TEXTS, options.answers), "parameters": options.parameters}
        fields = {target: field for target, field in fields.items() if asked.get(target, True)}
        own = frozenset(COLUMNS) | frozenset(ALIASES) | {name for name in BESIDE if asked.get(name, True)}
        own |= PARAMETER_FIELDS if options.parameters else frozenset()
        own -= dropped
        found: set[str] = set()
        columns = files.columns(path)
        if columns and files.kind(path) in (".csv", ".parquet"):  # all of them are known before anything is read
            self._require(path, {target for target, field in fields.items() if _there(field, columns)}, fields)

        def convert(records: Records) -> Records:
            made = _dated(_in_units(_convert(records, fields, own, found), factors), form)
            made = _rescaled(made, rule)
            return with_parameters(made) if options.parameters else made

        wanted = own.union(*(_prefixes(field) for field in fields.values()))
        read = 0
        for part in outcomes_of(path, format=self.NAME, convert=convert, wanted=wanted):
            read += part.rows_read
            yield part
        if read:
            self._require(path, found, fields)

    def _fields(self) -> dict[str, str]:
        """The fields that are read; a column that is mapped to nothing is not."""
        bare = {
            target: field.partition(":")[0] if target == "quality" else without_unit(target, field)
            for target, field in self.mapping.items()
        }
        return {target: field for target, field in bare.items() if field}

    def _rule(self) -> rescale.Rule | None:
        name = self.mapping.get("quality", "").partition(":")[2]
        return rescale.rule(name) if name else None

    def _require(self, path: LogPath, found: set[str], fields: Mapping[str, str]) -> None:
        missing = [f"{field} (for {target})" for target, field in fields.items() if target not in found]
        if missing:
            raise OutcomeError(
                f"{path}: no {', '.join(missing)}; the columns found are: {_listed(path)}. Correct --map COLUMN=FIELD."
            )


def _convert(records: Records, fields: Mapping[str, str], own: frozenset[str], found: set[str]) -> Records:
    """The outcome columns of one partition; the mapped columns that some record has are added to `found`."""
    table = records.table.rename(columns=lambda name: str(name).strip())
    table = table.loc[:, ~table.columns.duplicated()]
    names = [str(name) for name in table.columns]
    taken = {target: [name for name in names if name in _prefixes(field)] for target, field in fields.items()}
    columns = {name: table[name].reset_index(drop=True) for name in names if name in own and name not in fields}
    if "candidate" in fields:
        columns.pop("model", None)
    for target, field in fields.items():
        if field.startswith(CONSTANT):
            columns[target] = pd.Series([field.removeprefix(CONSTANT)] * len(table), dtype=object)
            found.add(target)
            continue
        cells = _cells(table[taken[target]], field)
        if any(cell is not _ABSENT for cell in cells):
            found.add(target)
        columns[target] = pd.Series([None if cell is _ABSENT else cell for cell in cells], dtype=object)
    made = pd.DataFrame(columns, index=pd.RangeIndex(len(table)))
    if "request_id" not in made:
        made["request_id"] = prompt_ids(made)
    return records._replace(table=made)


def _cells(table: pd.DataFrame, field: str) -> list[Any]:
    """The field's cell in every row, `_ABSENT` where the row does not have it."""
    if field in table.columns:
        return list(table[field].astype(object))
    path = field.split(".")
    names = list(table.columns)
    rows = zip(*(table[name].astype(object) for name in names), strict=True) if names else [()] * len(table)
    return [_find(dict(zip(names, row, strict=True)), path) for row in rows]


def _find(value: Any, path: Sequence[str]) -> Any:
    """What a path leads to, `_ABSENT` where it ends early; the longest name that fits is taken at each step."""
    if not path:
        return value
    if isinstance(value, str | bytes):
        value = parsed(value)
    if isinstance(value, Mapping):
        for length in range(len(path), 0, -1):
            name = ".".join(path[:length])
            if name in value and (found := _find(value[name], path[length:])) is not _ABSENT:
                return found
        return _ABSENT
    if isinstance(value, list | tuple | np.ndarray) and path[0].lstrip("-").isdecimal():
        place = int(path[0])
        return _find(value[place], path[1:]) if -len(value) <= place < len(value) else _ABSENT
    return _ABSENT


def _there(field: str, columns: frozenset[str]) -> bool:
    return field.startswith(CONSTANT) or bool(_prefixes(field) & columns)


def words_of(name: str) -> tuple[str, ...]:
    """The words of a field's name in lower case: `Total Cost (USD)` and `totalCostUsd` are total, cost, usd."""
    return tuple(re.findall(r"[^\W_]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()))


def unit_of(column: str, field: str) -> str:
    """The unit that a field's name ends in, where it is one of the column's; "" where it ends in none."""
    last = words_of(field)[-1:]
    return next((unit for unit, (_, named) in UNITS.get(column, {}).items() if last and last[0] in named), "")


def without_unit(column: str, field: str) -> str:
    """A field without the unit behind it, or the form of its dates."""
    if column == "timestamp":
        return dates.split(field)[0]
    bare, colon, unit = field.rpartition(":")
    return bare if colon and unit in UNITS.get(column, {}) else field


def _factor(path: LogPath, column: str, field: str) -> float:
    """What the field's cells are to be multiplied by; raises OutcomeError where its name says another unit."""
    units = UNITS[column]
    unit = field.rpartition(":")[2] if without_unit(column, field) != field else ""
    if not unit and (meant := unit_of(column, field)) and units[meant][0] != 1.0:
        usual = next(name for name, (factor, _) in units.items() if factor == 1.0)
        raise OutcomeError(
            f"{path}: {field} looks like {meant}, and {column} is in {usual}: --map '{column}={field}:{meant}', or ':{usual}' "
            "behind it if it is that"
        )
    return units[unit][0] if unit else 1.0


def _in_units(records: Records, factors: Mapping[str, float]) -> Records:
    """Cells that are numbers times their column's factor; what is none stays, to be told by its row."""
    made = {}
    for column, factor in factors.items():
        if factor != 1.0 and column in records.table:
            cells = records.table[column]
            numbers = pd.to_numeric(cells, errors="coerce") * factor
            made[column] = numbers.astype(object).where(numbers.notna(), cells)
    return records._replace(table=records.table.assign(**made)) if made else records


def _dated(records: Records, form: str) -> Records:
    """Dates by the form that the mapping says; rows whose date is not of it are unreadable ones."""
    if not form or "timestamp" not in records.table:
        return records
    cells = records.table["timestamp"]
    moments, bad = dates.read(cells, form)
    table = records.table.assign(timestamp=moments)
    reason = f"timestamp is not as {form}"
    unfit = [
        Unreadable(row, reason, shown(cell), f"a date as {form}, or nothing")
        for row, cell, is_bad in zip(records.rows, cells, bad, strict=True)
        if is_bad
    ]
    kept = [row for row, is_bad in zip(records.rows, bad, strict=True) if not is_bad]
    return Records(table[~bad].reset_index(drop=True), kept, [*records.unreadable, *unfit])


def _prefixes(field: str) -> frozenset[str]:
    """The names of the columns that a path can start in."""
    path = field.split(".")
    return frozenset(".".join(path[:length]) for length in range(1, len(path) + 1))


def _rescaled(records: Records, rule: rescale.Rule | None) -> Records:
    """Quality by the rule; rows whose rating does not fit it are unreadable ones. An error's quality is 0, whatever it says."""
    if rule is None:
        return records
    erred = np.zeros(len(records.rows), dtype=bool)
    if "status" in records.table:
        erred = (status_words(typed.text(records.table["status"]).values) == "error").to_numpy()
    cells = records.table["quality"]
    qualities = [None if failed else rule.quality(cell) for failed, cell in zip(erred, cells, strict=True)]
    bad = np.fromiter((quality is rescale.BAD for quality in qualities), dtype=bool, count=len(qualities))
    unfit = [
        Unreadable(row, f"{MISFIT}{rule.name}", shown(cell), rule.expects)
        for row, cell, is_bad in zip(records.rows, records.table["quality"], bad, strict=True)
        if is_bad
    ]
    table = records.table.assign(quality=pd.Series([None if q is rescale.BAD else q for q in qualities], dtype=object))
    kept = [row for row, is_bad in zip(records.rows, bad, strict=True) if not is_bad]
    return Records(table[~bad].reset_index(drop=True), kept, [*records.unreadable, *unfit])


def _head(path: LogPath) -> list[dict[str, Any]]:
    """The first records; for Parquet one whose values stand for the types of the columns."""
    if files.kind(path) != ".parquet":
        return [{str(name).strip(): cell for name, cell in record.items()} for record in files.head_records(path)]
    try:
        schema = pq.read_schema(for_parquet(path))
    except pa.ArrowException:
        return []
    return [{field.name: _stand_in(field.type) for field in schema}]


def _stand_in(kind: Any) -> Any:
    if pa.types.is_struct(kind):
        return {field.name: _stand_in(field.type) for field in kind}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return [_stand_in(kind.value_type)]
    return None


def _listed(path: LogPath) -> str:
    """The names of the fields in the head of a file, nested ones by dots; never what is in them."""
    names = dict.fromkeys(name for record in _head(path) for name in _named(record, "", 0))
    first = [shown(name, phrase=True) for name in list(names)[:_SHOWN_FIELDS]]
    return (", ".join(first) or "none") + (", …" if len(names) > _SHOWN_FIELDS else "")


def _named(value: Any, prefix: str, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        value = parsed(value)
    inner: list[tuple[str, Any]] = []
    if isinstance(value, Mapping):
        inner = [(str(name)[:_SHOWN_NAME], item) for name, item in value.items()]
    elif isinstance(value, list) and value:
        inner = [("0", value[0])]
    if not inner or depth == _SHOWN_DEPTH:
        yield prefix.rstrip(".")
        return
    for name, item in inner:
        yield from _named(item, f"{prefix}{name}.", depth + 1)
