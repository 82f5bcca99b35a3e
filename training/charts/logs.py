"""A log before anything is trained on it, and what was saved since: cost by workflow and candidate, drift, savings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from serving.account.savings import Method
from serving.bundle.manifest import NO_WORKFLOW
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
    finished,
    money_format,
    titled,
    told_apart,
    usd,
)

PER = 1000.0
# The largest ones; the table has all of them.
MOST = 20
# A log that spans no more days is told by the day, a longer one by the week.
_DAYS = 35
_WHAT = {
    "requests": "requests",
    "quality": "mean judged quality",
    "cost": "USD per 1,000 calls",
}


def costs_by_workflow_and_candidate(frame: pd.DataFrame, *, simulated: bool, theme: Theme | None = None) -> Spec:
    """What 1,000 calls cost, by workflow and candidate; `frame` is an outcome table. Raises NothingToDrawError."""
    rows = cost_rows(frame)
    order = [str(name) for name in _workflows(frame).value_counts().index[:MOST]]
    shown = [row for row in rows if row["workflow"] in order]
    costs = [row["cost"] for row in shown]
    middle = (max(costs) * max(min(costs), 1e-9)) ** 0.5
    x = alt.X("candidate:N", title=None, axis=alt.Axis(labelAngle=-35, labelLimit=180))
    y = alt.Y("workflow:N", title=None, sort=order)
    wide = min(costs) > 0 and max(costs) / min(costs) > 20
    form = money_format([max(min(costs), max(costs) / 1000)])
    base = alt.Chart(alt.Data(values=shown)).encode(x=x, y=y)
    drawn = alt.layer(
        base.mark_rect(stroke="white", strokeWidth=1).encode(
            color=alt.Color(
                "cost:Q",
                scale=alt.Scale(scheme="blues", type="log" if wide else "linear"),
                legend=None,
            ),
            tooltip=[
                "workflow:N",
                "candidate:N",
                alt.Tooltip("cost:Q", title="USD per 1,000 calls", format=form),
                alt.Tooltip("calls:Q", format=","),
            ],
        ),
        base.mark_text(fontSize=11).encode(
            text="label:N",
            color=alt.condition(
                f"datum.cost > {middle * 2 if wide else max(costs) * 0.6}", alt.value("white"), alt.value("#10202e")
            ),
        ),
    ).properties(width=alt.Step(86), height=alt.Step(26))
    dearest = max(shown, key=lambda row: float(row["cost"]))
    return finished(
        drawn,
        "What 1,000 calls cost, by workflow and candidate",
        f"The dearest are {dearest['workflow']} at {dearest['candidate']}: {dearest['label']}.",
        simulated=simulated,
        theme=theme,
        subtitle=f"Mean of the calls whose cost is known, {_share(frame['cost_usd'].notna())} of all",
    )


def cost_rows(frame: pd.DataFrame) -> list[Row]:
    """Workflow, candidate, how many calls have a cost, and what 1,000 of them cost."""
    known = pd.DataFrame(
        {"workflow": _workflows(frame), "candidate": frame["candidate"], "cost": frame["cost_usd"]}
    ).dropna()
    if known.empty:
        raise NothingToDrawError("no call in the log has a cost: give cost_usd, or tokens and prices (candidates.toml)")
    return [
        {
            "workflow": str(workflow),
            "candidate": str(candidate),
            "calls": len(costs),
            "cost": PER * float(costs.mean()),
            "label": usd(PER * float(costs.mean())),
        }
        for (workflow, candidate), costs in known.groupby(["workflow", "candidate"], sort=True)["cost"]
    ]


def drift(frame: pd.DataFrame, *, simulated: bool, theme: Theme | None = None) -> Spec:
    """Requests, judged quality and cost of each candidate over time. Raises NothingToDrawError without dates."""
    rows = drift_rows(frame)
    names = sorted({row["candidate"] for row in rows})
    colour, dash = told_apart(names)
    kinds = [kind for kind in _WHAT if any(row["what"] == kind for row in rows)]
    parts = []
    for kind in kinds:
        own = [row for row in rows if row["what"] == kind]
        form = {"requests": ",.0f", "quality": PERCENT}.get(kind, money_format([max(row["value"] for row in own) / 4]))
        parts.append(
            alt.Chart(alt.Data(values=own))
            .mark_line(strokeWidth=2, point={"size": 24})
            .encode(
                x=alt.X("at:T", title=None),
                y=alt.Y(
                    "value:Q", axis=alt.Axis(title=titled(_WHAT[kind], simulated=simulated), format=form, tickCount=4)
                ),
                color=alt.Color("candidate:N", scale=colour, legend=below(symbolType="stroke")),
                strokeDash=alt.StrokeDash("candidate:N", scale=dash, legend=below(symbolType="stroke")),
                tooltip=["candidate:N", "at:T", alt.Tooltip("value:Q", format=form)],
            )
            .properties(width=WIDTH, height=110)
        )
    step = rows[0]["step"]
    return finished(
        alt.vconcat(*parts),
        "The log over time",
        f"{len({row['at'] for row in rows})} {step}s of {len(names)} candidates.",
        simulated=simulated,
        theme=theme,
        subtitle=f"By the {step}",
    )


def drift_rows(frame: pd.DataFrame) -> list[Row]:
    """Each candidate's requests, mean judged quality and cost of 1,000 calls, by the day or the week, in the order of time."""
    dated = frame[frame["timestamp"].notna()]
    if dated.empty:
        raise NothingToDrawError("no request in the log has a time (timestamp), so that nothing can be said of drift")
    stamps = pd.to_datetime(dated["timestamp"], utc=True).dt.tz_localize(None)
    step = "day" if (stamps.max() - stamps.min()).days <= _DAYS else "week"
    at = stamps.dt.floor("D") if step == "day" else stamps.dt.to_period("W").dt.start_time
    rows = []
    for (moment, name), part in dated.assign(at=at).groupby(["at", "candidate"], sort=True):
        found = {
            "requests": float(part["request_id"].nunique()),
            "quality": float(part["quality"].mean()),
            "cost": PER * float(part["cost_usd"].mean()),
        }
        when = pd.Timestamp(str(moment)).date().isoformat()
        rows += [
            {"at": when, "candidate": str(name), "what": what, "value": value, "step": step}
            for what, value in found.items()
            if np.isfinite(value)
        ]
    return rows


def savings(
    lines: Sequence[Mapping[str, Any]], *, simulated: bool, method: str | None = None, theme: Theme | None = None
) -> Spec:
    """What was saved against all to the reference, by the lines of `GET /v1/savings`, with intervals; losses are losses.

    `method` is the answer's: without the reference's own answers intervals have no level.
    """
    level = "95% intervals" if method == Method.OWN else "what it may be between, at no known level"
    rows = [
        {
            "name": _named(line["name"]),
            "saved": line["saved_usd"],
            "low": line["saved_low"],
            "high": line["saved_high"],
            "kind": "saved" if line["saved_usd"] >= 0 else "lost",
            "decisions": line["decisions"],
        }
        for line in lines
        if line["saved_usd"] is not None
    ][:MOST]
    if not rows:
        raise NothingToDrawError("no decision has an actual cost and a cost that the reference would have had")
    form = money_format([max(abs(row["saved"]) for row in rows) / 4])
    y = alt.Y("name:N", title=None, sort=[row["name"] for row in rows], axis=alt.Axis(labelLimit=260))
    base = alt.Chart(alt.Data(values=rows))
    known = alt.Chart(alt.Data(values=[row for row in rows if row["low"] is not None and row["high"] is not None]))
    drawn = alt.layer(
        base.mark_bar().encode(
            x=alt.X("saved:Q", axis=alt.Axis(title=titled("USD saved", simulated=simulated), format=form, tickCount=6)),
            y=y,
            color=alt.Color("kind:N", scale=alt.Scale(domain=["saved", "lost"], range=[FIRST, BAD]), legend=below()),
            tooltip=["name:N", alt.Tooltip("saved:Q", format=form), alt.Tooltip("decisions:Q", format=",")],
        ),
        known.mark_rule(strokeWidth=2).encode(x="low:Q", x2="high:Q", y=y),
        alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(color=MUTED).encode(x="zero:Q"),
    ).properties(width=WIDTH - 120, height=alt.Step(22))
    return finished(
        drawn,
        "Saved against all to the reference",
        " ".join(f"{row['name']}: {usd(row['saved'])}." for row in rows),
        simulated=simulated,
        theme=theme,
        subtitle=f"What routing itself costs is taken off; lines are {level}",
    )


def _named(name: str | None) -> str:
    return NO_WORKFLOW if name is None else name


def _workflows(frame: pd.DataFrame) -> pd.Series[Any]:
    return frame["workflow"].fillna(NO_WORKFLOW).astype(str)


def _share(known: pd.Series[Any]) -> str:
    return f"{float(known.mean()):.0%}"
