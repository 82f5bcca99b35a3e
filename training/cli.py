"""`router-train`: reads logs and parameters, runs the stages, prints what came of it. Only this touches the terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from serving.bundle import BundleError, open_bundle
from serving.catalogue import Candidate
from training.catalogue import CatalogueError, load_catalogue
from training.config import DEFAULTS, ConfigError, Params, load_params
from training.costs import CostError
from training.encoders import EncoderError
from training.estimators.base import NotTrainableError
from training.export import ParityError
from training.outcomes import OutcomeError, Outcomes
from training.pipeline import PipelineError
from training.split import SplitError

if TYPE_CHECKING:
    from training.baselines import Truth
    from training.traffic.simulate import SimulatedLog

# What a user can mend: shown as one message, exit code 2. Anything else is a fault of ours and shows its traceback.
EXPECTED = (
    BundleError,
    CatalogueError,
    ConfigError,
    CostError,
    EncoderError,
    NotTrainableError,
    OutcomeError,
    ParityError,
    PipelineError,
    SplitError,
)

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
_console = Console()
_errors = Console(stderr=True)

DataOption = Annotated[
    list[Path] | None, typer.Option(help="A log: a file or a folder. May be repeated. Default: a simulated log.")
]
FormatOption = Annotated[str, typer.Option(help="An importer's name, or auto to recognise each file.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="stage.key=value; overrides params.toml. May be repeated.")
]
ParamsOption = Annotated[Path, typer.Option(help="The parameters of every stage.")]
CatalogueOption = Annotated[Path, typer.Option(help="Prices, limits and capabilities of the candidates.")]
CacheOption = Annotated[Path, typer.Option(help="Encoders and embeddings, kept between runs.")]


@contextmanager
def explained() -> Iterator[None]:
    """Turns an expected error into one message on stderr and exit code 2."""
    try:
        yield
    except EXPECTED as error:
        _errors.print(f"[bold red]error:[/] {_escape(str(error))}", soft_wrap=True)
        raise typer.Exit(2) from None


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


@contextmanager
def _progress() -> Iterator[Progress]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=_errors, transient=True) as bar:
        yield bar


@app.command()
def run(
    data: DataOption = None,
    test: Annotated[list[Path] | None, typer.Option(help="A held-out log, instead of a split of the data.")] = None,
    format: FormatOption = "auto",
    out: Annotated[Path, typer.Option(help="Where bundles are written; out/current is the newest.")] = Path("models"),
    catalogue: CatalogueOption = Path("data/candidates.toml"),
    params: ParamsOption = DEFAULTS,
    overrides: SetOption = None,
    cache: CacheOption = Path(".cache"),
    track: Annotated[bool, typer.Option(help="Log the run and register the bundle with MLflow.")] = True,
) -> None:
    """Train a router on a log (all stages) and write its bundle."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with explained():
        settings = load_params(params, overrides or ())
        prices = load_catalogue(catalogue)
        from training import report
        from training.train import train

        with _progress() as bar:
            task = bar.add_task("read", total=None)

            def progress(stage: str, done: int | None = None, total: int | None = None) -> None:
                bar.update(task, description=stage, completed=done or 0, total=total)

            table, truth = (read_logs(data, test or [], format), None) if data else _simulated(settings, prices)
            trained = train(table, settings, prices, out=out, cache=cache, truth=truth, progress=progress)
            manifest = trained.bundle.manifest
            if track:
                progress("track")
                from training.tracking import track as log_run

                tracked = log_run(
                    settings.tracking,
                    trained.bundle.folder,
                    settings.flat(),
                    manifest.metrics,
                    {"data_fingerprint": manifest.data_fingerprint, "simulated": str(manifest.simulated).lower()},
                )
        _print_account(table)
        _console.print(report.terminal(manifest, trained.evaluation))
        where = f" · MLflow model {settings.tracking.model} version {tracked.model_version} (champion)" if track else ""
        _console.print(
            f"bundle {trained.bundle.folder}{where}\nreport {trained.bundle.folder / 'report.html'}", soft_wrap=True
        )


def _simulated(settings: Params, prices: dict[str, Candidate]) -> tuple[Outcomes, Truth]:
    """The simulated log as an outcome table, and the truth behind it."""
    from training.baselines import Truth
    from training.outcomes import validate

    log = _simulated_log(settings, prices)
    return validate(log.outcomes, source="simulated", format="simulated"), Truth(log.acceptable, log.cost_usd)


def _simulated_log(settings: Params, prices: dict[str, Candidate]) -> SimulatedLog:
    from training.traffic.simulate import simulate as make

    wanted = settings.simulate
    missing = [name for name in wanted.candidates if name not in prices]
    if missing:
        raise ConfigError(f"simulate.candidates has {missing[0]!r}; the catalogue has {', '.join(prices)}")
    return make(
        [prices[name] for name in wanted.candidates], requests=wanted.requests, days=wanted.days, seed=wanted.seed
    )


@app.command()
def evaluate(
    data: Annotated[list[Path], typer.Option(help="The log to evaluate on. May be repeated.")],
    bundle: Annotated[Path, typer.Option(help="The bundle to evaluate.")] = Path("models/current"),
    format: FormatOption = "auto",
    catalogue: CatalogueOption = Path("data/candidates.toml"),
    params: ParamsOption = DEFAULTS,
    overrides: SetOption = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here as well.")] = None,
) -> None:
    """Evaluate a bundle, as it is served, on a log that it was not trained on."""
    with explained():
        from training import report
        from training.evaluate_bundle import evaluate_bundle

        table = read_logs(data, [], format)
        opened = open_bundle(bundle)
        settings = load_params(params, overrides or ()).evaluate
        result = evaluate_bundle(
            opened, table, load_catalogue(catalogue), resamples=settings.resamples, seed=settings.seed
        )
        _print_account(table)
        _console.print(report.terminal(opened.manifest, result))
        if json_file is not None:
            json_file.write_text(
                json.dumps(report.frontier_document(opened.manifest, result), indent=1), encoding="utf-8"
            )
            _console.print(f"figures {json_file}")


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(help="The file to write: .parquet, .jsonl or .csv.")],
    catalogue: CatalogueOption = Path("data/candidates.toml"),
    params: ParamsOption = DEFAULTS,
    overrides: SetOption = None,
) -> None:
    """Write the simulated log, to look at or to import as one's own."""
    with explained():
        log = _simulated_log(load_params(params, overrides or ()), load_catalogue(catalogue)).outcomes
        writers = {
            ".parquet": lambda: log.to_parquet(out, index=False),
            ".jsonl": lambda: log.to_json(out, orient="records", lines=True, date_format="iso"),
            ".csv": lambda: log.assign(messages=log["messages"].map(json.dumps, na_action="ignore")).to_csv(
                out, index=False
            ),
        }
        if out.suffix not in writers:
            raise OutcomeError(f"{out}: expected a name that ends in {', '.join(writers)}")
        writers[out.suffix]()
        _console.print(f"{len(log):,} simulated outcomes written to {out}")


def read_logs(data: list[Path], test: list[Path], format: str) -> Outcomes:
    """The logs as one outcome table; what comes from `test` is marked as held out, the rest as not."""
    from dataclasses import replace

    from training import outcomes, traffic

    table = traffic.read(data, format)
    if not test:
        return table
    held_out = traffic.read(test, format)
    return outcomes.concat(
        [
            replace(table, frame=table.frame.assign(split="train")),
            replace(held_out, frame=held_out.frame.assign(split="test")),
        ]
    )


def _print_account(table: Outcomes) -> None:
    _console.print(
        f"{table.rows_read:,} rows read as {', '.join(table.formats)}: "
        f"{len(table.frame):,} used, {len(table.skipped):,} skipped"
    )
    if table.reasons:
        grid = Table("skipped because", "rows", "for example")
        for reason, count in table.reasons.items():
            first = table.skipped[table.skipped["reason"] == reason].iloc[0]
            example = (
                f"{first['source']} row {first['row']}: {first['field']} is {first['value']}, not {first['expected']}"
            )
            grid.add_row(_escape(reason), f"{count:,}", _escape(example))
        _console.print(grid)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
