"""`router-train import`: a log of any size as a dataset that training reads."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from training.store import Account

_console = Console()
_errors = Console(stderr=True)


def import_log(
    data: Annotated[list[Path], typer.Option(help="A log: a file or a folder. May be repeated.")],
    out: Annotated[Path, typer.Option(help="The folder to make; `--data` takes it.")],
    format: Annotated[str, typer.Option(help="An importer's name, or auto to recognise each file.")] = "auto",
) -> None:
    """Import a log of any size, a partition at a time, as Parquet files."""
    from training import traffic
    from training.store import Account, store

    account = Account([str(path) for path in data])
    started = time.monotonic()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=_errors, transient=True) as bar:
        task = bar.add_task("import", total=None)

        def progress(rows: int) -> None:
            bar.update(task, description=f"import: {rows:,} rows, {_rate(rows, started)}")

        store(traffic.stream(data, format), out, account, progress)
    _print(account, out, _rate(account.rows_read, started))


def _rate(rows: int, started: float) -> str:
    return f"{rows / max(time.monotonic() - started, 1e-9):,.0f} rows/s"


def _print(account: Account, out: Path, rate: str) -> None:
    skipped = sum(account.skipped.values())
    _console.print(
        f"{account.rows_read:,} rows read as {', '.join(account.formats)}: {account.rows_used:,} used, {skipped:,} skipped "
        f"({rate})\ncost {account.cost_usd:,.2f} USD · {account.input_tokens:,} input tokens · "
        f"{account.output_tokens:,} output tokens",
        soft_wrap=True,
        highlight=False,
    )
    if account.skipped:
        grid = Table("skipped because", "rows")
        for reason, count in account.skipped.items():
            grid.add_row(reason.replace("[", r"\["), f"{count:,}")
        _console.print(grid)
    _console.print(f"{len(account.files):,} files in {out}", soft_wrap=True, highlight=False)
