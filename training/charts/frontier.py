"""Cost against quality: a bundle's frontier, the same with a slider, and two bundles' together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from training.charts.labels import FONT_SIZE, NARROW_BELOW, Axes, of_shares, placed
from training.charts.points import (
    DOMINATED,
    LOOKS,
    OTHERS,
    PER,
    ROUTER,
    band_rows,
    by_cost,
    dot_rows,
    line_rows,
    look,
    rank,
)
from training.charts.theme import (
    FIRST,
    HEIGHT,
    PERCENT,
    WIDTH,
    NothingToDrawError,
    Row,
    Spec,
    Theme,
    below,
    finished,
    money_axis,
    money_format,
    told_apart,
    usd,
)

_COST = "USD per 1,000 requests"
_QUALITY = "share of acceptable answers"


def frontier(document: Mapping[str, Any], *, simulated: bool | None = None, theme: Theme | None = None) -> Spec:
    """A bundle's `frontier.json`: the router with its 95% band, the best baseline, the oracle, the candidates than which none
    is both cheaper and better, and the operating points. What else was swept or answered is there in grey, without a name.

    Raises NothingToDrawError where nothing was measured.
    """
    simulated = bool(document["simulated"]) if simulated is None else simulated
    band, lines, dots = band_rows(document), line_rows(document), dot_rows(document)
    costs = [row["cost"] for row in (*band, *lines, *dots)]
    ends = of_shares(
        value for row in (*band, *lines, *dots) for value in (row["quality"], row.get("low"), row.get("high")) if value
    )
    x = alt.X("cost:Q", **money_axis(_COST, costs, simulated=simulated))
    shares = alt.Scale(domain=list(ends), nice=False, zero=False)
    y = alt.Y("quality:Q", scale=shares, axis=alt.Axis(title=_objective(document), format=PERCENT))
    names = sorted({row["series"] for row in lines}, key=rank)
    looks = [look(name) for name in names]
    form = money_format(costs)
    tips = [
        alt.Tooltip("name:N", title="what"),
        alt.Tooltip("cost:Q", title=_COST, format=form),
        alt.Tooltip("quality:Q", title="quality", format=".1%"),
        alt.Tooltip("interval:N", title="quality, 95%"),
        alt.Tooltip("saving:N", title="saving"),
    ]
    kinds = [one for one in LOOKS if any(row["kind"] == one for row in dots)]
    by_kind = {"domain": kinds, "range": [LOOKS[one][1] for one in kinds]}
    chosen = alt.selection_point(name="series", fields=["series"], bind="legend", toggle="true")
    drawn = alt.layer(
        alt.Chart(alt.Data(values=band))
        .mark_area(color=FIRST, opacity=0.16)
        .encode(x=x, y=alt.Y("low:Q"), y2="high:Q"),
        alt.Chart(alt.Data(values=lines))
        .mark_line()
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "series:N",
                scale=alt.Scale(domain=names, range=[colour for colour, _ in looks]),
                legend=below(symbolType="stroke"),
            ),
            strokeDash=alt.StrokeDash(
                "series:N",
                scale=alt.Scale(domain=names, range=[list(dash) for _, dash in looks]),
                legend=below(symbolType="stroke"),
            ),
            strokeWidth=alt.condition(f"datum.series === '{OTHERS}'", alt.value(1), alt.value(2.5)),
            opacity=alt.condition(chosen, alt.value(0.9), alt.value(0.06)),
            detail="router:N",
            order="order:Q",
            tooltip=[alt.Tooltip("router:N"), *tips[1:3]],
        )
        .add_params(chosen),
        alt.Chart(alt.Data(values=[row for row in dots if row["low"] is not None and row["label"]]))
        .mark_rule(strokeWidth=1, opacity=0.7)
        .encode(x=x, y="low:Q", y2="high:Q"),
        alt.Chart(alt.Data(values=dots))
        .mark_point(filled=True, strokeWidth=0.5, stroke="white")
        .encode(
            x=x,
            y=y,
            shape=alt.Shape(
                "kind:N", scale=alt.Scale(domain=kinds, range=[LOOKS[one][0] for one in kinds]), legend=below(2)
            ),
            fill=alt.Fill("kind:N", scale=alt.Scale(**by_kind), legend=below(2)),
            size=alt.condition("datum.default", alt.value(240), alt.value(80)),
            opacity=alt.condition("datum.kind === '" + DOMINATED + "'", alt.value(0.45), alt.value(1)),
            tooltip=tips,
        ),
        *_names(band, lines, dots, x, y, ends),
    )
    return finished(
        drawn.properties(width=WIDTH, height=HEIGHT),
        "Cost and quality",
        _words(document),
        simulated=simulated,
        theme=theme,
        subtitle=_basis(document),
    )


def _names(
    band: Sequence[Row],
    lines: Sequence[Row],
    dots: Sequence[Row],
    x: alt.X,
    y: alt.Y,
    ends: tuple[float, float],
) -> list[Any]:
    """The names of points and lines where they are free of both, on a rim in the page's colour."""
    scale = x.to_dict()["scale"]
    costs = [row["cost"] for row in (*band, *lines, *dots)]
    log = scale.get("type") == "log"
    axes = Axes(tuple(scale["domain"]) if log else (0.0, 1.08 * max(costs)), ends, log)
    paths: dict[str, list[tuple[float, float]]] = {}
    for row in lines:
        paths.setdefault(row["router"], []).append((row["cost"], row["quality"]))
    whiskers = [
        [(row["cost"], row["low"]), (row["cost"], row["high"])]
        for row in dots
        if row["label"] and row["low"] is not None
    ]
    by_weight = sorted(
        (row for row in dots if row["label"]), key=lambda row: (not row["default"], not row["reference"])
    )
    names = [(row["label"], [(row["cost"], row["quality"])]) for row in by_weight]
    if "oracle" in paths:
        names.insert(1, ("oracle", paths["oracle"][::-1]))
    rows = placed(names, [*paths.values(), *whiskers], [(row["cost"], row["quality"]) for row in dots], axes)
    there = f"datum.narrow === (width < {NARROW_BELOW})"
    place = {one: alt.ExprRef(f"datum.{one}") for one in ("align", "baseline", "dx", "dy")}
    chart = alt.Chart(alt.Data(values=rows))
    return [
        chart.mark_text(fontSize=FONT_SIZE, **place, **more).encode(
            x=x, y=y, text="label:N", opacity=alt.condition(there, alt.value(1), alt.value(0))
        )
        for more in ({"style": "rim"}, {})
    ]


def frontier_table(document: Mapping[str, Any]) -> list[Row]:
    """What the chart shows, a row for each operating point, candidate and place of the knob."""
    rows = [{**row, "kind": row["kind"]} for row in dot_rows(document)]
    return rows + [
        {**row, "kind": f"knob at {_place(mark)}", "name": ROUTER}
        for row, mark in zip(band_rows(document), by_cost(document), strict=True)
    ]


def knob(
    document: Mapping[str, Any], *, guarded: bool = False, simulated: bool | None = None, theme: Theme | None = None
) -> Spec:
    """The frontier with a slider that moves the router along it, and where the requests go then; it needs no kernel.

    With `guarded`, along the knob that certificates are about, which begins at the reference.
    """
    simulated = bool(document["simulated"]) if simulated is None else simulated
    marks = list(document["guarded" if guarded else "sweep"])
    if not marks:
        raise NothingToDrawError(f"there is no sweep of the knob: {document.get('why_not')}")
    marks.sort(key=lambda mark: mark["cost_usd"])
    rows = [
        {
            "place": place,
            "cost": PER * mark["cost_usd"],
            "quality": mark["quality"],
            "low": mark["quality_low"],
            "high": mark["quality_high"],
            "label": f"{usd(PER * mark['cost_usd'])} · quality {mark['quality']:.1%} · saving {mark['saving']:.1%}"
            + ("" if mark["violation_rate"] is None else f" · {mark['violation_rate']:.1%} violate"),
        }
        for place, mark in enumerate(marks)
    ]
    shares = [
        {"place": place, "candidate": name, "share": share}
        for place, mark in enumerate(marks)
        for name, share in mark["shares"].items()
    ]
    default = next((point for point in document["points"] if point["default"]), None)
    at = (default or {}).get("test")
    begin = (
        min(range(len(marks)), key=lambda place: abs(marks[place]["cost_usd"] - at["cost_usd"]))
        if at
        else len(marks) - 1
    )
    name = "cheaper  ↔  better"
    slider = alt.param(name="place", value=begin, bind=alt.binding_range(min=0, max=len(marks) - 1, step=1, name=name))
    here = alt.datum.place == slider
    x = alt.X("cost:Q", **money_axis(_COST, [row["cost"] for row in rows], simulated=simulated))
    y = alt.Y("quality:Q", scale=alt.Scale(zero=False), axis=alt.Axis(title=_objective(document), format=PERCENT))
    base = alt.Chart(alt.Data(values=rows))
    curve = alt.layer(
        base.mark_area(color=FIRST, opacity=0.16).encode(x=x, y="low:Q", y2="high:Q"),
        base.mark_line(color=FIRST, strokeWidth=2).encode(x=x, y=y, order="place:Q"),
        base.mark_point(filled=True, color="#d1495b", size=180, opacity=1).encode(x=x, y=y).transform_filter(here),
        base.mark_text(align="left", baseline="top", fontSize=13, fontWeight="bold")
        .encode(x=alt.value(4), y=alt.value(4), text="label:N")
        .transform_filter(here),
    ).properties(width=WIDTH, height=HEIGHT - 40)
    bars = (
        alt.Chart(alt.Data(values=shares))
        .mark_bar(color=FIRST)
        .encode(
            x=alt.X(
                "share:Q", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(title="share of requests", format=PERCENT)
            ),
            y=alt.Y("candidate:N", title=None, sort=sorted(marks[0]["shares"])),
            tooltip=["candidate:N", alt.Tooltip("share:Q", format=".1%")],
        )
        .transform_filter(here)
        .properties(width=WIDTH, height=alt.Step(20))
    )
    kind = (
        "the guarded knob, which certificates are about"
        if guarded
        else "the knob (cost_quality), without a certificate"
    )
    return finished(
        alt.vconcat(curve, bars).add_params(slider),
        "Along the frontier",
        f"A slider moves along {kind}. {_words(document)}",
        simulated=simulated,
        theme=theme,
        subtitle=f"By {kind}",
    )


def two_frontiers(
    first: Mapping[str, Any], second: Mapping[str, Any], *, simulated: bool | None = None, theme: Theme | None = None
) -> Spec:
    """The frontiers of two bundles, each on its own test part, with their default operating points."""
    simulated = bool(first["simulated"] or second["simulated"]) if simulated is None else simulated
    names = [first["version"], second["version"]]
    if names[0] == names[1]:
        names = [f"{names[0]} (first)", f"{names[1]} (second)"]
    band: list[Row] = []
    dots: list[Row] = []
    for name, document in zip(names, (first, second), strict=True):
        band += [{**row, "bundle": name} for row in band_rows(document)]
        dots += [{**row, "bundle": name} for row in dot_rows(document) if row["default"]]
    costs = [row["cost"] for row in (*band, *dots)]
    colour, dash = told_apart(names)
    x = alt.X("cost:Q", **money_axis(_COST, costs, simulated=simulated))
    y = alt.Y("quality:Q", scale=alt.Scale(zero=False), axis=alt.Axis(title=_objective(first), format=PERCENT))
    legend = below(1, labelLimit=420, symbolOpacity=1, symbolType="stroke")
    by = alt.Color("bundle:N", scale=colour, legend=legend)
    tips = [
        "bundle:N",
        alt.Tooltip("cost:Q", title=_COST, format=money_format(costs)),
        alt.Tooltip("quality:Q", format=".1%"),
    ]
    drawn = alt.layer(
        alt.Chart(alt.Data(values=band)).mark_area(opacity=0.14).encode(x=x, y="low:Q", y2="high:Q", color=by),
        alt.Chart(alt.Data(values=band))
        .mark_line(strokeWidth=2)
        .encode(
            x=x,
            y=y,
            color=by,
            strokeDash=alt.StrokeDash("bundle:N", scale=dash, legend=None),
            order="order:Q",
            tooltip=tips,
        ),
        alt.Chart(alt.Data(values=dots))
        .mark_point(filled=True, shape="diamond", size=220, opacity=1)
        .encode(x=x, y=y, color=by, tooltip=tips),
    ).properties(width=WIDTH, height=HEIGHT)
    words = f"{names[0]}: {_words(first)} {names[1]}: {_words(second)}"
    return finished(
        drawn,
        "Two bundles",
        words,
        simulated=simulated,
        theme=theme,
        subtitle="Each on its own test part; the diamonds are the default operating points",
    )


def _objective(document: Mapping[str, Any]) -> str:
    return "mean quality" if document.get("objective") == "quality" else _QUALITY


def _place(mark: Mapping[str, Any]) -> str:
    place = mark.get("cost_quality")
    return "" if place is None else f"cost_quality {place:.1f}"


def _basis(document: Mapping[str, Any]) -> str:
    requests = f"{document['basis_requests']:,} test requests"
    if document["basis"] == "doubly robust":
        return f"Estimated (doubly robust) from {requests} worth {document['effective_requests']:,.0f}; bands are 95%"
    return f"On {requests} that every candidate answered; bands are 95%"


def _words(document: Mapping[str, Any]) -> str:
    """The chart in a sentence or two, for who cannot see it."""
    default = next((point for point in document["points"] if point["default"]), None)
    if default is None or default["test"] is None:
        return f"{_basis(document)}."
    test = default["test"]
    return (
        f"{_basis(document)}. At {default['name']} 1,000 requests cost {usd(PER * test['cost_usd'])} at a quality of "
        f"{test['quality']:.1%}, {test['saving']:.1%} less than all to {document['reference']}."
    )
