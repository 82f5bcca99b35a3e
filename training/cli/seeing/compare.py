"""The command that puts two bundles beside each other, on the terminal and on a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from training.cli import show
from training.cli.options import MODELS, LogOptions, ModelsOption, Settings, grouped, load_prices
from training.cli.show import say

if TYPE_CHECKING:
    from serving.decide.router import Router
    from training.publish.side_by_side import SideBySide

app = typer.Typer()


@app.command()
@grouped
def compare(
    log: LogOptions,
    settings: Settings,
    first: Annotated[str, typer.Argument(help="A bundle: its folder name in --out, or a folder.")],
    second: Annotated[str, typer.Argument(help="Another one.")],
    out: ModelsOption = MODELS,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", help="Write a page of both as well, one file; without a log, of what each has measured."
        ),
    ] = None,
) -> None:
    """Compare two bundles, each as it is served, on a log in which every candidate answered."""
    from serving.decide.router import Router
    from training.logs.outcomes import OutcomeError
    from training.publish.compare import NotComparableError

    if not log.given and html is None:
        raise OutcomeError("give the log to compare them on: --data or --logs; or --html for a page without one")
    routers = [Router.load(out / name if (out / name).exists() else Path(name)) for name in (first, second)]
    found: SideBySide | None = None
    warnings: list[str] = []
    why_not = "No log was given to compare the two on, so each is shown by its own figures."
    if log.given:
        try:
            found, warnings = _on_log(log, settings, routers)
        except NotComparableError as error:
            if html is None:
                raise
            why_not = f"They could not be compared on the log: {error}."
            say(why_not, "bold red")
        else:
            show.print_side_by_side(found)
    if html is not None:
        _write(html, routers, found, why_not, warnings)


def _on_log(log: LogOptions, settings: Settings, routers: list[Router]) -> tuple[SideBySide, list[str]]:
    """Both on the log, and what makes the comparison flatter one of them."""
    from serving.bundle.manifest import open_bundle
    from training.cli.reading import priced, read
    from training.dataset.fingerprints import seen_by
    from training.logs.repeated.repeats import texts
    from training.publish.side_by_side import side_by_side

    params, prices = settings.load(), load_prices(log.catalogue)
    with show.progress() as tell:
        found, prices = priced(read(log, prices, params.judge, tell), prices)
    show.print_log(found.outcomes, found.quality, found.masked)
    prompts, warnings = texts(found.outcomes.frame), []
    for router in routers:
        if seen := int(seen_by(open_bundle(router.bundle.folder), prompts).sum()):
            version = router.manifest.version
            warnings.append(
                f"{seen:,} OF {len(prompts):,} ROWS ARE OF REQUESTS THAT {version} WAS MADE FROM: they flatter it."
            )
            say(warnings[-1], "bold red")
    return side_by_side(routers[0], routers[1], found.outcomes, prices, params), warnings


def _write(path: Path, routers: list[Router], found: SideBySide | None, why_not: str, warnings: list[str]) -> None:
    from serving.bundle.atomic_write import written_whole
    from serving.bundle.manifest import BundleError
    from training.publish.pages.of_comparison import render

    page = render(routers[0].bundle, routers[1].bundle, found, why_not, warnings)
    try:
        with written_whole(path) as draft:
            draft.write_text(page, encoding="utf-8")
    except OSError as error:
        raise BundleError(f"{path}: the page cannot be written: {error.strerror}") from None
    say(f"page {path}")
