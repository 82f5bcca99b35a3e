"""The commands on evidence that the log lacks: buy the answers that a plan lists."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.cli import show
from training.cli.options import CANDIDATES, CatalogueOption, GradeOptions, Settings, grouped, load_prices
from training.cli.show import errors, say

if TYPE_CHECKING:
    from training.config import Judge
    from training.replay.buy import Account
    from training.replay.ledger import Ledger
    from training.replay.pairs import Pair, PlanFile
    from training.replay.providers import Found

app = typer.Typer()
_INTERRUPTED = 130


@app.command()
@grouped
def replay(
    settings: Settings,
    grading: GradeOptions,
    plan: Annotated[Path, typer.Option(help="What to buy: the file that router-train plan writes.")],
    out: Annotated[
        Path,
        typer.Option(help="The folder of the answers and of their ledger; `--data` takes it. Run again, it goes on."),
    ],
    budget_usd: Annotated[
        float | None, typer.Option(help="What all runs into this folder may spend, in USD. Default: the plan's budget.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Ask all candidates here: an endpoint that speaks OpenAI's protocol.")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="With --base-url: the variable of the environment that holds its key.")
    ] = None,
    litellm_config: Annotated[
        Path | None, typer.Option(help="A config.yaml of LiteLLM's proxy: where it asks each LLM.")
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(help="NAME=INPUT:OUTPUT, USD per million tokens, before the catalogue's. May be repeated."),
    ] = None,
    parallel: Annotated[int | None, typer.Option(help="Calls at a time. Default: replay.parallel (8).")] = None,
    timeout_s: Annotated[float | None, typer.Option(help="Of a call. Default: replay.timeout_s (300).")] = None,
    max_output_tokens: Annotated[
        int | None, typer.Option(help="Of an answer. Default: replay.max_output_tokens (2048).")
    ] = None,
    ask_again: Annotated[
        bool,
        typer.Option("--ask-again", help="Ask again where an answer may have been billed but never arrived."),
    ] = False,
    idempotent: Annotated[
        bool,
        typer.Option(
            "--idempotent", help="The servers bill calls with one Idempotency-Key once: asking again is free."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would cost, at most, and where. Sends and writes nothing.")
    ] = False,
    catalogue: CatalogueOption = CANDIDATES,
) -> None:
    """Buy the answers that a plan lists, within a budget, and write them as outcomes that --data takes.

    Every answer is on disk before the next call counts. A run that was stopped or killed goes on where it was; no answer is
    paid for twice.
    """
    from training.cli import reading
    from training.prices.catalogue import replay_tables
    from training.quality.llm_prices import quiet_litellm, require_grader
    from training.replay.ask import Asker
    from training.replay.buy import Purchase
    from training.replay.errors import ReplayError
    from training.replay.ledger import Ledger
    from training.replay.pairs import read_plan
    from training.replay.providers import Places, find_endpoints, parse_prices
    from training.replay.rows import NAME, require_own, write_outcomes

    params = settings.load(_given(parallel=parallel, timeout_s=timeout_s, max_output_tokens=max_output_tokens))
    prices = parse_prices(price or ())
    if api_key_env is not None and base_url is None:
        raise ReplayError(
            "--api-key-env is for --base-url; a candidate of its own has api_key_env in [candidate.replay]"
        )
    checked = reading.plan(grading.of_a_log())  # a check or a rule that is none is told before anything is spent
    if grading.judge is not None:
        require_grader(quiet_litellm(), grading.judge, checked.price)
    asked = read_plan(plan)
    budget = asked.header.budget_usd if budget_usd is None else budget_usd
    if not 0 < budget < float("inf"):
        raise ReplayError(f"--budget-usd {budget:g}: expected an amount of US dollars above 0")
    if not asked.pairs:
        raise ReplayError(f"{plan}: lists no pair; expected at least one. Write the plan again: router-train plan.")
    names = list(dict.fromkeys(pair.candidate for pair in asked.pairs if pair.answer is None))
    places = Places(base_url, api_key_env, litellm_config, idempotent)
    found = find_endpoints(names, places, replay_tables(catalogue), load_prices(catalogue), prices, quiet_litellm())
    if dry_run:
        _print_dry_run(asked, found, params.replay.max_output_tokens, budget)
        return
    endpoints = found.required()
    require_own(out)
    with closing(Ledger(out)) as ledger:
        write_outcomes(ledger, out)
        with closing(Asker(quiet_litellm(), params.replay.timeout_s)) as ask:
            purchase = Purchase(ledger, ask, endpoints, params.replay, budget, ask_again=ask_again)
            with show.progress() as tell, _stopped_by_ctrl_c(purchase.stop.set):
                account = purchase.run(
                    asked.pairs,
                    lambda done, total: tell(f"replay: ${purchase.spent:.4f} of ${budget:g}", done, total),
                )
        _print_account(account, budget)
        try:
            if not account.interrupted:
                _grade(ledger, grading, params.judge)
        finally:
            count = write_outcomes(ledger, out)
    if not count:
        raise ReplayError("no answer at all was bought; the reasons are above")
    say(f"{count:,} outcomes in {out / NAME}. {_use_of(asked, out)}")
    if account.interrupted:
        say("Stopped. The same command goes on where this one was; what was bought is not paid for again.", "bold red")
        raise typer.Exit(_INTERRUPTED)


def _use_of(plan: PlanFile, out: Path) -> str:
    """What the answers are for: those of one candidate that were all bought to learn from are probes of it."""
    names = {pair.candidate for pair in plan.pairs}
    if len(names) == 1 and all(pair.purpose == "learn" for pair in plan.pairs):
        (name,) = names
        return f"router-train add-candidate {name} --data LOG --data {out} adds it by them."
    return f"router-train run --data LOG --data {out} trains on both."


def _given(**options: float | None) -> tuple[str, ...]:
    return tuple(f"replay.{name}={value}" for name, value in options.items() if value is not None)


@contextmanager
def _stopped_by_ctrl_c(stop: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) ends the run in order, the second at once; the ledger survives both."""

    def handle(_number: int, _frame: object) -> None:
        for signum in before:
            signal.signal(signum, at_once)
        stop()
        say("Stopping: calls under way are finished first. Again to end at once.", "bold red", to=errors)

    def at_once(_number: int, _frame: object) -> None:
        errors.show_cursor()
        os._exit(_INTERRUPTED)

    before = {signum: signal.signal(signum, handle) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _grade(ledger: Ledger, grading: GradeOptions, judge: Judge) -> None:
    """Grades the answers as `run` would, and keeps their quality; says how to where nothing does."""
    from training.cli import reading
    from training.replay.rows import keep_quality, table_of

    if not grading.given:
        say(
            "Nothing graded the answers: give --check, --scores or --judge here, or to router-train run, which then grades "
            "them with the log."
        )
        return
    if (table := table_of(ledger)) is None:
        return
    log = grading.of_a_log()
    with show.progress() as tell:
        table, reports = reading.graded(table, log, reading.plan(log), judge, tell)
    keep_quality(ledger, table)
    show.print_quality(reports)


def _print_dry_run(plan: PlanFile, found: Found, max_output_tokens: int, budget: float) -> None:
    from training.replay.buy import worst_case

    def row(name: str, pairs: Sequence[Pair], where: str, key: str) -> tuple[str, ...]:
        pairs = [pair for pair in pairs if pair.answer is None]
        known = [pair for pair in pairs if pair.candidate in found.endpoints]
        most = sum(worst_case(pair, found.endpoints[pair.candidate], max_output_tokens) for pair in known)
        expected = sum(pair.expected_usd for pair in pairs)
        at_most = f"{most:.6f}" if len(known) == len(pairs) else "not known"
        return name, f"{len(pairs):,}", f"{expected:.6f}", at_most, where, key

    by_candidate: dict[str, list[Pair]] = {}
    for pair in plan.pairs:
        by_candidate.setdefault(pair.candidate, []).append(pair)
    rows = [
        row(name, pairs, one.where, found.problems.get(name, one.key_from))
        if (one := found.endpoints.get(name)) is not None
        else row(name, pairs, found.problems[name], "")
        for name, pairs in by_candidate.items()
    ]
    show.print_rows(
        ("candidate", "pairs", "expected USD", "at most USD", "asked at", "key"),
        [*rows, row("all", plan.pairs, "", "")],
    )
    say(f"The budget is {budget:g} USD. Nothing was sent or written.")


def _print_account(account: Account, budget: float) -> None:
    """What was bought, what was not and why, and what it cost."""
    logged = f"{account.logged:,} logged already, " if account.logged else ""
    say(
        f"{account.bought:,} answers bought, {account.had:,} bought before, {logged}{account.left:,} left by the budget or the "
        f"end of the run, {account.in_doubt:,} in doubt, {sum(account.failed.values()):,} failed"
    )
    show.print_rows(
        ("candidate", "no answer because", "pairs"),
        [
            *((name, why, f"{count:,}") for (name, why), count in account.failed.most_common()),
            *((name, f"in doubt: {why}", f"{count:,}") for (name, why), count in account.doubts.most_common()),
        ],
    )
    of_expected = (
        f", {account.paid / account.expected:.2f} of the {account.expected:.6f} expected" if account.expected else ""
    )
    say(
        f"These answers cost {account.paid:.6f} USD{of_expected}; {account.spent:.6f} of {budget:g} USD are spent in all."
    )
    if account.in_doubt or account.doubtful:
        say(
            f"In doubt: {account.in_doubt:,} pairs may have been billed without an answer that arrived; "
            f"{account.doubtful:.6f} USD stay counted for such calls. They are not asked again, unless you give --ask-again, "
            "or --idempotent if the server bills calls with one Idempotency-Key once."
        )
