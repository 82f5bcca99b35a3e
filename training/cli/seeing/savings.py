"""The command that says what routing saved, from the store of a service that runs or ran."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from training.cli.show import console, grid, say

if TYPE_CHECKING:
    from rich.table import Table

    from serving.account.savings import Account, Line, Ratio

app = typer.Typer()
_MOST_SHOWN = 50


@app.command("savings")
def savings(
    data: Annotated[str, typer.Option(help="The service's store: its SQLite file, sqlite:///… or postgresql://…")],
    by: Annotated[
        Literal["workflow", "key", "candidate", "day"], typer.Option(help="What there is a line for.")
    ] = "day",
    since: Annotated[
        str | None, typer.Option("--from", help="ISO 8601 or seconds since 1970. Default: 30 days before --to.")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="And before that. Default: now.")] = None,
    out: Annotated[Path | None, typer.Option("--csv", help="Writes every line to this file as well.")] = None,
    judge_usd: Annotated[
        float, typer.Option(min=0.0, help="What judging cost beyond what feedback says, in USD: taken from the total.")
    ] = 0.0,
) -> None:
    """Say what routing saved against sending everything to the reference, what it cost itself, and at which quality.

    The same figures as GET /v1/savings. What the reference would have cost is an interval, and the method is said.
    """
    account = _account(data, by, since, until, judge_usd)
    if out is not None:
        from serving.account.shown import as_csv

        out.write_text(as_csv(account), encoding="utf-8")
    _print(account, judge_usd)
    if out is not None:
        say(f"every line: {out}")


def _account(data: str, by: str, since: str | None, until: str | None, judge_usd: float) -> Account:
    """The account of a store; raises OutcomeError."""
    from serving.account.asked import Tables, asked
    from serving.account.window import By, Window, WindowError
    from training.logs.io import database
    from training.logs.outcomes import OutcomeError
    from training.logs.sources import decisions

    try:
        window = Window.asked(By(by), since, until, time.time())
    except WindowError as error:
        raise OutcomeError(f"--{error.field}: {error}") from None
    url = data if "://" in data else database.url_of(Path(data))
    with database.connected(url, steady=True) as (connection, schema):
        made, said, *also = decisions.tables(connection, url, schema)
        return asked(connection, Tables(made, said, also[0] if also else None), window, judge_usd=judge_usd)


def _print(account: Account, judge_usd: float) -> None:
    from serving.account.shown import OTHER
    from serving.account.window import iso

    say(f"decisions from {iso(account.since)} to {iso(account.until)}, by {account.by}")
    table = grid(
        account.by, "decisions", "paid", "reference would have cost", "saved", "saved, share", "quality (judged)"
    )
    shown = [(line.name or "(none)", line) for line in account.lines[:_MOST_SHOWN]]
    if account.other is not None:
        shown.append((OTHER, account.other))
    for name, line in [*shown, ("total", account.total)]:
        _add(table, name, line, "bold" if line is account.total else None)
    console.print(table)
    if len(account.lines) > _MOST_SHOWN:
        say(f"{len(account.lines) - _MOST_SHOWN:,} more lines; --csv FILE has them all")
    for one in account.ratios:
        say(_method(one))
    for sentence in _sentences(account.total, judge_usd):
        say(sentence)


def _add(table: Table, name: str, line: Line, style: str | None) -> None:
    from rich.text import Text

    from serving.account.shown import harmless

    quality = "-"
    if line.quality is not None and line.quality_low is not None and line.quality_high is not None:
        quality = f"{line.quality:.1%} ({line.quality_low:.1%} … {line.quality_high:.1%}, {line.judged:,})"
    cells = (
        f"{line.decisions:,}",
        *_compared(line),
        "-" if line.saving is None else f"{line.saving:.1%}",
        quality,
    )
    table.add_row(*(Text(cell) for cell in (harmless(name), *cells)), style=style)


def _compared(line: Line) -> tuple[str, str, str]:
    """What was paid, what the reference would have cost and what was saved: nothing says where none is compared."""
    if not line.compared:
        return ("–", "–", f"none of {line.decisions:,} compared")
    return (
        _usd(line.compared_usd),
        _between(line.reference_usd, line.reference_low, line.reference_high),
        _between(line.saved_usd, line.saved_low, line.saved_high),
    )


def _method(one: Ratio) -> str:
    """What the reference's cost is worked out from, in words."""
    from serving.account.savings import ENOUGH, Method

    said = f"{one.reference} would have cost what was expected of it"
    if one.method is Method.PROMPTS or one.high is None:
        return (
            f"{said}, and no less than the prompts alone cost there; how much at most nothing says, for of no candidate's "
            f"answers is the cost of {ENOUGH} conversations told. Tell cost_usd in feedback."
        )
    answers = f"{one.answers:,} of {'its own answers' if one.method is Method.OWN else 'all candidates’ answers'}"
    ends = "95% from" if one.method is Method.OWN else "between the lowest and the highest of theirs,"
    return (
        f"{said}, times {one.ratio:.3f} ({ends} {one.low:.3f} to {one.high:.3f}): what {answers} cost for each USD expected; "
        f"where workflows or keys have enough answers of their own, times what these cost."
    )


def _sentences(total: Line, judge_usd: float) -> list[str]:
    """What the total rests on and what it leaves out."""
    beside = f", {_usd(judge_usd)} of it as --judge-usd says and in the total alone" if judge_usd else ""
    said = [
        f"saved is what the reference would have cost, less what was paid, {_usd(total.also_usd)} for who was asked too and "
        f"{_usd(total.judge_usd)} for judging{beside}.",
        f"exploring is in what was paid: it was expected to cost {_usd(total.exploration_usd)} more than not exploring.",
    ]
    left_out = (
        (total.uncosted, "without a cost in feedback"),
        (total.without_reference, "stored before the reference's cost was"),
        (total.held_back, "held back"),
    )
    if any(count for count, _ in left_out):
        named = ", ".join(f"{count:,} {why}" for count, why in left_out if count)
        compared = f"{total.compared:,} of {total.decisions:,} decisions are compared"
        if not total.compared:
            compared = f"none of {total.decisions:,} compared, so nothing is known of what was saved"
        said.append(f"{compared}; left out: {named}.")
    elsewhere = (
        (total.uncompared_also_usd, "for who was asked too"),
        (total.uncompared_judge_usd, "for judging"),
        (total.uncompared_exploration_usd, "expected for exploring"),
    )
    if any(usd for usd, _ in elsewhere):
        named = ", ".join(f"{_usd(usd)} {what}" for usd, what in elsewhere if usd)
        said.append(f"at decisions that are not compared routing itself cost {named}: in nothing above.")
    if total.held_back_quality is not None:
        said.append(
            f"the quality is without what was held back, of which {total.held_back_judged:,} judged answers come to "
            f"{total.held_back_quality:.1%}."
        )
    if total.failed:
        said.append(
            f"{total.failed:,} calls failed: what they cost is in what was paid, and the reference is taken to cost 0."
        )
    return said


def _between(value: float, low: float, high: float | None) -> str:
    return f"{_usd(value)} ({_usd(low)} … {'?' if high is None else _usd(high)})"


def _usd(value: float) -> str:
    """Dollars: cents, or two digits that say something where there are less than ten of these."""
    digits = f"{abs(value):,.2f}" if value == 0 or abs(value) >= 0.1 else f"{abs(value):.2g}"
    return f"{'-' if value < 0 else ''}${digits}"
