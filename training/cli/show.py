"""What the commands share: consoles, options, reading logs, and errors as messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from serving.bundle.catalogue import Candidate
from serving.bundle.manifest import BundleError
from training.errors import TrainingError
from training.logs.outcomes import Outcomes
from training.logs.sources.options import DEFAULT, ImportOptions

if TYPE_CHECKING:
    from training.logs.redact import Redactor

# What a user can mend: shown as one message, exit code 2. Anything else is a fault of ours and shows its traceback.
EXPECTED = (BundleError, TrainingError)

console = Console()
errors = Console(stderr=True)


DataOption = Annotated[
    list[str] | None,
    typer.Option(help="A log: a file, a folder or a URL (postgresql://…). May be repeated. Default: a simulated log."),
]
FormatOption = Annotated[str, typer.Option(help="An importer's name, or auto to recognise each file.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="stage.key=value; overrides params.toml. May be repeated.")
]
ParamsOption = Annotated[Path, typer.Option(help="The parameters of every stage.")]
CatalogueOption = Annotated[Path, typer.Option(help="Prices, limits and capabilities of the candidates.")]
ModelsOption = Annotated[Path, typer.Option(help="The folder of the bundles.")]
TrackOption = Annotated[bool, typer.Option(help="Move MLflow's aliases as well.")]
CacheOption = Annotated[Path, typer.Option(help="Encoders and embeddings, kept between runs.")]


@contextmanager
def explained() -> Iterator[None]:
    """Turns an expected error into one message on stderr and exit code 2."""
    try:
        yield
    except EXPECTED as error:
        errors.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(2) from None


def escape(text: str) -> str:
    """Text in which a square bracket is no markup."""
    return text.replace("[", r"\[")


def read_logs(
    data: Sequence[str],
    test: Sequence[str],
    format: str,
    catalogue: Mapping[str, Candidate],
    options: ImportOptions = DEFAULT,
    *,
    cache: Path = Path(".cache"),
    redactor: Redactor | None = None,
    allow_pickle: bool = False,
) -> Outcomes:
    """The logs as one outcome table, under the names of the catalogue; what comes from `test` is marked as held out.

    With a `redactor` personal data are masked before anything else sees them.
    """
    from dataclasses import replace

    from training.logs import aliases
    from training.logs.repeats import concat
    from training.logs.sources import reading

    def read(names: Sequence[str]) -> Outcomes:
        parts = reading.stream(named(names, cache, allow_pickle=allow_pickle), format, options)
        return concat(parts if redactor is None else map(redactor.outcomes, parts))

    table = read(data)
    if not test:
        return aliases.resolve(table, catalogue)
    held_out = read(test)
    together = concat(
        [
            replace(table, frame=table.frame.assign(split="train")),
            replace(held_out, frame=held_out.frame.assign(split="test")),
        ]
    )
    return aliases.resolve(together, catalogue)


def named(data: Sequence[str], cache: Path, *, allow_pickle: bool) -> list[str | Path]:
    """The same with public data sets ("hf:…") downloaded, and the commit they are at said."""
    from training.logs.sources.public import hub

    found: list[str | Path] = []
    for name in data:
        if not hub.recognises_url(name):
            found.append(name)
            continue
        fetched = hub.fetch(name, cache=cache, allow_pickle=allow_pickle)
        console.print(f"{hub.PREFIX}{fetched.repository}@{fetched.revision}", highlight=False, soft_wrap=True)
        found += fetched.paths
    return found


def print_account(table: Outcomes) -> None:
    """How many rows were read, skipped and why, and which names were read as another."""
    console.print(
        f"{table.rows_read:,} rows read as {', '.join(table.formats)}: "
        f"{len(table.frame):,} used, {len(table.skipped):,} skipped"
    )
    for note in table.notes:
        console.print(escape(note), soft_wrap=True)
    if table.reasons:
        grid = Table("skipped because", "rows", "for example")
        for reason, count in table.reasons.items():
            first = table.skipped[table.skipped["reason"] == reason].iloc[0]
            example = (
                f"{first['source']} row {first['row']}: {first['field']} is {first['value']}, not {first['expected']}"
            )
            grid.add_row(escape(reason), f"{count:,}", escape(example))
        console.print(grid)
    for use in table.aliases:
        console.print(f"{use.rows:,} rows of {escape(use.alias)} read as {escape(use.candidate)}", highlight=False)
