"""The account of savings against drawn counterfactuals, against sums by hand, and where little or nothing is known."""

from __future__ import annotations

import csv
import io
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from serving.account.intervals import student, wilson
from serving.account.ratios import Answers, Ratios, Stratum, ratio_of, ratios_of
from serving.account.savings import ENOUGH, Line, Method, Part, Ratio, Sums, Under, account, line
from serving.account.shown import as_csv, document
from serving.account.window import By, Window, WindowError
from tests.serving.account.simulated import OTHERS, REFERENCE, account_of, simulate, two_keys

SEEDS = range(40)


def answers(candidate: str, told: list[float], expected: list[float], decisions: int | None = None) -> Answers:
    """The sums over conversations, one of each list's entries for each."""
    a, e = np.array(told), np.array(expected)
    sums = (
        a.sum(),
        e.sum(),
        (a * a).sum(),
        (a * e).sum(),
        (e * e).sum(),
        (a * a * e).sum(),
        (a * e * e).sum(),
        (e**3).sum(),
    )
    return Answers(candidate, len(told), decisions or len(told), *map(float, sums))


def around(candidate: str, ratio: float, count: int = 50, seed: int = 0) -> Answers:
    rng = np.random.default_rng(seed)
    expected = rng.uniform(0.5, 1.5, count)
    return answers(candidate, list(expected * ratio * rng.uniform(0.8, 1.2, count)), list(expected))


def test_the_interval_covers_what_the_reference_would_have_cost() -> None:
    """At 95% about 38 of 40 are expected; fewer than 33 come once in two hundred such tests. And it is no idle interval."""
    covered, by_line, widths = 0, 0, []
    for seed in SEEDS:
        drawn = simulate(seed, conversations=250)
        found = account_of(drawn)
        assert [one.method for one in found.ratios] == [Method.OWN]
        assert found.total.reference_high is not None
        covered += found.total.reference_low <= sum(drawn.truth.values()) <= found.total.reference_high
        by_line += sum(
            one.reference_low <= drawn.truth[one.name or ""] <= (one.reference_high or 0) for one in found.lines
        )
        widths.append(found.total.reference_high / found.total.reference_low)
    assert covered >= 33
    assert by_line >= 2 * 33
    assert np.mean(widths) < 1.6


def test_answers_of_one_conversation_do_not_count_as_so_many() -> None:
    """Where conversations stray as a whole, an interval by rows would cover far less often than one by conversation."""
    wide = [account_of(simulate(seed, conversations=100, turns=6, shared=0.8, noise=0.1)) for seed in range(8)]
    apart = []
    for seed in range(8):
        drawn = simulate(seed, conversations=100, turns=6, shared=0.8, noise=0.1)
        for row in drawn.decisions:
            row["session_id"] = None
        apart.append(account_of(drawn))
    for together, alone in zip(wide, apart, strict=True):
        one, other = together.ratios[0], alone.ratios[0]
        assert one.ratio == pytest.approx(other.ratio)
        assert one.conversations < other.conversations == other.answers == one.answers
        assert (one.high or 0) / one.low > (other.high or 0) / other.low
        assert together.total.judged == alone.total.judged
        assert (together.total.quality_high or 0) > (alone.total.quality_high or 0)


def test_routing_that_costs_more_is_shown_as_a_loss() -> None:
    found = account_of(simulate(3, conversations=120, dearer=20.0))
    assert found.total.saved_high is not None
    assert found.total.saved_usd < found.total.saved_high < 0
    assert found.total.saving == pytest.approx(found.total.saved_usd / found.total.reference_usd)


def test_without_its_own_answers_the_others_tell_and_the_interval_covers_it() -> None:
    covered = 0
    for seed in range(10):
        drawn = simulate(seed, conversations=100, share=0.0)
        found = account_of(drawn)
        assert [one.method for one in found.ratios] == [Method.OTHERS]
        covered += found.total.reference_low <= sum(drawn.truth.values()) <= (found.total.reference_high or 0)
    assert covered >= 9
    assert found.ends == "between"
    assert account_of(simulate(0)).ends == "95%"


def test_where_the_others_answers_are_shorter_than_its_own_there_is_no_level() -> None:
    """Theirs cost half of what its own would have, and nothing tells so: none of the intervals has it, and none says 95%."""
    for seed in range(4):
        drawn = simulate(7000 + seed, share=0.01, conversations=150, dearer=0.5)
        found = account_of(drawn)
        assert (found.method, found.ends) == (Method.OTHERS, "between")
        assert (found.total.reference_high or 0) < sum(drawn.truth.values())


def test_where_hardly_anything_is_told_there_is_no_upper_end() -> None:
    drawn = simulate(0, conversations=ENOUGH // 2)
    found = account_of(drawn)
    assert [(one.method, one.high) for one in found.ratios] == [(Method.PROMPTS, None)]
    total = found.total
    assert total.reference_high is None
    assert total.saved_high is None
    own = sum(
        said["cost_usd"] for row, said in zip(drawn.decisions, drawn.told, strict=True) if row["candidate"] == REFERENCE
    )
    prompts = sum(row["reference_input_usd"] for row in drawn.decisions if row["candidate"] != REFERENCE)
    assert total.reference_low == pytest.approx(own + prompts)
    assert total.reference_low < total.reference_usd


def test_the_ratio_is_of_own_answers_once_there_are_enough() -> None:
    few, many = around(REFERENCE, 1.5, ENOUGH - 1), around(REFERENCE, 1.5, ENOUGH + 10)
    others = [around(OTHERS[0], 0.7), around(OTHERS[1], 0.9, seed=1)]
    own = ratio_of(REFERENCE, [*others, many])
    assert (own.method, own.conversations) == (Method.OWN, ENOUGH + 10)
    assert own.ratio == many.told / many.expected
    assert own.low < own.ratio < (own.high or 0)
    pooled = ratio_of(REFERENCE, [*others, few])
    assert pooled.method is Method.OTHERS
    assert pooled.low < 0.7 < pooled.ratio < 0.9
    assert pooled.high == 1.0, "what is expected of the reference may be right as it is"
    assert ratio_of(REFERENCE, [few]).method is Method.PROMPTS


def test_conversations_of_uneven_cost_tell_less_than_their_number() -> None:
    """One that is most of the cost: the ratio is hardly more than its own."""
    even = answers(REFERENCE, [1.5] * ENOUGH, [1.0] * ENOUGH)
    uneven = answers(REFERENCE, [1.5] * (2 * ENOUGH), [100.0, *[1.0] * (2 * ENOUGH - 1)])
    others = around(OTHERS[0], 0.7)
    assert ratio_of(REFERENCE, [others, even]).method is Method.OWN
    found = ratio_of(REFERENCE, [others, uneven])
    assert found.method is Method.OTHERS
    own = uneven.told / uneven.expected
    assert found.low < own < (found.high or 0), "its own answers are among those that say between what it is"


@pytest.mark.parametrize("by", [By.KEY, By.DAY])
def test_each_key_has_a_ratio_of_its_own(by: By) -> None:
    """One ratio for both would be 0.9 of the one and half of the other, for the reference answered mostly the one's."""
    covered = lines = 0
    error = []
    for seed in range(20):
        drawn = two_keys(seed, (0.7, 2.0), (0.6, 0.1))
        found = account_of(drawn, by)
        truth = sum(drawn.truth.values())
        covered += found.total.reference_low <= truth <= (found.total.reference_high or 0)
        error.append(found.total.reference_usd / truth - 1)
        assert sum(one.reference_usd for one in found.lines) == pytest.approx(found.total.reference_usd)
        for one in found.lines if by is By.KEY else ():
            lines += one.reference_low <= drawn.truth[one.name or ""] <= (one.reference_high or 0)
    assert covered >= 16
    assert by is By.DAY or lines >= 32
    assert abs(np.mean(error)) < 0.05


def test_a_stratum_without_answers_has_the_others_mean_in_a_wider_interval() -> None:
    strata = {
        Stratum("w", str(n)): [around(REFERENCE, ratio, seed=n)] for n, ratio in enumerate((0.5, 1.0, 2.0, 1.5, 0.8))
    }
    few = Stratum("w", "few")
    strata[few] = [around(REFERENCE, 4.0, ENOUGH // 3, seed=9)]
    every = [one for several in strata.values() for one in several]
    pool = every[0]
    for one in every[1:]:
        pool = pool.plus(one)
    found = ratios_of(REFERENCE, [pool], strata)
    unseen = found.of(Stratum("w", "unseen"))
    logs = [np.log(one.told / one.expected) for several in strata.values() for one in several]
    assert unseen.ratio == pytest.approx(np.exp(np.mean(logs)), rel=0.01), "they differ so much that each counts alike"
    assert unseen.low < 0.5
    assert (unseen.high or 0) > 2.0, "any of the others could be like it"
    assert found.of(Stratum("w", "2")).ratio == pytest.approx(2.0, rel=0.05)
    (raw,) = strata[few]
    assert unseen.ratio < found.of(few).ratio < raw.told / raw.expected, "drawn to the others'"
    alike = ratios_of(REFERENCE, [pool], {Stratum("w", "0"): [pool], few: [around(REFERENCE, 4.0, 2)]})
    assert alike.of(Stratum("w", "unseen")).low <= 1.0 <= (alike.of(Stratum("w", "unseen")).high or 0)


def test_strata_that_the_reference_answers_often_do_not_tell_for_those_it_never_does() -> None:
    """One whose answers cost three times as much as expected has most of them; the pool's ratio is nearly its own."""
    rest = {Stratum("w", str(n)): [around(REFERENCE, ratio, seed=n)] for n, ratio in enumerate((0.9, 1.0, 1.1, 1.0))}
    often = around(REFERENCE, 3.0, 2000, seed=8)
    strata = {**rest, Stratum("w", "often"): [often]}
    pool = often
    for (one,) in rest.values():
        pool = pool.plus(one)
    found = ratios_of(REFERENCE, [pool], strata)
    unseen = found.of(Stratum("w", "unseen"))
    assert found.pool.ratio > 2.7
    assert unseen.ratio == pytest.approx(3.0**0.2 * 0.99**0.2, rel=0.03)
    assert unseen.low < 0.9 < 3.0 < (unseen.high or 0)
    alike = ratios_of(REFERENCE, [pool], {name: [around(REFERENCE, 1.5, seed=5)] for name in strata})
    assert alike.of(Stratum("w", "unseen")).ratio == alike.pool.ratio, "where they do not differ all answers tell"


def test_strata_beyond_the_busiest_are_one() -> None:
    drawn = simulate(0, conversations=120)
    for row in drawn.decisions:
        row["workflow"] = f"w{row['session_id']}"
    found = account_of(drawn)
    assert len(found.lines) == 120
    assert sum(one.reference_usd for one in found.lines) == pytest.approx(found.total.reference_usd)
    assert found.total.reference_low < sum(drawn.truth.values()) < (found.total.reference_high or 0)


def test_a_reference_that_costs_nothing_would_have_cost_nothing() -> None:
    free = answers(REFERENCE, [0.0] * 40, [1.0] * 40)
    found = line(
        None,
        Sums(compared_usd=2.0, parts={Under(REFERENCE): Part(0.0, 9.0, 9.0, 1.0)}),
        {REFERENCE: ratios_of(REFERENCE, [free], {})},
    )
    assert (found.reference_usd, found.reference_low, found.reference_high) == (0.0, 0.0, 0.0)
    assert (found.saved_usd, found.saving) == (-2.0, None)


def test_what_is_known_is_not_estimated() -> None:
    one = Ratio(REFERENCE, Method.OWN, 2.0, 1.5, 3.0, 0.1, 50, 50)
    found = line(
        "x", Sums(compared_usd=5.0, parts={Under(REFERENCE): Part(own_usd=5.0)}), {REFERENCE: Ratios(one, one)}
    )
    assert (found.reference_low, found.reference_usd, found.reference_high) == (5.0, 5.0, 5.0)
    assert (found.saved_low, found.saved_usd, found.saved_high) == (0.0, 0.0, 0.0)


numbers = st.floats(0, 1e4)
sums = st.builds(
    Sums,
    decisions=st.integers(1, 99),
    compared_usd=numbers,
    actual_usd=numbers,
    also_usd=numbers,
    judge_usd=numbers,
    exploration_usd=st.floats(-1e4, 1e4),
    parts=st.dictionaries(
        st.builds(Under, st.sampled_from("xyz")), st.builds(Part, numbers, numbers, st.floats(0, 1e8), numbers)
    ),
)
ADDED = (
    "decisions",
    "compared_usd",
    "actual_usd",
    "reference_usd",
    "saved_usd",
    "also_usd",
    "judge_usd",
    "exploration_usd",
)


@given(lines=st.lists(sums, min_size=1, max_size=5), known=st.booleans())
def test_the_total_is_the_sum_of_the_lines(lines: list[Sums], known: bool) -> None:
    total = Sums()
    for one in lines:
        total.add(one)
    told = [around(name, ratio) for name, ratio in (("x", 1.5), ("y", 0.5))] if known else []
    *named, last = lines
    found = account("workflow", 0.0, 1.0, {str(n): one for n, one in enumerate(named)}, last, total, told)
    assert found.other is not None
    everything = [*found.lines, found.other]
    for name in ADDED:
        assert getattr(found.total, name) == pytest.approx(
            sum(getattr(one, name) for one in everything), rel=1e-9, abs=1e-6
        )
    for one in (*everything, found.total):
        assert one.saved_usd == pytest.approx(one.reference_usd - one.compared_usd - one.also_usd - one.judge_usd)
        assert one.reference_low <= one.reference_usd * (1 + 1e-12)
        assert one.reference_high is None or one.reference_usd <= one.reference_high * (1 + 1e-12)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (10, 10), (3, 10), (45, 50), (0, 1)])
def test_a_rates_interval_is_wilsons(successes: int, trials: int) -> None:
    wanted = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson(successes, trials) == pytest.approx((wanted.low, wanted.high), abs=1e-6)
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("freedom", [29, 40, 100, 10_000])
def test_the_quantile_is_students(freedom: int) -> None:
    assert student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-4)


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x", '=HYPERLINK("http://x","y")'])
def test_a_name_is_no_formula_in_a_spreadsheet(name: str) -> None:
    found = account("workflow", 0.0, 1.0, {name: Sums(decisions=1), "a,b\n": Sums(), None: Sums()}, Sums(), Sums(), [])
    header, *rows = csv.reader(io.StringIO(as_csv(found)))
    assert [row[0] for row in rows] == [f"'{name}", "a,b ", "", "(other)"]
    assert all(len(row) == len(header) == len(fields(Line)) for row in rows)
    assert {"routing_costs_exploration_usd", "routing_costs_also_usd", "routing_costs_judge_usd"} <= set(header)
    assert document(found)["lines"][0]["name"] == name, "JSON has it as it is"


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (None, None, (1e9 - 30 * 86_400, 1e9)),
        ("5", "86405.5", (5.0, 86_405.5)),
        ("2026-01-01", "2026-01-02T00:00:00Z", (1_767_225_600.0, 1_767_312_000.0)),
        ("2026-01-01T00:00:00+01:00", "2026-01-02T00:00:00 01:00", (1_767_222_000.0, 1_767_308_400.0)),
        (None, "86400", (0.0, 86_400.0)),
    ],
)
def test_times_are_seconds_or_iso(since: str | None, until: str | None, expected: tuple[float, float]) -> None:
    window = Window.asked(By.DAY, since, until, 1e9)
    assert (window.since, window.until) == expected


@pytest.mark.parametrize(
    ("since", "until", "field"),
    [
        ("x", None, "from"), ("nan", None, "from"), ("-1", None, "from"), ("1e300", None, "from"), ("0", "inf", "to"),
        ("2026-13-01", None, "from"), ("0", "", "to"), ("7", "7", "from"), ("8", "7", "from"), ("0", "31622401", "from"),
        ("0001-01-01T00:00:00+10:00", None, "from"), ("0", "9999-12-31T23:59:59-10:00", "to"),
    ],
)  # fmt: skip
def test_a_window_that_is_none_is_said_by_its_field(since: str, until: str | None, field: str) -> None:
    with pytest.raises(WindowError) as caught:
        Window.asked(By.DAY, since, until, 1e9)
    assert caught.value.field == field
