"""Every chart is a document that Vega-Lite draws, with money as money, and a table that says the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import vl_convert

from serving.account.savings import Method
from tests import fake_bundle, fake_frontier
from training.charts.confidence import reliability, reliability_by_candidate, risk_coverage
from training.charts.frontier import frontier, knob, two_frontiers
from training.charts.labels import Axes, efficient, placed
from training.charts.logs import costs_by_workflow_and_candidate, drift, savings
from training.charts.show import VEGA_LITE, as_json, figure, javascript, show, start, svg
from training.charts.tables import table
from training.charts.theme import (
    COLOURS,
    NothingToDrawError,
    Theme,
    as_wide_as_its_place,
    config,
    money_axis,
    money_format,
    told_apart,
    usd,
)
from training.charts.workflows import profile, shares, workflows_before_after, workflows_quality
from training.publish.document import read_document

Document = dict[str, Any]
SAVINGS = [
    {
        "name": name,
        "decisions": decisions,
        "actual_usd": actual,
        "reference_usd": reference,
        "saved_usd": reference - actual,
        "saved_low": low,
        "saved_high": high,
    }
    for name, decisions, actual, reference, low, high in (
        ("support", 1200, 10.0, 30.0, 15.0, 24.0),
        (None, 10, 3.0, 2.0, -2.0, None),
    )
]
# Each chart with the part of the document that it takes.
PARTS: dict[str, tuple[Callable[..., Any], Callable[[Document], Any]]] = {
    "frontier": (frontier, lambda document: document),
    "knob": (knob, lambda document: document),
    "workflows_before_after": (workflows_before_after, lambda document: document["workflows"]),
    "workflows_quality": (workflows_quality, lambda document: document["workflows"]),
    "shares": (shares, lambda document: document["workflows"]),
    "profile": (profile, lambda document: document["profiles"]),
    "reliability": (reliability, lambda document: document["reliability"]["all"]),
    "reliability_by_candidate": (reliability_by_candidate, lambda document: document["reliability"]["by_candidate"]),
    "risk_coverage": (risk_coverage, lambda document: document["risk_coverage"]),
    "costs_by_workflow_and_candidate": (costs_by_workflow_and_candidate, lambda _: log()),
    "drift": (drift, lambda _: log()),
    "savings": (savings, lambda _: SAVINGS),
}


def log() -> pd.DataFrame:
    return fake_frontier.log_with_dates(0, 60).frame


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Document:
    found = read_document(fake_bundle.build(tmp_path_factory.mktemp("charts"), frontier=True))
    assert found is not None
    return found


@pytest.fixture(scope="module")
def estimated(tmp_path_factory: pytest.TempPathFactory) -> Document:
    """Of a log with one answer a request."""
    made = fake_bundle.build(tmp_path_factory.mktemp("estimated"), frontier=True)
    return fake_frontier.document(made, fake_frontier.log_with_dates(1, 600, everybody=False))


def texts(drawn: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", drawn)


@pytest.mark.parametrize("theme", [None, "light", "dark"])
@pytest.mark.parametrize("name", PARTS)
def test_every_chart_is_drawn_and_says_that_it_is_simulated(document: Document, name: str, theme: Theme | None) -> None:
    chart, part = PARTS[name]
    spec = chart(part(document), simulated=True, theme=theme)
    assert json.loads(json.dumps(spec, allow_nan=False)) == spec, "plain JSON"
    drawn = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)
    words = texts(drawn)
    assert any("(simulated)" in word for word in words)
    assert "(simulated)" in spec["description"]
    assert not [word for word in words if re.fullmatch(r"[\d.]+e[-+−]?\d+|10[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", word)]
    assert ("#14191f" in drawn) is (theme == "dark")


@pytest.mark.parametrize("name", PARTS)
def test_of_a_real_log_nothing_is_called_simulated(document: Document, name: str) -> None:
    chart, part = PARTS[name]
    spec = chart(part({**document, "simulated": False}), simulated=False)
    assert "simulated" not in json.dumps(spec)


def test_intervals_of_savings_are_95_only_by_the_references_own_answers() -> None:
    for method, sure in ((Method.OWN, True), (Method.OTHERS, False), (Method.PROMPTS, False), (None, False)):
        assert ("95%" in json.dumps(savings(SAVINGS, simulated=False, method=method))) is sure
    assert not any("95%" in header for header in table("savings", SAVINGS)[0])


@pytest.mark.parametrize("name", PARTS)
def test_behind_every_chart_is_a_table(document: Document, name: str) -> None:
    headers, rows = table(name, PARTS[name][1](document))
    assert rows
    assert all(len(row) == len(headers) for row in rows)
    assert all(isinstance(cell, str) for row in rows for cell in row)


def test_a_table_is_asked_for_by_a_charts_name() -> None:
    with pytest.raises(ValueError, match="'pie' is no chart; the charts are frontier"):
        table("pie", {})


def test_the_frontiers_figures_are_the_documents(document: Document) -> None:
    headers, rows = table("frontier", document)
    cells = {row[0]: dict(zip(headers, row, strict=True)) for row in rows if row[0] != "outcome-router"}
    single = next(one for one in document["singles"] if one["candidate"] == fake_bundle.OPEN)
    assert cells[fake_bundle.OPEN]["USD per 1,000 requests"] == usd(1000 * single["cost_usd"])
    assert cells[fake_bundle.OPEN]["quality"] == f"{single['quality']:.1%}"
    default = next(point for point in document["points"] if point["default"])
    assert cells[default["name"]]["kind"] == "operating point, certified"
    assert cells[default["name"]]["saving"] == f"{default['test']['saving']:.1%}"


def test_costs_read_as_money_from_five_cents_to_six_dollars(document: Document) -> None:
    words = texts(svg(frontier(document)))
    assert {"$0.05", "$0.10", "$0.50", "$1", "$5"} <= set(words)


def test_lines_differ_by_colour_and_by_dash(document: Document) -> None:
    names = [f"router {number}" for number in range(16)]
    colour, dash = told_apart(names)
    pairs = {(one, tuple(two)) for one, two in zip(colour.to_dict()["range"], dash.to_dict()["range"], strict=True)}
    assert len(pairs) == len(names)
    spec = json.dumps(frontier(document))
    assert '"orient": "bottom"' in spec, "legends lie outside of the axes"
    assert '"orient": "right"' not in spec


def _crowded(document: Document) -> Document:
    """A frontier with eight more routers on top of the first, and six candidates that lie close together."""
    curve = {"cost_usd": [0.0001, 0.001, 0.003], "quality": [0.6, 0.8, 0.9]}
    names = [f"baseline {number}" for number in range(8)]
    line = next(one for one in document["routers"] if one["name"] == "outcome-router")
    near = [
        {
            **document["singles"][1],
            "candidate": f"maker/model-with-a-long-name-{number}",
            "cost_usd": 0.001 + 1e-5 * number,
        }
        for number in range(6)
    ]
    return {
        **document,
        "curves": {**document["curves"], **dict.fromkeys(names, curve)},
        "routers": [*document["routers"], *({**line, "name": name, "aiq": k / 10} for k, name in enumerate(names))],
        "singles": [*document["singles"], *near],
    }


def test_few_lines_stand_out_and_the_others_are_grey_together(document: Document) -> None:
    words = texts(svg(frontier(_crowded(document))))
    assert {"outcome-router", "baseline 7 (best baseline)", "oracle (knows every outcome)", "other routers"} <= set(
        words
    )
    assert not {"baseline 0", "baseline 6", "baseline 7"} & set(words)


def test_the_oracle_looks_the_same_with_and_without_a_baseline(document: Document) -> None:
    def looks(of: Document) -> dict[str, str]:
        (lines,) = [one for one in frontier(of)["layer"] if one["mark"].get("type") == "line"]
        scale = lines["encoding"]["color"]["scale"]
        return dict(zip(scale["domain"], scale["range"], strict=True))

    alone, crowded = looks(document), looks(_crowded(document))
    assert alone.items() <= crowded.items()
    assert len(set(crowded.values())) == len(crowded)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_name_has_a_rim_in_the_pages_colour(document: Document, theme: Theme) -> None:
    drawn = svg(frontier(document), theme=theme)
    rims = re.findall(r'<text[^>]* stroke="(#\w+)"[^>]* stroke-width="4"', drawn)
    assert set(rims) == {config(theme)["background"]}


def test_no_name_lies_on_a_line_on_a_point_or_on_another_name(document: Document) -> None:
    axes = Axes((0.0001, 0.01), (0.4, 1.0), log=True)
    line = [(0.0001 * 1.1**k, 0.45 + 0.01 * k) for k in range(45)]
    dots = [(0.0005, 0.6), (0.00052, 0.61), (0.00055, 0.6), (0.005, 0.5)]
    rows = placed([(f"candidate-{k}", [dot]) for k, dot in enumerate(dots)], [line], dots, axes)
    assert {row["label"] for row in rows if not row["narrow"]} >= {"candidate-0", "candidate-3"}
    for narrow, size in ((False, (560, 320)), (True, (255, 250))):
        boxes = []
        for row in (one for one in rows if one["narrow"] is narrow):
            x, y = axes.at(row["cost"], row["quality"], size)
            wide, high = 6.1 * len(row["label"]), 13
            left = x + row["dx"] - wide * {"left": 0, "center": 0.5, "right": 1}[row["align"]]
            top = y + row["dy"] - high * {"top": 0, "middle": 0.5, "bottom": 1}[row["baseline"]]
            boxes.append((left, top, left + wide, top + high))
            assert left >= 0
            assert top >= 0
            assert left + wide <= size[0]
            assert top + high <= size[1]
        points = [axes.at(*one, size) for one in (*line, *dots)]
        for number, (left, top, right, bottom) in enumerate(boxes):
            assert not [1 for x, y in points if left <= x <= right and top <= y <= bottom]
            for other in boxes[:number]:
                assert left >= other[2] or right <= other[0] or top >= other[3] or bottom <= other[1]


def test_a_candidate_that_another_beats_in_both_is_not_named(document: Document) -> None:
    rows = [
        {"candidate": name, "cost_usd": cost, "quality": quality}
        for name, cost, quality in (("a", 1.0, 0.5), ("b", 2.0, 0.7), ("c", 3.0, 0.6), ("d", 3.0, 0.9), ("e", 2.0, 0.7))
    ]
    assert efficient(rows) == {"a", "b", "d"}
    headers, cells = table("frontier", _crowded(document))
    kinds = {row[0]: row[headers.index("kind")] for row in cells}
    assert kinds["maker/model-with-a-long-name-5"] == "candidate that another beats in both"


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("page", [config("light")["background"], config("dark")["background"]])
@pytest.mark.parametrize("colour", COLOURS)
def test_colours_stand_out_from_both_pages(colour: str, page: str) -> None:
    """WCAG 2.2, 1.4.11: 3 : 1 for graphics."""
    light, dark = sorted([_luminance(colour), _luminance(page)], reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3.0


def test_an_estimated_frontier_says_so_and_how_much_it_rests_on(estimated: Document) -> None:
    drawn = " ".join(texts(svg(frontier(estimated))))
    assert "Estimated (doubly robust) from 600 test requests worth 1" in drawn
    assert "every candidate answered" not in drawn


def test_the_slider_begins_at_the_default_point_and_needs_no_kernel(document: Document) -> None:
    spec = knob(document)
    (slider,) = [one for one in spec["params"] if "bind" in one]
    marks = sorted(document["sweep"], key=lambda mark: mark["cost_usd"])
    at = next(point["test"]["cost_usd"] for point in document["points"] if point["default"])
    nearest = min(abs(mark["cost_usd"] - at) for mark in marks)
    assert abs(marks[slider["value"]]["cost_usd"] - at) == nearest
    assert slider["bind"]["max"] == len(marks) - 1
    words = " ".join(texts(svg(spec)))
    assert f"quality {marks[slider['value']]['quality']:.1%}" in words
    assert "guarded" in json.dumps(knob(document, guarded=True)["title"])


def test_two_bundles_are_told_apart_even_by_the_same_name(document: Document, estimated: Document) -> None:
    words = texts(svg(two_frontiers(document, estimated)))
    assert {"fake-1 (first)", "fake-1 (second)"} <= set(words)
    headers, rows = table("two_frontiers", (document, {**estimated, "version": "fake-2"}))
    assert headers[0] == "bundle"
    assert {row[0] for row in rows} == {"fake-1", "fake-2"}


@pytest.mark.parametrize(
    ("draw", "missing"),
    [
        (lambda: frontier({"simulated": False, "sweep": [], "why_not": "no test request"}), "no test request"),
        (lambda: knob({"simulated": False, "sweep": [], "why_not": "no test request"}), "no test request"),
        (lambda: workflows_before_after([], simulated=False), "known outcome of every candidate"),
        (lambda: shares([], simulated=False), "known outcome"),
        (lambda: profile([], simulated=False), "ten judged answers"),
        (lambda: reliability([], simulated=False), "judged"),
        (lambda: reliability_by_candidate({}, simulated=False), "judged"),
        (lambda: risk_coverage([], simulated=False), "judged"),
        (lambda: costs_by_workflow_and_candidate(log().assign(cost_usd=float("nan")), simulated=False), "cost_usd"),
        (lambda: drift(log().assign(timestamp=pd.NaT), simulated=False), "timestamp"),
        (lambda: savings([], simulated=False), "actual cost"),
    ],
)
def test_what_is_missing_is_said(draw: Callable[[], Any], missing: str) -> None:
    with pytest.raises(NothingToDrawError, match=missing):
        draw()


def test_amounts_have_the_digits_that_they_need() -> None:
    shown = {
        0.4: "$0.40",
        12.345: "$12.35",
        1234.5: "$1,234",
        0.00512: "$0.0051",
        0.0: "$0.00",
        -3.0: "-$3.00",
        None: "",
    }
    assert {value: usd(value) for value in shown} == shown
    assert usd(float("nan")) == ""
    assert money_format([0.4, 3.0]) == "$,.2f"
    assert money_format([0.004]) == "$,.4f"
    assert money_format([]) == "$,.2f"


def test_free_candidates_are_on_an_axis_from_zero() -> None:
    assert "log" not in str(money_axis("USD", [0.0, 5.0])["scale"].to_dict())
    assert money_axis("USD", [0.01, 5.0])["scale"].to_dict()["type"] == "log"


def test_a_single_chart_fits_its_place(document: Document) -> None:
    assert as_wide_as_its_place(frontier(document))["width"] == "container"
    assert as_wide_as_its_place(knob(document)) == knob(document)
    assert "<svg" in svg(as_wide_as_its_place(frontier(document)))


HOSTILE = '</script><script>alert(1)</script> & "quoted" <b>'


def test_a_name_out_of_a_log_never_becomes_markup(document: Document) -> None:
    workflows = [{**line, "workflow": HOSTILE} for line in document["workflows"][:1]]
    spec = workflows_before_after(workflows, simulated=False)
    shown = figure(spec, table("workflows_before_after", workflows), identifier="one")
    assert shown.count("<script>") == shown.count("</script>") == 1
    assert "<b>" not in shown
    assert json.loads(as_json({"name": HOSTILE})) == {"name": HOSTILE}


def test_a_notebook_shows_a_chart_without_scripts_and_without_a_network(document: Document) -> None:
    """The library comes once, by `start`; a chart alone is its drawing, its text and its table."""
    first, shown = start()._repr_html_(), show(frontier(document), table("frontier", document))._repr_html_()
    assert len(javascript()) > 500_000
    assert javascript() in first
    assert "vegaEmbed" in first
    assert len(shown) < 200_000
    assert '<svg xmlns="http://www.w3.org/2000/svg"' in shown
    assert 'aria-label="Cost and quality (simulated). On 300 test requests' in shown
    assert "<details><summary>" in shown
    for loaded in (r"<script[^>]+src=", r"<link\b", r"@import", r"url\((?!#)"):
        assert not re.search(loaded, shown)


def test_the_bundle_has_no_end_of_a_script_in_it() -> None:
    assert "</script" not in javascript()


def test_a_drawing_takes_a_theme_of_its_own(document: Document) -> None:
    assert "#14191f" in svg(frontier(document), theme="dark")
    assert "#14191f" not in svg(frontier(document))


@pytest.mark.parametrize("draw", [workflows_before_after, shares, workflows_quality, profile])
def test_a_chart_with_rows_is_as_high_as_they_need_and_is_fitted_without_a_warning(
    draw: Any, document: dict[str, Any]
) -> None:
    """A height of steps is none that Vega-Lite can fit; a number is, and the page is told not to press it."""
    part = document["profiles"] if draw is profile else document["workflows"]
    spec = draw(part, simulated=False)
    assert spec["usermeta"]["rows"] > 1
    assert spec["height"] >= 20 * spec["usermeta"]["rows"]


def test_what_stands_out_is_in_points_and_a_name_has_two_lines(document: dict[str, Any]) -> None:
    text = str(profile(document["profiles"], simulated=False))
    assert "split(datum.label, ' · ')" in text
    assert "points above or below" in text
    gaps = [one["gap"] for each in document["profiles"] for one in (*each["best"], *each["worst"])]
    assert all(abs(gap) <= 1 for gap in gaps)
    assert str(100 * max(gaps)) in text


def test_what_is_risked_is_called_not_acceptable(document: dict[str, Any]) -> None:
    text = str(risk_coverage(document["risk_coverage"], simulated=False))
    assert "share not acceptable" in text
    assert "fail" not in text
