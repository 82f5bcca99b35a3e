"""The command that looks at a log before anything is trained on it, and says what would help most."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.cli import show
from training.cli.options import JsonOption, LogOptions, Settings, TestOption, grouped, load_prices
from training.cli.planning import advice
from training.cli.show import say

if TYPE_CHECKING:
    from serving.bundle.catalogue import Candidate
    from training.config import Params
    from training.inspect.report import LogReport
    from training.inspect.unread import Unread
    from training.logs.outcomes import Outcomes

app = typer.Typer()


@app.command()
@grouped
def inspect(
    log: LogOptions,
    settings: Settings,
    test: TestOption = None,
    json_file: JsonOption = None,
    write: Annotated[
        Path | None, typer.Option(help="Write a list of these logs for --logs, with a mapping where one is needed.")
    ] = None,
) -> None:
    """Say what a log holds, and what a router that `run` trains on it can and cannot claim.

    With --judge the answers are graded as `run` would, within the same budget; `run` then pays for none of them again.
    """
    from training.cli.reading import priced, read
    from training.errors import TrainingError
    from training.inspect.log import inspect_log
    from training.inspect.page import page

    params, prices = settings.load(), load_prices(log.catalogue)
    if write is not None:
        log = _listed(log, write)
    with show.progress() as tell:
        try:
            found, prices = priced(read(log, prices, params.judge, tell, test or (), keep_texts=True), prices)
        except TrainingError:
            if write is not None:
                say(f"{write} written, but it does not read yet: correct it there.")
            raise
    if write is not None:
        say(f"{write} written; router-train run --logs {write} trains on it.")
    report = replace(inspect_log(found.outcomes, prices, params), unread=_unread(log))
    show.console.print(page(report))
    for note in found.outcomes.notes:
        say(note)
    show.print_quality(found.quality)
    show.print_masked(found.masked)
    with show.progress() as tell:
        tell("what would help", None, None)
        said = _next_step(log, test or (), report, found.outcomes, params, prices)
    say(said)
    show.write_json(json_file, report.document())


def _unread(log: LogOptions) -> tuple[Unread, ...]:
    """What no option on the log reads of its tables, each by its own mapping."""
    from training.inspect.unread import unread
    from training.logs.sources.listed import load_sources
    from training.logs.sources.mapped import parse_mapping

    found = list(unread(map(Path, log.data), parse_mapping(log.map), log.format))
    for one in load_sources(log.logs).values() if log.logs is not None else ():
        found += unread(map(Path, one.data), one.mapping, one.format)
    return tuple(dict.fromkeys(found))


def _next_step(
    log: LogOptions,
    test: Sequence[str],
    report: LogReport,
    table: Outcomes,
    params: Params,
    prices: Mapping[str, Candidate],
) -> str:
    """The one step that would help most: to train, where the usual target could be certified; else what to buy for it."""
    usual = next(one for one in report.targets if one.quality_target == params.policy.quality_target)
    if usual.possible and len(report.candidates) > 1:
        held_out = [word for name in test for word in ("--test", name)]
        return f"What now: {shlex.join(['router-train', 'run', *log.words(), *held_out])}"
    return advice(log, table, params, prices)


def _listed(log: LogOptions, path: Path) -> LogOptions:
    """Writes a list of the logs that were named; the options to read them by it. Ends here where somebody has to fill it in."""
    from training.logs.io import files
    from training.logs.sources.listed import write_list
    from training.logs.sources.mapped import parse_mapping

    scored = [*map(str, log.scores)], log.score_rule
    if missing := write_list(path, log.data, parse_mapping(log.map), *scored, log.format):
        for named in log.data:
            if Path(named).is_file():
                say(f"{named} has the columns {files.shown_columns(Path(named))}")
        say(f"{path} written. Replace {', '.join(missing)} by the fields that hold it, then: --logs {path}")
        raise typer.Exit
    return replace(log, data=(), logs=path, map=(), format="auto", scores=(), score_rule=())
