"""The benchmark's own parts, on a small simulated log: its protocol must not leak, and its report must not invent."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.routing import certified, newcomer, protocol, purchase, scarce
from benchmarks.routing.parts import means
from benchmarks.routing.protocol import DataSet
from benchmarks.routing.report import best_baseline, mean_lead, templates, write
from tests.conftest import ROOT
from training.certify.evidence import CalibrationData
from training.config import Params, load_params
from training.evaluate.splits import by_prompt
from training.learn.encode import encode
from training.learn.estimators.tables import AdditiveTable
from training.learn.learn import Learned
from training.learn.prepare import prepare
from training.logs.validate import validate
from training.measure.frontier import Singles
from training.prices.catalogue import SHIPPED, load_catalogue
from training.simulation.simulate import simulate

QUICK = ("workflow-table", "k-means-table", "table+low-rank")


@pytest.fixture(scope="module")
def params() -> Params:
    usual = load_params()
    return replace(usual, fit=replace(usual.fit, estimators=QUICK), evaluate=replace(usual.evaluate, resamples=50))


@pytest.fixture(scope="module")
def complete(params: Params) -> DataSet:
    """About 400 simulated requests, each tried on every candidate and judged."""
    catalogue = load_catalogue(SHIPPED)
    log = simulate([catalogue[name] for name in params.simulate.candidates], requests=1700, seed=3)
    table = validate(log.outcomes, source="simulated", format="simulated").frame
    judged = table["quality"].notna()
    tried = table[judged].groupby("request_id")["candidate"].transform("nunique")
    frame = table[judged][tried == 6]
    prepared = prepare(frame, params, catalogue)
    return DataSet("simulated", prepared, encode(prepared, params, ROOT / ".cache")[0], simulated=True)


def test_parts_are_disjoint_and_no_group_straddles(complete: DataSet) -> None:
    for seed in range(3):
        split = by_prompt(complete.prepared, seed).split
        assert (split.train.astype(int) + split.calibration + split.test == 1).all()
        for group in np.unique(complete.prepared.groups):
            inside = complete.prepared.groups == group
            assert split.train[inside].all() or not split.train[inside].any()
            assert split.test[inside].all() or not split.test[inside].any()
    assert (by_prompt(complete.prepared, 0).split.test != by_prompt(complete.prepared, 1).split.test).any()


def test_a_trial_compares_everyone_on_the_same_requests(complete: DataSet, params: Params) -> None:
    prepared = by_prompt(complete.prepared, 0)
    run = protocol.trial(complete, prepared, params)
    weights = protocol.resampling(complete, run, 50, 0)
    assert weights.sum(axis=1) == pytest.approx(1.0)
    values = protocol.compare(complete, run, params, weights, tagged=True)
    tables = {"additive-logit-100", "additive-logit-300"}
    assert {"router", "oracle", "zero router", "best single", *protocol.BASELINES, *tables} <= values.keys()
    assert all(len(value) == 51 for value in values.values())
    assert values["oracle"][0] == max(value[0] for value in values.values())
    assert values["zero router"][0] >= values["best single"][0]
    figures = protocol.calibration(complete, run, prepared)
    assert figures["outcomes"] == 6 * prepared.split.test.sum()
    assert 0 < figures["ece"] < 0.2


def test_masking_leaves_one_training_outcome_each_and_does_not_touch_the_test_part(
    complete: DataSet, params: Params
) -> None:
    prepared = by_prompt(complete.prepared, 0)
    hidden = scarce.masked(complete, prepared, 0).prepared
    train, test = prepared.split.train, prepared.split.test
    assert (hidden.matrix.attempted[train].sum(axis=1) == 1).all()
    assert (np.isfinite(hidden.labels[train]).sum(axis=1) <= 1).all()
    assert (np.isfinite(hidden.matrix.propensity[train]).sum(axis=1) == 1).all()
    np.testing.assert_array_equal(hidden.labels[test], complete.prepared.labels[test])


def test_certificates_are_checked_on_requests_that_did_not_choose_them(complete: DataSet, params: Params) -> None:
    run = protocol.trial(complete, by_prompt(complete.prepared, 0, train=0.4), params)
    rows = certified.certificates(complete, run, params, 0, 6, target=0.8)
    assert len({row["violation_rate"] for row in rows}) > 1
    held = int((~run.train & complete.prepared.matrix.complete()).sum())
    for row in rows:
        assert 0.4 * held < row["requests"] < 0.6 * held
        assert row["lower"] <= row["violation_rate"]
        assert row["saving"] >= 0 or row["certified"]


def test_refits_on_resampled_training_requests_move_the_resamples(complete: DataSet, params: Params) -> None:
    run = protocol.trial(complete, by_prompt(complete.prepared, 0), params)
    test = complete.inputs.take(run.test)
    times = np.ones(int(run.train.sum()))
    once, twice = (protocol.estimates_of(run, test, params, drawn, tagged=True) for drawn in (None, times))
    for name, estimate in once.items():
        np.testing.assert_allclose(twice[name], estimate, atol=1e-6, err_msg=name)
    times[: len(times) // 2] = 0.0
    half = protocol.estimates_of(run, test, params, times, tagged=True)
    assert np.abs(half["router"] - once["router"]).max() > 0.001


def test_conversations_correlate_as_they_say_and_the_clustered_certificate_saves_less(
    complete: DataSet, params: Params
) -> None:
    rows, groups = certified.conversing(20_000, np.random.default_rng(0))
    assert (np.bincount(groups) == certified.TURNS).all()
    values = np.random.default_rng(1).normal(size=20_000)[rows].reshape(-1, certified.TURNS)
    # Pairs of turns of 2,000 conversations: a standard error of about .01.
    assert np.corrcoef(values.T)[np.triu_indices(certified.TURNS, 1)].mean() == pytest.approx(certified.ICC, abs=0.04)
    run = protocol.trial(complete, by_prompt(complete.prepared, 0, train=0.4), params)
    found = means(certified.conversations(complete, run, params, 0, 4, target=0.8))
    assert found["clustered_saving"] <= found["independent_saving"]


def test_small_logs_are_certified_on_all_or_on_a_fifth_and_checked_on_the_others(
    complete: DataSet, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certified, "SMALL", (100,))
    checked: list[int] = []
    whole = certified.complete_ones

    def noted(data: DataSet, learned: Learned, rows: np.ndarray) -> CalibrationData:
        found = whole(data, learned, rows)
        checked.append(len(found))
        return found

    monkeypatch.setattr(certified, "complete_ones", noted)
    found = certified.small_logs(complete, params, 0, 2, target=0.8)
    assert set(found) == {"100"}
    assert {name.rpartition("_")[0] for name in found["100"]} == {"crossed", "held_out"}
    total = int(complete.prepared.matrix.complete().sum())
    kept, *others = checked[:3]
    assert 10 <= kept <= 30
    assert others == [others[0]] * 2
    assert total - 130 < others[0] < total - 70


def test_the_additive_table_adds_and_shrinks(complete: DataSet, params: Params) -> None:
    run = protocol.trial(complete, by_prompt(complete.prepared, 0), params)
    data = run.learned.data
    test = complete.inputs.take(run.test)
    bound = AdditiveTable(1e9).fit(data.inputs, data.labels, data.weights).predict(test)
    logits = np.log(bound / (1 - bound))
    # Nothing but a candidate and a workflow: differences between candidates are the same on every request.
    np.testing.assert_allclose(logits - logits[:, :1], np.tile((logits - logits[:, :1])[0], (len(test), 1)), atol=1e-6)
    free = AdditiveTable(1e-9).fit(data.inputs, data.labels, data.weights).predict(data.inputs)
    inside = data.inputs.workflows[:, 0] > 0
    np.testing.assert_allclose(free[inside][0], data.labels[inside].mean(axis=0), atol=1e-6)
    alone = AdditiveTable(100.0).fit(data.inputs, data.labels, data.weights).predict(test.untagged())
    assert (alone == alone[0]).all()


def test_a_learning_curve_is_of_the_sizes_that_the_log_has(complete: DataSet, params: Params) -> None:
    found = scarce.learning_curve(complete, params, 0, (60, 100_000))
    assert found.keys() == {"60"}
    assert {"router", "workflow-table", "knn", "ridge", "additive-logit-100"} <= found["60"].keys()
    assert found["60"]["oracle"] == max(found["60"].values())


def test_the_zero_router_of_the_training_workflows_is_not_chosen_in_hindsight() -> None:
    training = Singles(np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.8, 0.9]))
    assert scarce.chosen_before(training, training) == pytest.approx(training.zero_router)
    # Elsewhere the middling one is the worst: in hindsight it would be left out.
    test = Singles(np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.4, 0.9]))
    assert scarce.chosen_before(training, test) == pytest.approx((0.45 + 0.65) / 2)
    assert test.zero_router == pytest.approx(0.7)


def test_the_report_has_what_was_learned_from_little_and_nothing_else() -> None:
    rows = {"150": {"router": 0.7, "knn": 0.65}}
    page = templates().get_template("scarce.md.j2").render(found={"scarce": {"learning curves": {"a set": rows}}})
    assert "| requests | router | knn |\n|---|---|---|\n| 150 | 0.7000 | 0.6500 |" in page
    assert "headroom" not in page


def entry(router: float, table: float, knn: float) -> dict[str, object]:
    lines = {"router": router, "workflow-table": table, "knn": knn}
    return {name: {"aiq": aiq, "lead": router - aiq, "low": -1.0, "high": 1.0} for name, aiq in lines.items()}


def test_the_lead_is_over_the_best_baseline_of_each_set() -> None:
    found = {
        "sets": {
            "a": {"tagged": entry(0.8, 0.7, 0.75), "untagged": entry(0.8, 0.6, 0.7)},
            "b": {"tagged": entry(0.6, 0.65, 0.5), "untagged": entry(0.6, 0.5, 0.4)},
        }
    }
    assert best_baseline(entry(0.9, 0.7, 0.75)) == "knn"
    assert mean_lead(found) == pytest.approx({"tagged": 0.0, "untagged": 0.1})


def test_a_readme_without_marks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("nothing here")
    with pytest.raises(ValueError, match="benchmark"):
        write({"sets": {}, "machine": {"cores": "1", "processor": "", "system": "", "python": ""}, "seeds": [], "commits": {},
               "encoder_speed": None, "large": None}, tmp_path / "b.md", tmp_path / "README.md")  # fmt: skip


def test_the_published_documents_are_what_the_figures_give(tmp_path: Path) -> None:
    for name in ("docs/benchmarks.json", "docs/bench-serve.json", "docs/scale.json", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    found = json.loads((tmp_path / "docs" / "benchmarks.json").read_text(encoding="utf-8"))
    write(found, tmp_path / "docs" / "benchmarks.md", tmp_path / "README.md")
    for name in ("docs/benchmarks.md", "README.md"):
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes(), name


def test_a_candidate_that_is_left_out_is_added_again_by_probes_beside_training_and_test(
    complete: DataSet, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newcomer, "DRAWS", 2)
    name = complete.prepared.matrix.candidates[0]
    fewer = newcomer.without(complete.prepared, 0)
    assert fewer.matrix.candidates == complete.prepared.matrix.candidates[1:]
    np.testing.assert_array_equal(fewer.labels, complete.prepared.labels[:, 1:])
    runs = [newcomer.new_candidate(complete, params, seed, (name,), (30, 60)) for seed in (0, 1)]
    for run in runs:
        assert set(run[name]["aiq"]) == {"out", "full", "30", "60"}
        assert all(len(values) == newcomer.RESAMPLES + 1 for values in run[name]["value"].values())
    found = newcomer.shares(runs)
    row = found["aiq"][name]
    gain = np.mean([run[name]["aiq"]["60"][0] - run[name]["aiq"]["out"][0] for run in runs])
    assert row["60"]["gain"] == pytest.approx(gain)
    assert found["aiq"]["all"]["60"]["share"] == pytest.approx(gain / (row["full"] - row["out"]))
    page = templates().get_template("scarce.md.j2").render(found={"scarce": {"new candidate": {"a set": found}}})
    assert "| left out | without it | learned anew | 30 probes | 60 probes |\n|---|---|---|---|---|\n" in page
    assert f"| {name} | {row['out']:.4f} | {row['full']:.4f} | {row['30']['gain']:+.4f} (" in page
    assert "| all, share of the gain in value | | |" in page


def test_the_same_money_is_spent_three_ways_and_chances_are_set_beside_what_came_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(purchase.REQUESTS, "simulated log", 800)
    monkeypatch.setitem(purchase.BUDGETS, "simulated log", 1.0)
    monkeypatch.setattr(purchase, "CHANCES", (0.5, 1.0))
    monkeypatch.setattr(purchase, "REPEATS", 1)
    params = load_params(overrides=["plan.draws=4"])
    found = purchase.part("simulated log", None, params, (0, 1))
    for arm in purchase.ARMS:
        rows = found["arms"][arm]
        assert len(rows["saving"]) == 2
        assert all(0.6 < usd < 1.3 for usd in rows["spent_usd"])
        assert all(0.0 <= saving < 1.0 for saving in rows["saving"])
    assert set(found["lead"]) == set(purchase.ARMS[1:])
    assert [one["budget_usd"] for one in found["chances"]] == [0.5, 1.0]
    assert all(0.0 <= one["chance"] <= 1.0 for one in found["chances"])
    page = templates().get_template("scarce.md.j2").render(found={"scarce": {"bought evidence": {"a log": found}}})
    assert "| same prompts for all |" in page
    assert page.count("| a log |") == 2
