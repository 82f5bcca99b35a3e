"""`router-train import` and `fetch`: a log of any size, and public data by name, as files that training reads."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from training.cli import options as cli_import
from training.cli import show as terminal
from training.logs.dataset import ImportAccount
from training.logs.io import database
from training.logs.outcomes import OutcomeError
from training.logs.sources.mapped import parse_mapping
from training.logs.sources.options import ImportOptions

if TYPE_CHECKING:
    from training.logs.redact import Redactor

REDACT_HELP = "Mask e-mail addresses, phone numbers, keys and card numbers before anything is kept or embedded."
PICKLE_HELP = "Read pickles, with the classes of a pandas table allowed and nothing else."
RegionOption = Annotated[
    list[str] | None,
    typer.Option(help="With --redact: where phone numbers without a country code are from (ISO 3166). Default: US."),
]
PickleOption = Annotated[bool, typer.Option("--allow-pickle", help=PICKLE_HELP)]
_console = Console()
_errors = Console(stderr=True)


def import_log(
    data: Annotated[list[str], typer.Option(help="A log: a file, a folder or a URL. May be repeated.")],
    out: Annotated[Path, typer.Option(help="The folder to make; `--data` takes it.")],
    format: Annotated[str, typer.Option(help="An importer's name, or auto to recognise each file.")] = "auto",
    redact: Annotated[bool, typer.Option(help=REDACT_HELP)] = False,
    phone_region: RegionOption = None,
    map: cli_import.MapOption = None,
    allow_pickle: PickleOption = False,
    cache: Annotated[Path, typer.Option(help="Where pickles are kept as CSV.")] = Path(".cache"),
) -> None:
    """Import a log of any size, a partition at a time, as Parquet files."""
    from training.logs.dataset import ImportAccount, store
    from training.logs.sources import reading

    options = ImportOptions(mapping=parse_mapping(map or ()))
    named = terminal.named(data, cache, allow_pickle=allow_pickle)
    account = ImportAccount([database.shown(name) for name in data])
    masked = redactor(phone_region) if redact else None
    if masked is not None:
        account.redacted = masked.counts
    started = time.monotonic()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=_errors, transient=True) as bar:
        task = bar.add_task("import", total=None)

        def progress(rows: int) -> None:
            bar.update(task, description=f"import: {rows:,} rows, {_rate(rows, started)}")

        parts = reading.stream(named, format, options)
        store(parts if masked is None else (masked.outcomes(part) for part in parts), out, account, progress)
    _print(account, out, _rate(account.rows_read, started))


def fetch(
    name: Annotated[str, typer.Argument(help="hf:owner/name, hf:owner/name@revision or hf:owner/name/path")],
    allow_pickle: Annotated[bool, typer.Option(help=PICKLE_HELP)] = False,
    cache: Annotated[Path, typer.Option(help="Where pickles are kept as CSV.")] = Path(".cache"),
) -> None:
    """Download a public data set, at a commit that is shown, and print the files that `--data` takes."""
    from training.logs.sources.public import hub

    found = hub.fetch(name, cache=cache, allow_pickle=allow_pickle)
    _console.print(
        f"{hub.PREFIX}{found.repository}@{found.revision}", *found.paths, sep="\n", soft_wrap=True, highlight=False
    )


def redactor(regions: list[str] | None) -> Redactor:
    """What masks a log; raises OutcomeError for a region that is none."""
    from phonenumbers import SUPPORTED_REGIONS

    from training.logs.redact import Redactor

    wanted = regions or ["US"]
    if unknown := sorted(set(wanted) - SUPPORTED_REGIONS):
        raise OutcomeError(f"phone region {unknown[0]!r} is not known; expected two capital letters, as in US or DE")
    return Redactor(wanted)


def _rate(rows: int, started: float) -> str:
    return f"{rows / max(time.monotonic() - started, 1e-9):,.0f} rows/s"


def _print(account: ImportAccount, out: Path, rate: str) -> None:
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
    if account.redacted is not None:
        masked = ", ".join(f"{count:,} {kind}" for kind, count in account.redacted.items()) or "nothing found"
        _console.print(f"masked: {masked}", highlight=False)
    _console.print(f"{len(account.files):,} files in {out}", soft_wrap=True, highlight=False)
