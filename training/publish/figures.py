"""The report's figures, as SVG text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO, StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from serving.bundle.manifest import Manifest
from training.evaluate.evaluation import ONLY, ORACLE, ROUTER, Calibration, Evaluation, WorkflowLine

INK, ACCENT, MUTED = "#22303c", "#0b6e99", "#9aa5b1"
# A figure is made by naming its style, so that importing this changes nothing for anyone else.
STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "outcome-router",
}


def svg(draw: Callable[[Axes], None], width: float = 7.2, height: float = 4.4) -> str:
    """The `<svg>` element of what `draw` puts on a fresh axes; the same drawing gives the same text."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure.add_subplot())
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
    return text.getvalue()[text.getvalue().index("<svg") :]


def picture(draw: Callable[[Axes], None], suffix: str, width: float = 8.0, height: float = 4.5) -> bytes:
    """What `draw` puts on a fresh axes as a file for a slide, by its suffix; raises ValueError for one that cannot be drawn."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        if suffix.removeprefix(".") not in figure.canvas.get_supported_filetypes():
            raise ValueError(f"{suffix or 'no suffix'} is no kind of picture; expected .png, .svg or .pdf")
        draw(figure.add_subplot())
        content = BytesIO()
        figure.savefig(content, format=suffix.removeprefix("."), dpi=200)
    return content.getvalue()


def draw_frontier_document(axes: Axes, document: Mapping[str, Any]) -> None:
    """Mean cost against mean quality, from a bundle's `frontier.json`.

    The router's and the baselines' hulls, single candidates, and the operating point as a star.
    """
    scale = 1000.0
    curves = document["curves"]
    end = max(max(curve["cost_usd"]) for curve in curves.values())
    for name, curve in curves.items():
        colour, style, width = _line(name)
        cost, quality = [*curve["cost_usd"], end], [*curve["quality"], curve["quality"][-1]]
        axes.plot(
            [scale * c for c in cost],
            quality,
            color=colour,
            linestyle=style,
            linewidth=width,
            label=name,
            zorder=3 if name == ROUTER else 2,
        )
    for line in document["routers"]:
        point = (scale * line["cost_usd"], line["quality"])
        if line["name"] == ROUTER:
            label = f"operating point ({document['operating_point']})"
            axes.plot(*point, "*", color="#d1495b", markersize=15, zorder=6, label=label)
        elif line["name"].startswith(ONLY):
            axes.plot(*point, "o", color=MUTED, markersize=5, zorder=4)
            name = line["name"].removeprefix(ONLY).split("/")[-1]
            axes.annotate(name, point, xytext=(5, -10), textcoords="offset points", fontsize=8, color="#56636f")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel("USD per 1,000 requests (log scale)" + (", simulated" if document["simulated"] else ""))
    axes.set_ylabel("share of acceptable answers")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def draw_workflow_costs(axes: Axes, workflows: Sequence[Mapping[str, Any]]) -> None:
    """USD per 1,000 requests of each workflow, all to the reference candidate and routed, as paired bars."""
    names = [line["workflow"] for line in workflows][::-1]
    at = np.arange(len(names))
    before = [1000 * line["reference_cost_usd"] for line in workflows][::-1]
    after = [1000 * line["cost_usd"] for line in workflows][::-1]
    axes.barh(at + 0.2, before, height=0.38, color=MUTED, label="all to the reference")
    axes.barh(at - 0.2, after, height=0.38, color=ACCENT, label="routed")
    axes.set_yticks(at, names)
    axes.set_xlabel("USD per 1,000 requests")
    axes.legend(frameon=False, fontsize=8)


def _line(name: str) -> tuple[str, str, float]:
    if name == ROUTER:
        return ACCENT, "-", 2.6
    if name == ORACLE:
        return "#7a8793", ":", 1.4
    if name == "workflow table":
        return "#e08e45", "--", 1.6
    return ("#8d6a9f", "-.", 1.4) if "reachable" in name else ("#c3cbd3", "-", 0.9)


def draw_calibration(axes: Axes, calibration: Calibration) -> None:
    """Predicted against observed share of acceptable answers, in bins of equal size."""
    p, y, _ = np.array(calibration.bins).T
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
    axes.plot(p, y, "o-", color=ACCENT, linewidth=1.6, markersize=5)
    axes.set_xlabel("predicted P(acceptable)")
    axes.set_ylabel("observed share acceptable")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    axes.grid(alpha=0.25)


def draw_shares(axes: Axes, workflows: Sequence[WorkflowLine], candidates: Sequence[str]) -> None:
    """Where each workflow's requests go at the operating point, as stacked bars."""
    names = [line.workflow for line in workflows][::-1]
    left = np.zeros(len(names))
    colours = mpl.colormaps["viridis"](np.linspace(0.1, 0.92, len(candidates)))
    for candidate, colour in zip(candidates, colours, strict=True):
        shares = np.array([line.share[candidate] for line in workflows])[::-1]
        axes.barh(names, shares, left=left, color=colour, label=candidate.split("/")[-1], height=0.7)
        left += shares
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("share of requests")
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.16))


def figures(evaluation: Evaluation, manifest: Manifest, document: Mapping[str, Any]) -> Mapping[str, str]:
    """The SVG of every figure that there is data for; the largest workflows only, so that the bars stay readable."""
    drawn: dict[str, str] = {}
    if evaluation.lines:
        drawn["frontier"] = svg(lambda axes: draw_frontier_document(axes, document))
        shown = evaluation.workflows[:20]
        names = [candidate.name for candidate in manifest.candidates]
        drawn["shares"] = svg(lambda axes: draw_shares(axes, shown, names), height=1.6 + 0.32 * len(shown))
    if evaluation.calibration is not None:
        calibration = evaluation.calibration
        drawn["calibration"] = svg(lambda axes: draw_calibration(axes, calibration), width=4.4)
    return drawn
