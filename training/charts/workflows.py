"""Workflows before and after, where their requests go, and what candidates are good and bad at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from training.charts.theme import (
    BAD,
    FIRST,
    MUTED,
    PERCENT,
    WIDTH,
    NothingToDrawError,
    Row,
    Spec,
    Theme,
    below,
    by_row,
    finished,
    money_axis,
    money_format,
    told_apart,
    usd,
)

Lines = Sequence[Mapping[str, Any]]
# The largest ones, so that bars stay readable; the table has all of them.
MOST = 20
PER = 1000.0
_BEFORE, _AFTER = "all to the reference", "routed"
_BAR = 13
# Between a candidate and a workflow, which stand in two lines.
_AND = " · "


def workflows_before_after(workflows: Lines, *, simulated: bool, theme: Theme | None = None) -> Spec:
    """What 1,000 requests of each workflow cost: all to the reference, and routed. Raises NothingToDrawError without any."""
    shown = _shown(workflows)
    rows = [
        {
            "workflow": line["workflow"],
            "way": way,
            "cost": PER * line[f"{prefix}cost_usd"],
            "quality": line[f"{prefix}quality"],
            "requests": line["requests"],
        }
        for line in shown
        for way, prefix in ((_BEFORE, "reference_"), (_AFTER, ""))
    ]
    costs = [row["cost"] for row in rows]
    axis = money_axis("USD per 1,000 requests", [0.0, *costs], simulated=simulated)
    drawn = (
        alt.Chart(alt.Data(values=rows))
        .mark_bar()
        .encode(
            x=alt.X("cost:Q", **axis),
            y=alt.Y("workflow:N", title=None, sort=[line["workflow"] for line in shown]),
            yOffset=alt.YOffset("way:N", sort=[_BEFORE, _AFTER]),
            color=alt.Color("way:N", scale=alt.Scale(domain=[_BEFORE, _AFTER], range=[MUTED, FIRST]), legend=below()),
            tooltip=[
                "workflow:N",
                "way:N",
                alt.Tooltip("cost:Q", title="USD per 1,000", format=money_format(costs)),
                alt.Tooltip("quality:Q", format=".1%"),
                alt.Tooltip("requests:Q", format=","),
            ],
        )
        .properties(width=WIDTH - 120, **by_row(len(shown), 2.5 * _BAR))
    )
    return finished(
        drawn,
        "Cost of each workflow, before and after",
        " ".join(
            f"{line['workflow']}: {usd(PER * line['reference_cost_usd'])} before, {usd(PER * line['cost_usd'])} routed."
            for line in shown
        ),
        simulated=simulated,
        theme=theme,
        subtitle=_left_out(workflows),
    )


def workflows_quality(workflows: Lines, *, simulated: bool, theme: Theme | None = None) -> Spec:
    """The quality of each workflow, all to the reference and routed, as two dots with a line between."""
    shown = _shown(workflows)
    order = [line["workflow"] for line in shown]
    rows = [
        {"workflow": line["workflow"], "way": way, "quality": line[name], "requests": line["requests"]}
        for line in shown
        for way, name in ((_BEFORE, "reference_quality"), (_AFTER, "quality"))
    ]
    spans = [{"workflow": one["workflow"], "from": one["reference_quality"], "to": one["quality"]} for one in shown]
    x = alt.X(
        "quality:Q", scale=alt.Scale(zero=False), axis=alt.Axis(title="share of acceptable answers", format=PERCENT)
    )
    y = alt.Y("workflow:N", title=None, sort=order)
    drawn = alt.layer(
        alt.Chart(alt.Data(values=spans))
        .mark_rule(strokeWidth=2, color=MUTED)
        .encode(x=alt.X("from:Q", scale=alt.Scale(zero=False)), x2="to:Q", y=y),
        alt.Chart(alt.Data(values=rows))
        .mark_point(filled=True, size=90, opacity=1)
        .encode(
            x=x,
            y=y,
            color=alt.Color("way:N", scale=alt.Scale(domain=[_BEFORE, _AFTER], range=[MUTED, FIRST]), legend=below()),
            shape=alt.Shape(
                "way:N", scale=alt.Scale(domain=[_BEFORE, _AFTER], range=["square", "circle"]), legend=below()
            ),
            tooltip=[
                "workflow:N",
                "way:N",
                alt.Tooltip("quality:Q", format=".1%"),
                alt.Tooltip("requests:Q", format=","),
            ],
        ),
    ).properties(width=WIDTH - 120, **by_row(len(shown), 22))
    return finished(
        drawn,
        "Quality of each workflow, before and after",
        " ".join(
            f"{line['workflow']}: {line['reference_quality']:.1%} before, {line['quality']:.1%} routed."
            for line in shown
        ),
        simulated=simulated,
        theme=theme,
        subtitle=_left_out(workflows),
    )


def shares(workflows: Lines, *, simulated: bool, theme: Theme | None = None) -> Spec:
    """Where each workflow's requests go at the operating point, as stacked bars."""
    shown = _shown(workflows)
    names = list(shown[0]["share"])
    colour, _ = told_apart(names)
    rows = [
        {"workflow": line["workflow"], "candidate": name, "share": share, "place": place}
        for line in shown
        for place, (name, share) in enumerate(line["share"].items())
        if share > 0
    ]
    drawn = (
        alt.Chart(alt.Data(values=rows))
        .mark_bar(stroke="white", strokeWidth=0.6)
        .encode(
            x=alt.X(
                "share:Q", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(title="share of requests", format=PERCENT)
            ),
            y=alt.Y("workflow:N", title=None, sort=[line["workflow"] for line in shown]),
            color=alt.Color("candidate:N", scale=colour, legend=below()),
            order="place:Q",
            tooltip=["workflow:N", "candidate:N", alt.Tooltip("share:Q", format=".1%")],
        )
        .properties(width=WIDTH - 120, **by_row(len(shown), 22))
    )
    words = " ".join(f"{line['workflow']}: mostly {max(line['share'], key=line['share'].get)}." for line in shown)
    return finished(
        drawn,
        "Where each workflow's requests go",
        words,
        simulated=simulated,
        theme=theme,
        subtitle=_left_out(workflows),
    )


def profile(profiles: Sequence[Mapping[str, Any]], *, simulated: bool, theme: Theme | None = None) -> Spec:
    """What each candidate is best and worst at: how its share of acceptable answers differs from the candidates' mean there."""
    rows: list[Row] = [
        {
            "at": f"{one['candidate'].split('/')[-1]}{_AND}{found['workflow']}",
            "candidate": one["candidate"],
            **{name: found[name] for name in ("workflow", "quality", "n")},
            **{name: 100 * found[name] for name in ("gap", "low", "high")},
            "kind": "better than the others" if found["gap"] > 0 else "worse than the others",
        }
        for one in profiles
        for found in (*one["best"], *reversed(one["worst"]))
        if found["low"] > 0 or found["high"] < 0
    ]
    if not rows:
        raise NothingToDrawError(
            "nothing stands out: in no workflow do two candidates with ten judged answers each differ by more than chance"
        )
    kinds = ["better than the others", "worse than the others"]
    y = alt.Y(
        "at:N",
        title=None,
        sort=[row["at"] for row in rows],
        axis=alt.Axis(labelLimit=200, labelExpr=f"split(datum.label, '{_AND}')"),
    )
    base = alt.Chart(alt.Data(values=rows))
    colour = alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=[FIRST, BAD]), legend=below(columns=1))
    drawn = alt.layer(
        alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(strokeDash=[4, 3]).encode(x="zero:Q"),
        base.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q", y=y, color=colour),
        base.mark_point(filled=True, size=70, opacity=1).encode(
            x=alt.X(
                "gap:Q",
                axis=alt.Axis(
                    title=["points above or below", "the candidates' mean"],
                    format="+d",
                    tickCount=4,
                    labelOverlap=True,
                    labelFlush=False,
                ),
            ),
            y=y,
            color=colour,
            shape=alt.Shape(
                "kind:N", scale=alt.Scale(domain=kinds, range=["circle", "square"]), legend=below(columns=1)
            ),
            tooltip=[
                "candidate:N",
                "workflow:N",
                alt.Tooltip("quality:Q", format=".1%"),
                alt.Tooltip("gap:Q", title="points", format="+.1f"),
                alt.Tooltip("n:Q", title="judged", format=","),
            ],
        ),
    ).properties(width=WIDTH - 180, **by_row(len(rows), 34))
    words = " ".join(f"{row['candidate']} is {row['kind']} at {row['workflow']}." for row in rows)
    return finished(
        drawn,
        "What each candidate is good and bad at",
        words,
        simulated=simulated,
        theme=theme,
        subtitle="Share of acceptable answers, with 95% intervals",
    )


def _shown(workflows: Lines) -> Lines:
    if not workflows:
        raise NothingToDrawError(
            "no test request has a known outcome of every candidate, so that no workflow has figures"
        )
    return workflows[:MOST]


def _left_out(workflows: Lines) -> str:
    return f"The {MOST} largest of {len(workflows)} workflows" if len(workflows) > MOST else ""
