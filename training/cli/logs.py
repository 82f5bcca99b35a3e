"""The commands on logs: train on one, import it, evaluate on it; fetch one, or make one up."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from training.cli import show
from training.cli.options import (
    CACHE,
    CANDIDATES,
    CURRENT,
    MODELS,
    CacheOption,
    CatalogueOption,
    ChoicesOption,
    ClusterFolderOption,
    ClusterOption,
    JsonOption,
    LogOptions,
    MemoryOption,
    PickleOption,
    Settings,
    SinceOption,
    TestOption,
    grouped,
    load_prices,
)
from training.cli.planning import advice
from training.cli.show import say

if TYPE_CHECKING:
    from serving.bundle.catalogue import Candidate
    from training.config import Params
    from training.simulation.simulate import SimulatedLog

app = typer.Typer()


@app.command()
@grouped
def run(
    context: typer.Context,
    log: LogOptions,
    settings: Settings,
    test: TestOption = None,
    memory_gb: MemoryOption = None,
    since: SinceOption = None,
    choices_of: ChoicesOption = None,
    cluster: ClusterOption = None,
    cluster_folder: ClusterFolderOption = None,
    out: Annotated[Path, typer.Option(help="Where bundles are written; out/current is the champion.")] = MODELS,
    track: Annotated[bool, typer.Option(help="Log the run and register the bundle with MLflow.")] = True,
    promote: Annotated[
        bool,
        typer.Option(help="Make the bundle out/current if it is not worse than what is there; else only write it."),
    ] = True,
    keep_text: Annotated[
        bool,
        typer.Option(
            help="Put the test requests, as text, into the bundle (test_requests.csv), and the texts of the logged requests "
            "that are shown beside decisions (neighbours_texts.json)."
        ),
    ] = False,
) -> None:
    """Train a router on a log, through all stages, and write its bundle. Without --data the log is simulated."""
    from training.engine.named import engine_of, shared_folder

    shared = shared_folder(cluster, cluster_folder, log.cache)  # before what takes seconds to import
    from training.cli.reading import ReadLog, named, priced, read, read_to_train, rows_in_core
    from training.cli.since.earlier import earlier_run, next_rows, put_together, rows_to_keep, said
    from training.dataset.label import label_kinds, labels_said
    from training.evaluate.baselines import Truth
    from training.learn.prepare import Prepared, prepare_stored
    from training.logs.outcomes import OutcomeError
    from training.logs.sources.public import hub
    from training.logs.stored.memory import limits
    from training.logs.validate import validate
    from training.publish import report
    from training.run import train

    if not any(hub.recognises_url(name) for name in [*named(log), *(test or ())]):
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the encoder is on disk
    earlier = earlier_run(since, choices_of, log, keep_text=keep_text)
    params, prices = earlier.params(settings), load_prices(log.catalogue)
    allow = limits(params.scale, memory_gb).require_drawn  # before there is a log: then less is free
    needless = [*log.needing_data, *(["--test"] if test else []), *(["--memory-gb"] if memory_gb else [])]
    if needless and not log.given:
        raise OutcomeError(f"{', '.join(needless)}: give --data as well; the simulated log is read as it is")
    engine = context.with_resource(engine_of(cluster, shared, say))
    with show.progress() as tell:
        if log.given:
            found, prices = priced(read_to_train(log, prices, params, tell, test or (), memory_gb, engine), prices)
            truth = None
            if found.work is not None:
                context.call_on_close(found.work.release)
        else:
            made = simulated_log(params, prices)
            found = ReadLog(validate(made.outcomes, source="simulated", format="simulated"), (), None)
            truth = Truth(made.acceptable, made.cost_usd)
    show.print_log(found.outcomes, found.quality, found.masked)  # before training: it may be what training fails for
    if (labels := labels_said(label_kinds(found.outcomes.frame), params.signals)) is not None:
        say(labels)
    prepared: Prepared | None = None
    resumed, rows = None, None
    if earlier.kept is not None:
        told = found.outcomes.notes
        with show.progress() as tell:
            found, prices, resumed = put_together(earlier.kept, found, params, prices, log.cache, memory_gb, tell)
        said(resumed, found, told)
        prepared, rows = resumed.prepared, resumed.rows if params.since.keep else None
    elif log.given:
        rows = rows_to_keep(found, params)
    if found.stored is not None and resumed is None:
        stored, near = found.stored, params.since.keep
        with show.progress() as tell:
            prepared = prepare_stored(
                found.outcomes.frame, params, prices, lambda ids: stored.requests_of(ids, tell), near=near, allow=allow
            )
        found = found.without_rows()
    if prepared is not None and prepared.sampled is not None:
        say(prepared.sampled.said())
    with show.progress() as tell, found.work.until_done() if found.work is not None else nullcontext():

        def evidence() -> str:
            if found.stored is not None and prepared is not None:
                told = advice(log, rows_in_core(found.stored, prepared, prices), params, prices)
                return f"{told} Reckoned from requests of the core; the command itself holds the whole log in memory."
            # Once more with the answers: those that nobody judged need not be bought.
            ungraded = replace(log, judge=None, judge_budget_usd=None)
            texts, known = priced(read(ungraded, prices, params.judge, tell, keep_texts=True), prices)
            return advice(log, texts.outcomes, params, known)

        trained = train(
            found.outcomes,
            params,
            prices,
            out=out,
            cache=log.cache,
            truth=truth,
            keep_text=keep_text,
            promote=promote,
            evidence=evidence if log.given and resumed is None else None,
            progress=tell,
            prepared=prepared,
            resumed=resumed,
            choices=earlier.choices,
            keeping=earlier.keeping(log, rows, found.outcomes, params, resumed),
            engine=engine,
        )
        manifest, promotion = trained.bundle.manifest, trained.promotion
        model = ""
        if track:
            tell("track", None, None)
            from training.publish.tracking import track as log_run

            tracked = log_run(
                params.tracking,
                trained.bundle.folder,
                params.flat(),
                manifest.metrics,
                {
                    "data_fingerprint": manifest.data_fingerprint,
                    "simulated": str(manifest.simulated).lower(),
                    "promoted": str(promotion.promoted).lower(),
                    "promotion": promotion.reason,
                },
                promoted=promotion.promoted,
            )
            model = f" · MLflow model {params.tracking.model} version {tracked.model_version} ({tracked.alias})"
    say(f"propensities: {trained.learned.propensity_note}")
    show.console.print(report.terminal(manifest, trained.evaluation))
    show.print_promotion(promotion, manifest.version, out)
    say(f"bundle {trained.bundle.folder}{model}\nreport {trained.bundle.folder / 'report.html'}")
    show.print_gaps(manifest.candidates)
    say(report.now(manifest, trained.evaluation))
    show.console.print(report.headline(trained.bundle.folder, manifest), soft_wrap=True)
    show.print_next(promotion, manifest, out, trained.evidence)
    if rows is not None and not promotion.promoted:
        say(next_rows(out, manifest.version))
    show.done()


@app.command("import")
@grouped
def import_log(
    context: typer.Context,
    log: LogOptions,
    settings: Settings,
    out: Annotated[str, typer.Option(help="The folder to make, also as s3://… or gs://…; `--data` takes it.")],
    cluster: ClusterOption = None,
    cluster_folder: ClusterFolderOption = None,
) -> None:
    """Import a log as Parquet files that every command reads again: a partition at a time, so it can be of any size.

    With --scores, --check or --judge all of it is held in memory, as `run` does, and its quality is kept.
    """
    from training.cli.reading import read_parts
    from training.engine.named import engine_of, shared_folder
    from training.logs.dataset import ImportAccount, store
    from training.logs.io import database
    from training.logs.objects.path import log_path

    shared = shared_folder(cluster, cluster_folder, log.cache)
    engine = context.with_resource(engine_of(cluster, shared, say))
    started, folder = time.monotonic(), log_path(out)

    def rate(rows: int) -> str:
        return f"{rows / max(time.monotonic() - started, 1e-9):,.0f} rows/s"

    with show.progress() as tell:
        parts, quality, masked = read_parts(log, settings.load(), tell, engine=engine)
        account = ImportAccount([database.shown(name) for name in log.data], redacted=masked)
        store(parts, folder, account, lambda rows: tell(f"import: {rows:,} rows, {rate(rows)}", None, None))
    show.print_quality(quality)
    show.print_import(account, folder, rate(account.rows_read))


@app.command()
@grouped
def evaluate(
    log: LogOptions,
    settings: Settings,
    bundle: Annotated[Path, typer.Option(help="The bundle to evaluate.")] = CURRENT,
    json_file: JsonOption = None,
) -> None:
    """Evaluate a bundle, as it is served, on a log that it was not trained on."""
    from serving.bundle.manifest import open_bundle
    from training.cli.reading import priced, read
    from training.evaluate.served import evaluate_bundle
    from training.publish import report
    from training.publish.document import frontier_document

    params, prices = settings.load(), load_prices(log.catalogue)
    opened = open_bundle(bundle)
    with show.progress() as tell:
        found, prices = priced(read(log, prices, params.judge, tell), prices)
    result = evaluate_bundle(
        opened,
        found.outcomes,
        prices,
        assumed_output_tokens=params.costs.assumed_output_tokens,
        resamples=params.evaluate.resamples,
        seed=params.evaluate.seed,
    )
    show.print_log(found.outcomes, found.quality, found.masked)
    show.console.print(report.terminal(opened.manifest, result))
    show.write_json(json_file, frontier_document(opened.manifest, result))


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="hf:owner/name, hf:owner/name@revision or hf:owner/name/path")],
    allow_pickle: PickleOption = False,
    cache: CacheOption = CACHE,
) -> None:
    """Download a public data set, at a commit that is shown, and print the files that `--data` takes."""
    from training.logs.sources.public import hub

    found = hub.fetch(name, cache=cache, allow_pickle=allow_pickle)
    say("\n".join([f"{hub.PREFIX}{found.repository}@{found.revision}", *map(str, found.paths)]))


@app.command()
@grouped
def simulate(
    settings: Settings,
    out: Annotated[
        Path,
        typer.Argument(help="The file to write: .parquet, .jsonl or .csv; without a suffix a folder, of any size."),
    ],
    catalogue: CatalogueOption = CANDIDATES,
) -> None:
    """Write the simulated log, to look at or to import as one's own."""
    from training.logs.dataset import ImportAccount, store
    from training.logs.outcomes import OutcomeError
    from training.logs.validate import validate

    params, prices = settings.load(), load_prices(catalogue)
    if not out.suffix:
        made, account = simulated_blocks(params, prices), ImportAccount(["simulated"])
        rows = (part for one in made for part in one.parts(params.scale.part_rows))
        parts = (validate(part, source="simulated", format="simulated", partition=True) for part in rows)
        with show.progress() as tell:
            store(parts, out, account, lambda rows: tell(f"simulate: {rows:,} outcomes", None, None))
        return say(f"{account.rows_used:,} simulated outcomes written to {out}")
    log = simulated_log(params, prices).outcomes
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
    say(f"{len(log):,} simulated outcomes written to {out}")


def simulated_log(params: Params, prices: Mapping[str, Candidate]) -> SimulatedLog:
    """The log that training makes up where none is given; raises ConfigError."""
    return _simulation(params, prices)[0]()


def simulated_blocks(params: Params, prices: Mapping[str, Candidate]) -> Iterator[SimulatedLog]:
    """That log, some of its requests at a time."""
    return _simulation(params, prices)[1]()


def _simulation(
    params: Params, prices: Mapping[str, Candidate]
) -> tuple[Callable[[], SimulatedLog], Callable[[], Iterator[SimulatedLog]]]:
    """What makes up the log, whole and by blocks."""
    from training.config import ConfigError

    try:
        from training.simulation.simulate import simulate as whole
        from training.simulation.simulate import simulate_blocks as blocks
    except ModuleNotFoundError:
        raise ConfigError("the simulated log is in the repository, not in the installed package: give --data") from None
    wanted = params.simulate
    missing = [name for name in wanted.candidates if name not in prices]
    if missing:
        raise ConfigError(f"simulate.candidates has {missing[0]!r}; the catalogue has {', '.join(prices)}")
    given: dict[str, Any] = {
        "candidates": [prices[name] for name in wanted.candidates],
        "requests": wanted.requests,
        "days": wanted.days,
        "seed": wanted.seed,
        "shadow_share": wanted.shadow_share,
        "judged_share": wanted.judged_share,
    }
    return partial(whole, **given), partial(blocks, **given)
