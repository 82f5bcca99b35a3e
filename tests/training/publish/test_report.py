"""The report is one file that fetches nothing; its first screen says what the manifest does, and charts have tables."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from rich.console import Console

from serving.bundle.manifest import Bundle, Estimated, Manifest, OperatingPoint, WorkflowBound, open_bundle
from tests import fake_bundle, fake_frontier
from training.charts.show import javascript
from training.dataset.volume import Volume
from training.publish.document import at_another_point, month_of, read_document, with_month, write_document
from training.publish.making import of_addition, write_making
from training.publish.pages import of_comparison, of_report
from training.publish.pages.basis import volume
from training.publish.pages.blocks import environment
from training.publish.pages.first_screen import first_screen
from training.publish.pages.tables import by_workflow
from training.publish.report import headline, promise
from training.publish.side_by_side import Part, SideBySide

# What makes a browser fetch something, in HTML and in CSS.
FETCHED = re.compile(
    r"""(?:\b(?:src|href|srcset|poster|action)\s*=\s*["']?|url\(\s*["']?|@import\s+["']?)\s*(https?:|//)""", re.I
)
MOST_BYTES = 5_000_000


class Page(HTMLParser):
    """Headings in order, landmarks, charts with the tables inside them, and the figures of the first screen."""

    EMPTY: ClassVar[frozenset[str]] = frozenset({"meta", "img", "source", "br", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[tuple[int, str]] = []
        self.landmarks: list[str] = []
        self.charts: dict[str, int] = {}
        self.captions = self.tables = 0
        self.numbers: dict[str, float] = {}
        self.specs: list[Any] = []
        self.feed(text)
        assert self.open == [], "an element is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        if tag not in self.EMPTY:
            self.open.append((tag, known))
        if tag in ("header", "nav", "main", "footer"):
            self.landmarks.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))
        if tag == "figure":
            self.charts[known["id"] or ""] = 0
        if tag == "table":
            self.tables += 1
            if any(name == "figure" for name, _ in self.open):
                self.charts[list(self.charts)[-1]] += 1
        self.captions += tag == "caption"
        if known.get("data-number") is not None:
            self.numbers[str(known["data-figure"])] = float(str(known["data-number"]))

    def handle_endtag(self, tag: str) -> None:
        name, _ = self.open.pop()
        assert name == tag, f"<{name}> ends as </{tag}>"

    def handle_data(self, data: str) -> None:
        if self.open and re.fullmatch("h[1-6]", self.open[-1][0]):
            level, text = self.headings[-1]
            self.headings[-1] = (level, text + data)
        if self.open and self.open[-1][0] == "script" and self.open[-1][1].get("class") == "spec":
            self.specs.append(json.loads(data))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle.build(tmp_path_factory.mktemp("models"), frontier=True)


@pytest.fixture(scope="module")
def making() -> dict[str, Any]:
    made = of_addition(None, "", "On 300 requests routing costs less.")
    return {**made, "added": None, "counts": {"rows read": 903, "rows skipped": 3}, "reasons": {"<no> candidate": 3}}


def with_default(manifest: Manifest, point: OperatingPoint, **changes: Any) -> Manifest:
    points = (point, *(one for one in manifest.operating_points if one.name != point.name))
    return manifest.model_copy(update={"operating_points": points, "default_point": point.name, **changes})


def uncertified(manifest: Manifest, document: dict[str, Any]) -> tuple[Manifest, dict[str, Any]]:
    """The bundle as it would be had its log not been enough: all goes to the reference, and a saving is estimated."""
    guess = Estimated(knob=40.0, violation_rate=0.06, saving=0.5, saving_low=0.4, saving_high=0.6)
    point = manifest.default.model_copy(
        update={
            "name": "quality-0.95", "certificate": None, "always": manifest.reference, "estimated": guess, "saving": 0.0,
            "cost_usd": 0.0065, "quality": 0.97, "quality_target": 0.95,
        }
    )  # fmt: skip
    changed = with_default(manifest, point, simulated=False)
    told = {**at_another_point(document, changed), "simulated": False}
    return changed.model_copy(update={"metrics": with_month(changed.metrics, told)}), told


@pytest.fixture(scope="module")
def certified_page(folder: Path, making: dict[str, Any]) -> str:
    return of_report.render(open_bundle(folder).manifest, read_document(folder) or {}, making)


@pytest.fixture(scope="module")
def uncertified_page(folder: Path, making: dict[str, Any]) -> str:
    manifest, document = uncertified(open_bundle(folder).manifest, read_document(folder) or {})
    return of_report.render(
        manifest,
        document,
        {**making, "evidence": "What now: router-train plan --data a.csv\nIt plans 120 answers for about 3.10 USD."},
    )


def test_the_figures_of_the_first_screen_are_the_manifests(folder: Path, certified_page: str) -> None:
    manifest = open_bundle(folder).manifest
    shown, known, point = Page(certified_page).numbers, manifest.metrics, manifest.default
    proof = point.certificate
    assert proof is not None
    assert point.cost_usd is not None
    assert point.saving is not None
    reference = point.cost_usd / (1 - point.saving)
    requests = known["log_counted_requests"] / known["log_days"] * 30.4375
    assert shown["month_saved_usd"] == known["month_saved_usd"] == pytest.approx(requests * reference * point.saving)
    assert shown["alpha"] == proof.alpha
    assert shown["confidence"] == 1 - proof.delta
    assert shown["quality"] == point.quality
    assert shown["log_requests"] == known["log_requests"] == 300
    for text in (
        "$1.15",
        "95% 52.0% … 67.0%",
        "$0.77 instead of $1.91",
        "1 Mar 2026 to 31 Mar 2026",
        "90.0%",
        "Reference",
    ):
        assert text in certified_page


def test_the_quality_is_of_the_requests_that_the_saving_is_of_and_the_test_figures_stand_together(
    folder: Path, making: dict[str, Any]
) -> None:
    manifest, document = open_bundle(folder).manifest, read_document(folder) or {}
    manifest = manifest.model_copy(update={"metrics": {**manifest.metrics, "quality": 0.123, "saving": 0.456}})
    screen = first_screen(manifest, document, making)
    (quality,) = (one for one in screen.figures if one.key == "quality")
    assert quality.number == manifest.default.quality
    assert "calibration requests" in quality.note
    test = next(one["test"] for one in document["points"] if one["default"])
    assert (
        f"On the 300 test requests, which it had not seen, it saved {test['saving']:.1%} (95% {test['saving_low']:.1%} … "
        f"{test['saving_high']:.1%}) with {test['quality']:.1%} acceptable answers (acme/large alone: "
    ) in screen.lead


@pytest.mark.parametrize(
    ("saving", "low", "high", "told"),
    [
        (0.6, 0.5, 0.7, None),
        (0.69, 0.62, 0.76, None),
        (0.75, 0.7, 0.8, "more"),
        (0.4, 0.35, 0.45, "less"),
        (0.52, 0.45, 0.59, None),
    ],
)
def test_a_saving_on_the_test_part_that_chance_does_not_explain_is_said_first(
    folder: Path, making: dict[str, Any], saving: float, low: float, high: float, told: str | None
) -> None:
    document = json.loads(json.dumps(read_document(folder)))
    for one in document["points"]:
        if one["default"]:
            one["test"] |= {"saving": saving, "saving_low": low, "saving_high": high}
    found = [w for w in first_screen(open_bundle(folder).manifest, document, making).warnings if "was saved" in w]
    assert len(found) == (told is not None)
    assert all(f"{told} than the 60.0% (95% 52.0% … 67.0%) on the calibration requests" in text for text in found)


def test_the_terminal_ends_with_the_headline_and_the_warnings_of_the_page(folder: Path, tmp_path: Path) -> None:
    manifest, document = open_bundle(folder).manifest, read_document(folder) or {}
    document["log"] = {**document["log"], "cost_usd_per_request": 0.001}
    next(one["test"] for one in document["points"] if one["default"])["violation_rate"] = 0.2
    dearer = at_another_point(document, manifest)
    dearer["month"] |= {"saved_against_logged_low": -2.0, "saved_against_logged_high": -1.0}
    manifest = manifest.model_copy(update={"metrics": with_month(manifest.metrics, dearer)})
    write_document(tmp_path, dearer)
    write_making(tmp_path, of_addition(None, "", ""))
    console = Console(record=True, width=10_000)
    console.print(headline(tmp_path, manifest))
    title, *warnings = console.export_text().splitlines()
    assert of_report.write(tmp_path, manifest)
    page = (tmp_path / of_report.REPORT).read_text(encoding="utf-8")
    assert title == f"The report's headline: {Page(page).headings[0][1]}"
    assert "Simulated: routing costs $0.47 a month more than the mix in the log" in title
    assert len(warnings) == 2
    assert warnings[0].startswith("Warning: Dearer than today: ")
    assert "20.0% failed where acme/large did not" in warnings[1]
    assert [f"Warning: {text}" for text in first_screen(manifest, dearer, {}).warnings] == warnings


def test_the_page_can_reckon_the_same_month_from_the_document(folder: Path) -> None:
    document, manifest = read_document(folder) or {}, open_bundle(folder).manifest
    month = month_of(manifest, Volume(**document["log"]))
    assert month is not None
    assert (month["saving"], month["saving_from"]) == (manifest.default.saving, "calibration")
    reckoned = month["requests"] * month["reference_usd_per_request"] * month["saving"]
    assert reckoned == pytest.approx(manifest.metrics["month_saved_usd"])


@pytest.mark.parametrize("name", ["certified_page", "uncertified_page"])
def test_no_amount_of_usd_has_an_interval(name: str, request: pytest.FixtureRequest) -> None:
    text = request.getfixturevalue(name)
    assert not re.search(r"95% [−-]?\$", text)
    assert "An amount of USD has no\ninterval" in text


def test_what_the_log_cost_is_a_counterfactual_of_its_own_and_dearer_is_said_first(
    folder: Path, making: dict[str, Any]
) -> None:
    manifest, document = open_bundle(folder).manifest, dict(read_document(folder) or {})
    cases = (
        (0.004, None, False),
        (0.001, -0.0002, True),
        (0.001, 0.0002, False),
        (0.001, None, True),
        (0.0022, None, False),
    )
    for cost, high, dearer in cases:
        document["log"] = {**document["log"], "cost_usd_per_request": cost}
        moved = at_another_point(document, manifest)
        if high is not None:
            month = moved["month"]
            month["saved_against_logged_low"], month["saved_against_logged_high"] = -9.0, month["requests"] * high
        known = manifest.model_copy(update={"metrics": with_month(manifest.metrics, moved)})
        screen = first_screen(known, moved, making)
        (found,) = (one for one in screen.figures if one.key == "month_saved_against_log_usd")
        month = known.metrics["requests_a_month"]
        routed = month * known.metrics["reference_cost_usd_per_request"] * (1 - 0.6)
        assert found.number == pytest.approx(month * cost - routed)
        assert screen.title.startswith("Simulated: routing costs $0.47 a month more than the mix") is dearer
        assert any(text.startswith("Dearer than today") for text in screen.warnings) is dearer
        assert ("about what the log costs" in found.note) is not dearer
        assert ("costs about what the log did" in screen.title) is (cost < 0.0026 and not dearer)


def test_without_a_certificate_the_first_screen_says_that_nothing_moves_and_what_would_help(
    folder: Path, uncertified_page: str
) -> None:
    manifest, _ = uncertified(open_bundle(folder).manifest, read_document(folder) or {})
    page = Page(uncertified_page)
    assert page.headings[0] == (
        1,
        "Nothing is certified yet: every request goes to acme/large, and nothing is saved.",
    )
    known = manifest.metrics
    everything = known["requests_a_month"] * known["reference_cost_usd_per_request"]
    assert page.numbers["estimated_saved_usd"] == pytest.approx(everything * 0.5)
    assert page.numbers["estimated_violations"] == 0.06
    assert page.numbers["moves"] == pytest.approx(2 / 3)
    assert "confidence" not in page.numbers
    top = uncertified_page[: uncertified_page.index("<main")]
    assert "acme/large answers everything; in the log it answered 33.3%" in top
    assert "Estimated saving a month against all to acme/large" in top
    assert "Estimated saving a month against what the log cost" in top
    last = re.sub(r"\s+", " ", top[top.rindex("<p ") :])
    assert last.startswith('<p class="change"><strong>What would change that:</strong> '), (
        "the first screen ends with it"
    )
    assert "<code>router-train plan --data a.csv</code>. It plans 120 answers for about 3.10 USD." in last


def test_sending_all_to_the_reference_is_no_news_where_the_log_was_cheaper(
    folder: Path, making: dict[str, Any]
) -> None:
    manifest, document = uncertified(open_bundle(folder).manifest, read_document(folder) or {})
    document["log"] = {**document["log"], "cost_usd_per_request": 0.001}
    moved = at_another_point(document, manifest)
    known = manifest.model_copy(update={"metrics": with_month(manifest.metrics, moved)})
    by_chance = {**known.metrics, "month_saved_against_log_high": 0.1}
    unsure = known.model_copy(update={"metrics": by_chance})
    assert first_screen(unsure, moved, making).warnings == (), "a difference that may be chance is no warning"
    moved["month"] |= {"saved_against_logged_low": -2.0, "saved_against_logged_high": -1.0}
    known = manifest.model_copy(update={"metrics": with_month(manifest.metrics, moved)})
    screen = first_screen(known, moved, making)
    (warning,) = screen.warnings
    (beside,) = (one for one in screen.figures if one.key == "estimated_saved_against_log_usd")
    month = known.metrics["requests_a_month"]
    everything = month * known.metrics["reference_cost_usd_per_request"]
    assert beside.number == pytest.approx(month * 0.001 - everything * 0.5)
    assert warning.startswith("Dearer than today: all to acme/large costs $1.91 a month, the log's own mix $0.29.")


def test_quality_where_no_request_was_answered_by_every_candidate_is_what_the_log_says(
    folder: Path, making: dict[str, Any]
) -> None:
    manifest, document = uncertified(open_bundle(folder).manifest, read_document(folder) or {})
    known = with_default(manifest, manifest.default.model_copy(update={"quality": None}))
    told = {**document, "profiles": [{"candidate": "acme/large", "quality": 0.9, "judged": 100}]}
    for profiles, number in ((told, 0.9), ({**told, "profiles": []}, None)):
        screen = first_screen(known.model_copy(update={"metrics": {}}), profiles, making)
        (quality,) = (one for one in screen.figures if one.key == "quality")
        assert quality.number == number
        assert "Calibration requests do not tell it" in quality.note
        assert ("95% 82.6% … 94.5%, of 100 judged answers of acme/large" in quality.note) is (number is not None)


def test_a_workflow_that_fails_more_often_than_allowed_is_named_first(folder: Path, making: dict[str, Any]) -> None:
    manifest, document = open_bundle(folder).manifest, read_document(folder) or {}
    proof = manifest.default.certificate
    assert proof is not None
    one = WorkflowBound(requests=63, violation_rate=0.159, bound=0.3, saving=0.5)
    calm = one.model_copy(update={"violation_rate": proof.alpha / 2})
    for workflows, told in (({"json": one, "calm": calm}, True), ({"calm": calm}, False)):
        moved = proof.model_copy(update={"workflows": workflows})
        known = with_default(manifest, manifest.default.model_copy(update={"certificate": moved}))
        line = "holds on average, not in each workflow: json failed 15.9% of 63 calibration requests."
        assert any(text.endswith(line) for text in first_screen(known, document, making).warnings) is told
        table = by_workflow(known)
        assert table is not None
        assert table.notable == ({0} if told else set())


@pytest.mark.parametrize("shape", ["certified", "uncertified"])
def test_each_figure_says_which_requests_it_is_of(folder: Path, making: dict[str, Any], shape: str) -> None:
    manifest, document = open_bundle(folder).manifest, read_document(folder) or {}
    if shape == "uncertified":
        manifest, document = uncertified(manifest, document)
    for one in first_screen(manifest, document, making).figures:
        if one.number is not None and one.key != "moves":
            assert re.search("calibration|test", one.note), one


def test_only_prices_of_the_catalogue_are_said_to_leave_out_a_discount(folder: Path, making: dict[str, Any]) -> None:
    manifest, document = open_bundle(folder).manifest, read_document(folder) or {}
    for source in ("tokens", "logged"):
        known = manifest.model_copy(update={"cost_from": dict.fromkeys(manifest.cost_from, source)})
        assert ("catalogue changes" in dict(first_screen(known, document, making).basis)["Prices"]) is (
            source == "tokens"
        )


def test_what_was_learned_from_is_said_in_plain_words(folder: Path, making: dict[str, Any]) -> None:
    manifest, document = open_bundle(folder).manifest, read_document(folder) or {}
    earlier = {
        "created": "2026-11-28T08:00:00+00:00",
        "requests": 1962,
        "added": 200,
        "chosen": "2026-11-20T08:00:00+00:00",
    }
    counts = {**making["counts"], "requests": 2162}
    told = {**making, "counts": counts, "added_to": earlier, "settings": ["fit.half_life_days=30.0"]}
    assert dict(first_screen(manifest, document, told).basis)["Learned from"] == (
        "2,162 requests: 1,962 of the run of 28 Nov 2026 and 200 new ones. Which methods are used was chosen on 20 Nov 2026 "
        "and not looked at again. Older answers count less: half after 30 days."
    )
    alone = dict(first_screen(manifest, document, {**told, "added_to": None, "settings": []}).basis)
    assert alone["Learned from"] == "2,162 requests."


def test_a_log_without_dates_has_no_month_and_says_how_to_tell_one(folder: Path, making: dict[str, Any]) -> None:
    manifest = open_bundle(folder).manifest
    known = {
        key: value
        for key, value in manifest.metrics.items()
        if "month" not in key and key not in ("log_first", "log_last")
    }
    screen = first_screen(manifest.model_copy(update={"metrics": known}), read_document(folder) or {}, making)
    saving = screen.figures[0]
    assert (saving.key, saving.number, saving.value) == ("saving", 0.6, "60.0%")
    assert "--set report.requests_a_month=N" in saving.note
    assert "a month" not in screen.title


def test_another_point_has_a_page_of_its_own(folder: Path, making: dict[str, Any]) -> None:
    manifest = open_bundle(folder).manifest
    other = next(point for point in manifest.operating_points if point.name == "balanced")
    moved = manifest.model_copy(update={"version": "fake-2", "default_point": other.name})
    page = of_report.render(moved, at_another_point(read_document(folder) or {}, moved), making)
    assert "were measured at quality-0.9; this bundle serves balanced" in " ".join(
        re.sub("</?span[^>]*>", "", page).split()
    )
    assert "Bundle fake-2" in page
    assert Page(page).headings[0][1].startswith("Simulated: nothing is certified")


@pytest.mark.parametrize("name", ["certified_page", "uncertified_page"])
def test_the_page_is_one_small_file_that_fetches_nothing(name: str, request: pytest.FixtureRequest) -> None:
    text = request.getfixturevalue(name)
    assert len(text.encode()) < MOST_BYTES
    assert not FETCHED.search(text)
    assert text.count(javascript()) == 1, "the charts' JavaScript is inside once"
    assert "default-src 'none'" in text
    page = Page(text)

    def urls(value: Any) -> list[Any]:
        if isinstance(value, dict):
            return [inner for key, inner in value.items() if key == "url"] + [
                x for v in value.values() for x in urls(v)
            ]
        return [x for v in value for x in urls(v)] if isinstance(value, list) else []

    assert page.specs
    assert urls(page.specs) == []


def test_what_would_be_fetched_is_found() -> None:
    for text in (
        '<img src="https://a.b/c">',
        "<link href='//a.b'>",
        "a { background: url(http://a.b) }",
        "@import 'https://a';",
    ):
        assert FETCHED.search(text)
    assert not FETCHED.search('<svg xmlns="http://www.w3.org/2000/svg"><a href="#main">')


@pytest.mark.parametrize("name", ["certified_page", "uncertified_page"])
def test_the_page_can_be_read_without_seeing_it(name: str, request: pytest.FixtureRequest) -> None:
    page = Page(request.getfixturevalue(name))
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert sorted(page.landmarks) == ["footer", "header", "main", "nav"]
    assert page.captions == page.tables
    assert len(page.charts) == len(page.specs) >= 6
    assert set(page.charts.values()) == {1}, "a table is behind each chart"
    assert not re.search(r"[0-9a-f]{8}", page.headings[0][1])


def test_simulated_stands_at_the_top_and_in_the_title_of_each_chart(certified_page: str, uncertified_page: str) -> None:
    page = Page(certified_page)
    assert page.headings[0][1].startswith("Simulated: ")
    for spec in page.specs:
        title = spec["title"]
        assert "(simulated)" in (title if isinstance(title, str) else title["text"])
        assert "(simulated)" in spec["description"]
    assert "imulated" not in uncertified_page[uncertified_page.index("<body") : uncertified_page.index("<script>")]


def test_what_the_log_says_is_text_and_no_markup(certified_page: str) -> None:
    assert "&lt;no&gt; candidate" in certified_page
    assert "<no>" not in certified_page


def test_a_candidate_of_no_name_ends_no_script(folder: Path, making: dict[str, Any]) -> None:
    document = json.loads(json.dumps(read_document(folder)).replace("easy", "</script><b>"))
    page = of_report.render(open_bundle(folder).manifest, document, making)
    Page(page)
    assert "</script><b>" not in page


def test_the_month_of_the_page_is_that_of_the_document(folder: Path) -> None:
    document, manifest = read_document(folder) or {}, open_bundle(folder).manifest
    month = month_of(manifest, Volume(**document["log"]))
    assert month is not None
    assert month["saved_usd"] == manifest.metrics["month_saved_usd"]


def test_the_title_says_the_promise_with_its_confidence(folder: Path, making: dict[str, Any]) -> None:
    title = first_screen(open_bundle(folder).manifest, read_document(folder) or {}, making).title
    proof = open_bundle(folder).manifest.default.certificate
    assert proof is not None
    assert title.endswith(
        f"; with {1 - proof.delta:.1%} confidence, at most {proof.alpha:.1%} of answers fail where acme/large's would not"
    )
    assert "worse" not in title


@pytest.mark.parametrize(
    ("requests", "low", "few"), [(20, None, True), (250_000, None, False), (250_000, 0.05, True), (20, 0.11, False)]
)
def test_test_requests_are_called_few_only_where_they_are(
    folder: Path, making: dict[str, Any], requests: int, low: float | None, few: bool
) -> None:
    document = json.loads(json.dumps(read_document(folder)))
    document["effective_requests"] = requests
    for one in document["points"]:
        if one["default"]:
            one["test"] |= {"requests": requests, "violation_rate": 0.2, "violation_low": low}
    (warning,) = (
        w for w in first_screen(open_bundle(folder).manifest, document, making).warnings if "20.0% failed" in w
    )
    assert ("They are few" in warning) is few
    assert ("more than chance" in warning) is not few


def test_workflows_are_said_to_be_estimated_where_they_are(folder: Path, making: dict[str, Any]) -> None:
    manifest = open_bundle(folder).manifest
    single = fake_frontier.document(folder, fake_frontier.log_with_dates(1, 600, everybody=False))
    for document, estimated in ((read_document(folder) or {}, False), (single, True)):
        page = " ".join(of_report.render(manifest, document, making).split())
        told = page[page.index('<h2 id="workflows">') : page.index('<h2 id="confidence">')]
        assert ("<strong>Estimated</strong> (doubly robust)" in told) is estimated
        assert ("of which every candidate's outcome is known" in told) is not estimated


def test_without_a_frontier_the_reason_is_told_once_and_its_command_as_one(
    folder: Path, making: dict[str, Any]
) -> None:
    manifest, document = uncertified(open_bundle(folder).manifest, read_document(folder) or {})
    why = "no test request has an outcome of every candidate, so no routing is compared. Give one (`router-train run --test`)."
    nothing = {**document, "points": [], "sweep": [], "singles": [], "curves": {}, "why_not": why}
    page = of_report.render(manifest, nothing, {**making, "sentence": f"No frontier could be measured: {why}"})
    assert page.count("no test request has an outcome of every candidate") == 1
    assert "There is no frontier to show: no test request has" in page
    assert "<code>router-train run --test</code>" in page
    assert "goes to acme/large. More calibration" in page.replace("\n", " ")


def test_the_page_of_two_says_how_it_is_made_again(folder: Path) -> None:
    bundle = open_bundle(folder)
    page = of_comparison.render(bundle, bundle, None, "No log was given.")
    assert f"router-train compare {bundle.folder} {bundle.folder} --html compare.html" in page


def test_the_page_of_two_says_which_is_newer_and_each_difference_with_its_interval(folder: Path) -> None:
    older = open_bundle(folder)
    newer = replace(
        older, manifest=older.manifest.model_copy(update={"version": "fake-2", "created": "2026-02-01T00:00:00Z"})
    )

    def part(name: str, conversations: int, quality_gap: tuple[float, float]) -> Part:
        return Part(name, 300, conversations, (0.9, 0.88), (0.004, 0.003), quality_gap, (-0.0012, -0.0008))

    def shown(first: Bundle, second: Bundle, whole: Part) -> str:
        parts = (part("easy", 120, (-0.03, -0.01)), part("hard", 20, (-0.03, -0.01)))
        found = SideBySide(("a", "b"), ("x", "x"), whole, parts, {"acme/small": (0.2, 0.4)}, 0.2)
        return " ".join(re.sub("</?span[^>]*>", "", of_comparison.render(first, second, found)).split())

    page = shown(older, newer, part("all", 200, (-0.03, 0.01)))
    assert (
        "<h1>Simulated: the newer bundle (fake-2) costs $1.00 less per 1,000 requests than the older bundle (fake-1), and no "
        "difference in quality is shown.</h1>"
    ) in page
    cost = "costs $3.00 instead of $4.00 per 1,000 requests: $1.00 less (95% −$1.20 … −$0.80).</li>"
    assert f"<li>The newer bundle (fake-2) {cost}" in page
    quality = "gives 88.0% acceptable answers instead of 90.0%"
    assert f"<li>The newer bundle (fake-2) {quality}: which may be chance (95% −3.0 … +1.0 points).</li>" in page
    assert f"<li>In easy (300 requests) the newer bundle (fake-2) {quality}: 2.0 points lower" in page
    assert "<li>In hard" not in page, "twenty conversations are too few"
    assert "First is the older bundle (fake-1), second the newer bundle (fake-2)." in page
    assert "Made 2026-02-01" in page
    turned = shown(newer, older, part("all", 200, (-0.03, 0.01)))
    assert "the older bundle (fake-1) costs $1.00 less per 1,000 requests than the newer bundle (fake-2)" in turned
    few = shown(older, newer, part("all", 20, (-0.03, -0.01)))
    assert "too few requests to tell them apart" in few
    assert "of 20 conversations no interval is given" in few


def test_where_nothing_is_saved_the_first_screen_ends_with_what_would_change_that(
    folder: Path, making: dict[str, Any]
) -> None:
    manifest, document = open_bundle(folder).manifest, read_document(folder) or {}
    assert first_screen(manifest, document, making).change is None, "it saves, and it is certified"
    bare, told = uncertified(manifest, document)
    assert "`router-train plan --data LOG` says which ones to buy" in str(first_screen(bare, told, making).change)
    point = manifest.default
    assert point.certificate is not None
    proof = point.certificate.model_copy(update={"saving_low": -0.1, "saving_high": 0.1})
    idle = with_default(manifest, point.model_copy(update={"saving": 0.01, "certificate": proof}))
    assert "a candidate that costs less than acme/large" in str(first_screen(idle, document, making).change)
    lower = point.model_copy(
        update={"name": "quality-0.8", "saving": 0.7, "certificate": proof.model_copy(update={"alpha": 0.2})}
    )
    idle = idle.model_copy(update={"operating_points": (*idle.operating_points, lower)})
    said = str(first_screen(idle, document, making).change)
    assert "at most 20.0% of requests fail there instead of 10.0%" in said
    assert "it saves 70.0% instead of 1.0%: `router-train set-point quality-0.8`." in said


def test_figures_of_requests_unlike_the_traffic_have_it_said_beside_them(folder: Path, making: dict[str, Any]) -> None:
    manifest, document = open_bundle(folder).manifest, read_document(folder) or {}
    note = "They cover easy, which carry 33.3% of the traffic."
    page = of_report.render(manifest, {**document, "basis_note": note}, making)
    assert page.count(note) == 3, "on the first screen, at the frontier and at the operating points"
    old = {name: value for name, value in document.items() if name != "basis_note"}
    assert note not in of_report.render(manifest, old, making), "nor does a document of before stop it"


def test_how_the_log_was_split_is_told_in_sentences(folder: Path, making: dict[str, Any]) -> None:
    split = {"method": "time", "note": "whole groups by time; train 3600, calibration 1200, test 12"}
    page = of_report.render(open_bundle(folder).manifest, read_document(folder) or {}, {**making, "split": split})
    assert "Split: whole groups by time. Train 3,600, calibration 1,200, test 12. " in page


def test_dates_and_versions_in_how_the_log_was_split_are_no_numbers(folder: Path, making: dict[str, Any]) -> None:
    note = "the choices of 20261127T2248-57eff7d6 (2026-11-27T22:48:59+00:00) were kept; train 3600 of 12000"
    split = {"method": "time", "note": note}
    page = of_report.render(open_bundle(folder).manifest, read_document(folder) or {}, {**making, "split": split})
    assert "20261127T2248-57eff7d6 (2026-11-27T22:48:59+00:00) were kept. Train 3,600 of 12,000." in page


def test_a_bundle_that_was_added_to_says_how_it_is_made_again(folder: Path, making: dict[str, Any]) -> None:
    manifest, document = open_bundle(folder).manifest, read_document(folder) or {}
    page = of_report.render(manifest, document, {**making, "going_on": "--since models/v0"})
    assert "Make it again from the same rows" in page
    assert "router-train run --data ROWS --since models/v0" in page
    assert "--since" not in of_report.render(manifest, document, making)


def test_of_a_log_that_was_learned_from_in_part_it_is_said_where_its_requests_are_counted(
    folder: Path, making: dict[str, Any]
) -> None:
    manifest, document = open_bundle(folder).manifest, read_document(folder) or {}
    requests = manifest.metrics["log_requests"]
    for core, sampled in ((requests, False), (requests / 3, True)):
        known = manifest.model_copy(update={"metrics": {**manifest.metrics, "log_core_requests": core}})
        (rests,) = (one for one in first_screen(known, document, making).figures if one.key == "log_requests")
        assert ("of them were learned from and measured on" in rests.note) is sampled
        bare, _ = uncertified(known, document)
        assert ("--set scale.core_measured=" in promise(bare)) is sampled


def test_the_volume_says_whether_it_is_counted_or_given_and_what_the_log_says_against_it() -> None:
    log: dict[str, Any] = {
        "requests": 500,
        "dated": 450,
        "counted": 300,
        "first": "2026-03-01T00:00:00Z",
        "last": "2026-03-31T00:00:00Z",
        "days": 31.0,
        "requests_a_month": 294.6,
        "requests_a_month_from": "dates",
        "note": None,
    }
    assert volume(log) == (
        "295 requests a month, reckoned from the log's dates: 300 requests counted in the 31 days from 1 Mar 2026 to "
        "31 Mar 2026; 200 that went to every candidate or were bought are no traffic and not counted; 50 requests without a "
        "date are taken to be of the same days. A season is not seen by it; report.requests_a_month overrides it."
    )
    assert volume({**log, "note": "Requests a month are not sure."}).endswith("days. Requests a month are not sure.")
    given = volume({**log, "requests_a_month": 9000.0, "requests_a_month_from": "setting"})
    assert given == "9,000 requests a month: given (report.requests_a_month), not counted in the log."
    nothing = {"requests": 500, "requests_a_month": None}
    assert volume({**nothing, "note": "The log's dates are of less than a day."}) == (
        "Not known: The log's dates are of less than a day."
    )
    assert "the log has no dates" in volume(nothing)
    old = {name: value for name, value in log.items() if name != "counted"}
    assert "450 requests counted" in volume(old), "a document from before it was counted"


def test_the_manifest_tells_how_many_requests_the_volume_is_counted_from(folder: Path, certified_page: str) -> None:
    document = read_document(folder) or {}
    told = {**document, "log": {**document["log"], "counted": 123}}
    assert with_month({}, told)["log_counted_requests"] == 123
    assert open_bundle(folder).manifest.metrics["log_counted_requests"] == 300
    assert "300 requests counted in the 31 days from 1 Mar 2026 to 31 Mar 2026" in certified_page
    assert "dated requests" not in certified_page


def test_no_name_is_broken_at_its_hyphens(certified_page: str) -> None:
    """In sentences; in a table the cell is as wide as it has room."""
    template = environment().from_string("{{ text | whole }}")
    manifest = Manifest.model_construct(
        version="20260101T000000-0123456789ab",
        candidates=(SimpleNamespace(name="gpt-4-mini"), SimpleNamespace(name="gpt-4")),
        operating_points=(SimpleNamespace(name="quality-0.9", certificate=None),),
        head=SimpleNamespace(workflows=("b2b-mail", "chat")),
    )
    text = (
        "<b> gpt-4-mini and gpt-4 at quality-0.9, b2b-mail & chat, 20260101T000000-0123456789ab, not gpt-4-mini-high."
    )
    assert template.render(manifest=manifest, text=text) == (
        '&lt;b&gt; <span class="name">gpt-4-mini</span> and <span class="name">gpt-4</span> at '
        '<span class="name">quality-0.9</span>, <span class="name">b2b-mail</span> &amp; chat, '
        '<span class="name long">20260101T000000-0123456789ab</span>, not gpt-4-mini-high.'
    )
    assert (
        template.render(sides=[SimpleNamespace(manifest=manifest)], text="gpt-4") == '<span class="name">gpt-4</span>'
    )
    assert 'At\n<span class="name">quality-0.9</span>, with' in certified_page
