"""The commands of `router-train` that look at logs and train nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from serving.bundle.atomic_write import written_whole
from training.cli.show import CatalogueOption, FormatOption, ParamsOption, SetOption, console, explained, read_logs
from training.config import DEFAULTS, load_params
from training.prices.catalogue import CatalogueError, load_catalogue

if TYPE_CHECKING:
    from training.prices.fill import Proposal
    from training.prices.price_map import PriceList

app = typer.Typer()

LogsOption = Annotated[list[str], typer.Option("--data", help="A log: a file, a folder or a URL. May be repeated.")]


@app.command()
def inspect(
    data: LogsOption,
    format: FormatOption = "auto",
    catalogue: CatalogueOption = Path("data/candidates.toml"),
    params: ParamsOption = DEFAULTS,
    overrides: SetOption = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the report here as well.")] = None,
) -> None:
    """Say what a log holds, and what a router trained on it can and cannot claim."""
    with explained():
        from training.inspect.log import inspect_log
        from training.inspect.page import page

        settings = load_params(params, overrides or ())
        prices = load_catalogue(catalogue)
        report = inspect_log(read_logs(data, [], format, prices), prices, settings)
        console.print(page(report))
        if json_file is not None:
            json_file.write_text(json.dumps(report.document(), indent=1), encoding="utf-8")
            console.print(f"report {json_file}", soft_wrap=True)


@app.command("catalogue")
def fill(
    data: LogsOption,
    format: FormatOption = "auto",
    openrouter: Annotated[
        Path | None, typer.Option(help="What https://openrouter.ai/api/v1/models answered, saved as a file.")
    ] = None,
    litellm: Annotated[bool, typer.Option(help="Look into the price map of the installed LiteLLM package.")] = True,
    catalogue: CatalogueOption = Path("data/candidates.toml"),
    write: Annotated[
        bool, typer.Option("--write", help="Write the file; without it, only the difference is shown.")
    ] = False,
) -> None:
    """Fill the catalogue for the candidates of a log from price lists; what is written there already stays."""
    with explained():
        from training.prices.fill import existing, propose, read_text

        before = read_text(catalogue)
        table = read_logs(data, [], format, existing(before, catalogue))
        rows = {str(name): int(count) for name, count in table.frame["candidate"].value_counts().items()}
        proposal = propose(before, catalogue, rows, _price_lists(openrouter, litellm), f"{datetime.now(UTC):%Y-%m}")
        _print_proposal(proposal)
        if not write:
            console.print(Text(proposal.diff(str(catalogue)) or "Nothing to add."))
            console.print(f"{catalogue} is as it was: --write writes this.", soft_wrap=True)
        elif proposal.after != before:
            _replace(catalogue, proposal.after)
            console.print(f"{catalogue} written", soft_wrap=True)


def _price_lists(openrouter: Path | None, litellm: bool) -> Sequence[PriceList]:
    from training.prices.price_map import litellm_prices, openrouter_prices

    lists = [openrouter_prices(openrouter)] if openrouter is not None else []
    lists += [litellm_prices()] if litellm else []
    if not lists:
        raise CatalogueError("no price list to look into: got --no-litellm and no --openrouter; give one of the two")
    return lists


def _print_proposal(proposal: Proposal) -> None:
    from training.prices.fill import YOURS

    if proposal.filled:
        grid = _grid("candidate", "filled", "from")
        for one in proposal.filled:
            fields = ", ".join(f"{name} {value}" for name, value in one.fields.items())
            grid.add_row(Text(one.candidate + (" (new)" if one.new else "")), Text(fields), Text(one.source))
        console.print(grid)
    if proposal.differs:
        grid = _grid("yours stays", "field", "yours", "listed", "by")
        for other in proposal.differs:
            grid.add_row(
                Text(other.candidate), other.field, f"{other.written:g}", f"{other.listed:g}", Text(other.source)
            )
        console.print(grid)
    if proposal.missing:
        grid = _grid("candidate", "not found", "because")
        for missing in proposal.missing:
            grid.add_row(Text(missing.candidate), ", ".join(missing.fields), Text(missing.why))
        console.print(grid)
    for names in proposal.alike:
        listed = ", ".join(json.dumps(alias, ensure_ascii=False) for alias in names.aliases)
        console.print(
            Text(
                f"The same LLM? If so, aliases = [{listed}] for {names.candidate}; if not, a [[candidate]] table for each "
                "(the name is enough: it is filled next time). Until then nothing is written for them."
            )
        )
    console.print(f"No price list knows {', '.join(YOURS)}: they are yours to fill in.")


def _grid(*names: str) -> Table:
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in names:
        grid.add_column(name, overflow="fold")
    return grid


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all; a link is followed, and the mode kept."""
    target = path.resolve()
    with written_whole(target) as draft:
        draft.write_bytes(text.encode())
        if target.exists():
            draft.chmod(target.stat().st_mode)
