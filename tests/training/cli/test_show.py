"""What is printed: nothing in a name of anybody's commands the terminal; a line for each stage where nobody watches."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace as Made
from typing import Any

import pytest
from rich.console import Group
from rich.table import Table
from rich.text import Text

from training.cli import show

NAME = "\x1b[2J\x1b]0;pwn\x9d[red]\u202egnp[/red]:smile:"
SHOWN = "\ufffd[2J\ufffd]0;pwn\ufffd[red]\ufffdgnp[/red]:smile:"


def in_a_table(name: str) -> None:
    table = Table(title=name)
    table.add_column("name", no_wrap=True)
    table.add_row(name)
    show.console.print(Group(table, Text(name)), soft_wrap=True)


@pytest.mark.parametrize(
    "prints", [show.say, lambda name: show.print_rows(("name",), [[name]]), in_a_table], ids=["say", "rows", "table"]
)
def test_a_name_is_printed_as_it_is_but_for_what_commands(
    prints: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    prints(NAME)
    came = capsys.readouterr().out
    assert SHOWN in came
    assert not {"\x1b", "\x9d", "\u202e"} & set(came)


def test_a_bar_still_moves() -> None:
    with show.progress() as tell:
        tell("read", 1, 2)


def test_a_stage_is_a_line_with_seconds_where_stderr_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with show.progress() as tell:
        tell("embed", None, 1200)
        tell("embed", 600, 1200)
        tell("replay: $1.00 of $5", 1, 2)
        tell("replay: $2.00 of $5", 2, 2)
        tell("certify", None, None)
    show.done()
    out, err = capsys.readouterr()
    assert not out
    said = [re.fullmatch(r"at +\d+\.\d s: (.+)", line) for line in err.splitlines()]
    assert [one and one.group(1) for one in said] == ["embed (1,200)", "replay: $1.00 of $5 (2)", "certify", "done"]


@pytest.mark.parametrize("certified", [["b"], []])
def test_only_what_is_certified_is_offered_as_another_trade_off(
    certified: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    points = [Made(name=name, certificate=name in certified or None) for name in ("a", "b", "c")]
    manifest: Any = Made(operating_points=points, default_point="a", default=Made(certificate=True), version="v")
    show.print_next(Made(promoted=True), manifest, Path("models"), None)  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert ("another certified trade-off of b: router-train set-point NAME" in said) is bool(certified)
    assert "c:" not in said
    assert ("set-point" in said) is bool(certified)
