"""What pages are built of: a chart that can be touched, its picture for print and for who runs no script, and its table."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup, escape

from serving.bundle.manifest import Manifest
from training.charts.show import as_json, javascript, svg
from training.charts.theme import NothingToDrawError, Spec, Theme, as_wide_as_its_place, config
from training.publish.pages import written

_THEMES: tuple[Theme, ...] = ("light", "dark")
_TEMPLATES = Path(__file__).parents[1] / "templates"
# As wide on every machine: a picture is measured where it is made, and its text is drawn where it is read.
# A name of as many letters stays in one line on a phone, also in a heading.
_SHORT = 20
_FONTS = "Liberation Sans, Arial, Helvetica, sans-serif"


@dataclass(frozen=True)
class Table:
    """Headers and rows of text; `numbers` tells of each column whether it holds figures, which stand to the right.

    A row is `marked` as the one that matters; `notable` rows are those to look at.
    """

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: int | None = None
    notable: frozenset[int] = frozenset()

    @property
    def numbers(self) -> list[bool]:
        return [place > 0 and all(_is_figure(row[place]) for row in self.rows) for place in range(len(self.headers))]


@dataclass(frozen=True)
class Chart:
    """A chart of the page: `spec` is its Vega-Lite document, `light` and `dark` its pictures as data URLs."""

    name: str
    title: str
    description: str
    spec: str
    light: str
    dark: str
    table: Table


def chart(name: str, draw: Callable[[], Spec], table: Callable[[], Table]) -> Chart | None:
    """The chart that `draw` makes without a theme; None where there is nothing to draw."""
    try:
        spec = draw()
    except NothingToDrawError:
        return None
    title = spec["title"]["text"] if isinstance(spec.get("title"), Mapping) else str(spec.get("title", name))
    return Chart(
        name=name,
        title=str(title),
        description=str(spec.get("description", title)),
        spec=as_json(as_wide_as_its_place(spec)),
        light=_picture(spec, "light"),
        dark=_picture(spec, "dark"),
        table=table(),
    )


def still(theme: Theme) -> dict[str, Any]:
    """The `config` of a chart that is a picture: its legends stand below one another, so that it stays as wide as it is."""
    look = config(theme)
    legend = {**look["legend"], "layout": {"bottom": {"direction": "vertical", "anchor": "start"}}}
    return {**look, "font": _FONTS, "legend": legend}


def rendered(template: str, **context: Any) -> str:
    """A page from its template, with the charts' JavaScript inside once."""
    looks = {theme: {**still(theme), "font": config(theme)["font"]} for theme in _THEMES}
    return environment().get_template(template).render(**context, javascript=javascript(), themes=as_json(looks))


@cache
def environment() -> Environment:
    """The templates, with the ways to write a figure as filters."""
    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"pieces": _pieces, "whole": _whole}
    names = (
        "percent",
        "figure",
        "interval",
        "money",
        "thousand",
        "count",
        "day",
        "signed_percent",
        "signed_money",
        "span",
    )
    made.filters |= {name: getattr(written, name) for name in names}
    return made


@pass_context
def _whole(context: Context, text: str) -> Markup:
    """Text in which no name is broken at its hyphens: of a candidate, a workflow, an operating point or a bundle. One that is
    too long for a line of a phone may break there, and only there."""
    found = {name for one in _manifests(context) for name in _names(one) if "-" in name}
    escaped = str(escape(text))
    if not found:
        return Markup(escaped)
    longest_first = sorted((re.escape(str(escape(name))) for name in found), key=len, reverse=True)
    kept = rf"(?<![\w-])({'|'.join(longest_first)})(?![\w-])"

    def spanned(match: re.Match[str]) -> str:
        long = " long" if len(match[0]) > _SHORT else ""
        return f'<span class="name{long}">{match[0]}</span>'

    return Markup(re.sub(kept, spanned, escaped))


def _manifests(context: Context) -> list[Manifest]:
    """Of the page's bundle, or of both."""
    alone = context.get("manifest")
    return [alone] if alone is not None else [side.manifest for side in context.get("sides") or ()]


def _names(manifest: Manifest) -> set[str]:
    proofs = [one.certificate.workflows for one in manifest.operating_points if one.certificate is not None]
    return {
        manifest.version,
        *(one.name for one in manifest.candidates),
        *(one.name for one in manifest.operating_points),
        *manifest.head.workflows,
        *(name for proof in proofs for name in proof),
    }


def _pieces(text: str) -> list[tuple[str, bool]]:
    """Text in pieces, each with whether it is code: what stands between `backticks`, or after "What now:" as a command."""
    command = re.sub(r"^(What now: )(router-train .*)$", r"\1`\2`", text)
    return [(piece, place % 2 == 1) for place, piece in enumerate(command.split("`"))]


def _picture(spec: Spec, theme: Theme) -> str:
    drawing = svg({**spec, "config": still(theme)})
    return f"data:image/svg+xml;base64,{base64.b64encode(drawing.encode()).decode()}"


def _is_figure(text: str) -> bool:
    return not text or text[0] in "0123456789$+-−" or text in (written.NOT_KNOWN, "too few")
