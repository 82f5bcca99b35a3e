"""What a spreadsheet makes of an account as CSV: names that anybody may make up are text, and each in its own row."""

from __future__ import annotations

import csv
import io

import pytest

from serving.account.savings import Account, Sums, account
from serving.account.shown import OTHER, as_csv, document, harmless


def found(*names: str | None) -> Account:
    """An account of nothing, with a line for each name and one for what came to none."""
    return account("workflow", 0.0, 1.0, {name: Sums() for name in names}, Sums(), Sums(), [])


def first_cells(text: str) -> list[str]:
    """The first cell of each row, by a reader for which any kind of line end ends a line outside quotes."""
    return [row[0] for row in csv.reader(io.StringIO(text, newline=None))][1:]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("easy", "easy"),
        ("a-b=c", "a-b=c"),
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@sum", "'@sum"),
        ("  =1+1", "'  =1+1"),
        ("\u00a0=1+1", "'\u00a0=1+1"),
        ("\u200b=1+1", "'\u200b=1+1"),
        ("\n=1+1", "' =1+1"),
        ("\t=1+1", "' =1+1"),
        ("a\r=1+1", "a =1+1"),
        ("a\r\n=1+1", "a  =1+1"),
        ("a\u2028=1+1", "a =1+1"),
        ("a\x85=1+1", "a =1+1"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("\uff0b1", "'\uff0b1"),
        ("\uff0d1", "'\uff0d1"),
        ("\uff20sum", "'\uff20sum"),
        (OTHER, f"'{OTHER}"),
        (f" {OTHER}\t", f"' {OTHER} "),
    ],
)
def test_a_name_is_text_in_its_own_row(name: str, shown: str) -> None:
    assert first_cells(as_csv(found(name, "next"))) == [shown, "next", OTHER]


def test_text_is_quoted_and_numbers_are_not() -> None:
    header, line, no_name, other = as_csv(found("a,b", None)).splitlines()
    assert header.startswith('"name","decisions",')
    assert line.startswith('"a,b",0,0,')
    assert no_name.startswith('"",0,0,')
    assert other.startswith('"(other)",0,0,')


def test_where_nothing_was_compared_nothing_is_said_of_savings() -> None:
    compared = Sums(decisions=2, costed=2, compared=2, compared_usd=1.0)
    told = document(account("workflow", 0.0, 1.0, {"some": compared}, None, Sums(decisions=6), []))
    names = ("reference_usd", "reference_low", "reference_high", "saved_usd", "saved_low", "saved_high")
    assert [told["total"][name] for name in names] == [None] * 6
    assert told["lines"][0]["saved_usd"] == -1.0


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("easy, \u00e9\u6f22 \U0001f469\u200d\U0001f4bb", "easy, \u00e9\u6f22 \U0001f469\u200d\U0001f4bb"),
        ("two\nlines", "two\nlines"),
        ("\x1b[2J\x1b]0;x\x07", "\ufffd[2J\ufffd]0;x\ufffd"),
        ("\x9b31m\r\x08\x00\x7f", "\ufffd31m" + "\ufffd" * 4),
        ("\u202egnp.exe\u2069", "\ufffdgnp.exe\ufffd"),
        ("a\u2028b", "a\ufffdb"),
    ],
)
def test_nothing_in_a_name_commands_a_terminal(text: str, shown: str) -> None:
    assert harmless(text) == shown
