"""What a store is asked for an account: sums by hand, whose decisions, which of them count, on either database."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from serving.account import asked
from serving.account.intervals import wilson
from serving.account.savings import Account, Line, Method
from serving.account.window import DAY, By, Window
from serving.integrations.litellm.told.restored import restore
from serving.integrations.outcome import ToldOutcome
from serving.store import savings as of_store
from serving.store.engine import open_engine
from serving.store.feedback import Feedback
from serving.store.savings import Asking, savings
from serving.store.tables import ALSO_FEEDBACK, DECISIONS, FEEDBACK
from serving.store.writer import DecisionStore
from tests.patience import PATIENCE
from tests.serving.store.rows import decision, feedback, stored, told

LARGE, SMALL = "acme/large", "acme/small"


def decided(name: str, **changes: Any) -> dict[str, Any]:
    """One that went to the small one, where the large one is the reference."""
    known = {"reference": LARGE, "reference_expected_cost_usd": 2.0, "reference_input_usd": 0.5}
    return decision(name, **{**known, **changes})


def account(
    url: str,
    made: Sequence[dict[str, Any]],
    said: Sequence[Feedback] = (),
    also: Sequence[Feedback] = (),
    *,
    by: By = By.WORKFLOW,
    key: str | None = None,
    since: float = 0.0,
    until: float = 1e9,
) -> Account:
    engine = open_engine(url)
    with engine.begin() as connection:
        for table, rows in (
            (DECISIONS, made),
            (FEEDBACK, [one.row(200.0) for one in said]),
            (ALSO_FEEDBACK, [one.row(200.0) for one in also]),
        ):
            if rows:
                connection.execute(table.insert(), list(rows))
    found = savings(engine, Window(by, since, until, key))
    engine.dispose()
    return found


def enough(ratio: float = 1.5, count: int = 30, at: float = 100.0) -> tuple[list[dict[str, Any]], list[Feedback]]:
    """The reference's own answers, all of which cost so many times what was expected."""
    made = [decided(f"own{n}", candidate=LARGE, expected_cost_usd=2.0, workflow="own", at=at) for n in range(count)]
    return made, [feedback(f"own{n}", cost_usd=2.0 * ratio, quality=None) for n in range(count)]


def of(found: Account, name: str | None) -> Line:
    (one,) = [each for each in found.lines if each.name == name]
    return one


def test_an_account_by_hand(url: str) -> None:
    made, said = enough()
    made += [
        decided("explored", workflow="w", reason="explore", expected_cost_usd=0.75, instead_candidate="x",
                instead_expected_cost_usd=0.25),
        decided("asked too", workflow="w", also_candidate="x", also_propensity=0.1, also_expected_cost_usd=0.3),
        decided("asked too, told", workflow="w", also_candidate="x", also_propensity=0.1, also_expected_cost_usd=0.3),
        decided("untold", workflow="w"),
        decided("failed", workflow="w"),
        decided("fell back", workflow="w"),
        decided("held back", workflow="w", reason="held_back", candidate=LARGE, expected_cost_usd=2.0),
        decision("old", workflow="w"),
    ]  # fmt: skip
    said += [
        feedback("explored", cost_usd=0.5, quality=0.5, judge_cost_usd=0.01),
        feedback("asked too", cost_usd=0.5, quality=0.0, source="retried"),
        feedback("asked too, told", cost_usd=0.5, quality=1.0, source="thumb"),
        feedback("failed", cost_usd=0.125, quality=0.0, error=True),
        feedback("fell back", cost_usd=0.75, candidate="x", quality=None),
        feedback("held back", cost_usd=3.0, quality=1.0, judge_cost_usd=0.02),
        feedback("old", cost_usd=0.25, quality=None),
    ]
    also = [feedback("asked too, told", candidate="x", cost_usd=0.4, quality=1.0, judge_cost_usd=0.04)]
    found = account(url, made, said, also)
    (ratio,) = found.ratios
    assert (ratio.reference, ratio.method, ratio.ratio) == (LARGE, Method.OWN, pytest.approx(1.5))
    assert (ratio.conversations, ratio.answers) == (31, 31), "what was held back and went to it tells as well"
    line = of(found, "w")
    assert (line.decisions, line.costed, line.uncosted, line.compared) == (8, 7, 1, 5)
    assert (line.without_reference, line.held_back, line.failed) == (1, 1, 1)
    assert line.actual_usd == pytest.approx(0.5 * 3 + 0.125 + 0.75 + 3.0 + 0.25)
    assert line.expected_usd == pytest.approx(0.75 + 0.5 * 4 + 2.0 + 0.5)
    assert line.compared_usd == pytest.approx(0.5 * 3 + 0.125 + 0.75)
    assert line.reference_usd == pytest.approx(4 * 2.0 * 1.5), "a failed call would have cost nothing there either"
    assert line.exploration_usd == pytest.approx(0.5)
    assert line.also_usd == pytest.approx(0.3 + 0.4), "as expected until it is told"
    assert (line.judge_usd, line.uncompared_judge_usd) == (pytest.approx(0.01 + 0.04), pytest.approx(0.02))
    assert line.saved_usd == pytest.approx(12.0 - 2.375 - 0.7 - 0.05)
    assert (line.judged, line.quality) == (2, pytest.approx(1.5 / 2)), "hints and failures are no judgements"
    assert (line.held_back_judged, line.held_back_quality) == (1, 1.0)
    own = of(found, "own")
    assert (own.reference_usd, own.reference_low, own.reference_high) == (90.0, 90.0, 90.0)
    assert own.saved_usd == 0.0
    assert found.total.decisions == 38
    assert found.total.saved_usd == pytest.approx(line.saved_usd)


def test_a_key_sees_its_own_decisions_alone(url: str) -> None:
    made, said = enough()
    made = [row | {"key": "rich"} for row in made]
    made += [decided(f"p{n}", key="poor", workflow="own", session_id="s") for n in range(3)]
    said += [feedback(f"p{n}", cost_usd=0.5) for n in range(3)]
    everybody = account(url, made, said, by=By.KEY)
    assert [one.name for one in everybody.lines] == ["rich", "poor"]
    own = account(url, [], by=By.KEY, key="poor")
    assert [(one.name, one.decisions) for one in own.lines] == [("poor", 3)]
    assert own.total.decisions == 3
    assert [one.method for one in own.ratios] == [Method.PROMPTS], "not even by what others' answers cost"
    assert account(url, [], by=By.KEY, key="nobody").lines == ()


def test_quality_is_of_what_was_routed_and_held_back_decisions_are_told_apart(url: str) -> None:
    made = [decided(f"routed{n}", candidate=SMALL) for n in range(10)]
    made += [decided(f"held{n}", candidate=LARGE, reason="held_back") for n in range(90)]
    said = [feedback(row["id"], cost_usd=0.5, quality=0.5 if row["candidate"] == SMALL else 1.0) for row in made]
    found = account(url, made, said)
    for line in (found.total, of(found, None)):
        assert (line.compared, line.judged, line.quality) == (10, 10, 0.5)
        assert (line.held_back, line.held_back_judged, line.held_back_quality) == (90, 90, 1.0)
        assert (line.quality_low, line.quality_high) == pytest.approx(wilson(5.0, 10.0))


def test_routings_own_costs_are_subtracted_where_something_is_compared_and_told_elsewhere(url: str) -> None:
    """Costs are told of a tenth of the decisions: asking another too at the others would make a loss of a saving."""
    made, said = enough()
    asked_too = {"also_candidate": LARGE, "also_propensity": 0.5, "also_expected_cost_usd": 2.0}
    for number in range(100):
        more = (
            {"reason": "explore", "instead_candidate": "x", "instead_expected_cost_usd": 0.25}
            if number % 2
            else asked_too
        )
        made.append(decided(f"d{number}", workflow="w", **more))
    said += [feedback(f"d{number}", cost_usd=0.5, judge_cost_usd=0.125) for number in range(10)]
    said += [feedback(f"d{number}", quality=1.0, judge_cost_usd=0.125) for number in range(10, 20)]
    found = account(url, made, said)
    for line in (of(found, "w"), found.total):
        assert (line.also_usd, line.judge_usd, line.exploration_usd) == pytest.approx((5 * 2.0, 1.25, 5 * 0.25))
        elsewhere = (line.uncompared_also_usd, line.uncompared_judge_usd, line.uncompared_exploration_usd)
        assert elsewhere == pytest.approx((45 * 2.0, 1.25, 45 * 0.25))
    assert of(found, "w").saved_usd == pytest.approx(10 * (2.0 * 1.5 - 0.5) - 10.0 - 1.25)


def test_where_a_call_fell_back_to_the_reference_its_cost_is_what_was_told(url: str) -> None:
    made, said = enough()
    made += [decided(f"d{number}", workflow="w") for number in range(4)]
    said += [feedback(f"d{number}", candidate=LARGE, cost_usd=9.0) for number in range(3)]
    said += [feedback("d3", cost_usd=0.5)]
    found = account(url, made, said)
    line, (ratio,) = of(found, "w"), found.ratios
    assert (ratio.answers, ratio.ratio) == (30, pytest.approx(1.5)), (
        "whom it stood in for were no draw of its own requests"
    )
    assert line.compared_usd == pytest.approx(3 * 9.0 + 0.5)
    assert line.reference_usd == pytest.approx(3 * 9.0 + 2.0 * 1.5)
    assert line.saved_usd == pytest.approx(2.0 * 1.5 - 0.5)


def test_where_another_stood_in_for_the_reference_routing_saved_nothing(url: str) -> None:
    made, said = enough()
    made += [decided(f"d{number}", workflow="w", candidate=LARGE, expected_cost_usd=2.0) for number in range(5)]
    said += [feedback(f"d{number}", candidate=SMALL, cost_usd=0.25) for number in range(5)]
    line = of(account(url, made, said), "w")
    assert (line.compared, line.compared_usd) == (5, 1.25)
    assert (line.reference_low, line.reference_usd, line.reference_high) == (1.25, 1.25, 1.25)
    assert (line.saved_low, line.saved_usd, line.saved_high) == (0.0, 0.0, 0.0)


def test_a_session_of_two_keys_is_two_conversations(url: str) -> None:
    made = [decided(f"d{n}", key=f"k{n % 2}", session_id="s") for n in range(4)]
    line = account(url, made, [feedback(f"d{n}", cost_usd=0.5) for n in range(4)]).total
    assert line.judged == 4
    assert (line.quality_low, line.quality_high) == pytest.approx(wilson(2.0, 2.0))


def test_days_are_in_utc_and_in_their_order_and_the_window_is_half_open(url: str) -> None:
    times = {"a": 3 * DAY - 0.25, "b": 3 * DAY, "c": 4 * DAY - 0.001, "d": 5 * DAY, "e": 1 * DAY}
    found = account(url, [decided(name, at=at) for name, at in times.items()], by=By.DAY, since=DAY, until=5 * DAY)
    assert [(one.name, one.decisions) for one in found.lines] == [
        ("1970-01-02", 1),
        ("1970-01-03", 1),
        ("1970-01-04", 2),
    ]
    assert found.total.decisions == 4


def test_more_lines_than_there_may_be_are_one(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "MOST_LINES", 3)
    made = [decided(f"{tag}{n}", workflow=f"tag {tag}") for tag in range(9) for n in range(10 - tag)]
    made += [decided("none", workflow=None)]
    found = account(url, made, [feedback(row["id"], cost_usd=0.5) for row in made])
    assert [one.name for one in found.lines] == ["tag 0", "tag 1", "tag 2"]
    assert found.other is not None
    everything = [*found.lines, found.other]
    for name in ("decisions", "costed", "compared_usd", "reference_usd", "saved_usd", "judged"):
        assert getattr(found.total, name) == pytest.approx(sum(getattr(one, name) for one in everything)), name


def test_two_bundles_references_are_told_apart(url: str) -> None:
    made, said = enough()
    made += [
        decided("x", reference="other/huge", reference_expected_cost_usd=8.0, workflow="w"),
        decided("y", workflow="w"),
    ]
    said += [feedback("x", cost_usd=0.5), feedback("y", cost_usd=0.5)]
    found = account(url, made, said)
    assert {one.reference: one.method for one in found.ratios} == {LARGE: Method.OWN, "other/huge": Method.OTHERS}
    assert found.method is Method.OTHERS
    assert of(found, "w").reference_usd == pytest.approx(2.0 * 1.5 + 8.0 * 1.5)


def test_what_a_plug_in_restored_is_read_and_has_no_reference(url: str) -> None:
    store = DecisionStore(open_engine(url))
    outcome = ToldOutcome(
        decision_id="r1", trace_id=None, observation_id=None, call_id=None, model=SMALL, started=100.0, ended=101.0,
        cost_usd=0.5, input_tokens=1, output_tokens=1, latency_ms=1.0, error=False, attempts=(),
        decision={"model": SMALL, "propensity": 1.0, "expected_cost_usd": 0.25},
    )  # fmt: skip
    assert restore(store, [outcome], None) == 1
    assert told(store, feedback("r1", cost_usd=0.5, judge_cost_usd=0.25)) == [{"quality", "cost_usd", "judge_cost_usd"}]
    store.close(PATIENCE)
    line = account(url, []).total
    assert (line.decisions, line.without_reference, line.compared, line.actual_usd) == (1, 1, 0, 0.5)
    assert (line.saved_usd, line.judge_usd, line.uncompared_judge_usd) == (0.0, 0.0, 0.25)


def test_what_judging_cost_is_merged_as_any_cost_is(store: DecisionStore) -> None:
    store.decided(decision())
    assert told(store, feedback(judge_cost_usd=0.5)) == [{"quality", "judge_cost_usd"}]
    (again,) = told(store, feedback(judge_cost_usd=0.75))
    assert getattr(again, "fields", None) == ("judge_cost_usd",)
    assert told(store, feedback(judge_cost_usd=0.75, replace=True)) == [{"judge_cost_usd"}]
    with store.engine.connect() as connection:
        assert connection.scalar(sa.select(FEEDBACK.c.judge_cost_usd)) == 0.75


def test_lines_and_total_are_of_one_moment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decision that is written between two of the statements is in none of the figures."""
    account(url, [decided("first")], [feedback("first", cost_usd=0.5)])
    plain = asked._sums

    def interrupted(connection: sa.Connection, *arguments: Any, by_line: bool) -> Any:
        if not by_line:
            other = open_engine(url)
            with other.begin() as writing:
                writing.execute(DECISIONS.insert(), [decided("later")])
            other.dispose()
        return plain(connection, *arguments, by_line=by_line)

    monkeypatch.setattr(asked, "_sums", interrupted)
    engine = open_engine(url)
    found = savings(engine, Window(By.WORKFLOW, 0.0, 1e9))
    engine.dispose()
    assert (found.total.decisions, [one.decisions for one in found.lines]) == (1, [1])
    assert len(stored(url, DECISIONS)) == 2


ENDLESS = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 2000000000) select count(*) from n"
ALWAYS = Window(By.WORKFLOW, 0.0, 1e9)


@pytest.mark.parametrize("told", [False, True])
def test_what_takes_too_long_or_is_wanted_no_more_is_ended(
    url: str, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    engine, asking, began = open_engine(url), Asking(), threading.Event()

    def endless(connection: sa.Connection, *_: Any, **_gather: bool) -> None:
        began.set()
        connection.exec_driver_sql(ENDLESS)

    def stop() -> None:
        began.wait(PATIENCE)
        asking.stop()

    stopper = threading.Thread(target=stop)
    with monkeypatch.context() as patched:
        patched.setattr(of_store, "asked", endless)
        patched.setattr(of_store, "STATEMENT_SECONDS", PATIENCE if told else 0.2)
        if told:
            stopper.start()
        with pytest.raises(sa.exc.OperationalError) as ended:
            asking.savings(engine, ALWAYS)
    assert any(word in str(ended.value) for word in ("interrupted", "user request" if told else "statement timeout"))
    if told:
        stopper.join(PATIENCE)
    assert savings(engine, ALWAYS).total.decisions == 0, "the connection is as good as before"
    engine.dispose()


AMOUNTS = (5e-324, 1e-200, 1e-170, 1e-13, 0.0, 1e300, 1.7e308)


def test_no_amount_is_too_small_or_too_large_to_be_summed(url: str) -> None:
    """PostgreSQL refuses a product that a float does not hold, of one row in a million too."""
    plain, said = enough()
    made = [
        decided(
            f"{who}{number}",
            candidate=who,
            workflow="odd",
            session_id=f"s{number % 2}",
            reason="explore",
            expected_cost_usd=usd,
            instead_expected_cost_usd=AMOUNTS[-number],
            reference_expected_cost_usd=usd,
            reference_input_usd=usd,
            also_candidate="x",
            also_expected_cost_usd=usd,
        )
        for who in (LARGE, SMALL)
        for number, usd in enumerate(AMOUNTS)
    ]
    odd = [
        feedback(row["id"], cost_usd=usd, quality=usd if usd <= 1 else 1.0, judge_cost_usd=usd)
        for row, usd in zip(made, AMOUNTS * 2, strict=True)
    ]
    also = [feedback(row["id"], candidate="x", cost_usd=usd) for row, usd in zip(made, AMOUNTS * 2, strict=True)]
    found = account(url, [*plain, *made], [*said, *odd], also)
    assert of(found, "odd").costed == len(odd)
    assert of(found, "odd").actual_usd == 4e12, (
        "what is beyond all money is a trillion, and what is next to nothing is 0"
    )
    assert of(found, "odd").quality == pytest.approx(4 / 14)
    assert found.total.decisions == len(plain) + len(made)


def test_next_to_nothing_changes_nothing(url: str) -> None:
    made, said = enough()
    made += [decided("tiny"), decided("none")]
    said += [feedback("tiny", cost_usd=1e-170, quality=1e-200), feedback("none", cost_usd=0.0, quality=0.0)]
    line = account(url, made, said).total
    assert (line.compared, line.judged, line.quality) == (32, 2, 0.0)
    assert line.compared_usd == pytest.approx(90.0)
