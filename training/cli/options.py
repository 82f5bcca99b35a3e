"""The options of `router-train` that say how a log is read and where its quality comes from, and what came of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pandas as pd
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from serving.bundle.catalogue import Candidate
from training.cli import show as terminal
from training.config import Judge
from training.logs import rescale
from training.logs.outcomes import OutcomeError, Outcomes
from training.logs.sources.mapped import parse_mapping
from training.logs.sources.options import ImportOptions
from training.quality import checks as judges
from training.quality import llm_grader, llm_prices, scores

if TYPE_CHECKING:
    from training.logs.redact import Redactor

Progress = Callable[[str, int | None, int | None], None]
Account = scores.ScoreAccount | judges.CheckAccount | llm_grader.GraderAccount


class TraceScores(StrEnum):
    """Which attempts of a trace a judgement of the whole trace applies to."""

    last = "last"
    all = "all"


MapOption = Annotated[
    list[str] | None,
    typer.Option("--map", help="COLUMN=FIELD, nested fields by dots: candidate=llm, prompt=question.text. Repeatable."),
]
ScoresOption = Annotated[
    list[Path] | None,
    typer.Option(help="Judgements (CSV, JSONL, Parquet) joined on request, trace or session id. Repeatable."),
]
ScoreRuleOption = Annotated[
    list[str] | None,
    typer.Option(help=f"How scores become quality: {rescale.NAMES}. One for all, or one per --scores. Default: unit."),
]
ScoreNameOption = Annotated[str | None, typer.Option(help="The name of the scores to use, where there are several.")]
TraceScoresOption = Annotated[TraceScores, typer.Option(help="The attempts of a trace that its score applies to.")]
CheckOption = Annotated[
    list[str] | None,
    typer.Option(help=f"[WORKFLOW=]CHECK of logged answers that nobody judged: {judges.NAMES}. Repeatable."),
]
JudgeOption = Annotated[
    str | None, typer.Option(help="An LLM, named as LiteLLM does, to grade logged answers that nobody judged.")
]
JudgeBudgetOption = Annotated[float | None, typer.Option(help="What --judge may spend, in USD.")]
JudgePriceOption = Annotated[
    str | None, typer.Option(help="INPUT:OUTPUT, USD per million tokens, where LiteLLM's price map does not know it.")
]


@dataclass(frozen=True)
class Judging:
    """How to read a log, and where quality comes from beyond what is in it."""

    options: ImportOptions
    scores: tuple[tuple[Path, rescale.Rule], ...]
    checks: tuple[judges.Check, ...]
    judge: str | None
    budget_usd: float
    price: llm_prices.Price | None

    def require_nothing(self) -> None:
        """Raises OutcomeError where something was asked for that needs a log."""
        if self.options.mapping or self.scores or self.checks or self.judge:
            raise OutcomeError("--map, --scores, --check and --judge are about a log: give --data as well")


def judging(
    map: Sequence[str] | None,
    score_paths: Sequence[Path] | None,
    score_rules: Sequence[str] | None,
    score_name: str | None,
    trace_scores: TraceScores,
    checks: Sequence[str] | None,
    judge: str | None,
    budget_usd: float | None,
    price: str | None,
) -> Judging:
    """The options as they were given, checked; raises OutcomeError or GraderError before anything is read."""
    rules = [rescale.rule(text) for text in score_rules or ()]
    paths = list(score_paths or ())
    if len(rules) > 1 and len(rules) != len(paths):
        raise OutcomeError(
            f"--score-rule was given {len(rules)} times, --scores {len(paths)} times: give one rule, or one per file"
        )
    if (judge is None) != (budget_usd is None):
        raise llm_prices.GraderError(
            "--judge and --judge-budget-usd belong together: a judge without a budget is not asked"
        )
    own = rules[0] if len(rules) == 1 else None
    options = ImportOptions(
        score_name=score_name,
        score_range=own.span if own else None,
        score_mapping=own.labels if own else {},
        trace_scores=trace_scores.value,
        mapping=parse_mapping(map or ()),
        answers=bool(checks or judge),
    )
    each = rules if len(rules) > 1 else (rules or [rescale.rule("unit")]) * len(paths)
    return Judging(
        options=options,
        scores=tuple(zip(paths, each, strict=True)),
        checks=tuple(judges.check(text) for text in checks or ()),
        judge=judge,
        budget_usd=budget_usd or 0.0,
        price=llm_prices.parse_price(price) if price is not None else None,
    )


def read_logs(
    data: Sequence[str],
    test: Sequence[str],
    format: str,
    catalogue: Mapping[str, Candidate],
    judging: Judging,
    settings: Judge,
    cache: Path,
    progress: Progress,
    redactor: Redactor | None = None,
    *,
    allow_pickle: bool = False,
) -> tuple[Outcomes, list[Account]]:
    """The logs as one outcome table, judged, without any answer text left; and an account of each source of quality.

    What comes from `test` is marked as held out, the rest as not.
    """
    table = terminal.read_logs(
        data,
        test,
        format,
        catalogue,
        judging.options,
        cache=cache,
        redactor=redactor,
        allow_pickle=allow_pickle,
    )
    return judge(table, judging, settings, cache, progress)


def judge(
    table: Outcomes, judging: Judging, settings: Judge, cache: Path, progress: Progress
) -> tuple[Outcomes, list[Account]]:
    """Scores first, which win over what was logged; then checks, then the LLM, each only where nobody judged yet.

    Where an LLM judges too, a check only fails answers: what passes it is for the LLM to grade.
    """
    accounts: list[Account] = []
    for path, rule in judging.scores:
        progress(f"scores {path.name}", None, None)
        account: Account
        table, account = scores.join_scores(
            table, path, rule, name=judging.options.score_name, trace_scores=judging.options.trace_scores
        )
        accounts.append(account)
    if judging.checks:
        progress("check answers", None, None)
        table, account = judges.apply_checks(table, judging.checks, failures_only=judging.judge is not None)
        accounts.append(account)
    if judging.judge is not None:
        table, account = llm_grader.grade_answers(
            table,
            judging.judge,
            budget_usd=judging.budget_usd,
            cache=cache,
            settings=settings,
            price=judging.price,
            progress=lambda done, total: progress("judge", done, total),
        )
        accounts.append(account)
    return replace(table, beside=pd.DataFrame()), accounts


def print_accounts(console: Console, accounts: Sequence[Account]) -> None:
    """One line per source of quality, and what it left out."""
    for account in accounts:
        console.print(escape(_line(account)), soft_wrap=True, highlight=False)
        if isinstance(account, scores.ScoreAccount) and account.reasons:
            console.print(_left_out(account))


def _line(account: Account) -> str:
    if isinstance(account, scores.ScoreAccount):
        return (
            f"scores {account.source} by {account.rule}: {account.read:,} judgements read, {account.used:,} used, "
            f"{len(account.left_out):,} left out; {account.judged:,} outcomes judged by them "
            f"({account.replaced:,} had another quality in the log, {account.averaged:,} are means of several)"
        )
    left_out = "; ".join(f"{reason}: {count:,}" for reason, count in account.left_out.items()) or "none"
    if isinstance(account, judges.CheckAccount):
        names = ", ".join(account.checks)
        return f"checks {names}: {account.passed:,} passed, {account.failed:,} failed; left alone: {left_out}"
    return (
        f"judge {account.model}: {account.judged:,} outcomes judged in {account.calls:,} calls, {account.cached:,} judged "
        f"before; ${account.spent_usd:.6f} of ${account.budget_usd:g} spent; {account.left:,} left unjudged by the budget; "
        f"left alone: {left_out}"
    )


def _left_out(account: scores.ScoreAccount) -> Table:
    grid = Table("judgement left out because", "rows", "for example")
    for reason, count in account.reasons.items():
        first = account.left_out[account.left_out["reason"] == reason].iloc[0]
        example = f"{first['source']} row {first['row']}: {first['value']}, not {first['expected']}"
        grid.add_row(escape(reason), f"{count:,}", escape(example))
    return grid
