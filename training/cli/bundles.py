"""The commands on bundles: list them, make one the champion, or go back to the one before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from training.cli import show
from training.cli.options import CURRENT, MODELS, ModelsOption, Settings, TrackOption, grouped
from training.cli.show import say

if TYPE_CHECKING:
    from serving.bundle.manifest import Bundle

app = typer.Typer()


@app.command()
@grouped
def promote(
    settings: Settings,
    version: Annotated[
        str | None, typer.Argument(help="The bundle's folder name. Default: the newest, if that is not current.")
    ] = None,
    out: ModelsOption = MODELS,
    track: TrackOption = True,
) -> None:
    """Make a bundle the champion without a comparison: out/current points at it."""
    from training.publish import promote as gate

    before = gate.version_at(out, gate.CURRENT)
    _switched(out, before, gate.promote(out, version), settings, track)


@app.command()
@grouped
def rollback(settings: Settings, out: ModelsOption = MODELS, track: TrackOption = True) -> None:
    """Make the previous champion the champion again; a second time undoes it."""
    from training.publish import promote as gate

    before = gate.version_at(out, gate.CURRENT)
    _switched(out, before, gate.roll_back(out), settings, track)


@app.command("set-point")
@grouped
def set_point(
    settings: Settings,
    name: Annotated[str, typer.Argument(help="The operating point, as the report and GET /v1/bundle name it.")],
    out: ModelsOption = MODELS,
    track: TrackOption = True,
) -> None:
    """Serve the current bundle at another operating point, without training; rollback undoes it."""
    from training.publish import promote as gate

    before = gate.version_at(out, gate.CURRENT)
    bundle = gate.set_point(out, name)
    _switched(out, before, bundle, settings, track)
    point = bundle.manifest.default
    known = [
        f"quality {point.quality:.1%}" if point.quality is not None else "",
        f"{point.saving:.1%} less than sending everything to {bundle.manifest.reference}"
        if point.saving is not None
        else "",
    ]
    what = ", ".join(one for one in known if one) or "nothing is known of it"
    say(f"At {name}, on {point.calibration_requests:,} calibration requests: {what}.")
    certificate = point.certificate
    say(
        "It has no certificate."
        if certificate is None
        else f"Certified at {1 - certificate.delta:.1%} confidence: at most {certificate.alpha:.1%} of requests fail where "
        f"{bundle.manifest.reference} would not have."
    )


def _switched(out: Path, before: str | None, bundle: Bundle, settings: Settings, track: bool) -> None:
    """Says which bundle is current now, after its alias in MLflow has followed."""
    name = bundle.folder.name
    note = ""
    if track:
        from training.publish.tracking import set_champion

        tracking = settings.load().tracking
        number = set_champion(tracking, name)
        known = f"version {number} (champion)" if number else "does not have it: its aliases stay"
        note = f" · MLflow model {tracking.model} {known}"
    show.console.print(
        Text.assemble((f"{out / 'current'} is now {name}", "bold green"), f" (before: {before or 'none'}){note}"),
        soft_wrap=True,
    )
    say("A running server looks every ROUTER_WATCH_SECONDS (2) and takes it over by itself.")


@app.command()
def plot(
    out: Annotated[Path, typer.Option(help="The file to write: .png, .svg or .pdf.")] = Path("frontier.png"),
    bundle: Annotated[Path, typer.Option(help="The bundle's folder.")] = CURRENT,
) -> None:
    """Draw a bundle's frontier, cost against quality, for a slide."""
    from serving.bundle.atomic_write import written_whole
    from serving.bundle.manifest import BundleError, open_bundle
    from training.charts.theme import NothingToDrawError
    from training.publish.document import SCHEMA, read_document
    from training.publish.pages.picture import picture

    document = read_document(open_bundle(bundle).folder) or {}
    if document.get("schema") != SCHEMA:
        raise BundleError(
            f"{bundle}: its frontier.json is of schema {document.get('schema', 1)}, and {SCHEMA} is drawn. Train it again"
        )
    try:
        content = picture(document, out.suffix)
    except NothingToDrawError as error:
        raise BundleError(f"{bundle}: there is no frontier to draw: {error}") from None
    except ValueError as error:
        raise BundleError(f"{out}: {error}") from None
    with written_whole(out) as draft:
        draft.write_bytes(content)
    say(f"{out} shows bundle {open_bundle(bundle).manifest.version}.")


@app.command()
def bundles(out: ModelsOption = MODELS) -> None:
    """List the bundles, newest first, and which of them is the champion."""
    from serving.bundle.manifest import BundleError, open_bundle
    from training.publish import promote as gate

    marks = {gate.version_at(out, name): name for name in (gate.PREVIOUS, gate.CURRENT)}
    grid = show.grid("bundle", "created", "estimator", "AIQ", "default point")
    grid.caption = "AIQ as each run measured it, on its own test part"
    grid.columns[0].no_wrap = grid.columns[3].no_wrap = True
    grid.columns[1].max_width = 10  # the date, and the time below it: the table fits 80 columns
    broken = []
    for name in reversed(gate.versions(out)):
        marked = [marks[name]] if name in marks else []
        style = "bold" if marks.get(name) == gate.CURRENT else None
        try:
            manifest = open_bundle(out / name).manifest
        except BundleError as error:
            broken.append(str(error))
            grid.add_row("\n".join([name, *marked]), "", "cannot be opened", style="red")
            continue
        title = "\n".join([name, " · ".join(marked + ["simulated log"] * manifest.simulated)]).rstrip()
        created = manifest.created[:16].replace("T", " ")
        aiq = f"{manifest.metrics['aiq']:.4f}" if "aiq" in manifest.metrics else ""
        name, _, members = manifest.head.estimator.partition(" of ")
        estimator = f"{name} of {len(members.split(', '))}" if members else name
        grid.add_row(title, created, estimator, aiq, manifest.default_point, style=style)
    if not grid.row_count:
        raise BundleError(f"{out} has no bundle. `router-train run` writes one.")
    show.console.print(grid)
    for message in broken:
        say(message, "red")
