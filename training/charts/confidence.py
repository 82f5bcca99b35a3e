"""Whether a stated chance comes true, and what is risked by deciding on more requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from training.charts.theme import FIRST, MUTED, PERCENT, NothingToDrawError, Row, Spec, Theme, finished, titled

Bins = Sequence[Mapping[str, Any]]
_SIDE = 340


def reliability(bins: Bins, *, simulated: bool, of: str = "all", theme: Theme | None = None) -> Spec:
    """Stated against observed chance of an acceptable answer, in bins with 95% intervals; `of` whom, the title says.

    Raises NothingToDrawError without bins.
    """
    if not bins:
        raise NothingToDrawError("no outcome was judged, so that no stated chance can be held against one")
    rows = [dict(one) for one in bins]
    outcomes = sum(row["n"] for row in rows)
    return finished(
        _diagram(rows, simulated=simulated).properties(width=_SIDE, height=_SIDE),
        _title(of),
        _words(rows),
        simulated=simulated,
        theme=theme,
        subtitle=f"{outcomes:,} judged outcomes in {_bins(len(rows))}; of 20 intervals (95%) about one misses",
    )


def reliability_by_candidate(
    parts: Mapping[str, Bins], *, simulated: bool, theme: Theme | None = None, columns: int = 2
) -> Spec:
    """The same for each candidate, one small diagram each."""
    shown = {name: bins for name, bins in parts.items() if bins}
    if not shown:
        raise NothingToDrawError("no outcome of any candidate was judged")
    many = [
        _diagram([dict(one) for one in bins], simulated=simulated).properties(
            width=200, height=200, title=f"{name} ({sum(one['n'] for one in bins):,})"
        )
        for name, bins in shown.items()
    ]
    return finished(
        alt.concat(*many, columns=columns),
        "Does a stated chance come true? By candidate",
        " ".join(f"{name}: {_words(bins)}" for name, bins in shown.items()),
        simulated=simulated,
        theme=theme,
        subtitle="In brackets the judged outcomes; 95% intervals",
    )


def risk_coverage(marks: Sequence[Mapping[str, Any]], *, simulated: bool, theme: Theme | None = None) -> Spec:
    """The share whose answer is not acceptable among the most confident decisions, with its 95% band."""
    if not marks:
        raise NothingToDrawError("too few of the chosen answers were judged to tell risk by coverage")
    rows = [dict(one) for one in marks]
    x = alt.X("coverage:Q", axis=alt.Axis(title="share of requests decided, the most confident first", format=PERCENT))
    base = alt.Chart(alt.Data(values=rows))
    y = alt.Y("risk:Q", axis=alt.Axis(title=titled("share not acceptable", simulated=simulated), format=PERCENT))
    tips = [
        alt.Tooltip("coverage:Q", format=".0%"),
        alt.Tooltip("risk:Q", format=".1%"),
        alt.Tooltip("low:Q", format=".1%"),
        alt.Tooltip("high:Q", format=".1%"),
    ]
    drawn = alt.layer(
        base.mark_area(color=FIRST, opacity=0.18).encode(x=x, y="low:Q", y2="high:Q"),
        base.mark_line(color=FIRST, strokeWidth=2, point={"color": FIRST, "size": 30}).encode(x=x, y=y, tooltip=tips),
    ).properties(width=480, height=280)
    half = min(rows, key=lambda row: abs(row["coverage"] - 0.5))
    return finished(
        drawn,
        "What is risked by deciding more",
        f"Of the most confident half {half['risk']:.1%} are not acceptable, of all {rows[-1]['risk']:.1%}.",
        simulated=simulated,
        theme=theme,
        subtitle="Of requests whose chosen answer was judged; 95% band",
    )


def _diagram(rows: list[Row], *, simulated: bool) -> Any:
    square = alt.Scale(domain=[0, 1], nice=False)
    x = alt.X(
        "p:Q",
        scale=square,
        axis=alt.Axis(title=titled("stated P(acceptable)", simulated=simulated), format=PERCENT, tickCount=5),
    )
    y = alt.Y("y:Q", scale=square, axis=alt.Axis(title="observed share acceptable", format=PERCENT, tickCount=5))
    base = alt.Chart(alt.Data(values=rows))
    tips = [
        alt.Tooltip("p:Q", title="stated", format=".1%"),
        alt.Tooltip("y:Q", title="observed", format=".1%"),
        alt.Tooltip("y_low:Q", title="95% from", format=".1%"),
        alt.Tooltip("y_high:Q", title="to", format=".1%"),
        alt.Tooltip("n:Q", title="outcomes", format=","),
    ]
    return alt.layer(
        alt.Chart(alt.Data(values=[{"p": 0, "y": 0}, {"p": 1, "y": 1}]))
        .mark_line(color=MUTED, strokeDash=[6, 4], strokeWidth=1)
        .encode(x=x, y=y),
        base.mark_rule(color=FIRST, strokeWidth=2, opacity=0.6).encode(x=x, y="y_low:Q", y2="y_high:Q"),
        base.mark_line(color=FIRST, strokeWidth=1, opacity=0.7).encode(x=x, y=y),
        base.mark_point(color=FIRST, filled=True, size=60, opacity=1).encode(x=x, y=y, tooltip=tips),
    )


def _title(of: str) -> str:
    kinds = {"all": "all candidates", "chosen": "the chosen candidates"}
    return f"Does a stated chance come true? Of {kinds.get(of, of)}"


def _bins(n: int) -> str:
    return "one bin" if n == 1 else f"{n} bins of equal size"


def _words(bins: Bins) -> str:
    inside = sum(one["y_low"] <= one["p"] <= one["y_high"] for one in bins)
    if len(bins) == 1:
        return f"The stated chance lies {'within' if inside else 'outside'} the 95% interval of the observed share."
    return f"In {inside} of {len(bins)} bins the stated chance lies within the 95% interval of the observed share."
