"""An account of savings as a document and as CSV, the same wherever it is asked for."""

from __future__ import annotations

import csv
import io
import unicodedata
from dataclasses import fields
from typing import Any

from serving.account.savings import Account, Line, Ratio
from serving.account.window import iso

# Routing's own costs, which are together in the document.
COSTS = (
    "exploration_usd", "also_usd", "judge_usd",
    "uncompared_exploration_usd", "uncompared_also_usd", "uncompared_judge_usd",
)  # fmt: skip
OTHER = "(other)"
# What nothing says where no decision was compared: not that nothing was saved.
_OF_COMPARED = frozenset({"reference_usd", "reference_low", "reference_high", "saved_usd", "saved_low", "saved_high"})
# What a spreadsheet takes for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@")
# Characters that end a line or move in it, and those that nobody sees.
_BREAKS, _UNSEEN = frozenset({"Cc", "Zl", "Zp"}), frozenset({"Cf", "Mn", "Me"})
# Characters that turn the direction of what follows, so that a name reads as another.
_TURNS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def document(account: Account) -> dict[str, Any]:
    """The account as it is answered."""
    method = account.method
    return {
        "from": iso(account.since),
        "to": iso(account.until),
        "by": account.by,
        "method": None if method is None else method.value,
        "references": [_ratio(one) for one in account.ratios],
        "total": _line(account.total),
        "lines": [_line(one) for one in account.lines],
        "other": None if account.other is None else _line(account.other),
    }


def as_csv(account: Account) -> str:
    """A row for each line and one for what came to none, without the total. Text is quoted, and no name is a formula."""
    names = [one.name for one in fields(Line)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow([f"routing_costs_{name}" if name in COSTS else name for name in names])
    for line in account.lines:
        writer.writerow([cell(line.name), *(_told(line, name) for name in names[1:])])
    if account.other is not None:
        writer.writerow([OTHER, *(_told(account.other, name) for name in names[1:])])
    return out.getvalue()


def _told(line: Line, name: str) -> Any:
    return None if name in _OF_COMPARED and not line.compared else getattr(line, name)


def _line(line: Line) -> dict[str, Any]:
    told = {name: _told(line, name) for name in (one.name for one in fields(Line))}
    return {
        **{name: told[name] for name in told if name not in COSTS},
        "routing_costs": {name: told[name] for name in COSTS},
    }


def _ratio(one: Ratio) -> dict[str, Any]:
    return {
        "reference": one.reference,
        "method": one.method.value,
        "ratio": one.ratio,
        "low": one.low,
        "high": one.high,
        "answers": one.answers,
        "conversations": one.conversations,
    }


def cell(name: str | None) -> str | None:
    """A line's name, which anybody may have made up: on one line, and marked where it would be a formula or the remainder.

    Spreadsheets take full-width characters for the usual ones, and some leave out blanks before a formula.
    """
    if name is None:
        return None
    shown = "".join(" " if unicodedata.category(one) in _BREAKS else one for one in name)
    plain = unicodedata.normalize("NFKC", shown)
    plain = "".join(one for one in plain if unicodedata.category(one) not in _UNSEEN).strip()
    return f"'{shown}" if plain.startswith(_FORMULA) or plain == OTHER else shown


def harmless(text: str) -> str:
    """Text of anybody's as a terminal may have it: U+FFFD for what would command it or turn what is read; lines stay."""
    if text.isprintable():  # none of these are
        return text
    return "".join("\ufffd" if _commands(one) else one for one in text)


def _commands(one: str) -> bool:
    return one != "\n" and (unicodedata.category(one) in _BREAKS or one in _TURNS)
