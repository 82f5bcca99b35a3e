"""From the options on a log to its outcomes: one way for every command, so that what is inspected is what is trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from serving.bundle.catalogue import Candidate
from training.cli.options import LogOptions, load_prices
from training.cli.show import Tell, errors, say
from training.config import Judge, Params
from training.engine.engine import Engine
from training.engine.local import ALONE
from training.logs import aliases, rescale
from training.logs.dataset import ImportAccount
from training.logs.io import database
from training.logs.objects.path import log_path
from training.logs.outcomes import OutcomeError, Outcomes
from training.logs.pairing import by_prompt, paired
from training.logs.repeated import repeats
from training.logs.sources import reading as sources
from training.logs.sources.importer import ImportOptions
from training.logs.sources.langfuse import live as langfuse
from training.logs.sources.listed import load_sources
from training.logs.sources.mapped import parse_mapping
from training.logs.sources.public import hub
from training.logs.stored.held_out import needs_all_at_once, read_or_stream_both
from training.logs.stored.memory import GB, LargeLogError, Limits, limits
from training.logs.stored.rows import Counted, StoredLog, open_stored
from training.logs.stored.work import WorkFolder, work_folder
from training.prices.found import with_found_prices
from training.quality import checks, llm_grader, llm_prices, scores

if TYPE_CHECKING:
    from training.cli.show import QualityReport
    from training.learn.prepare import Prepared
    from training.logs.redact import Redactor


@dataclass(frozen=True)
class ReadLog:
    """Outcomes under the catalogue's names, with the quality that was asked for, masked if that was, without answer texts;
    what each source of quality did; and how much of each kind was masked, None where nothing was looked for. Of a log that is
    read from disk, `stored` has the texts, for which outcomes have stand-ins, and `work` is the folder made for it."""

    outcomes: Outcomes
    quality: tuple[QualityReport, ...]
    masked: Mapping[str, int] | None
    stored: StoredLog | None = None
    work: WorkFolder | None = None

    def without_rows(self) -> ReadLog:
        """The same, when nobody needs the outcomes any more."""
        return replace(
            self, outcomes=replace(self.outcomes, frame=self.outcomes.frame.iloc[:0].copy(), origin=pd.DataFrame())
        )


@dataclass(frozen=True)
class Plan:
    """The options on a log, checked before anything is read."""

    importing: ImportOptions
    scores: tuple[tuple[Path, rescale.Rule], ...]
    checks: tuple[checks.Check, ...]
    price: llm_prices.Price | None
    redactor: Redactor | None


def plan(log: LogOptions, engine: Engine = ALONE) -> Plan:
    """What the options ask for, files read by the `engine`; raises OutcomeError or GraderError for a rule, check, price,
    mapping or region that is none."""
    rules = [rescale.rule(text) for text in log.score_rule]
    if len(rules) > 1 and len(rules) != len(log.scores):
        raise OutcomeError(
            f"--score-rule was given {len(rules)} times, --scores {len(log.scores)} times: give one rule, or one per file"
        )
    if (log.judge is None) != (log.judge_budget_usd is None):
        raise llm_prices.GraderError(
            "--judge and --judge-budget-usd belong together: a judge without a budget is not asked"
        )
    own = rules[0] if len(rules) == 1 else None
    each = rules if len(rules) > 1 else (rules or [rescale.rule("unit")]) * len(log.scores)
    return Plan(
        ImportOptions(
            score_name=log.score_name,
            score_range=own.span if own else None,
            score_mapping=own.labels if own else {},
            trace_scores=log.trace_scores,
            mapping=parse_mapping(log.map),
            answers=bool(log.check or log.judge),
            cache=log.cache,
            engine=engine,
        ),
        tuple(zip(log.scores, each, strict=True)),
        tuple(checks.check(text) for text in log.check),
        llm_prices.parse_price(log.judge_price) if log.judge_price is not None else None,
        _redactor(log.phone_region or ("US",)) if log.redact else None,
    )


def read(
    log: LogOptions,
    prices: Mapping[str, Candidate],
    judge: Judge,
    tell: Tell,
    test: Sequence[str] = (),
    *,
    keep_names: bool = False,
    keep_texts: bool = False,
    engine: Engine = ALONE,
) -> ReadLog:
    """The outcomes of a log, those of `test` marked as held out, with `keep_names` under the names that were logged; with
    `keep_texts`, answers and what requests were sent with stay beside them.

    Scores come first, which win over what was logged; then checks, then the LLM, each only where there is no quality yet.
    Where an LLM grades too, a check only fails answers: what passes is for the LLM to grade. Scores and checks see what was
    logged, for a masked identifier would fit no score; the LLM is sent what is masked. Raises a TrainingError.
    """
    asked = plan(log, engine)
    if keep_texts:
        asked = replace(asked, importing=replace(asked.importing, answers=True, parameters=True))
    table, reports = _logged(log, asked)
    if test:
        held_out = sources.read(_files(test, log), log.format, asked.importing)
        table = repeats.concat(
            replace(part, frame=part.frame.assign(split=split))
            for part, split in ((table, "train"), (held_out, "test"))
        )
    logged = table.frame["candidate"]
    table = aliases.resolve(table, prices)
    table, more = graded(table, log, asked, judge, tell)
    if keep_names:
        table = replace(table, frame=table.frame.assign(candidate=logged), aliases=())
    masked = asked.redactor.counts if asked.redactor is not None else None
    return ReadLog(table if keep_texts else replace(table, beside=pd.DataFrame()), (*reports, *more), masked)


def read_to_train(
    log: LogOptions,
    prices: Mapping[str, Candidate],
    params: Params,
    tell: Tell,
    test: Sequence[str],
    memory_gb: float | None,
    engine: Engine = ALONE,
) -> ReadLog:
    """As `read`; but a log with more requests than `scale` has room for, or than memory has, is read from disk, into which it
    is imported unless it is an import already."""
    asked, bounds = plan(log, engine), limits(params.scale, memory_gb)
    holding = [
        *(["--scores"] if log.scores else []),
        *(["--check"] if log.check else []),
        *(["--judge"] if log.judge is not None else []),
        *(["--logs"] if log.logs is not None else []),
    ]
    named, held_out = ([], []) if holding else (_files(log.data, log), _files(test, log))
    if test and (holding or needs_all_at_once(named, held_out, log.format, asked.importing)):
        holding.append("--test")
    if holding:
        found = read(log, prices, params.judge, tell, test, engine=engine)
        requests = found.outcomes.frame["request_id"].nunique()
        if requests > bounds.core or (bounds.given and bounds.beyond(requests)):
            raise LargeLogError(_import_first(requests, bounds, holding))
        return found
    own = log.map == () and log.format == "auto" and not (log.redact or test) and len(named) == 1
    stored, work = open_stored(log_path(named[0])) if own else None, None
    if stored is None:
        how = f"{asked.importing} {log.format} {log.redact} {log.phone_region} {len(held_out)}"
        work = work_folder([*named, *held_out], how, log.cache)
        stored = work.there()
    if stored is None and work is not None:
        met = Counted()
        table = read_or_stream_both(named, held_out, log.format, asked.importing, met.within(bounds.beyond))
        if isinstance(table, Outcomes):
            return _held(table, prices, asked)
        bounds.require(met.count)  # more than that there are in any case
        say(f"this log is read from disk; {work.require_room()}", to=errors)
        redactor = asked.redactor
        account = ImportAccount([database.shown(name) for name in (*log.data, *test)])
        if redactor is not None:
            table, account.redacted = map(redactor.outcomes, table), redactor.counts
        stored = work.imported(
            table, account, lambda rows: tell(f"import: {rows:,} rows", None, None), params.scale.part_rows
        )
    assert stored is not None
    with work.released_if_raised() if work is not None else nullcontext():
        requests = stored.requests()
        if work is None and not bounds.beyond(requests):
            return read(log, prices, params.judge, tell, engine=engine)
        bounds.require(requests)
        table = aliases.resolve(stored.skeleton(tell, engine), prices)
    return ReadLog(table, (), stored.account.redacted, stored, work)


def _held(table: Outcomes, prices: Mapping[str, Candidate], asked: Plan) -> ReadLog:
    """What `read` makes of outcomes whose quality is their own."""
    table = aliases.resolve(table, prices)
    if asked.redactor is not None:
        table = asked.redactor.outcomes(table)
    masked = asked.redactor.counts if asked.redactor is not None else None
    return ReadLog(replace(table, beside=pd.DataFrame()), (), masked)


def _import_first(requests: int, bounds: Limits, holding: Sequence[str]) -> str:
    what = "a column split with 'test' says it for one log" if holding == ["--test"] else "its quality is kept"
    return (
        f"{requests:,} requests are more than are held at once ({bounds.core:,} by [scale], {bounds.memory / GB:.1f} GB of "
        f"memory), and {', '.join(holding)} would hold them. Import the log first, where {what}: router-train import "
        f"with the same options and --out FOLDER, in slices where memory lacks; then router-train run --data FOLDER"
    )


def graded(
    table: Outcomes, log: LogOptions, asked: Plan, judge: Judge, tell: Tell
) -> tuple[Outcomes, list[QualityReport]]:
    """The outcomes with the quality that was asked for, masked if that was, and what each source of quality did."""
    report: QualityReport
    reports: list[QualityReport] = []
    for named_path, rule in asked.scores:
        tell(f"scores {named_path.name}", None, None)
        url = str(named_path)
        path = langfuse.scores_file(url, log.cache, log.score_name) if langfuse.recognises_url(url) else named_path
        table, report = scores.join_scores(table, path, rule, name=log.score_name, trace_scores=log.trace_scores)
        reports.append(report)
    if asked.checks:
        tell("check answers", None, None)
        table, report = checks.apply_checks(table, asked.checks, failures_only=log.judge is not None)
        reports.append(report)
    if asked.redactor is not None:
        table = asked.redactor.outcomes(table)
    if log.judge is not None and log.judge_budget_usd is not None:
        say(
            f"{log.judge} grades answers that have no quality, for at most {log.judge_budget_usd:g} USD; grades are kept in "
            f"{log.cache}: no answer is paid for twice",
            to=errors,
        )
        table, report = llm_grader.grade_answers(
            table,
            log.judge,
            budget_usd=log.judge_budget_usd,
            cache=log.cache,
            settings=judge,
            price=asked.price,
            progress=lambda done, total: tell("judge", done, total),
        )
        reports.append(report)
    return table, reports


def named(log: LogOptions) -> list[str]:
    """Everything that is read: files, folders and URLs."""
    listed = load_sources(log.logs) if log.logs is not None else {}
    return [*log.data, *(name for source in listed.values() for name in source.data)]


def _logged(log: LogOptions, asked: Plan) -> tuple[Outcomes, list[QualityReport]]:
    """The outcomes of the data that were named, and of those that a file lists, each by its own mapping and with its scores."""
    listed = load_sources(log.logs) if log.logs is not None else {}
    if listed and not log.data and (log.map or log.format != "auto"):
        raise OutcomeError(
            f"--map and --format are for --data; a log of {log.logs} has map and format in its own table"
        )
    tables = [sources.read(_files(log.data, log), log.format, asked.importing)] if log.data or not listed else []
    reports: list[QualityReport] = []
    for name, source in listed.items():
        importing = replace(asked.importing, mapping=source.mapping)
        try:
            table = sources.read(_files(source.data, log), source.format, importing)
            for path in source.scores:
                table, report = scores.join_scores(
                    table, Path(path), source.rule, name=log.score_name, trace_scores=log.trace_scores
                )
                reports.append(report)
        except OutcomeError as error:
            what = '--map COLUMN=FIELD is map = { COLUMN = "FIELD" } in this table'
            raise OutcomeError(f"{log.logs}: [{name}]: {error} ({what}.)") from None
        # Sources number their requests and conversations by themselves; what is one request by its prompt, is so everywhere.
        ids = table.frame["request_id"]
        own = {
            "request_id": ids.where(by_prompt(ids), f"{name}/" + ids),
            "session_id": f"{name}/" + table.frame["session_id"],
        }
        tables.append(replace(table, frame=table.frame.assign(**own)))
    return (tables[0] if len(tables) == 1 else repeats.concat(paired(tables))), reports


def priced(found: ReadLog, prices: Mapping[str, Candidate]) -> tuple[ReadLog, dict[str, Candidate]]:
    """The catalogue with the prices that candidates of the log lacked, as far as they were found; the log's notes say which."""
    known, notes = with_found_prices(found.outcomes.frame, prices)
    return replace(found, outcomes=replace(found.outcomes, notes=(*found.outcomes.notes, *notes))), known


def read_parts(
    log: LogOptions, params: Params, tell: Tell, *, keep_texts: bool = False, engine: Engine = ALONE
) -> tuple[Iterable[Outcomes], tuple[QualityReport, ...], Mapping[str, int] | None]:
    """The outcomes of a log under the names that were logged, and the rest of `ReadLog`, masked as the parts are taken.

    A partition at a time; in one part where quality comes from elsewhere, for which the whole log is needed. With `keep_texts`,
    rows that differ in their answers alone are different rows, as they are to `read`.
    """
    asked = plan(log, engine)
    if in_one_part(log):
        found = read(log, load_prices(log.catalogue), params.judge, tell, keep_names=True, engine=engine)
        return [found.outcomes], found.quality, found.masked
    importing = replace(asked.importing, answers=True, parameters=True) if keep_texts else asked.importing
    parts = sources.stream(_files(log.data, log), log.format, importing)
    redactor = asked.redactor
    return (parts, (), None) if redactor is None else (map(redactor.outcomes, parts), (), redactor.counts)


def in_one_part(log: LogOptions) -> bool:
    """Whether the options need the whole log at once."""
    return bool(log.scores or log.check or log.judge or log.logs is not None)


def _files(names: Sequence[str], log: LogOptions) -> list[str | Path]:
    """What the names stand for, public data sets ("hf:…") downloaded and the commit they are at said."""
    found: list[str | Path] = []
    for name in names:
        if not hub.recognises_url(name):
            found.append(name)
            continue
        fetched = hub.fetch(name, cache=log.cache, allow_pickle=log.allow_pickle)
        say(f"{hub.PREFIX}{fetched.repository}@{fetched.revision}")
        found += fetched.paths
    return found


def _redactor(regions: Sequence[str]) -> Redactor:
    from phonenumbers import SUPPORTED_REGIONS

    from training.logs.redact import Redactor

    if unknown := sorted(set(regions) - SUPPORTED_REGIONS):
        raise OutcomeError(f"phone region {unknown[0]!r} is not known; expected two capital letters, as in US or DE")
    return Redactor(regions)


def rows_in_core(stored: StoredLog, prepared: Prepared, prices: Mapping[str, Candidate]) -> Outcomes:
    """The rows, with their texts, of the calibration and the test requests of the core: a fair sample of them."""
    from training.dataset.sampling.core import even

    measured = prepared.matrix.take(prepared.split.calibration | prepared.split.test)
    return aliases.resolve(stored.rows_of(measured.request_id[even(measured)]), prices)
