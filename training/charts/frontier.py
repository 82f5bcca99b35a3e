"""Cost against quality: a bundle's frontier, the same with a slider, and two bundles' together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from training.charts.theme import (
    FIRST,
    HEIGHT,
    MUTED,
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
    percent,
    told_apart,
    usd,
)

ROUTER = "outcome-router"
# Amounts are per so many requests.
PER = 1000.0
_COST = "USD per 1,000 requests"
_QUALITY = "share of acceptable answers"
# Where a label stands to its point: the default point's above it, candidates' below, inside the chart at its right end.
_SIDES = {"right": ("left", "top", 7, 5), "left": ("right", "top", -7, 5), "above": ("right", "bottom", 4, -12)}
_GUARDED = f"{ROUTER}, guarded"
_CERTIFIED, _UNCERTIFIED, _SINGLE = "operating point, certified", "operating point, not certified", "single candidate"


def frontier(document: Mapping[str, Any], *, simulated: bool | None = None, theme: Theme | None = None) -> Spec:
    """A bundle's `frontier.json`: the router with its 95% band, baselines, single candidates and operating points.

    Raises NothingToDrawError where nothing was measured.
    """
    simulated = bool(document["simulated"]) if simulated is None else simulated
    band, lines, dots = _band(document), _lines(document), _dots(document)
    costs = [row["cost"] for row in (*band, *lines, *dots)]
    middle = (max(costs) * max(min(costs), 1e-9)) ** 0.5
    for row in dots:
        row["side"] = "above" if row["default"] else "left" if row["cost"] > middle else "right"
    x = alt.X("cost:Q", **money_axis(_COST, costs, simulated=simulated))
    y = alt.Y("quality:Q", scale=alt.Scale(zero=False), axis=alt.Axis(title=_objective(document), format=PERCENT))
    names = list(dict.fromkeys(row["router"] for row in lines))
    colour, dash = told_apart(names)
    form = money_format(costs)
    tips = [
        alt.Tooltip("name:N", title="what"),
        alt.Tooltip("cost:Q", title=_COST, format=form),
        alt.Tooltip("quality:Q", title="quality", format=".1%"),
        alt.Tooltip("interval:N", title="quality, 95%"),
        alt.Tooltip("saving:N", title="saving"),
    ]
    drawn = alt.layer(
        alt.Chart(alt.Data(values=band)).mark_area(color=FIRST, opacity=0.16).encode(x=x, y="low:Q", y2="high:Q"),
        alt.Chart(alt.Data(values=lines))
        .mark_line(strokeWidth=2)
        .encode(
            x=x,
            y=y,
            color=alt.Color("router:N", scale=colour, legend=below(symbolType="stroke")),
            strokeDash=alt.StrokeDash("router:N", scale=dash, legend=below(symbolType="stroke")),
            order="order:Q",
            tooltip=[alt.Tooltip("router:N"), *tips[1:3]],
        ),
        alt.Chart(alt.Data(values=[row for row in dots if row["low"] is not None]))
        .mark_rule(strokeWidth=1, opacity=0.7)
        .encode(x=x, y="low:Q", y2="high:Q"),
        alt.Chart(alt.Data(values=dots))
        .mark_point(filled=True, size=90, opacity=1, stroke="white", strokeWidth=0.5)
        .encode(
            x=x,
            y=y,
            shape=alt.Shape(
                "kind:N",
                scale=alt.Scale(domain=[_CERTIFIED, _UNCERTIFIED, _SINGLE], range=["diamond", "triangle-up", "circle"]),
                legend=below(3),
            ),
            fill=alt.Fill(
                "kind:N",
                scale=alt.Scale(domain=[_CERTIFIED, _UNCERTIFIED, _SINGLE], range=["#2a9464", "#d1495b", MUTED]),
                legend=below(3),
            ),
            size=alt.condition("datum.default", alt.value(240), alt.value(80)),
            tooltip=tips,
        ),
        *(
            alt.Chart(alt.Data(values=[row for row in dots if row["label"] and row["side"] == side]))
            .mark_text(align=align, baseline=baseline, dx=dx, dy=dy, fontSize=11)
            .encode(x=x, y=y, text="label:N")
            for side, (align, baseline, dx, dy) in _SIDES.items()
        ),
    )
    return finished(
        drawn.properties(width=WIDTH, height=HEIGHT),
        "Cost and quality",
        _words(document),
        simulated=simulated,
        theme=theme,
        subtitle=_basis(document),
    )


def frontier_table(document: Mapping[str, Any]) -> list[Row]:
    """What the chart shows, a row for each operating point, candidate and place of the knob."""
    rows = [{**row, "kind": row["kind"]} for row in _dots(document)]
    return rows + [
        {**row, "kind": f"knob at {_place(mark)}", "name": ROUTER}
        for row, mark in zip(_band(document), _by_cost(document), strict=True)
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
        band += [{**row, "bundle": name} for row in _band(document)]
        dots += [{**row, "bundle": name} for row in _dots(document) if row["default"]]
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


def _by_cost(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The sweep's marks by rising cost, the same place once. Raises NothingToDrawError where there is none."""
    if not document.get("sweep"):
        raise NothingToDrawError(f"nothing was measured along the knob: {document.get('why_not')}")
    places = {(mark["cost_usd"], mark["quality"]): mark for mark in document["sweep"]}
    return [places[place] for place in sorted(places)]


def _band(document: Mapping[str, Any]) -> list[Row]:
    return [
        {
            "order": order,
            "cost": PER * mark["cost_usd"],
            "quality": mark["quality"],
            "low": mark["quality_low"],
            "high": mark["quality_high"],
            "saving": percent(mark["saving"]) or "not known",
        }
        for order, mark in enumerate(_by_cost(document))
    ]


def _lines(document: Mapping[str, Any]) -> list[Row]:
    """The router as it was swept, and the hulls of what it is compared with."""
    rows = [
        {"router": ROUTER, "order": row["order"], "cost": row["cost"], "quality": row["quality"]}
        for row in _band(document)
    ]
    guarded = sorted(document["guarded"], key=lambda mark: mark["cost_usd"])
    rows += [
        {"router": _GUARDED, "order": order, "cost": PER * mark["cost_usd"], "quality": mark["quality"]}
        for order, mark in enumerate(guarded)
    ]
    for name, curve in document["curves"].items():
        if name != ROUTER:
            rows += [
                {"router": name, "order": order, "cost": PER * cost, "quality": quality}
                for order, (cost, quality) in enumerate(zip(curve["cost_usd"], curve["quality"], strict=True))
            ]
    return rows


def _dots(document: Mapping[str, Any]) -> list[Row]:
    """Single candidates and operating points, the default one last, so that it lies above the others."""
    rows = [_dot(one["candidate"], _SINGLE, one, label=one["candidate"].split("/")[-1]) for one in document["singles"]]
    points: Sequence[Mapping[str, Any]] = sorted(document["points"], key=lambda point: point["default"])
    for point in points:
        if point["test"] is not None:
            kind = _CERTIFIED if point["certified"] else _UNCERTIFIED
            label = point["name"] if point["default"] else ""
            rows.append(_dot(point["name"], kind, point["test"], label=label, default=point["default"]))
    return rows


def _dot(name: str, kind: str, found: Mapping[str, Any], *, label: str, default: bool = False) -> Row:
    low, high = found.get("quality_low"), found.get("quality_high")
    return {
        "name": name,
        "kind": kind,
        "cost": PER * found["cost_usd"],
        "quality": found["quality"],
        "low": low,
        "high": high,
        "interval": "" if low is None or high is None else f"{low:.1%} … {high:.1%}",
        "saving": percent(found["saving"]) or "not known",
        "label": label,
        "default": default,
    }


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
