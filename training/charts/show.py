"""Charts in HTML without a network: the drawing as SVG, the table behind it, and, where scripts run, the interactive chart.

In a notebook `start()` comes first, once; the SVG stays for who has no scripts.
"""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import uuid4

import vl_convert

from training.charts.tables import Table
from training.charts.theme import Spec, Theme, config

# The version of Vega-Lite that altair writes for.
VEGA_LITE = "6.4"

_STYLE = """<style>
.chart{margin:0 0 1.5em}.chart svg{max-width:100%;height:auto}.chart .live:empty{display:none}
.chart.drawn>.still{display:none}.chart details{font-size:.85em}.chart .scroll{overflow-x:auto}
.chart table{border-collapse:collapse}.chart th,.chart td{padding:.15em .7em;text-align:right;white-space:nowrap}
.chart th:first-child,.chart td:first-child{text-align:left}
</style>"""
_DRAW = """<script>(function(){{
var place=document.getElementById({identifier});
if(!place||!window.vegaEmbed)return;
window.vegaEmbed(place.querySelector(".live"),{spec},{options}).then(function(){{place.classList.add("drawn")}});
}})();</script>"""


@dataclass(frozen=True)
class Shown:
    """A piece of HTML that a notebook shows."""

    markup: str

    def _repr_html_(self) -> str:
        return self.markup


@cache
def javascript() -> str:
    """Vega, Vega-Lite and Vega-Embed for a `<script>` of the page itself: they make `vegaEmbed` and ask no network."""
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    return bundle.replace("</script", "<\\/script")


def svg(spec: Spec, *, theme: Theme | None = None) -> str:
    """The chart as it looks before anybody touches it."""
    look = {} if theme is None else {**config(theme), **spec.get("config", {})}
    width = {"width": 560, "autosize": {"type": "pad"}} if spec.get("width") == "container" else {}
    drawn: str = vl_convert.vegalite_to_svg({**spec, **width}, vl_version=VEGA_LITE, config=look)
    return drawn


def as_json(value: Any) -> str:
    """JSON that may stand inside a `<script>`: nothing in it ends the script or begins a comment."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def figure(spec: Spec, table: Table | None = None, *, identifier: str | None = None, theme: Theme | None = None) -> str:
    """A `<figure>`: the SVG with the chart's description, the table in `<details>`, and a script that makes it interactive.

    The script does nothing on a page without `javascript()`.
    """
    identifier = identifier or f"chart-{uuid4().hex}"
    told = html.escape(str(spec.get("description", "A chart.")), quote=True)
    options = {
        "actions": {"export": True, "source": False, "compiled": False, "editor": False},
        "renderer": "svg",
        **({} if theme is None else {"config": config(theme)}),
    }
    script = _DRAW.format(identifier=as_json(identifier), spec=as_json(spec), options=as_json(options))
    return (
        f'<figure class="chart" id="{html.escape(identifier, quote=True)}">'
        f'<div class="still" role="img" aria-label="{told}">{svg(spec, theme=theme)}</div><div class="live"></div>'
        f"{'' if table is None else details(table)}</figure>{script}"
    )


def details(table: Table) -> str:
    """A table that opens by a click or a key."""
    headers, rows = table
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in headers)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<details><summary>The figures as a table ({len(rows):,} rows)</summary><div class="scroll" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details>"
    )


def start() -> Shown:
    """What makes the charts of a notebook interactive, offline and after its export too; for its first cell."""
    return Shown(f"{_STYLE}<script>{javascript()}</script>")


def show(spec: Spec, table: Table | None = None) -> Shown:
    """A chart in a notebook, on a light page unless it has a theme of its own."""
    own = "background" in spec.get("config", {})
    return Shown(_STYLE + figure(spec, table, theme=None if own else "light"))
