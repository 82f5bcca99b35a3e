"""What the commands print: lines, tables, and a bar while something long runs. Nothing that is printed is read as markup."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from serving.account.shown import harmless

if TYPE_CHECKING:
    import pandas as pd

    from serving.bundle.catalogue import Candidate
    from serving.bundle.manifest import Manifest
    from training.logs.dataset import ImportAccount
    from training.logs.objects.path import LogPath
    from training.logs.outcomes import AliasUse, Outcomes
    from training.prices.fill import Proposal
    from training.publish.promote import Promotion
    from training.publish.side_by_side import Part, SideBySide
    from training.quality.checks import CheckAccount
    from training.quality.llm_grader import GraderAccount
    from training.quality.scores import ScoreAccount

    QualityReport = ScoreAccount | CheckAccount | GraderAccount

# Stages are timed from here on: that of the command that prints is one of the first modules that it loads.
_BEGAN = time.monotonic()
# Tells a stage, and how many of how many things are done.
Tell = Callable[[str, int | None, int | None], None]


class Terminal(Console):
    """A console that neither markup nor a control character of what it prints has any effect on.

    Who knows that a name is anybody's calls `harmless` before, so that columns are as wide as what they show.
    """

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for one in super().render(renderable, options):
            yield one if one.control else Segment(harmless(one.text), one.style)


console = Terminal()
errors = Terminal(stderr=True)


def say(text: str, style: str = "", to: Console = console) -> None:
    """A line, broken by the terminal alone."""
    to.print(Text(harmless(text), style), soft_wrap=True)


def grid(*names: str, caption: str | None = None) -> Table:
    """A table in which long cells go on in the next line."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption)
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def print_rows(names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table, unless it is empty."""
    table = grid(*names)
    for row in rows:
        table.add_row(*(Text(harmless(cell)) for cell in row))
    if table.row_count:
        console.print(table)


@contextmanager
def progress() -> Iterator[Tell]:
    """A bar on stderr while something long runs, and what tells it how far that is; where it is no terminal, a line a stage."""
    if not errors.is_terminal:
        yield _lines()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task("read", total=None)

        def tell(stage: str, done: int | None = None, total: int | None = None) -> None:
            bar.update(task, description=stage, completed=done or 0, total=total)

        yield tell


def _lines() -> Tell:
    """Says each stage once, as it begins, and when that is, in seconds since the command began."""
    said = [""]

    def tell(stage: str, _done: int | None = None, total: int | None = None) -> None:
        name = stage.partition(":")[0]  # behind it stands how far it is
        if name != said[0]:
            said[0] = name
            of = f" ({total:,})" if total else ""
            _say_when(f"{stage}{of}")

    return tell


def done() -> None:
    """Says, on stderr too, when the command was done."""
    _say_when("done")


def _say_when(what: str) -> None:
    say(f"at {time.monotonic() - _BEGAN:6.1f} s: {what}", to=errors)


def print_log(table: Outcomes, quality: Sequence[QualityReport], masked: Mapping[str, int] | None) -> None:
    """How many rows were read, skipped and why, which names were read as another, where quality came from, and what was
    masked."""
    say(_used(table.rows_read, table.formats, len(table.frame), len(table.skipped)))
    for note in table.notes:
        say(note)
    _print_reasons("skipped because", table.reasons, table.skipped)
    for use in table.aliases:
        say(f"{use.rows:,} rows of {use.alias} read as {use.candidate}{_lost(use)}")
    print_quality(quality)
    print_masked(masked)


def _lost(use: AliasUse) -> str:
    if not use.without_propensity:
        return ""
    return (
        f"; it was drawn under both names, so the propensities of {use.without_propensity:,} of its rows are not known: "
        "record it under its own name from the start"
    )


def print_quality(reports: Sequence[QualityReport]) -> None:
    """One line per source of quality, and what it left out."""
    from training.quality.checks import CheckAccount
    from training.quality.scores import ScoreAccount

    for one in reports:
        if isinstance(one, ScoreAccount):
            say(
                f"scores {one.source} by {one.rule}: {one.read:,} judgements read, {one.used:,} used, "
                f"{len(one.left_out):,} left out; {one.judged:,} outcomes judged by them "
                f"({one.replaced:,} had another quality in the log, {one.averaged:,} are means of several)"
            )
            _print_reasons("judgement left out because", one.reasons, one.left_out)
            continue
        left_out = "; ".join(f"{reason}: {count:,}" for reason, count in one.left_out.items()) or "none"
        if isinstance(one, CheckAccount):
            checks = ", ".join(one.checks)
            say(f"checks {checks}: {one.passed:,} passed, {one.failed:,} failed; left alone: {left_out}")
            continue
        say(
            f"judge {one.model}: {one.judged:,} outcomes judged in {one.calls:,} calls, {one.cached:,} judged before; "
            f"${one.spent_usd:.6f} of ${one.budget_usd:g} spent; {one.left:,} left unjudged by the budget; "
            f"left alone: {left_out}"
        )


def write_json(path: Path | None, document: Mapping[str, object]) -> None:
    """Writes figures to a file, where one was asked for."""
    if path is not None:
        path.write_text(json.dumps(document, indent=1), encoding="utf-8")
        say(f"figures {path}")


def print_masked(masked: Mapping[str, int] | None) -> None:
    """How much of each kind was masked, where it was looked for."""
    if masked is not None:
        say(f"masked: {', '.join(f'{count:,} {kind}' for kind, count in masked.items()) or 'nothing found'}")


def print_promotion(promotion: Promotion, version: str, out: Path) -> None:
    """Whether the new bundle is the champion, and why; in red where it is not."""
    if promotion.promoted:
        said, style = f"PROMOTED: {out / 'current'} is now {version}.", "bold green"
    else:
        said, style = f"NOT PROMOTED: {version} is a challenger, {out / 'current'} stays.", "bold red"
    console.print(Text.assemble((said, style), " ", promotion.reason), soft_wrap=True)


def print_side_by_side(found: SideBySide) -> None:
    """What either bundle gives, and the second minus the first."""
    table = grid("requests", "quality, first", "second", "second - first, 95%", "USD / 1k, first", "second", "95%")
    table.title = f"first {found.versions[0]} at {found.points[0]}, second {found.versions[1]} at {found.points[1]}"
    for part in (found.whole, *found.workflows):
        table.add_row(
            harmless(f"{part.name} ({part.requests:,})"),
            *(f"{value:.1%}" for value in part.quality),
            _gap(part, (f"{100 * value:+.1f}" for value in part.quality_gap)),
            *(f"{1000 * value:.3f}" for value in part.cost_usd),
            _gap(part, (f"{1000 * value:+.3f}" for value in part.cost_gap)),
            style="bold" if part is found.whole else None,
        )
    console.print(table)
    shares = sorted(found.shares.items(), key=lambda one: -max(one[1]))
    print_rows(("goes to", "first", "second"), ((name, *(f"{x:.1%}" for x in share)) for name, share in shares))
    say(f"{found.moved:.1%} of requests would go elsewhere. Of twenty workflows one differs by chance.")


def _gap(part: Part, ends: Iterable[str]) -> str:
    """An interval; none of so few conversations that resampling them says nothing of others."""
    return " … ".join(ends) if part.enough else "too few"


def print_gaps(candidates: Iterable[Candidate]) -> None:
    """What the catalogue does not say of the candidates, and the command that fills it; nothing where it says all of it."""
    asked = ("context_window", "tools", "json_schema", "vision", "hosting")
    rows = []
    for one in candidates:
        gaps = ["price"] * (not one.priced) + [name for name in asked if getattr(one, name) is None]
        if gaps:
            rows.append((one.name, ", ".join(gaps).replace("_", " ")))
    if rows:
        print_rows(("candidate", "not known of it"), rows)
        say(
            "Who is not known to be able to do what a request requires does not get it; without a price, costs are predicted "
            "from logged ones. `router-train catalogue --write` with the same log fills candidates.toml."
        )


def print_next(promotion: Promotion, manifest: Manifest, out: Path, evidence: str | None) -> None:
    """What is served now if nothing is certified of it, and the one next step: `evidence` where that is to be bought first."""
    if promotion.promoted and manifest.default.certificate is None:
        say(_served_uncertified(manifest, out), "bold yellow")
    if evidence is not None:
        say(evidence)
        return
    first = f"router-serve --bundle {out / 'current'}"
    if not promotion.promoted:
        first += f" (as it was); to take this one all the same: router-train promote {manifest.version} --out {out}"
    points = [
        point.name
        for point in manifest.operating_points
        if point.name != manifest.default_point and point.certificate is not None
    ]
    others = (
        f"; another certified trade-off of {', '.join(points)}: router-train set-point NAME --out {out}"
        if points
        else ""
    )
    say(f"What now: {first}{others}; the pictures: {out / manifest.version / 'report.html'}.")


def _served_uncertified(manifest: Manifest, out: Path) -> str:
    """That the bundle is current without a certificate, what that means for its choices, and how not to have it so."""
    point = manifest.default
    goes = (
        f"every request goes to {point.always}"
        if point.always is not None
        else "a request goes where the target is estimated to be kept"
    )
    proven = [one.name for one in manifest.operating_points if one.certificate is not None]
    instead = f" Certified: {', '.join(proven)} (router-train set-point {proven[0]} --out {out})." if proven else ""
    return (
        f"{out / 'current'} IS THIS BUNDLE NOW, ALTHOUGH NOTHING IS CERTIFIED AT {point.name}, the point that it is served at: "
        f"there {goes}, and one that sets cost_quality is routed by estimates alone, without a promise.{instead} With "
        "--no-promote a run writes its bundle and leaves what is served as it is."
    )


def print_import(account: ImportAccount, out: LogPath, rate: str) -> None:
    """What an import read and wrote."""
    say(
        f"{_used(account.rows_read, account.formats, account.rows_used, sum(account.skipped.values()))} ({rate})\n"
        f"cost {account.cost_usd:,.2f} USD · {account.input_tokens:,} input tokens · {account.output_tokens:,} output tokens"
    )
    for note in account.notes:
        say(note)
    print_rows(("skipped because", "rows"), ((reason, f"{count:,}") for reason, count in account.skipped.items()))
    print_masked(account.redacted)
    say(f"{len(account.files):,} files in {out}")


def _used(read: int, formats: Sequence[str], used: int, skipped: int) -> str:
    return f"{read:,} rows read as {', '.join(formats)}: {used:,} used, {skipped:,} skipped"


def _print_reasons(title: str, reasons: Mapping[str, int], rows: pd.DataFrame) -> None:
    """Reasons with how many rows have each; `rows` are these, in the columns of `Outcomes.skipped`."""
    examples = rows.drop_duplicates("reason").set_index("reason")

    def example(reason: str) -> str:
        row = examples.loc[reason]
        arrived = f"{row['field']} is {row['value']}" if row["field"] else row["value"]
        return f"{row['source']} row {row['row']}: {arrived}, not {row['expected']}"

    print_rows((title, "rows", "for example"), ((each, f"{n:,}", example(each)) for each, n in reasons.items()))


def print_proposal(proposal: Proposal) -> None:
    """What price lists add to a catalogue, what they have otherwise, what they lack, and names that may be aliases."""
    from training.prices.fill import YOURS

    print_rows(
        ("candidate", "filled", "from"),
        (
            (
                one.candidate + (" (new)" if one.new else ""),
                ", ".join(f"{name} {value}" for name, value in one.fields.items()),
                one.source,
            )
            for one in proposal.filled
        ),
    )
    print_rows(
        ("yours stays", "field", "yours", "listed", "by"),
        ((one.candidate, one.field, f"{one.written:g}", f"{one.listed:g}", one.source) for one in proposal.differs),
    )
    print_rows(
        ("candidate", "not found", "because"),
        ((one.candidate, ", ".join(one.fields), one.why) for one in proposal.missing),
    )
    for names in proposal.alike:
        listed = ", ".join(json.dumps(alias, ensure_ascii=False) for alias in names.aliases)
        say(
            f"The same LLM? If so, aliases = [{listed}] for {names.candidate}; if not, a [[candidate]] table for each "
            "(the name is enough: it is filled next time). Until then nothing is written for them."
        )
    say(f"No price list knows {', '.join(YOURS)}: they are yours to fill in.")
