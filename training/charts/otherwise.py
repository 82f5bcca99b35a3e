"""What moves when something is otherwise: a frontier beside the one of today, with a slider that needs no kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from training.charts.points import PER, band_rows
from training.charts.theme import (
    FIRST,
    HEIGHT,
    MUTED,
    PERCENT,
    SECOND,
    WIDTH,
    NothingToDrawError,
    Row,
    Spec,
    Theme,
    finished,
    money_axis,
    percent,
    usd,
)

# Each step: what it is called, and the document of what comes of it.
Steps = Sequence[tuple[str, Mapping[str, Any]]]


def otherwise(
    steps: Steps,
    *,
    simulated: bool,
    slider: str = "step",
    title: str = "What moves",
    today: Mapping[str, Any] | None = None,
    begin: str | None = None,
    theme: Theme | None = None,
) -> Spec:
    """The frontier at each step of a slider, in front of today's (by default the first step's) in grey.

    The slider begins at the step that is called `begin`, or at the first.

    Raises NothingToDrawError where no step has a frontier.
    """
    known = [(name, document) for name, document in steps if document["sweep"]]
    if not known:
        raise NothingToDrawError(f"there is no frontier to move: {steps[0][1].get('why_not') if steps else 'no step'}")
    today = known[0][1] if today is None else today
    rows = [row | {"step": place} for place, (_, document) in enumerate(known) for row in band_rows(document)]
    dots = [row | {"step": place} for place, (name, document) in enumerate(known) for row in _dot(name, document)]
    before, now = band_rows(today), _dot("today", today)
    costs = [row["cost"] for row in (*rows, *dots, *before, *now)]
    x = alt.X("cost:Q", **money_axis("USD per 1,000 requests", costs, simulated=simulated))
    y = alt.Y("quality:Q", scale=alt.Scale(zero=False), axis=alt.Axis(title="quality", format=PERCENT))
    bind = alt.binding_range(min=0, max=len(known) - 1, step=1, name=slider)
    first = next((place for place, (name, _) in enumerate(known) if name == begin), 0)
    place = alt.param(name="step_shown", value=first, bind=bind)
    here = alt.datum.step == place
    old, new, marked = (alt.Chart(alt.Data(values=part)) for part in (before, rows, dots))
    drawn = alt.layer(
        old.mark_line(color=MUTED, strokeWidth=1.5, strokeDash=[5, 3]).encode(x=x, y=y, order="order:Q"),
        alt.Chart(alt.Data(values=now)).mark_point(color=MUTED, filled=True, size=110, opacity=1).encode(x=x, y=y),
        new.mark_area(color=FIRST, opacity=0.14).encode(x=x, y="low:Q", y2="high:Q").transform_filter(here),
        new.mark_line(color=FIRST, strokeWidth=2).encode(x=x, y=y, order="order:Q").transform_filter(here),
        marked.mark_point(color=SECOND, filled=True, size=170, opacity=1).encode(x=x, y=y).transform_filter(here),
        marked.mark_text(align="left", baseline="top", fontSize=13, fontWeight="bold")
        .encode(x=alt.value(4), y=alt.value(4), text="label:N")
        .transform_filter(here),
    ).add_params(place)
    words = " ".join(f"{row['label']}." for row in dots)
    return finished(
        drawn.properties(width=WIDTH, height=HEIGHT),
        title,
        words,
        simulated=simulated,
        theme=theme,
        subtitle="Dashed and grey: today. Blue: as it would be, with its 95% band; the dot is the default operating point",
    )


def otherwise_rows(steps: Steps) -> list[Row]:
    """What each step comes to at the default operating point."""
    return [{"step": name} | row for name, document in steps for row in _dot(name, document)]


def _dot(name: str, document: Mapping[str, Any]) -> list[Row]:
    found = next((point["test"] for point in document["points"] if point["default"] and point["test"]), None)
    if found is None:
        return []
    cost = PER * found["cost_usd"]
    label = f"{name}: {usd(cost)} · quality {found['quality']:.1%} · saving {percent(found['saving']) or 'not known'}"
    return [{"cost": cost, "quality": found["quality"], "saving": found["saving"], "label": label}]
