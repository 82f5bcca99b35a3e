"""How charts look: colours that read on light and on dark, dashes beside them, money as money, and what a title says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import altair as alt

from training.errors import TrainingError

Theme = Literal["light", "dark"]
Spec = dict[str, Any]
Row = dict[str, Any]

WIDTH, HEIGHT = 560, 320
# Each has a contrast of 3 : 1 or more to white and to the dark page.
COLOURS = ("#2f7fc1", "#d9730d", "#2a9464", "#a05fc4", "#d1495b", "#7b8794", "#b08900", "#0f97a8")
DASHES: tuple[tuple[int, ...], ...] = (
    (1, 0),
    (8, 3),
    (2, 2),
    (10, 3, 2, 3),
    (5, 5),
    (1, 4),
    (14, 4),
    (4, 2, 1, 2, 1, 2),
)
FIRST, SECOND, BAD, MUTED = COLOURS[0], COLOURS[1], COLOURS[4], COLOURS[5]
PERCENT = ".0%"

# Legends below a chart, one under the other.
_LEGENDS = {"bottom": {"anchor": "start", "direction": "vertical", "center": False}}

_INK: dict[Theme, dict[str, str]] = {
    "light": {"text": "#1b232b", "muted": "#56636f", "grid": "#e3e8ed", "page": "#ffffff"},
    "dark": {"text": "#e8edf2", "muted": "#a9b5c0", "grid": "#2f3943", "page": "#14191f"},
}


class NothingToDrawError(TrainingError):
    """A chart of which there is no figure; the message says which is missing."""


def config(theme: Theme) -> Row:
    """Vega-Lite's `config` of a theme: to be put into a chart, or to be given to whatever embeds it."""
    ink = _INK[theme]
    plain = {"labelColor": ink["text"], "titleColor": ink["text"], "labelFontSize": 12, "titleFontSize": 12}
    return {
        "background": ink["page"],
        "font": "system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif",
        "axis": {
            **plain,
            "gridColor": ink["grid"],
            "domainColor": ink["muted"],
            "tickColor": ink["muted"],
            "titleFontWeight": "normal",
            "titlePadding": 8,
        },
        "legend": {**plain, "titleFontWeight": "normal", "symbolStrokeWidth": 2, "symbolSize": 120, "labelLimit": 260},
        "header": plain,
        "title": {
            "color": ink["text"],
            "subtitleColor": ink["muted"],
            "anchor": "start",
            "fontSize": 14,
            "subtitleFontSize": 12,
            "offset": 12,
        },
        "text": {"color": ink["text"]},
        # A name above lines and bands: a rim in the page's colour keeps it legible.
        "style": {"rim": {"stroke": ink["page"], "strokeWidth": 4, "strokeOpacity": 0.9, "strokeJoin": "round"}},
        "rule": {"color": ink["muted"]},
        "view": {"stroke": None},
        "range": {"category": list(COLOURS)},
    }


def finished(chart: Any, title: str, description: str, *, simulated: bool, theme: Theme | None, **more: Any) -> Spec:
    """The chart as a Vega-Lite document: its title says what is simulated, and `description` is its text for who cannot see it.

    Without a theme it has no colours of its own for text and page: what embeds it gives the `config` that fits.
    """
    words = alt.TitleParams(titled(title, simulated=simulated), **more)
    told = f"{titled(title, simulated=simulated)}. {description}"
    spec: Spec = chart.properties(title=words, description=told).to_dict()
    spec.pop("config", None)
    spec["autosize"] = {"type": "pad", "contains": "padding"}
    look = {} if theme is None else config(theme)
    spec["config"] = {**look, "legend": {**look.get("legend", {}), "layout": _LEGENDS}}
    return spec


def titled(title: str, *, simulated: bool) -> str:
    return f"{title} (simulated)" if simulated else title


def as_wide_as_its_place(spec: Spec) -> Spec:
    """The same chart, as wide as the element that it is embedded into; charts of several parts keep their width."""
    if not {"mark", "layer"} & spec.keys():
        return spec
    return {**spec, "width": "container", "autosize": {"type": "fit-x", "contains": "padding"}}


def by_row(rows: int, step: float) -> dict[str, Any]:
    """The height of a chart with a row for each of its lines; `usermeta` tells a page not to press it.

    As a number and not as a step: a chart with a step has no continuous height, and Vega-Lite warns of fitting its width.
    """
    return {"height": round(rows * step), "usermeta": {"rows": rows}}


def below(columns: int = 2, title: str | None = None, **more: Any) -> Any:
    """A legend below the chart, where it covers nothing."""
    return alt.Legend(orient="bottom", direction="horizontal", columns=columns, title=title, **more)


def told_apart(names: Sequence[str]) -> tuple[Any, Any]:
    """A colour and a dash for each name, so that lines differ in print and to who sees no colours."""
    colours = [COLOURS[place % len(COLOURS)] for place in range(len(names))]
    # After all pairs of the same place are used, the same colour comes with another dash.
    dashes = [DASHES[(place + place // len(COLOURS)) % len(DASHES)] for place in range(len(names))]
    return (
        alt.Scale(domain=list(names), range=colours),
        alt.Scale(domain=list(names), range=[list(dash) for dash in dashes]),
    )


def money_format(values: Iterable[float]) -> str:
    """d3's format that shows amounts in USD as $0.40, with as many digits as the smallest of them needs."""
    known = [abs(value) for value in values if math.isfinite(value) and value != 0]
    if not known:
        return "$,.2f"
    if min(known) >= 100:
        return "$,.0f"
    digits = max(2, 1 - math.floor(math.log10(min(known))))
    return f"$,.{min(digits, 8)}f"


def money_axis(title: str, values: Sequence[float], *, simulated: bool = False) -> dict[str, Any]:
    """Scale and axis of amounts in USD: in the logarithm where they span more than a factor of 20, labelled at 1, 2 and 5.

    Never in powers of ten: whoever pays reads $0.40.
    """
    title = titled(title, simulated=simulated)
    low, high = min(values), max(values)
    if low <= 0 or high / low <= 20:
        form = money_format([high / 4] if high > 0 else [])
        return {"scale": alt.Scale(zero=True, nice=True), "axis": alt.Axis(title=title, format=form, tickCount=6)}
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1, 2, 5) if last - first <= 3 else (1,)
    ticks = [round(step * 10.0**power, 12) for power in range(first, last + 1) for step in steps]
    ticks = [tick for tick in ticks if low / 1.6 <= tick <= high * 1.6]
    label = f"format(datum.value, datum.value >= 1 ? '$,.0f' : '{_enough(ticks)}')"
    return {
        "scale": alt.Scale(type="log", domain=[low / 1.15, high * 1.15], nice=False),
        "axis": alt.Axis(title=f"{title}, log scale", values=ticks, labelExpr=label, labelOverlap="greedy"),
    }


def _enough(ticks: Sequence[float]) -> str:
    smallest = min(ticks)
    return f"$,.{max(2, -math.floor(math.log10(smallest)))}f"


def usd(value: float | None) -> str:
    """An amount for a table: $0.40, $12.35, $1,234."""
    if value is None or not math.isfinite(value):
        return ""
    if value == 0:
        return "$0.00"
    sign, size = ("-" if value < 0 else ""), abs(value)
    digits = 0 if size >= 1000 else 2 if size >= 0.1 else min(1 - math.floor(math.log10(size)), 9)
    return f"{sign}${size:,.{digits}f}"


def percent(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{100 * value:.1f}%"


def span(low: float | None, high: float | None) -> str:
    """A 95% interval of shares for a table."""
    return "" if low is None or high is None else f"{percent(low)} … {percent(high)}"
