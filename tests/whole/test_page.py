"""The page in a real Chromium: what is typed is decided as the service says, and what it shows is what it was told."""

from __future__ import annotations

import base64
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser import ROOT, Visit, served, visiting
from tests.whole import page_backend
from tests.whole.page_backend import CANDIDATES, POINTS, REFERENCE, SECRET, VERSION, Backend

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Response, Route

TABS = ("Try", "Frontier", "Live", "Bundles")
WIDTHS = (360, 1024, 1920)
PROOF = "Prove that it's the sum of two odd numbers."


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
def origin(backend: Backend) -> Iterator[str]:
    with served(backend.app()) as origin:
        yield origin


@pytest.fixture
def visit(chromium: Browser, origin: str) -> Iterator[Visit]:
    with visiting(chromium, origin) as visit:
        yield visit
        visit.sound()


def ask(page: Page, prompt: str = PROOF) -> None:
    page.get_by_label("Prompt", exact=True).last.fill(prompt)
    page.locator("#choice").wait_for()


def go_to(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def sent(response: Response) -> dict[str, Any]:
    """What the page asked /v1/route for."""
    return response.request.post_data_json if response.url.endswith("/v1/route") else {}


def turn(page: Page, place: float) -> None:
    page.get_by_role("radio", name="Cost/quality slider").locator("visible=true").check()
    page.get_by_role("slider").locator("visible=true").fill(f"{place:.1f}")


def choice(page: Page, model: str) -> None:
    """Waits until this candidate is the choice."""
    page.locator("#choice .name", has_text=model).wait_for()


def settled(page: Page, name: str) -> None:
    """Opens a tab and waits until it has something to show."""
    go_to(page, name)
    if name == "Try":
        ask(page)
    page.locator({"Try": "#choice", "Frontier": "#here", "Live": "#total", "Bundles": ".pick"}[name]).first.wait_for()


@pytest.mark.parametrize("hard", [False, True])
def test_the_choice_flips_along_the_knob_as_the_service_says(backend: Backend, visit: Visit, hard: bool) -> None:
    ask(visit.page, PROOF if hard else "Hello.")
    stretches = page_backend.flips(hard, {})
    assert len(stretches) >= 3
    for one in stretches:
        turn(visit.page, round((one["from_cost_quality"] + one["to_cost_quality"]) / 2, 1))
        choice(visit.page, one["model"])
    shown = visit.page.locator(".panel:visible .flips li").all_inner_texts()
    assert [line.split("\n")[0] for line in shown] == [one["model"] for one in stretches]
    assert all(body["dry_run"] and body["explain"] for body in backend.routed)


def test_each_place_on_the_slider_is_that_cost_quality_and_each_point_is_its_target(
    backend: Backend, visit: Visit, origin: str
) -> None:
    page = visit.page
    ask(page)
    assert backend.routed[-1]["quality_target"] == 0.95, "the bundle's default point"
    assert not page.get_by_role("slider").locator("visible=true").count()

    def said(**trade: float) -> str:
        answer = page.request.post(f"{origin}/v1/route", data={"prompt": PROOF, **trade})
        return str(answer.json()["model"])

    chosen_by_target, seen = {}, set()
    for number, (name, (target, *_)) in enumerate(POINTS.items()):
        with page.expect_response(lambda one, asked=target: sent(one).get("quality_target") == asked) as response:
            page.locator(".panel:visible .chip[aria-pressed]").nth(number).click()
        assert "cost_quality" not in sent(response.value)
        chosen_by_target[name] = said(quality_target=target)
        choice(page, chosen_by_target[name])
        assert page.locator(".panel:visible .says").inner_text().startswith(f"{name}\nCertified")
    at_points = page.get_by_label("Who is chosen at each point").locator("li").all_inner_texts()
    assert at_points == [f"{model}\n{name}" for name, model in chosen_by_target.items()]
    for step in range(0, 101, 4):
        place = step / 10
        with page.expect_response(lambda one, asked=place: sent(one).get("cost_quality") == asked) as response:
            turn(page, place)
        assert "quality_target" not in sent(response.value)
        seen.add(said(cost_quality=place))
        choice(page, said(cost_quality=place))
        slider = page.get_by_role("slider").locator("visible=true")
        assert float(slider.input_value()) == place, "the slider snaps to nothing"
        assert slider.get_attribute("aria-valuetext") == f"{place:.1f} of 10, not certified"
    assert seen == set(CANDIDATES)
    page.get_by_role("radio", name="Certified point").check()
    choice(page, chosen_by_target["quality-0.95"])
    assert page.locator(".panel:visible .says").inner_text().startswith("quality-0.95\nCertified")


def test_constraints_rule_out_and_whose_rule_it_was_is_told(backend: Backend, visit: Visit) -> None:
    page = visit.page
    ask(page)
    page.get_by_text("Constraints").click()
    page.get_by_label("Deny").fill("acme/large")
    page.get_by_label("Most cost, USD").fill("0.0005")
    page.get_by_text("Out: It is denied. (default)").wait_for()
    page.get_by_label("tools", exact=True).check()
    page.get_by_label("self-hosted").check()
    page.get_by_text("Out: It would cost more than the limit. (default)").first.wait_for()
    page.wait_for_function("() => !document.querySelector('.answer').hasAttribute('aria-busy')")
    body = backend.routed[-1]
    assert (body["deny"], body["max_cost_usd"]) == (["acme/large"], 0.0005)
    page.get_by_label("Deny").fill(", ".join(CANDIDATES))
    page.get_by_text("No candidate is left").wait_for()
    # A refusal (422) is an answer, which the browser notes in its console.
    visit.complaints = [one for one in visit.complaints if "422" not in one]


def test_messages_are_sent_as_they_are_and_what_is_no_json_is_told(backend: Backend, visit: Visit) -> None:
    page = visit.page
    page.get_by_role("radio", name="Messages, JSON").check()
    page.get_by_role("textbox", name="Messages, JSON").fill('[{"role": "user", ')
    wrong = page.get_by_text("Messages are no JSON")
    wrong.wait_for()
    assert page.locator("textarea:focus").count() == 1, "who still writes keeps the focus"
    page.get_by_role("button", name="Ask").click()
    page.locator("#wrong-messages:focus").wait_for()
    assert wrong.locator("xpath=..").get_by_role("button", name="Ask").count() == 1, "it is said beside the button"
    assert not backend.routed
    page.get_by_role("textbox", name="Messages, JSON").fill('[{"role": "user", "content": "hello"}]')
    page.locator("#choice").wait_for()
    assert backend.routed[-1]["messages"] == [{"role": "user", "content": "hello"}]


def test_the_copied_command_asks_the_same_and_has_no_secret_in_it(
    chromium: Browser, backend: Backend, origin: str
) -> None:
    backend.keys = True
    with visiting(chromium, origin, permissions=["clipboard-read", "clipboard-write"]) as visit:
        page = visit.page
        page.get_by_label("Key", exact=True).fill("operator-secret")
        page.get_by_role("button", name="Use key").click()
        ask(page, 'It\'s $HOME and `id` and \\ "quoted"')
        page.get_by_role("button", name="Copy as curl").click()
        page.get_by_text("Copied.").wait_for()
        command = page.evaluate("navigator.clipboard.readText()")
    assert "operator-secret" not in command
    words = shlex.split(command)
    assert words[:3] == ["curl", "-sS", f"{origin}/v1/route"]
    assert "Authorization: Bearer $ROUTER_API_KEY" in words
    assert json.loads(words[words.index("-d") + 1]) == backend.routed[-1]


def test_what_is_shown_is_text_and_never_markup(
    backend: Backend, visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = "<img src=x onerror=alert(1)><b>bold</b>"
    plain = page_backend.decision

    def attacked(*arguments: Any) -> dict[str, Any]:
        made = plain(*arguments)
        made["explanation"]["nearest"][0] |= {"text": attack, "workflow": attack, "id": attack}
        return made | {"warnings": [attack]}

    monkeypatch.setattr(page_backend, "decision", attacked)
    ask(visit.page)
    assert visit.page.locator(".quote").first.inner_text() == attack
    assert visit.page.locator("main img, main b").count() == 0


def test_the_frontiers_point_moves_with_the_knob_and_a_month_is_the_volume_times_its_cost(visit: Visit) -> None:
    page = visit.page
    settled(page, "Frontier")
    document = page_backend.frontier()
    before = page.locator("#here").get_attribute("cx")
    default = next(one for one in document["points"] if one["default"])["calibration"]
    all_to_reference = document["seen"]["requests_a_month"] * document["month"]["reference_usd_per_request"]
    said = page.locator(".month").inner_text()
    assert f"A month costs\n${all_to_reference * (1 - default['saving']):,.2f}" in said
    assert f"A month saves\n${all_to_reference * default['saving']:,.2f}" in said
    assert page.locator(".month .figure.good .note").inner_text() == f"{default['saving']:.1%}, where certified"
    turn(page, 0)
    cheapest = next(one for one in document["sweep"] if one["cost_quality"] == 0.0)
    page.locator("#at-place", has_text=f"{cheapest['quality']:.1%}").wait_for()
    after = page.locator("#here").get_attribute("cx")
    assert before is not None
    assert after is not None
    assert float(after) < float(before)
    page.get_by_text("Figures behind the chart").click()
    table = page.get_by_role("region", name="One candidate for everything")
    assert table.locator("tbody tr").count() == len(CANDIDATES)
    assert page.get_by_role("region", name="Along the slider").locator("tbody tr").count() == len(document["sweep"])
    go_to(page, "Try")  # one knob for both
    assert page.get_by_role("slider").locator("visible=true").input_value() == "0"


def test_a_saving_says_on_which_requests_it_is(visit: Visit, monkeypatch: pytest.MonkeyPatch) -> None:
    document = page_backend.frontier()
    default = next(one for one in document["points"] if one["default"])
    default["alpha"], default["test"]["saving"], default["calibration"]["saving"] = 0.025, 0.65, 0.555
    document["seen"] |= {"days": 7, "decisions": 1200}
    monkeypatch.setattr(page_backend, "frontier", lambda: document)
    page = visit.page
    settled(page, "Frontier")
    said = page.locator("#at-place").inner_text()
    assert "Saved, on test requests\n65.0%" in said
    assert "Saved, where certified\n55.5%" in said
    span = f"{default['test']['saving_low']:.1%}", f"{default['test']['saving_high']:.1%}"
    assert all(one in said.split("A month")[0] for one in ("95%: ", *span))
    page.get_by_text("in the last 7 whole days.").wait_for()
    assert "2.5%" in page.get_by_role("region", name="Operating points").inner_text()


def test_an_unknown_figure_is_no_amount_and_an_uncertified_point_says_who_answers(
    visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, figures = "quality-0.99", ("quality", "cost_usd")
    target, made = (0.99, 0.0, 0.0, 0.0), page_backend._operating_point
    unknown = {"always": REFERENCE, "certificate": None, "saving": 0.0} | dict.fromkeys(figures)
    monkeypatch.setitem(POINTS, name, target)
    monkeypatch.setattr(page_backend, "_operating_point", lambda one: made(one) | (unknown if one == name else {}))
    document = page_backend.frontier()
    document["points"][-1] |= {"always": REFERENCE, "certified": False, "bound": None, "alpha": None, "test": None}
    for part in (document["points"][-1]["calibration"], document["sweep"][-1], document["singles"][-1]):
        part |= dict.fromkeys(figures)
    document["points"][-1]["calibration"]["saving"] = 0.0
    document["month"] = None
    monkeypatch.setattr(page_backend, "frontier", lambda: document)
    page = visit.page
    page.reload()
    settled(page, "Frontier")
    chip = page.locator(".panel:visible .chip", has_text=name)
    assert chip.inner_text() == f"{name}\nnot certified: everything to {REFERENCE}"
    chip.click()
    says = page.locator(".panel:visible .says").inner_text()
    assert says == f"{name}\nNot certified\n\nEvery request goes to {REFERENCE}."
    assert "Per 1,000 requests\n–" in page.locator("#at-place").inner_text()
    assert "A month costs\n–" in page.locator(".month").inner_text()
    page.get_by_text("Figures behind the chart").click()
    for region in ("Operating points", "Along the slider", "One candidate for everything"):
        assert "–" in page.get_by_role("region", name=region).locator("tr").last.inner_text()
    assert "$0.00" not in page.locator(".panel:visible").inner_text()


def test_a_shadow_whose_cost_is_unknown_has_none(visit: Visit) -> None:
    def without(route: Route) -> None:
        came = route.fetch().json()
        came["total"] |= {"live_cost_usd": None, "shadow_cost_usd": None}
        route.fulfill(json=came)

    visit.page.route("**/v1/shadow?*", without)
    settled(visit.page, "Bundles")
    said = visit.page.get_by_role("region", name="Shadow against live").locator("tr").last.inner_text()
    assert "– → –" in said
    assert "$0.00" not in said


def test_a_word_is_never_nearer_to_another_point_than_to_its_own(visit: Visit) -> None:
    script = """async () => {
        const {labels} = await import("/page/draw.js");
        const drawn = (gap) => {
            const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
            const at = [150, 150 + gap, 150 + 2 * gap];
            const taken = at.map((x) => ({x: x - 8, y: 92, w: 16, h: 16}));
            const words = at.map((x, place) => ({x, y: 100, text: `quality-0.9${place}`, kind: "strong"}));
            labels(svg, words, {left: 0, right: 600, top: 0, bottom: 200}, taken);
            return [...svg.querySelectorAll("text")].map((one) => one.textContent);
        };
        return [drawn(18), drawn(120)];
    }"""
    close, apart = visit.page.evaluate(script)
    assert "quality-0.91" not in close
    assert close[0] == "quality-0.90"
    assert len(apart) == 3


def test_a_bundle_without_a_frontier_says_why(backend: Backend, visit: Visit) -> None:
    backend.why_no_frontier = "No request of the log has an outcome of every candidate."
    go_to(visit.page, "Frontier")
    visit.page.get_by_text(backend.why_no_frontier).wait_for()
    visit.complaints = [one for one in visit.complaints if "404" not in one]


def test_live_figures_move_and_nothing_is_asked_while_nobody_looks(backend: Backend, visit: Visit) -> None:
    page = visit.page
    settled(page, "Live")
    page.locator("#total", has_text="1,200").wait_for()
    for total in (1201, 2345):
        backend.decided = total
        page.locator("#total", has_text=f"{total:,}").wait_for()
    assert "all to acme/large" in page.locator(".panel:visible").inner_text()
    assert backend.streams == 1
    go_to(page, "Try")
    page.wait_for_timeout(100)  # the stream that was open is broken off
    backend.decided = 9999
    go_to(page, "Live")
    page.locator("#total", has_text="9,999").wait_for()
    assert backend.streams == 2
    page.get_by_role("button", name="Pause").click()
    page.get_by_text("paused at").wait_for()


def test_a_stream_that_ends_says_why_and_can_be_opened_again(backend: Backend, visit: Visit) -> None:
    backend.closes_stream = True
    settled(visit.page, "Live")
    visit.page.get_by_text("The key was taken away.").wait_for()
    backend.closes_stream, backend.decided = False, 77
    visit.page.get_by_role("button", name="Connect again").click()
    visit.page.locator("#total", has_text="77").wait_for()
    assert visit.page.get_by_text("The key was taken away.").count() == 0


def test_savings_show_what_was_lost_as_well(visit: Visit) -> None:
    settled(visit.page, "Live")
    visit.page.get_by_label("Savings by").select_option("workflow")
    visit.page.get_by_role("region", name="Savings").get_by_text("proofs").wait_for()
    assert "−$0.40" in visit.page.get_by_role("region", name="Savings").inner_text()


def test_savings_follow_the_traffic_every_half_minute_at_most(backend: Backend, visit: Visit) -> None:
    page = visit.page
    settled(page, "Live")
    table = page.get_by_role("region", name="Savings")
    table.get_by_text("1,200").first.wait_for()
    page.get_by_text("as of").first.wait_for()
    now = page.evaluate("Date.now()")
    assert backend.summed == 1
    backend.decided = 1300
    page.locator("#total", has_text="1,300").wait_for()
    assert backend.summed == 1, "half a minute is not over"
    page.clock.set_fixed_time(now + 31_000)
    table.get_by_text("1,300").first.wait_for()
    assert backend.summed == 2
    page.clock.set_fixed_time(now + 62_000)
    page.wait_for_timeout(300)  # events arrive all the time
    assert backend.summed == 2, "nothing was decided since"


def test_why_savings_are_unknown_is_told_and_an_unknown_cost_is_a_gap(backend: Backend, visit: Visit) -> None:
    page = visit.page
    settled(page, "Live")
    gaps = "() => document.querySelector('.line.actual[d]').getAttribute('d').split('M').length - 2"
    page.locator("path.line.actual").wait_for(state="attached")
    assert page.evaluate(gaps) == 3
    assert page.evaluate(gaps.replace("actual", "expected")) == 0
    page.get_by_text("Figures behind the charts").click()
    rows = page.get_by_role("region", name="The last hour by minute").locator("tbody tr")
    assert rows.nth(59 - 7).locator("td").nth(1).inner_text() == "–"
    go_to(page, "Try")
    backend.costs_told = False
    go_to(page, "Live")
    page.get_by_label("Savings by").select_option("workflow")
    why = "So far nothing is known of what was saved. None of 1,200 compared; left out: 1,200 without a cost in feedback. "
    page.get_by_text(f"{why}Tell cost_usd in feedback.").wait_for()
    page.get_by_text("unknown: no cost told").wait_for()
    assert page.locator("path.line.actual").get_attribute("d") == ""


def test_events_are_read_however_the_network_cuts_them(visit: Visit) -> None:
    stream = (
        'retry: 1500\n\n: beat\n\nevent: snapshot\r\nid: 1\r\ndata: {"a":\r\ndata: "ü"}\r\n\r\n'
        "data: plain\n\nevent: end\ndata\n\n"
    )
    script = """async (stream) => {
        const {Parser} = await import("/page/sse.js");
        const seen = [];
        for (let cut = 0; cut <= stream.length; cut += 1) {
            const parser = new Parser();
            seen.push(JSON.stringify([parser.take(stream.slice(0, cut)).concat(parser.take(stream.slice(cut))), parser.retry]));
        }
        return [...new Set(seen)];
    }"""
    only = visit.page.evaluate(script, stream)
    assert len(only) == 1
    events, retry = json.loads(only[0])
    assert retry == 1500
    assert events == [
        {"event": "snapshot", "data": '{"a":\n"ü"}'},
        {"event": "message", "data": "plain"},
        {"event": "end", "data": ""},
    ]


def test_bundles_are_compared_and_reloaded_after_a_question(backend: Backend, visit: Visit) -> None:
    page = visit.page
    settled(page, "Bundles")
    side = page.get_by_role("region", name="Side by side")
    assert VERSION in side.inner_text()
    page.get_by_label("Compare 20261121-91ff02").check()
    page.get_by_text("Trained on different logs").wait_for()
    assert page.locator(".pick:checked").count() == 2
    page.get_by_role("region", name="Shadow against live").get_by_text("83%").first.wait_for()
    assert "format_version 5 arrived" in page.get_by_role("region", name="Bundles", exact=True).inner_text()
    page.get_by_role("button", name="Reload…").click()
    page.get_by_role("button", name="Reload", exact=True).click()
    page.get_by_text(f"Worker 1: {VERSION}").wait_for()
    page.get_by_role("button", name="Close").click()
    backend.refuses_reload = True
    page.locator(".pick").first.wait_for()
    page.get_by_role("button", name="Reload…").click()
    page.get_by_role("button", name="Reload", exact=True).click()
    page.get_by_text("head.onnx has another hash").wait_for()
    visit.complaints = [one for one in visit.complaints if "409" not in one]


def test_a_key_is_asked_for_kept_in_the_tab_alone_and_forgotten(
    chromium: Browser, backend: Backend, origin: str
) -> None:
    backend.keys = True
    with visiting(chromium, origin) as visit:
        page = visit.page
        page.get_by_role("dialog").wait_for()
        page.get_by_label("Key", exact=True).fill("wrong")
        page.get_by_role("button", name="Use key").click()
        page.get_by_role("dialog").get_by_text("An API key is needed").wait_for()
        page.get_by_label("Key", exact=True).fill("observer-secret")
        page.get_by_label("Key", exact=True).press("Enter")
        page.get_by_role("button", name="Key: observer").wait_for()
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        go_to(page, "Bundles")
        page.get_by_text("A key that may administer").wait_for()
        assert page.get_by_role("button", name="Reload…").count() == 0
        page.reload()
        page.get_by_role("button", name="Key: observer").click()
        page.get_by_role("button", name="Forget key").click()
        page.get_by_role("dialog").get_by_text("An API key is needed").wait_for()
        assert page.evaluate("sessionStorage.length") == 0
        assert not [one for one in visit.asked if any(secret in one for secret in SECRET)]
        visit.sound(but=("401",))


def test_over_its_rate_the_page_waits_as_long_as_it_is_told(chromium: Browser, backend: Backend, origin: str) -> None:
    with visiting(chromium, origin) as visit:
        visit.page.locator("textarea").wait_for()
        backend.over_rate = 1
        ask(visit.page)
        assert not backend.over_rate
        assert len(backend.routed) == 1
        assert len([one for one in visit.asked if one.endswith("/v1/route")]) == 2
        visit.sound(but=("429",))


def test_the_keyboard_reaches_every_tab_and_its_panel(visit: Visit) -> None:
    page = visit.page
    page.get_by_role("tab", name="Try").focus()
    for name, key in (
        ("Frontier", "ArrowRight"),
        ("Bundles", "End"),
        ("Try", "ArrowRight"),
        ("Bundles", "ArrowLeft"),
        ("Try", "Home"),
    ):
        page.keyboard.press(key)
        focused = page.evaluate(
            "[document.activeElement.textContent, document.activeElement.getAttribute('aria-selected')]"
        )
        assert focused == [name, "true"]
        assert page.locator("[role=tab][tabindex='0']").all_inner_texts() == [name]
        assert page.get_by_role("tabpanel").get_attribute("aria-labelledby") == f"tab-{name.lower()}"
    page.keyboard.press("Tab")
    outline = (
        "(() => { const at = document.activeElement; "
        "return getComputedStyle(at.closest('label')?.querySelector('span') ?? at).outlineStyle; })()"
    )
    for _ in range(4):
        page.keyboard.press("Tab")
        assert page.evaluate(outline) != "none", "what has the focus is seen"


def test_a_prefix_before_the_page_does_not_break_it(chromium: Browser, backend: Backend) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    with (
        served(Starlette(routes=[Mount("/router", backend.app())])) as origin,
        visiting(chromium, origin, "/router/") as visit,
    ):
        ask(visit.page)
        assert all(one.startswith(f"{origin}/router/") for one in visit.asked)
        visit.sound()


EDGE = """async ([png, ends]) => {
  const image = new Image();
  image.src = `data:image/png;base64,${png}`;
  await image.decode();
  const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d", { willReadFrequently: true });
  canvas.drawImage(image, 0, 0);
  return ends.map((x) => [...canvas.getImageData(x < 0 ? image.width + x : x, image.height - 2, 1, 1).data].slice(0, 3));
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_table_that_goes_on_beyond_the_edge_shows_it_and_can_be_scrolled_by_key(
    chromium: Browser, origin: str, scheme: Any
) -> None:
    """A shadow lies at the edge behind which there is more: right at first, left at the table's end."""
    with visiting(chromium, origin, width=360, scheme=scheme, script=True) as visit:
        page = visit.page
        go_to(page, "Frontier")
        page.locator("#here").wait_for()
        page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
        region = page.get_by_role("region", name="Along the slider")
        region.scroll_into_view_if_needed()
        assert region.evaluate("one => one.scrollWidth > one.clientWidth"), (
            "the table of this test fits: it shows nothing"
        )
        surface = page.evaluate(
            "getComputedStyle(document.querySelector('.card')).backgroundColor.match(/\\d+/g).map(Number)"
        )

        def edges() -> list[bool]:
            """Whether there is a shadow at the left edge and at the right one."""
            png = base64.b64encode(region.screenshot()).decode()
            return [pixel != surface for pixel in page.evaluate(EDGE, [png, [1, -2]])]

        assert edges() == [False, True]
        region.focus()
        for _ in range(20):
            page.keyboard.press("ArrowRight")
        page.wait_for_function(
            "one => one.scrollLeft + one.clientWidth >= one.scrollWidth - 1", arg=region.element_handle()
        )
        region.evaluate("one => one.blur()")
        assert edges() == [True, False]
        visit.sound()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_at_three_widths(chromium: Browser, origin: str, scheme: Any, tmp_path: Path) -> None:
    """They are to be looked at: SCREENSHOTS=folder keeps them. At no width is the page wider than the window."""
    folder = Path(os.environ.get("SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    for width in WIDTHS:
        with visiting(chromium, origin, width=width, scheme=scheme) as visit:
            page = visit.page
            for name in TABS:
                settled(page, name)
                wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                assert wider <= 0, f"{name} at {width} px is {wider} px too wide"
                picture = page.screenshot(path=folder / f"{name.lower()}-{width}-{scheme}.png", full_page=True)
                assert picture.startswith(b"\x89PNG")
            bright = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
            assert (min(bright) > 200) if scheme == "light" else (max(bright) < 60)
            visit.sound()


def test_the_reference_is_never_said_to_save_against_itself(visit: Visit) -> None:
    ask(visit.page)
    turn(visit.page, 10)
    choice(visit.page, REFERENCE)
    visit.page.get_by_text("this is the reference").wait_for()


def test_the_pictures_for_the_readme_are_taken(chromium: Browser, tmp_path: Path) -> None:
    """In a process of its own, as `make pictures` does: one Playwright is all that a thread may have."""
    script = f"from pathlib import Path; from docs.pictures import take; take(Path({str(tmp_path)!r}), Path('nothing'))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    for name in ("page.png", "frontier.png"):
        picture = (tmp_path / name).read_bytes()
        assert int.from_bytes(picture[16:20], "big") == 1280, "its width, in the header of a PNG"
        assert len(picture) < 200_000
