"""What a run has to say: a table for the terminal, `report.html`, `frontier.json` and `card.md` for the bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from serving.bundle.manifest import Manifest, OperatingPoint
from training.evaluate.evaluation import SPLIT, Evaluation, OffPolicyLine
from training.learn.learn import Learned
from training.learn.prepare import Prepared
from training.logs.outcomes import Outcomes
from training.publish import on_the_test_part
from training.publish.document import frontier_document, read_document, with_month, write_document
from training.publish.making import making, read_making, write_making
from training.publish.pages import of_report
from training.publish.pages.basis import learned_from
from training.publish.pages.blocks import environment
from training.publish.pages.first_screen import first_screen
from training.publish.pages.tables import left_out
from training.publish.pages.written import figure, interval, percent, usd_per_thousand

# What goes to a candidate at least to be named.
_LEAST_SHARE = 0.01
_MEANS = (
    "AIQ: quality, averaged over all that one may be willing to pay. captured: of what lies between the best mix of single "
    "LLMs (0%) and knowing every outcome beforehand (100%)."
)


def write(
    folder: Path,
    manifest: Manifest,
    evaluation: Evaluation,
    prepared: Prepared,
    learned: Learned,
    table: Outcomes,
    settings: Sequence[str] = (),
    evidence: str | None = None,
) -> None:
    """Writes `frontier.json`, `making.json`, `report.html`, `card.md`, and `skipped.csv` where rows were skipped.

    `settings` are those that differ from the shipped ones; `evidence` is what to do where nothing was certified.
    """
    document = frontier_document(manifest, evaluation)
    made = making(sentence(manifest, evaluation), evaluation, prepared, learned, table, settings, evidence)
    write_document(folder, document)
    write_making(folder, made)
    of_report.write(folder, manifest)
    figures = {name: value for name, value in manifest.metrics.items() if not name.startswith(SPLIT)}
    known = with_month({}, document, prepared.sampled)
    of_the_log = {name: value for name, value in known.items() if name in figures}
    card = environment().get_template("card.md.j2")
    words = card.render(
        manifest=manifest,
        document=document,
        making=made,
        default=manifest.default,
        figures_of_the_test_part={name: value for name, value in figures.items() if name not in of_the_log},
        figures_of_the_log=of_the_log,
        on_the_test_part=on_the_test_part.said(document),
        left_out=left_out,
        learned_from=learned_from(made),
    )
    (folder / "card.md").write_text(words, encoding="utf-8")
    if len(table.skipped):
        table.skipped.to_csv(folder / "skipped.csv", index=False)


def sentence(manifest: Manifest, evaluation: Evaluation) -> str:
    """The result in one sentence, for whoever pays."""
    if evaluation.why_not is not None:
        return f"No frontier could be measured: {evaluation.why_not}"
    router, reference = evaluation.line(), evaluation.line("always best")
    kind = ("simulated " if manifest.simulated else "") + ("requests" if evaluation.seen else "test requests")
    return (
        f"On {evaluation.complete_requests:,} {kind} that every candidate answered, routing costs "
        f"{percent(router.saving)} less than sending everything to {manifest.reference} and keeps "
        f"{percent(router.quality / reference.quality) if reference.quality else 'none'} of its quality "
        f"({percent(router.quality)} against {percent(reference.quality)} acceptable)."
        + _of_the_traffic(manifest, evaluation)
    )


def _of_the_traffic(manifest: Manifest, evaluation: Evaluation) -> str:
    """What that is for the traffic, where these requests are not like it."""
    found = evaluation.tradeoff
    mark = found.points.get(manifest.default_point)
    if found.note is None or mark is None:
        return ""
    return f" {found.note} Of the traffic, it is {percent(mark.saving)} less at {percent(mark.quality)} acceptable answers."


def terminal(manifest: Manifest, evaluation: Evaluation) -> RenderableType:
    """The result table as the terminal shows it at the end of a run."""
    parts: list[RenderableType] = []
    if evaluation.contradicted is not None:
        parts.append(Text(evaluation.contradicted, style="bold red"))
    if evaluation.seen:
        parts.append(Text(_flattered(evaluation), style="bold red"))
    if evaluation.lines:
        grid = Table(title="Simulated figures" if manifest.simulated else "Test figures", title_justify="left")
        for name in ("router", "AIQ", "captured", "quality", "USD / 1k", "saving"):
            if name == "router":
                grid.add_column(name, overflow="fold", max_width=24)  # the figures keep their width in 80 columns
            else:
                grid.add_column(name, justify="right", no_wrap=True, min_width=6)
        for line in evaluation.lines:
            grid.add_row(
                line.name,
                figure(line.aiq, 4),
                percent(line.headroom),
                percent(line.quality),
                usd_per_thousand(line.cost_usd),
                percent(line.saving),
                style="bold" if line is evaluation.line() else None,
            )
        parts.append(grid)
        parts.append(Text(_MEANS, style="dim"))
        parts.append(Text(_comparison(evaluation)))
    parts += _splits(evaluation, simulated=manifest.simulated)
    if evaluation.calibration is not None:
        c = evaluation.calibration
        parts.append(
            Text(
                f"calibration on {c.outcomes:,} outcomes: ECE {c.ece:.3f} (before {c.ece_before:.3f}), "
                f"Brier {c.brier:.4f} (before {c.brier_before:.4f})"
                + (f"; ECE of the chosen candidates alone {c.ece_chosen:.3f}" if c.chosen else "")
            )
        )
    parts += [Text(_off_policy(line)) for line in evaluation.off_policy]
    parts.append(Text(sentence(manifest, evaluation), style="bold green" if evaluation.lines else "bold red"))
    parts.append(Text(promise(manifest), style="bold green" if manifest.default.certificate else "bold red"))
    return Group(*parts)


def _flattered(evaluation: Evaluation) -> str:
    return (
        f"{evaluation.seen:,} OF {evaluation.test_requests:,} REQUESTS ARE AMONG THOSE THAT THE BUNDLE WAS MADE FROM: on them "
        f"it is not tested, and what follows flatters it."
    )


def estimated_saving(point: OperatingPoint) -> str:
    """What routing would save at a target that could not be certified, as far as the log tells."""
    found = point.estimated
    if found is None:
        return "What routing would save is not known: nothing is expected to keep the target."
    if found.saving is None:
        return "What routing would save is not known: the log has too few outcomes of what would be chosen."
    span = f"95% {percent(found.saving_low)} … {percent(found.saving_high)}"
    return (
        f"Routing is estimated to save {percent(found.saving)} ({span}), and {percent(found.violation_rate)} of requests to "
        f"fail where {point.always or point.guard} would not have."
    )


def promise(manifest: Manifest) -> str:
    """What the default operating point is certified for, or loudly that it is not."""
    point = manifest.default
    if (proof := point.certificate) is None:
        goes = (
            f"every request goes to {point.always}"
            if point.always is not None
            else "requests go where the target is estimated to be kept, without a promise (policy.uncertified)"
        )
        return (
            f"NOTHING COULD BE CERTIFIED for {point.name} on {point.calibration_requests:,} calibration requests: {goes}. "
            f"{estimated_saving(point)}{_of_a_core(manifest)}"
        )
    return (
        f"Certified at {percent(1 - proof.delta)} confidence: at most {percent(proof.alpha)} of requests fail where "
        f"{manifest.reference} would not have (bound {percent(proof.bound)} on {proof.requests:,} calibration requests), "
        f"saving {percent(point.saving)} (95% {percent(proof.saving_low)} … {percent(proof.saving_high)})."
    )


def _of_a_core(manifest: Manifest) -> str:
    """What a larger core may help, of a log that was learned from in part."""
    known = manifest.metrics
    held, there = known.get("log_core_requests"), known.get("log_requests")
    if held is None or held == there:
        return ""
    return (
        f" The core has {held:,.0f} of the log's {there:,.0f} requests: with more of them to certify on (--set "
        "scale.core_measured=…) it may be possible."
    )


def now(manifest: Manifest, evaluation: Evaluation) -> str:
    """Where traffic would go at the default operating point, and what that saves: two lines."""
    shares = [f"{percent(share)} {name}" for name, share in evaluation.shares.items() if share >= _LEAST_SHARE]
    rest = 1.0 - sum(share for share in evaluation.shares.values() if share >= _LEAST_SHARE)
    if rest > 0 and shares:
        shares.append(f"{percent(rest)} others")
    point = manifest.default
    goes = ", ".join(shares) if shares else f"all of it to {point.always}" if point.always else "not measured"
    proof = point.certificate
    saves = (
        f"{percent(point.saving)} (95% {percent(proof.saving_low)} … {percent(proof.saving_high)}) of what sending everything "
        f"to {manifest.reference} costs"
        if proof is not None
        else "nothing that is certified"
    )
    return f"Where traffic would go at {point.name}: {goes}.\nWhat that saves: {saves}."


def headline(folder: Path, manifest: Manifest) -> RenderableType:
    """What the report in a bundle's `folder` begins with: its headline and its warnings, a line each."""
    screen = first_screen(manifest, read_document(folder) or {}, read_making(folder) or {})
    warnings = (Text(f"Warning: {text}", style="bold yellow") for text in screen.warnings)
    return Group(Text(f"The report's headline: {screen.title}.", style="bold"), *warnings)


def _off_policy(line: OffPolicyLine) -> str:
    q, c = line.quality, line.cost_usd
    if q.refused is not None:
        return f"off-policy, {line.name}: refused, {q.refused}"
    return (
        f"off-policy, {line.name}: quality {percent(q.value)} (95% {percent(q.low)} … {percent(q.high)}), USD per 1,000 "
        f"{usd_per_thousand(c.value)}; {q.n:,} requests worth {q.effective_sample:,.0f} of its own"
    )


def _splits(evaluation: Evaluation, *, simulated: bool) -> list[RenderableType]:
    """The table of the three splits, and below it why a split has no figures."""
    if not evaluation.splits:
        return []
    title = "By three splits, quick estimators" + (" (simulated)" if simulated else "")
    grid = Table(title=title, title_justify="left")
    grid.add_column("split", no_wrap=True)
    for name in ("tested", "AIQ", "table", "zero", "AIQ - table, 95%"):
        grid.add_column(name, justify="right", no_wrap=True)
    for line in evaluation.splits:
        if line.why_not is None:
            numbers = (line.aiq, line.workflow_table, line.zero_router)
            grid.add_row(line.name, f"{line.requests:,}", *(figure(x, 4) for x in numbers), interval(line.lead))
    refused = [
        Text(f"no figures {line.name}: {line.why_not}") for line in evaluation.splits if line.why_not is not None
    ]
    return [grid, *refused] if grid.row_count else [*refused]


def _comparison(evaluation: Evaluation) -> str:
    text = f"AIQ of the zero router {evaluation.zero_router:.4f}"
    for line in evaluation.lines:
        if line.name == "workflow table":
            low, high = line.beats
            gap = evaluation.line().aiq - line.aiq
            text += f"; ours minus the workflow table's {gap:+.4f} (95% {low:+.4f} … {high:+.4f})"
    return text
