"""What is done with a log before anything is trained on it: it is looked at, and its prices are found."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.cli import show
from training.cli.options import JsonOption, LogOptions, Settings, TestOption, grouped, load_prices
from training.cli.planning import advice
from training.cli.show import say

if TYPE_CHECKING:
    from serving.bundle.catalogue import Candidate
    from training.cli.show import QualityReport, Tell
    from training.config import Params
    from training.inspect.report import LogReport
    from training.inspect.unread import Unread
    from training.logs.outcomes import Outcomes
    from training.prices.price_map import PriceList

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
    from training.errors import TrainingError
    from training.inspect.page import page

    params, prices = settings.load(), load_prices(log.catalogue)
    if write is not None:
        log = _listed(log, write)
    with show.progress() as tell:
        try:
            if _too_large(log, test or ()):
                found = _in_parts(log, params, prices, tell)
            else:
                found = _whole(log, test or (), params, prices, tell)
        except TrainingError:
            if write is not None:
                say(f"{write} written, but it does not read yet: correct it there.")
            raise
    if write is not None:
        say(f"{write} written; router-train run --logs {write} trains on it.")
    report = replace(found.report, unread=_unread(log))
    show.console.print(page(report))
    for note in found.notes:
        say(note)
    show.print_quality(found.quality)
    show.print_masked(found.masked)
    with show.progress() as tell:
        tell("what would help", None, None)
        said = _next_step(log, test or (), report, found.table, params, found.prices)
    say(said)
    show.write_json(json_file, report.document())


@dataclass(frozen=True)
class _Looked:
    """What was found, with the prices it goes by, and the outcomes themselves where they are held."""

    report: LogReport
    notes: tuple[str, ...]
    quality: tuple[QualityReport, ...]
    masked: Mapping[str, int] | None
    prices: Mapping[str, Candidate]
    table: Outcomes | None


def _too_large(log: LogOptions, test: Sequence[str]) -> bool:
    """Whether the log is looked at a partition at a time, which says the same of it."""
    from training.cli.reading import in_one_part
    from training.inspect.large import large

    return not (test or in_one_part(log)) and large(log.data)


def _whole(
    log: LogOptions, test: Sequence[str], params: Params, prices: Mapping[str, Candidate], tell: Tell
) -> _Looked:
    from training.cli.reading import priced, read
    from training.inspect.log import inspect_log

    found, known = priced(read(log, prices, params.judge, tell, test, keep_texts=True), prices)
    report = inspect_log(found.outcomes, known, params)
    return _Looked(report, found.outcomes.notes, found.quality, found.masked, known, found.outcomes)


def _in_parts(log: LogOptions, params: Params, prices: Mapping[str, Candidate], tell: Tell) -> _Looked:
    from training.cli.reading import read_parts
    from training.inspect.log import inspect_rows, notes, rows_of, uncosted
    from training.prices.found import with_listed_prices

    parts, quality, masked = read_parts(log, params, tell, keep_texts=True)
    rows = rows_of(parts, lambda done: tell(f"read: {done:,} rows", None, None))
    known, more = with_listed_prices(uncosted(rows, prices), prices)
    return _Looked(inspect_rows(rows, known, params), (*notes(rows), *more), quality, masked, known, None)


def _unread(log: LogOptions) -> tuple[Unread, ...]:
    """What no option on the log reads of its tables, each by its own mapping."""
    from training.inspect.unread import unread
    from training.logs.objects.path import log_path
    from training.logs.sources.listed import load_sources
    from training.logs.sources.mapped import parse_mapping

    found = list(unread(map(log_path, log.data), parse_mapping(log.map), log.format))
    for one in load_sources(log.logs).values() if log.logs is not None else ():
        found += unread(map(log_path, one.data), one.mapping, one.format)
    return tuple(dict.fromkeys(found))


def _next_step(
    log: LogOptions,
    test: Sequence[str],
    report: LogReport,
    table: Outcomes | None,
    params: Params,
    prices: Mapping[str, Candidate],
) -> str:
    """The one step that would help most: to train, where the usual target could be certified; else what to buy for it, and
    before either the prices without which a run ends in an error."""
    from training.prices.found import price_lines

    lacking = [one.name for one in report.candidates if one.costed < 1 and not one.priced]
    if lacking:
        return f"What now: give a price first, or `run` ends in an error. {price_lines(lacking)}"
    usual = next(one for one in report.targets if one.quality_target == params.policy.quality_target)
    if usual.possible and len(report.candidates) > 1:
        held_out = [word for name in test for word in ("--test", name)]
        return f"What now: {shlex.join(['router-train', 'run', *log.words(), *held_out])}"
    if table is None:
        return (
            "What now: what to buy is planned with all requests in memory, for which this log is too large. Give a part of it, "
            "such as its newest files, to `router-train plan`"
        )
    return advice(log, table, params, prices)


def _listed(log: LogOptions, path: Path) -> LogOptions:
    """Writes a list of the logs that were named; the options to read them by it. Ends here where somebody has to fill it in."""
    from training.logs.io import files
    from training.logs.objects.path import log_path
    from training.logs.sources.listed import write_list
    from training.logs.sources.mapped import parse_mapping

    scored = [*map(str, log.scores)], log.score_rule
    if missing := write_list(path, log.data, parse_mapping(log.map), *scored, log.format):
        for named in log.data:
            if (at := log_path(named)).is_file():
                say(f"{at} has the columns {files.shown_columns(at)}")
        say(f"{path} written. Replace {', '.join(missing)} by the fields that hold it, then: --logs {path}")
        raise typer.Exit
    return replace(log, data=(), logs=path, map=(), format="auto", scores=(), score_rule=())


@app.command("catalogue")
@grouped
def fill_catalogue(
    log: LogOptions,
    settings: Settings,
    openrouter: Annotated[
        Path | None, typer.Option(help="What https://openrouter.ai/api/v1/models answered, saved as a file.")
    ] = None,
    litellm: Annotated[bool, typer.Option(help="Look into the price map of the installed LiteLLM package.")] = True,
    write: Annotated[
        bool, typer.Option("--write", help="Write the file; without it, only the difference is shown.")
    ] = False,
) -> None:
    """Fill the catalogue for the candidates of a log from price lists; what is written there already stays.

    Prices need no grades: --judge asks nobody here.
    """
    from serving.bundle.atomic_write import written_whole
    from training.cli.reading import read
    from training.prices.catalogue import SHIPPED, load_catalogue, merged, parse_catalogue
    from training.prices.fill import propose, read_text
    from training.prices.found import price_lines
    from training.prices.price_map import PRICES

    shipped, before = load_catalogue(SHIPPED), read_text(log.catalogue)
    if log.judge is not None:
        say(f"{log.judge} is not asked: prices need no grades")
    with show.progress() as tell:
        log = replace(log, judge=None, judge_budget_usd=None)
        found = read(log, merged(shipped, parse_catalogue(before, log.catalogue)), settings.load().judge, tell)
    rows = {str(name): int(count) for name, count in found.outcomes.frame["candidate"].value_counts().items()}
    lists = _price_lists(openrouter, litellm)
    proposal = propose(before, log.catalogue, rows, lists, f"{datetime.now(UTC):%Y-%m}", shipped)
    show.print_proposal(proposal)
    unpriced = [one.candidate for one in proposal.missing if PRICES[0] in one.fields]
    if unpriced:
        say(price_lines(unpriced))
    if not write:
        say(proposal.diff(str(log.catalogue)) or "Nothing to add.")
        say(f"{log.catalogue} is as it was: --write writes this.")
    elif proposal.after != before:
        target = log.catalogue.resolve()  # a link is followed, and the mode kept
        with written_whole(target) as draft:
            draft.write_bytes(proposal.after.encode())
            if target.exists():
                draft.chmod(target.stat().st_mode)
        say(f"{log.catalogue} written")


def _price_lists(openrouter: Path | None, litellm: bool) -> Sequence[PriceList]:
    from training.prices.catalogue import CatalogueError
    from training.prices.price_map import litellm_prices, openrouter_prices

    lists = [openrouter_prices(openrouter)] if openrouter is not None else []
    lists += [litellm_prices()] if litellm else []
    if not lists:
        raise CatalogueError("no price list to look into: got --no-litellm and no --openrouter; give one of the two")
    return lists
