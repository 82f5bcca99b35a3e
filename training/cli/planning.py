"""The command that plans which answers to buy: it prints what each budget would bring, and sends nothing."""

from __future__ import annotations

import os
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.cli import show
from training.cli.options import LogOptions, Settings, grouped, load_prices
from training.cli.show import say

if TYPE_CHECKING:
    from collections.abc import Mapping

    from serving.bundle.catalogue import Candidate
    from training.config import Params
    from training.evidence.plan import Offer, Planned
    from training.logs.outcomes import Outcomes
    from training.quality.llm_prices import Cost

app = typer.Typer()
_FEW = 0.01


@app.command("plan")
@grouped
def plan_purchase(
    log: LogOptions,
    settings: Settings,
    budget_usd: Annotated[float, typer.Option(help="What the answers and their grades may cost, in USD.")] = 20.0,
    target: Annotated[
        float | None, typer.Option(help="The quality target to certify. Default: policy.quality_target.")
    ] = None,
    candidate: Annotated[
        list[str] | None,
        typer.Option(help="A candidate that is asked in any case; the log need not have it. May be repeated."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Plan for these candidates alone. May be repeated.")] = None,
    out: Annotated[Path, typer.Option(help="The plan, for `replay`. It holds prompts.")] = Path("plan.jsonl"),
    seed: Annotated[int, typer.Option(help="The same seed draws the same requests.")] = 0,
) -> None:
    """Plan which answers to buy so that routing can be certified, and say what they cost and what they will have bought.

    Nothing is sent. With --judge (no budget), what its grades will cost is part of the plan.
    """
    from training.cli.reading import plan as checked
    from training.cli.reading import priced, read
    from training.evidence.frame import EvidenceError
    from training.evidence.plan import plan
    from training.logs.outcomes import OutcomeError
    from training.prices.found import with_listed_prices
    from training.replay.pairs import require_free, write_plan

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if not log.given:
        raise OutcomeError("give the log to plan for: --data or --logs")
    require_free(out)
    params, prices = settings.load(), load_prices(log.catalogue)
    judge = _judge_price(log)
    grader, log = log.judge, replace(log, judge=None, judge_budget_usd=None, judge_price=None)
    checked(log)
    with show.progress() as tell:
        found, prices = priced(read(log, prices, params.judge, tell, keep_texts=True), prices)
        prices, notes = with_listed_prices(candidate or (), prices)
        made = plan(
            found.outcomes,
            params,
            prices,
            log.cache,
            budget_usd=budget_usd,
            target=target if target is not None else params.policy.quality_target,
            seed=seed,
            judge=judge,
            others=tuple(candidate or ()),
            only=tuple(only or ()),
            progress=tell,
        )
    if not made.file.pairs:
        raise EvidenceError(
            f"--budget-usd {budget_usd:g}: buys no answer; one costs about {float(made.frame.cost_usd.mean()):.2g} USD here"
        )
    write_plan(out, made.file)
    show.print_log(found.outcomes, found.quality, found.masked)
    for note in notes:
        say(note)
    _print_plan(made, out, grader, graded=judge is not None)


def _judge_price(log: LogOptions) -> Cost | None:
    from training.quality.llm_prices import listed_price, parse_price, quiet_litellm

    if log.judge_price is not None:
        return parse_price(log.judge_price)
    return None if log.judge is None else listed_price(quiet_litellm(), log.judge)


def _print_plan(made: Planned, out: Path, grader: str | None, *, graded: bool) -> None:
    frame, found = made.frame, made.asked_for
    say(
        f"{int(frame.sendable.sum()):,} of {len(frame):,} requests can be asked again"
        + "".join(f"; {count:,} left out: {reason}" for reason, count in frame.left_out.items())
    )
    if made.frame.unasked > _FEW * len(frame):
        say(
            f"WHAT IS CERTIFIED WILL NOT SPEAK FOR {made.frame.unasked:,} REQUESTS that cannot be asked again. Where traffic "
            f"like them comes, keep it at {made.reference} by a rule of the service (docs/serving.md).",
            "bold red",
        )
    asked = ", ".join(name for name, is_asked in zip(frame.names, made.asked, strict=True) if is_asked)
    others = ", ".join(name for name, is_asked in zip(frame.names, made.asked, strict=True) if not is_asked)
    say(
        f"each request that is drawn is put to {asked}; the reference is expected to be {made.reference}"
        + (f"; not worth their price by what the log tells so far, and left out then: {others}" if others else "")
        + (" (--candidate NAME asks all the same)" if others else "")
    )
    likely = sorted(zip(made.chosen, frame.names, strict=True), reverse=True)
    say(
        f"by what the log tells so far, a router around {made.target:g} would send "
        + ", ".join(f"{share:.0%} to {name}" for share, name in likely if share >= _FEW)
    )
    if answered := int((frame.answered & frame.unknown).sum()):
        say(f"{answered:,} answers were logged and not judged: of requests that are drawn these are graded, not bought")
    titles = ["budget", "pairs", "expected cost (95%)"]
    titles += ["of it grades"] * graded + [f"certified at {made.target:g}", "saving then"]
    grid = show.grid(*titles)
    for offer in made.worth_asking:
        row = [f"{offer.budget_usd:g} USD", f"{offer.pairs:,} of {offer.requests:,} drawn", _cost(offer)]
        row += [f"{offer.judge_usd:.2f}"] * graded
        row += [f"{offer.foreseen.chance:.0%} likely", _saving(offer)]
        grid.add_row(*row, style="bold" if offer is found else None)
    grid.caption = f"chances and savings from {found.foreseen.draws} simulated purchases, by what the log tells so far"
    show.console.print(grid)
    if made.worth_asking[-1].requests == int(frame.sendable.sum()):
        say(f"{_cost(made.worth_asking[-1])} USD buy all there is to buy: more buys nothing.")
    words = ["router-train", "replay", "--plan", str(out), "--out", "replayed", "--dry-run"]
    words += ["--judge", grader, "--judge-budget-usd", f"{max(2 * found.judge_usd, 0.01):.2g}"] if grader else []
    say(
        f"{out} holds the {len(made.file.pairs):,} pairs of the {found.budget_usd:g} USD, prompts included. Nothing was sent. "
        f"What now: {shlex.join(words)}"
    )


def _cost(offer: Offer) -> str:
    grades = offer.judge_usd
    return f"{offer.expected_usd + grades:.2f} ({offer.low_usd + grades:.2f} … {offer.high_usd + grades:.2f})"


def _saving(offer: Offer) -> str:
    found = offer.foreseen
    return f"{found.saving:.0%} ({found.low:.0%} … {found.high:.0%})" if found.chance else "nothing"


def advice(log: LogOptions, table: Outcomes, params: Params, prices: Mapping[str, Candidate]) -> str:
    """The next step for a log on which nothing could be certified: what to buy for how much, and what that would bring."""
    from training.errors import TrainingError
    from training.evidence.advise import LIKELY, advise

    target = params.policy.quality_target
    try:
        offer = advise(table, params, prices, log.cache, target)
    except TrainingError as error:
        return f"What now: {error}"
    if offer is None:
        return (
            f"What now: no purchase up to 500 USD is {LIKELY:.0%} likely to certify {target:g}. A lower target is easier to "
            "certify (`router-train plan --target 0.9`), and so is a choice of fewer candidates (`--only NAME` for each)."
        )
    command = shlex.join(["router-train", "plan", *log.words(), "--budget-usd", f"{offer.budget_usd:g}"])
    return (
        f"What now: {command}\nIt plans {offer.pairs:,} answers for about {offer.expected_usd:.2f} USD and their grades, which "
        f"are {offer.foreseen.chance:.0%} likely to certify {target:g}, with {offer.foreseen.saving:.0%} saved then. Nothing "
        "is sent before `router-train replay`."
    )
