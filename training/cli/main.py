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
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from serving.bundle.catalogue import Candidate
from serving.bundle.manifest import Bundle, BundleError, open_bundle
from training.cli import logs as cli_logs
from training.cli import options as cli_import
from training.cli import store as cli_store
from training.cli.show import (
    CacheOption,
    CatalogueOption,
    DataOption,
    FormatOption,
    ModelsOption,
    ParamsOption,
    SetOption,
    TrackOption,
    console,
    errors,
    escape,
    explained,
    print_account,
)
from training.config import DEFAULTS, ConfigError, Params, load_params
from training.logs.outcomes import OutcomeError, Outcomes
from training.logs.sources.public import hub
from training.prices.catalogue import load_catalogue

if TYPE_CHECKING:
    from training.dataset.inputs import Progress as ReportProgress
    from training.evaluate.baselines import Truth
    from training.publish.promote import Promotion
    from training.simulation.simulate import SimulatedLog

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(cli_logs.app)


@contextmanager
def _progress() -> Iterator[ReportProgress]:
    """A bar on stderr while something long runs, and what tells it how far that is."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task("read", total=None)

        def progress(stage: str, done: int | None = None, total: int | None = None) -> None:
            bar.update(task, description=stage, completed=done or 0, total=total)

        yield progress


@app.command()
def run(
    data: DataOption = None,
    test: Annotated[list[str] | None, typer.Option(help="A held-out log, instead of a split of the data.")] = None,
    format: FormatOption = "auto",
    map: cli_import.MapOption = None,
    scores: cli_import.ScoresOption = None,
    score_rule: cli_import.ScoreRuleOption = None,
    score_name: cli_import.ScoreNameOption = None,
    trace_scores: cli_import.TraceScoresOption = cli_import.TraceScores.last,
    check: cli_import.CheckOption = None,
    judge: cli_import.JudgeOption = None,
    judge_budget_usd: cli_import.JudgeBudgetOption = None,
    judge_price: cli_import.JudgePriceOption = None,
    out: Annotated[Path, typer.Option(help="Where bundles are written; out/current is the champion.")] = Path("models"),
    catalogue: CatalogueOption = Path("data/candidates.toml"),
    params: ParamsOption = DEFAULTS,
    overrides: SetOption = None,
    cache: CacheOption = Path(".cache"),
    track: Annotated[bool, typer.Option(help="Log the run and register the bundle with MLflow.")] = True,
    redact: Annotated[bool, typer.Option(help=cli_store.REDACT_HELP)] = False,
    phone_region: cli_store.RegionOption = None,
    allow_pickle: cli_store.PickleOption = False,
    keep_text: Annotated[
        bool, typer.Option(help="Put the test requests, as text, into the bundle (test_requests.csv).")
    ] = False,
) -> None:
    """Train a router on a log (all stages) and write its bundle."""
    if not any(hub.recognises_url(name) for name in [*(data or ()), *(test or ())]):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with explained():
        settings = load_params(params, overrides or ())
        prices = load_catalogue(catalogue)
        judging = cli_import.judging(
            map, scores, score_rule, score_name, trace_scores, check, judge, judge_budget_usd, judge_price
        )
        from training.publish import report
        from training.run import train

        with _progress() as progress:
            masked = cli_store.redactor(phone_region) if redact else None
            if data:
                read = cli_import.read_logs(
                    data,
                    test or [],
                    format,
                    prices,
                    judging,
                    settings.judge,
                    cache,
                    progress,
                    masked,
                    allow_pickle=allow_pickle,
                )
                table, accounts, truth = *read, None
            else:
                judging.require_nothing()
                (table, truth), accounts = _simulated(settings, prices), []
            trained = train(
                table, settings, prices, out=out, cache=cache, truth=truth, keep_text=keep_text, progress=progress
            )
            manifest = trained.bundle.manifest
            if track:
                progress("track", None, None)
                from training.publish.tracking import track as log_run

                tracked = log_run(
                    settings.tracking,
                    trained.bundle.folder,
                    settings.flat(),
                    manifest.metrics,
                    {
                        "data_fingerprint": manifest.data_fingerprint,
                        "simulated": str(manifest.simulated).lower(),
                        "promoted": str(trained.promotion.promoted).lower(),
                        "promotion": trained.promotion.reason,
                    },
                    promoted=trained.promotion.promoted,
                )
        print_account(table)
        cli_import.print_accounts(console, accounts)
        console.print(f"propensities: {trained.learned.propensity_note}")
        console.print(report.terminal(manifest, trained.evaluation))
        _print_promotion(trained.promotion, manifest.version, out)
        model = f" · MLflow model {settings.tracking.model}"
        where = f"{model} version {tracked.model_version} ({tracked.alias})" if track else ""
        console.print(
            f"bundle {trained.bundle.folder}{where}\nreport {trained.bundle.folder / 'report.html'}", soft_wrap=True
        )


def _simulated(settings: Params, prices: dict[str, Candidate]) -> tuple[Outcomes, Truth]:
    """The simulated log as an outcome table, and the truth behind it."""
    from training.evaluate.baselines import Truth
    from training.logs.validate import validate

    log = _simulated_log(settings, prices)
    return validate(log.outcomes, source="simulated", format="simulated"), Truth(log.acceptable, log.cost_usd)


def _simulated_log(settings: Params, prices: dict[str, Candidate]) -> SimulatedLog:
    try:
        from training.simulation.simulate import simulate as make
    except ModuleNotFoundError as error:
        raise ConfigError(
            "the simulated log comes with the repository, not with the installed package: give a log of your own with --data"
        ) from error
    wanted = settings.simulate
    missing = [name for name in wanted.candidates if name not in prices]
    if missing:
        raise ConfigError(f"simulate.candidates has {missing[0]!r}; the catalogue has {', '.join(prices)}")
    return make(
        [prices[name] for name in wanted.candidates], requests=wanted.requests, days=wanted.days, seed=wanted.seed
    )


@app.command()
def evaluate(
    data: Annotated[list[str], typer.Option(help="The log to evaluate on. May be repeated.")],
    bundle: Annotated[Path, typer.Option(help="The bundle to evaluate.")] = Path("models/current"),
    format: FormatOption = "auto",
    map: cli_import.MapOption = None,
    scores: cli_import.ScoresOption = None,
    score_rule: cli_import.ScoreRuleOption = None,
    score_name: cli_import.ScoreNameOption = None,
    trace_scores: cli_import.TraceScoresOption = cli_import.TraceScores.last,
    check: cli_import.CheckOption = None,
    judge: cli_import.JudgeOption = None,
    judge_budget_usd: cli_import.JudgeBudgetOption = None,
    judge_price: cli_import.JudgePriceOption = None,
    catalogue: CatalogueOption = Path("data/candidates.toml"),
    params: ParamsOption = DEFAULTS,
    overrides: SetOption = None,
    cache: CacheOption = Path(".cache"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here as well.")] = None,
) -> None:
    """Evaluate a bundle, as it is served, on a log that it was not trained on."""
    with explained():
        from training.evaluate.served import evaluate_bundle
        from training.publish import report

        prices = load_catalogue(catalogue)
        opened = open_bundle(bundle)
        settings = load_params(params, overrides or ())
        judging = cli_import.judging(
            map, scores, score_rule, score_name, trace_scores, check, judge, judge_budget_usd, judge_price
        )
        with _progress() as progress:
            table, accounts = cli_import.read_logs(data, [], format, prices, judging, settings.judge, cache, progress)
        result = evaluate_bundle(
            opened,
            table,
            prices,
            assumed_output_tokens=settings.costs.assumed_output_tokens,
            resamples=settings.evaluate.resamples,
            seed=settings.evaluate.seed,
        )
        print_account(table)
        cli_import.print_accounts(console, accounts)
        console.print(report.terminal(opened.manifest, result))
        if json_file is not None:
            json_file.write_text(
                json.dumps(report.frontier_document(opened.manifest, result), indent=1), encoding="utf-8"
            )
            console.print(f"figures {json_file}")


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
        from training.publish import promote as gate

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
        from training.publish import promote as gate

        settings = load_params(params, overrides or ())
        before = gate.version_at(out, gate.CURRENT)
        _switched(out, before, gate.roll_back(out), settings, track)


def _switched(out: Path, before: str | None, bundle: Bundle, settings: Params, track: bool) -> None:
    """Says which bundle is current now, after its alias in MLflow has followed."""
    name = bundle.folder.name
    note = ""
    if track:
        from training.publish.tracking import set_champion

        number = set_champion(settings.tracking, name)
        known = f"version {number} (champion)" if number else "does not have it: its aliases stay"
        note = f" · MLflow model {settings.tracking.model} {known}"
    console.print(
        f"[bold green]{out / 'current'} is now {name}[/] (before: {before or 'none'}){note}\n"
        "A running server serves the bundle it loaded until it loads this one.",
        soft_wrap=True,
        highlight=False,
    )


@app.command()
def bundles(out: ModelsOption = Path("models")) -> None:
    """List the bundles, newest first, and which of them is the champion."""
    with explained():
        from training.publish import promote as gate

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
        console.print(grid)
        for message in broken:
            console.print(escape(message), style="red", soft_wrap=True)


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
        console.print(f"{len(log):,} simulated outcomes written to {out}")


def _print_promotion(promotion: Promotion, version: str, out: Path) -> None:
    """Whether the new bundle is the champion, and why; in red where it is not."""
    said = (
        f"[bold green]PROMOTED: {out / 'current'} is now {version}.[/]"
        if promotion.promoted
        else f"[bold red]NOT PROMOTED: {version} is a challenger, {out / 'current'} stays.[/]"
    )
    console.print(f"{said} {escape(promotion.reason)}", soft_wrap=True, highlight=False)


app.command("import")(explained()(cli_store.import_log))
app.command("fetch")(explained()(cli_store.fetch))


def main() -> None:
    app()


if __name__ == "__main__":
    main()
