"""What is printed: nothing in a name of anybody's is markup, or commands the terminal."""

from __future__ import annotations

from collections.abc import Callable

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
