"""The report on a log as the terminal shows it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from serving.account.shown import harmless
from training.inspect.report import Finding, LogReport, Summary
from training.inspect.unread import sentence
from training.logs.outcomes import AliasUse

_SHOWN = 30


def page(report: LogReport) -> RenderableType:
    """What was read, what is in it, and what it supports; the largest candidates and workflows only."""
    parts: list[RenderableType] = [_text(line) for line in _lines(report)]
    if report.skipped:
        parts.append(_skipped(report))
    if report.aliases:
        parts.append(_aliases(report.aliases))
    parts.append(_outcomes("candidate", report.candidates, [one.name for one in report.candidates if not one.priced]))
    parts.append(_outcomes("workflow", report.workflows))
    parts.append(_text("What it can and cannot support", style="bold"))
    parts += [_finding(finding) for finding in report.findings]
    return Group(*parts)


def _lines(report: LogReport) -> list[str]:
    times = f"{report.first} to {report.last}" if report.first else "no timestamps"
    return [
        f"{report.rows_read:,} rows read as {', '.join(report.formats)}: {report.rows_used:,} used, "
        f"{report.rows_skipped:,} skipped",
        f"{report.requests:,} requests in {report.sessions:,} conversations: {report.requests_of_several_candidates:,} tried "
        f"on several candidates, {report.requests_of_all_candidates:,} on all {len(report.candidates)}, "
        f"{report.complete:,} judged on all",
        f"{100 * report.judged:.1f}% of rows judged · {_spent(report)} · {_counted(report)}",
        *([report.labels_said] if report.labels_said else []),
        f"{times} ({report.timestamped_requests:,} requests have one)" if report.first else times,
        *([sentence(report.unread)] if report.unread else []),
    ]


def _spent(report: LogReport) -> str:
    return f"{report.cost_usd:,.4f} USD logged" if any(line.costed for line in report.candidates) else "no costs logged"


def _counted(report: LogReport) -> str:
    if not report.input_tokens and not report.output_tokens:
        return "no tokens logged"
    return f"{report.input_tokens:,} tokens in, {report.output_tokens:,} out"


def _skipped(report: LogReport) -> Table:
    grid = _grid("skipped because", "rows", "for example")
    for one in report.skipped:
        named = f"{one.field} is {one.value}" if one.field else one.value
        grid.add_row(
            _text(one.reason), f"{one.rows:,}", _text(f"{one.source} row {one.row}: {named}, not {one.expected}")
        )
    grid.columns[2].justify = "left"
    return grid


def _aliases(uses: Sequence[AliasUse]) -> Table:
    grid = _grid("logged as", "rows", "read as")
    for use in uses:
        lost = f" ({use.without_propensity:,} rows without a propensity: drawn under both names)"
        grid.add_row(_text(use.alias), f"{use.rows:,}", _text(use.candidate + (lost if use.without_propensity else "")))
    return grid


def _outcomes(what: str, lines: Sequence[Summary], marked: Collection[str] = ()) -> Table:
    grid = _grid(what, "rows", "judged", "quality", "USD logged", "tokens in", "out")
    largest = sorted(lines, key=lambda line: -line.rows)[:_SHOWN]
    for line in largest:
        grid.add_row(
            _text(line.name + (" *" if line.name in marked else "")),
            f"{line.rows:,}",
            f"{100 * line.judged:.0f}%",
            "" if line.quality is None else f"{line.quality:.3f}",
            f"{line.cost_usd:,.4f}" if line.costed else "unknown",
            f"{line.input_tokens:,}" if line.input_tokens else "unknown",
            f"{line.output_tokens:,}" if line.output_tokens else "unknown",
        )
    notes = ["* no price in the catalogue"] if marked else []
    if len(lines) > len(largest):
        notes.append(f"the {len(largest)} largest of {len(lines):,}; --json has them all")
    grid.caption = "; ".join(notes) or None
    return grid


def _finding(finding: Finding) -> Text:
    mark, style = ("yes ", "green") if finding.supported else ("no  ", "red")
    return Text.assemble((mark, f"bold {style}"), harmless(finding.what))


def _text(text: str, style: str = "") -> Text:
    """Text of which some may be anybody's."""
    return Text(harmless(text), style)


def _grid(first: str, *others: str) -> Table:
    grid = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    grid.add_column(first, overflow="fold")
    for name in others:
        grid.add_column(name, justify="right", overflow="fold", min_width=min(len(name), 7))
    return grid
