"""`router-train`: reads logs and parameters, runs the stages, prints what came of it. Only this touches the terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from serving.bundle import Bundle, BundleError, open_bundle
from serving.catalogue import Candidate
from training import cli_store
from training.catalogue import CatalogueError, load_catalogue
from training.config import DEFAULTS, ConfigError, Params, load_params
from training.costs import CostError
from training.encoders import EncoderError
from training.estimators.base import NotTrainableError
from training.export import ParityError
from training.outcomes import OutcomeError, Outcomes
from training.pipeline import PipelineError
from training.promote import PromotionError
from training.split import SplitError

if TYPE_CHECKING:
    from training.baselines import Truth
    from training.promote import Verdict
    from training.redact import Redactor
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
    PromotionError,
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
ModelsOption = Annotated[Path, typer.Option(help="The folder of the bundles.")]
TrackOption = Annotated[bool, typer.Option(help="Move MLflow's aliases as well.")]
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
    out: Annotated[Path, typer.Option(help="Where bundles are written; out/current is the champion.")] = Path("models"),
    catalogue: CatalogueOption = Path("data/candidates.toml"),
    params: ParamsOption = DEFAULTS,
    overrides: SetOption = None,
    cache: CacheOption = Path(".cache"),
    track: Annotated[bool, typer.Option(help="Log the run and register the bundle with MLflow.")] = True,
    redact: Annotated[bool, typer.Option(help=cli_store.REDACT_HELP)] = False,
    phone_region: cli_store.RegionOption = None,
    keep_text: Annotated[
        bool, typer.Option(help="Put the test requests, as text, into the bundle (test_requests.csv).")
    ] = False,
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

            masked = cli_store.redactor(phone_region) if redact else None
            table, truth = (read_logs(data, test or [], format, masked), None) if data else _simulated(settings, prices)
            trained = train(
                table, settings, prices, out=out, cache=cache, truth=truth, keep_text=keep_text, progress=progress
            )
            manifest = trained.bundle.manifest
            if track:
                progress("track")
                from training.tracking import track as log_run

                tracked = log_run(
                    settings.tracking,
                    trained.bundle.folder,
                    settings.flat(),
                    manifest.metrics,
                    {
                        "data_fingerprint": manifest.data_fingerprint,
                        "simulated": str(manifest.simulated).lower(),
                        "promoted": str(trained.verdict.promoted).lower(),
                        "verdict": trained.verdict.reason,
                    },
                    promoted=trained.verdict.promoted,
                )
        _print_account(table)
        _console.print(f"propensities: {trained.learned.propensity_note}")
        _console.print(report.terminal(manifest, trained.evaluation))
        _print_verdict(trained.verdict, manifest.version, out)
        model = f" · MLflow model {settings.tracking.model}"
        where = f"{model} version {tracked.model_version} ({tracked.alias})" if track else ""
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
        settings = load_params(params, overrides or ())
        result = evaluate_bundle(
            opened,
            table,
            load_catalogue(catalogue),
            assumed_output_tokens=settings.costs.assumed_output_tokens,
            resamples=settings.evaluate.resamples,
            seed=settings.evaluate.seed,
        )
        _print_account(table)
        _console.print(report.terminal(opened.manifest, result))
        if json_file is not None:
            json_file.write_text(
                json.dumps(report.frontier_document(opened.manifest, result), indent=1), encoding="utf-8"
            )
            _console.print(f"figures {json_file}")


@app.command()
def promote(
    version: Annotated[
        str | None, typer.Argument(help="The bundle's folder name. Default: the newest that is not current.")
    ] = None,
    out: ModelsOption = Path("models"),
    params: ParamsOption = DEFAULTS,
    overrides: SetOption = None,
    track: TrackOption = True,
) -> None:
    """Make a bundle the champion without a comparison: out/current points at it."""
    with explained():
        from training import promote as gate

        settings = load_params(params, overrides or ())
        before = gate.version_at(out, gate.CURRENT)
        _switched(out, before, gate.promote(out, version), settings, track)


@app.command()
def rollback(
    out: ModelsOption = Path("models"),
    params: ParamsOption = DEFAULTS,
    overrides: SetOption = None,
    track: TrackOption = True,
) -> None:
    """Make the previous champion the champion again; a second time undoes it."""
    with explained():
        from training import promote as gate

        settings = load_params(params, overrides or ())
        before = gate.version_at(out, gate.CURRENT)
        _switched(out, before, gate.roll_back(out), settings, track)


def _switched(out: Path, before: str | None, bundle: Bundle, settings: Params, track: bool) -> None:
    """Says which bundle is current now, after its alias in MLflow has followed."""
    name = bundle.folder.name
    note = ""
    if track:
        from training.tracking import set_champion

        number = set_champion(settings.tracking, name)
        known = f"version {number} (champion)" if number else "does not have it: its aliases stay"
        note = f" · MLflow model {settings.tracking.model} {known}"
    _console.print(
        f"[bold green]{out / 'current'} is now {name}[/] (before: {before or 'none'}){note}\n"
        "A running server serves the bundle it loaded until it loads this one.",
        soft_wrap=True,
        highlight=False,
    )


@app.command()
def bundles(out: ModelsOption = Path("models")) -> None:
    """List the bundles, newest first, and which of them is the champion."""
    with explained():
        from training import promote as gate

        marks = {gate.version_at(out, name): name for name in (gate.PREVIOUS, gate.CURRENT)}
        caption = "AIQ as each run measured it, on its own test part"
        grid = Table(
            "bundle",
            "created",
            "estimator",
            "AIQ",
            "default point",
            box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            caption=caption,
        )
        grid.columns[0].no_wrap = grid.columns[3].no_wrap = True
        grid.columns[1].max_width = 10  # the date, and the time below it: the table fits 80 columns
        grid.columns[2].overflow = grid.columns[4].overflow = "fold"
        broken = []
        for name in reversed(gate.versions(out)):
            marked = [marks[name]] if name in marks else []
            style = "bold" if marks.get(name) == gate.CURRENT else None
            try:
                manifest = open_bundle(out / name).manifest
            except BundleError as error:
                broken.append(str(error))
                grid.add_row("\n".join([name, *marked]), "", "cannot be opened", style="red")
                continue
            title = "\n".join([name, " · ".join(marked + ["simulated log"] * manifest.simulated)]).rstrip()
            created = manifest.created[:16].replace("T", " ")
            aiq = f"{manifest.metrics['aiq']:.4f}" if "aiq" in manifest.metrics else ""
            grid.add_row(title, created, manifest.head.estimator, aiq, manifest.default_point, style=style)
        if not grid.row_count:
            raise BundleError(f"{out} has no bundle. `router-train run` writes one.")
        _console.print(grid)
        for message in broken:
            _console.print(_escape(message), style="red", soft_wrap=True)


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


def read_logs(data: list[Path], test: list[Path], format: str, redactor: Redactor | None = None) -> Outcomes:
    """The logs as one outcome table; what comes from `test` is marked as held out, the rest as not."""
    from dataclasses import replace

    from training import outcomes, traffic

    def read(paths: list[Path]) -> Outcomes:
        parts = traffic.stream(paths, format)
        return outcomes.concat(parts if redactor is None else map(redactor.outcomes, parts))

    table = read(data)
    if not test:
        return table
    held_out = read(test)
    return outcomes.concat(
        [
            replace(table, frame=table.frame.assign(split="train")),
            replace(held_out, frame=held_out.frame.assign(split="test")),
        ]
    )


def _print_verdict(verdict: Verdict, version: str, out: Path) -> None:
    """Whether the new bundle is the champion, and why; in red where it is not."""
    said = (
        f"[bold green]PROMOTED: {out / 'current'} is now {version}.[/]"
        if verdict.promoted
        else f"[bold red]NOT PROMOTED: {version} is a challenger, {out / 'current'} stays.[/]"
    )
    _console.print(f"{said} {_escape(verdict.reason)}", soft_wrap=True, highlight=False)


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


app.command("import")(explained()(cli_store.import_log))
app.command("fetch")(explained()(cli_store.fetch))


def main() -> None:
    app()


if __name__ == "__main__":
    main()
