"""The promotion gate: what is compared, what follows from it, and that `current`, `previous` and MLflow say the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from serving.bundle.manifest import Bundle, BundleError, Objective, open_bundle, switch_current
from serving.decide.decision import Estimates
from serving.decide.router import Router
from tests import fake_bundle
from tests.conftest import ROOT, setting, tracked_in
from tests.fake_bundle import LARGE, OPEN, SMALL
from training.cli.main import app
from training.config import load_params
from training.learn.heads.violation import independent
from training.measure.offpolicy import mask_to_one
from training.publish.compare import Comparison, Measured, NotComparableError, compare
from training.publish.promote import (
    PromotionError,
    consider,
    make_current,
    on_less_evidence,
    promote,
    roll_back,
    set_point,
    version_at,
    versions,
)

# 20 easy requests, which every candidate answers well, and 20 hard ones, on which the cheap one fails.
HARD = np.arange(40) >= 20
QUALITY = np.column_stack([~HARD, np.ones(40)]).astype(np.float64)
COST = np.tile([0.01, 0.03], (40, 1))
REQUESTS = [f"request {number}" for number in range(40)]
PAIR = (SMALL, LARGE)


class Expecting(Router):
    """The fake bundle's router, with estimates of its own: `worth` is P(acceptable) of (small, open, large) by row.

    It expects all candidates to be of the same quality.
    """

    def __init__(self, bundle: Bundle, worth: np.ndarray[Any, Any]) -> None:
        super().__init__(bundle)
        self.worth = worth

    def estimate(self, requests: Sequence[Any]) -> Estimates:
        rows = [REQUESTS.index(request) for request in requests]
        acceptable = self.worth[rows].astype(np.float32)
        cost = np.tile(np.array([0.01, 0.02, 0.03], dtype=np.float32), (len(rows), 1))
        violation = independent(acceptable, 2)
        known = super().estimate(requests)
        return replace(known, acceptable=acceptable, violation=violation, quality=cost * 0, cost_usd=cost)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(fake_bundle.build(tmp_path / "made"))


def knowing(bundle: Bundle) -> Expecting:
    """Knows which requests the small candidate fails on."""
    return Expecting(bundle, np.column_stack([~HARD, np.zeros(40), np.ones(40)]))


def ignorant(bundle: Bundle) -> Expecting:
    """Expects the same of every request."""
    return Expecting(bundle, np.tile([0.5, 0.1, 0.9], (40, 1)))


def measure(new: Router, champion: Router, quality: np.ndarray[Any, Any] = QUALITY, **changed: Any) -> Comparison:
    settings = {"margin": 0.01, "minimum": 30, "resamples": 200, "seed": 0} | changed
    candidates = settings.pop("candidates", PAIR)
    cost = settings.pop("cost", COST)
    return compare(new, champion, REQUESTS, quality, cost, np.arange(40), candidates, **settings)


def found(low: float, margin: float = 0.01) -> Comparison:
    return Comparison(
        50, PAIR, Measured("new", 0.81, 0.9, 0.002), Measured("old", 0.8, 0.91, 0.003), low, low + 0.05, margin
    )


def command(*arguments: str | Path) -> Result:
    """Runs `router-train` in this process: importing what training needs takes longer than these runs do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def refuse(champion: Router) -> Comparison:
    raise AssertionError("these two are not to be compared")


def test_requests_of_a_core_count_for_those_that_they_stand_for(bundle: Bundle) -> None:
    """Hard requests were all kept, easy ones stand for three: a quarter of the log is hard."""
    standing = np.where(HARD, 1.0, 3.0)
    plain, core = (measure(ignorant(bundle), knowing(bundle), standing=counts) for counts in (None, standing))
    assert plain.champion.cost_usd == pytest.approx(0.02)
    assert core.champion.cost_usd == pytest.approx(0.015)
    assert core.new.aiq > plain.new.aiq


# Whose reference it is


def test_a_reference_of_which_less_is_known_does_not_follow_by_itself(bundle: Bundle, tmp_path: Path) -> None:
    root = bundle.folder.parent
    switch_current(root, bundle.folder.name)
    same, other = bundle.manifest, bundle.manifest.model_copy(update={"reference": SMALL})
    assert on_less_evidence(root, same, {SMALL: 10.0, LARGE: 1.0}) is None
    assert on_less_evidence(root, other, {SMALL: 500.0, LARGE: 500.0}) is None
    why = on_less_evidence(root, other, {SMALL: 40.0, LARGE: 500.0})
    assert why is not None
    assert f"would be {SMALL} instead of {LARGE}, on less evidence: 40 effective outcomes of it, 500 of {LARGE}" in why
    assert f"--set policy.reference={LARGE}" in why
    assert on_less_evidence(root, other, {SMALL: 40.0}) is None, "the champion's is not in the log any more"
    assert on_less_evidence(tmp_path / "nothing", other, {SMALL: 40.0, LARGE: 500.0}) is None


# What is compared


def test_the_figures_are_those_worked_out_by_hand(bundle: Bundle) -> None:
    # Knowing: (0.01, 0.5) and (0.02, 1.0), flat to 0.03: (0.75 + 1) / 2. Ignorant: a line from (0.01, 0.5) to (0.03, 1).
    result = measure(knowing(bundle), ignorant(bundle))
    assert result.new.aiq == pytest.approx(0.875)
    assert result.champion.aiq == pytest.approx(0.75)
    assert result.difference == pytest.approx(0.125)
    assert 0 < result.low < result.difference < result.high
    assert result.enough
    assert (result.requests, result.candidates) == (40, PAIR)
    # At the default point, knob 20, the easy half goes to the cheap candidate.
    assert (result.new.quality, result.new.cost_usd) == pytest.approx((1.0, 0.02))


def test_the_other_way_round_is_the_same_with_the_sign_changed(bundle: Bundle) -> None:
    forth, back = measure(knowing(bundle), ignorant(bundle)), measure(ignorant(bundle), knowing(bundle))
    assert (back.low, back.high) == pytest.approx((-forth.high, -forth.low))
    assert not back.enough


def test_a_bundle_is_not_worse_than_itself_even_without_a_margin(bundle: Bundle) -> None:
    result = measure(knowing(bundle), knowing(bundle), margin=0.0)
    assert (result.low, result.high) == (0.0, 0.0)
    assert result.enough


def test_a_bundle_that_would_serve_worse_answers_is_refused_whatever_its_frontier(bundle: Bundle) -> None:
    cheap = replace(bundle, manifest=bundle.manifest.model_copy(update={"default_point": "cheapest"}))
    result = measure(knowing(cheap), knowing(bundle))
    assert (result.low, result.high) == (0.0, 0.0), "they know the same"
    assert (result.new.quality, result.champion.quality) == (0.5, 1.0)
    assert result.worse_served
    assert not result.enough
    promotion = consider(bundle.folder.parent, Router(bundle), lambda champion: result)
    assert not promotion.promoted
    assert "THE QUALITY THAT IS SERVED WOULD FALL" in promotion.reason
    assert "not below -0.01" in promotion.reason
    assert measure(knowing(bundle), knowing(cheap)).enough, "to better answers it may go"


def test_the_quality_that_is_served_is_that_of_the_engine(bundle: Bundle) -> None:
    """Where every request is novel the reference answers, whatever the knob says."""
    novel = bundle.manifest.novelty.model_copy(update={"threshold": -1.0})
    careful = replace(bundle, manifest=bundle.manifest.model_copy(update={"novelty": novel}))
    assert measure(knowing(careful), knowing(bundle)).new.cost_usd == pytest.approx(0.03)


@pytest.mark.parametrize(("low", "enough"), [(0.02, True), (0.0, True), (-0.01, True), (-0.0101, False), (-0.3, False)])
def test_the_lower_bound_decides_against_the_margin(low: float, enough: bool) -> None:
    assert found(low).enough is enough


def test_requests_that_are_not_complete_are_left_out(bundle: Bundle) -> None:
    quality, cost = QUALITY.copy(), COST.copy()
    quality[:4, 1] = np.nan
    cost[36:, 0] = np.nan
    result = measure(knowing(bundle), ignorant(bundle), quality, cost=cost)
    assert result.requests == 32
    assert result.new.aiq == pytest.approx(0.875)
    quality[4:10] = np.nan
    with pytest.raises(NotComparableError, match=r"26 of 40 test requests .* at least 30"):
        measure(knowing(bundle), ignorant(bundle), quality, cost=cost)


def test_only_candidates_that_both_know_and_the_log_has_are_compared(bundle: Bundle) -> None:
    newcomer = np.full((40, 1), np.nan)  # of a candidate that the champion does not know, and hardly anything is logged
    quality, cost = np.hstack([newcomer, QUALITY]), np.hstack([newcomer, COST])
    result = measure(knowing(bundle), ignorant(bundle), quality, cost=cost, candidates=("newcomer", *PAIR))
    assert result.candidates == PAIR
    assert result.new.aiq == pytest.approx(0.875)
    with pytest.raises(NotComparableError, match="1 candidates in common"):
        measure(knowing(bundle), ignorant(bundle), candidates=(SMALL, "newcomer"))


def test_each_bundle_maximises_its_own_objective(bundle: Bundle) -> None:
    manifest = bundle.manifest.model_copy(update={"objective": Objective.QUALITY})
    result = measure(knowing(bundle), knowing(Bundle(bundle.folder, manifest)))
    assert result.new.aiq == pytest.approx(0.875)
    assert result.champion.aiq == pytest.approx(0.5)  # it sees no reason to pay


def test_a_reference_that_the_log_lacks_is_not_chosen(bundle: Bundle) -> None:
    always = bundle.manifest.operating_points[0].model_copy(update={"always": LARGE, "knob": 0.0})
    fixed = Bundle(
        bundle.folder, bundle.manifest.model_copy(update={"operating_points": (always,), "default_point": always.name})
    )
    assert measure(knowing(fixed), ignorant(bundle)).new.cost_usd == pytest.approx(0.03)
    result = measure(knowing(fixed), ignorant(bundle), candidates=(SMALL, OPEN))
    assert result.new.cost_usd == pytest.approx(0.01)
    assert result.new.quality == pytest.approx(0.5)


# Where no request is complete


def one_outcome_each(tried: tuple[float, float] = (0.5, 0.5), rounds: int = 20) -> dict[str, Any]:
    """40 requests a round, of which each was sent to one of the two candidates, with the given probabilities."""
    quality, cost = np.tile(QUALITY, (rounds, 1)), np.tile(COST, (rounds, 1))
    masked, propensity = mask_to_one(quality, np.tile(tried, (40 * rounds, 1)), seed=1)
    return {
        "requests": REQUESTS * rounds,
        "quality": masked,
        "cost_usd": np.where(np.isfinite(masked), cost, np.nan),
        "propensity": propensity,
        "groups": np.arange(40 * rounds),
        "candidates": PAIR,
        "margin": 0.01,
        "minimum": 30,
        "resamples": 200,
        "seed": 0,
    }


def test_bundles_are_compared_by_single_outcomes_where_no_request_is_complete(bundle: Bundle) -> None:
    log = one_outcome_each()
    result = compare(knowing(bundle), ignorant(bundle), **log)
    assert (result.method, result.requests) == ("doubly robust", 800)
    # The truth is .875 - .75; half of the outcomes are there, so the standard error is some hundredths.
    assert result.low < 0.125 < result.high
    assert result.enough
    assert not compare(ignorant(bundle), knowing(bundle), **log).enough
    itself = compare(knowing(bundle), knowing(bundle), **log)
    assert (itself.low, itself.high) == (0.0, 0.0)
    promotion = consider(bundle.folder.parent, Router(bundle), lambda champion: result)
    assert promotion.promoted
    assert "On 800 simulated test requests, doubly robust estimates from the outcomes" in promotion.reason


def test_few_thumbs_are_no_reason_to_refuse_a_comparison(bundle: Bundle) -> None:
    """A twentieth goes to the dear one, and a tenth is judged: what it answers is seen with probability .005."""
    log, thumbs = one_outcome_each((0.95, 0.05), rounds=1000), np.random.default_rng(0).random((40_000, 1)) < 0.1
    log |= {"quality": np.where(thumbs, log["quality"], np.nan), "propensity": log["propensity"] * 0.1}
    log["judged"] = np.where(np.isfinite(log["propensity"]), 0.1, np.nan)
    result = compare(knowing(bundle), ignorant(bundle), **log)
    assert result.method == "doubly robust"
    assert result.low < 0.125 < result.high


def test_what_both_bundles_only_expect_decides_nothing(bundle: Bundle) -> None:
    log = one_outcome_each((0.01, 0.99))
    with pytest.raises(NotComparableError, match=r"0 of 800 test requests .* neither: of .* at least 30 are needed"):
        compare(knowing(bundle), ignorant(bundle), **log)


# What follows from it


def test_the_first_bundle_is_promoted(tmp_path: Path, bundle: Bundle) -> None:
    promotion = consider(tmp_path / "models", Router(bundle), refuse)
    assert (promotion.promoted, promotion.comparison) == (True, None)
    assert "first bundle" in promotion.reason


@pytest.mark.parametrize("low", [-0.005, -0.05])
def test_a_comparison_decides_and_its_figures_are_the_reason(bundle: Bundle, low: float) -> None:
    promotion = consider(bundle.folder.parent, Router(bundle), lambda champion: found(low))
    assert promotion.promoted is (low > -0.01)
    assert promotion.comparison == found(low)
    for figure in (
        "50 complete simulated test requests",
        "0.8100",
        "0.8000",
        "+0.0100",
        f"{low:+.4f}",
        "91.0%",
        "3.000",
    ):
        assert figure in promotion.reason
    assert ("router-train promote fake-1 --out" in promotion.reason) is not promotion.promoted


def test_what_cannot_be_compared_is_not_promoted(bundle: Bundle) -> None:
    def compare_with(champion: Router) -> Comparison:
        raise NotComparableError("3 of 9 test requests have it all")

    promotion = consider(bundle.folder.parent, Router(bundle), compare_with)
    assert not promotion.promoted
    assert "3 of 9 test requests have it all" in promotion.reason
    assert "shadow requests" in promotion.reason


def test_a_broken_champion_is_replaced_and_the_reason_is_loud(tmp_path: Path, bundle: Bundle) -> None:
    broken = fake_bundle.build(tmp_path / "models", "v1")
    (broken / "head.onnx").write_bytes(b"changed")
    promotion = consider(tmp_path / "models", Router(bundle), refuse)
    assert promotion.promoted
    assert "THE CHAMPION CANNOT BE LOADED" in promotion.reason
    assert "head.onnx" in promotion.reason
    shutil.rmtree(broken)  # and the link dangles
    assert "CANNOT BE LOADED" in consider(tmp_path / "models", Router(bundle), refuse).reason


@pytest.mark.parametrize("simulated", [True, False], ids=["simulated after real", "real after simulated"])
def test_simulated_traffic_decides_nothing_about_real_traffic(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, simulated: bool
) -> None:
    original = fake_bundle.manifest
    monkeypatch.setattr(
        fake_bundle, "manifest", lambda *given: original(*given).model_copy(update={"simulated": not simulated})
    )
    fake_bundle.build(tmp_path / "models", "champion")
    new = Router(Bundle(bundle.folder, bundle.manifest.model_copy(update={"simulated": simulated})))
    promotion = consider(tmp_path / "models", new, refuse)
    assert promotion.promoted is not simulated
    assert "simulated log" in promotion.reason


# Links


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Three bundles, of which the second is current."""
    for version in ("v1", "v2", "v3"):
        fake_bundle.build(tmp_path / "models", version)
    switch_current(tmp_path / "models", "v2")
    return tmp_path / "models"


def links(models: Path) -> tuple[str | None, str | None]:
    return version_at(models, "current"), version_at(models, "previous")


def test_another_operating_point_is_another_bundle_and_rolling_back_undoes_it(models: Path) -> None:
    first = version_at(models, "current")
    assert first is not None
    made = set_point(models, "q0.9")
    assert (made.manifest.default_point, made.manifest.version) == ("q0.9", f"{first}-at-q0.9")
    assert links(models) == (f"{first}-at-q0.9", first)
    assert Router.load(models / "current").route("hello").operating_point == "q0.9"
    again = set_point(models, "cheapest")
    assert again.folder.name == f"{first}-at-cheapest", "not of the one before"
    set_point(models, "q0.9")
    assert links(models) == (f"{first}-at-q0.9", f"{first}-at-cheapest")
    assert open_bundle(models / first).manifest.default_point == "balanced", "the bundle itself is as it was"
    roll_back(models)
    assert Router.load(models / "current").route("hello").operating_point == "cheapest"


def test_an_operating_point_that_there_is_not_is_told(models: Path) -> None:
    with pytest.raises(
        PromotionError, match=r"has no operating point 'q0\.99'; it has balanced, q0\.8, q0\.9, cheapest"
    ):
        set_point(models, "q0.99")
    with pytest.raises(PromotionError, match="balanced is the default operating point"):
        set_point(models, "balanced")
    done = command("set-point", "q0.9", "--out", models, "--no-track")
    assert done.exit_code == 0, done.stderr
    told = " ".join(done.stdout.split())
    assert "current is now" in told
    assert "At q0.9, on 100 calibration requests: quality 91.0%. It has no certificate." in told


def test_promote_and_roll_back_switch_both_links(models: Path) -> None:
    assert versions(models) == ["v1", "v2", "v3"]
    assert promote(models, "v1").folder == (models / "v1").resolve()
    assert links(models) == ("v1", "v2")
    assert promote(models).folder.name == "v3"  # the newest
    assert links(models) == ("v3", "v1")
    with pytest.raises(PromotionError, match="v3 is current, and the newest"):  # going back is asked for by name
        promote(models)
    assert links(models) == ("v3", "v1")
    roll_back(models)
    assert links(models) == ("v1", "v3")
    roll_back(models)  # undoes it
    assert links(models) == ("v3", "v1")
    assert {path.name for path in models.iterdir()} == {"v1", "v2", "v3", "current", "previous"}


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda models: promote(models, "v9"), PromotionError, "has no bundle 'v9'"),
        (lambda models: promote(models, "current"), PromotionError, "has no bundle 'current'"),
        (lambda models: promote(models, "../models/v1"), PromotionError, "has no bundle"),
        (lambda models: promote(models, "v2"), PromotionError, "v2 is the current bundle"),
        (lambda models: promote(models, "broken"), BundleError, "head.onnx"),
        (roll_back, PromotionError, "no previous champion"),
    ],
    ids=["unknown", "a link", "a path", "current", "broken", "no previous"],
)
def test_what_cannot_be_promoted_leaves_the_links(
    models: Path, act: Callable[[Path], object], error: type[Exception], message: str
) -> None:
    shutil.copytree(models / "v1", models / "broken")
    (models / "broken" / "head.onnx").write_bytes(b"changed")
    with pytest.raises(error, match=message):
        act(models)
    assert links(models) == ("v2", None)


def test_a_broken_champion_does_not_become_the_previous_one(models: Path) -> None:
    make_current(models, "v1")
    (models / "v1" / "head.onnx").write_bytes(b"changed")
    make_current(models, "v3")
    assert links(models) == ("v3", "v2")


def test_a_current_that_is_no_link_is_not_overwritten(models: Path) -> None:
    (models / "current").unlink()
    shutil.copytree(models / "v1", models / "current")
    with pytest.raises(PromotionError, match="is not a symbolic link"):
        promote(models, "v3")
    assert open_bundle(models / "current").manifest.version == "v1"


def test_the_list_of_bundles_marks_current_previous_and_broken(models: Path) -> None:
    make_current(models, "v3")
    (models / "v1" / "head.onnx").write_bytes(b"changed")
    shown = command("bundles", "--out", models)
    assert shown.exit_code == 0, shown.stderr
    words = shown.stdout.split()
    assert words.index("v3") < words.index("current") < words.index("v2") < words.index("previous") < words.index("v1")
    assert "cannot be opened" in " ".join(words)
    assert "sha256" in shown.stdout
    empty = command("bundles", "--out", models.parent / "none")
    assert empty.exit_code == 2
    assert "has no bundle" in empty.stderr


# The whole way


@dataclass(frozen=True)
class Runs:
    """A good log trained on twice, then one whose early qualities are turned round: what each run printed."""

    folder: Path
    first: str
    again: str
    worse: str

    @property
    def models(self) -> Path:
        return self.folder / "models"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("promote")
    simulated = ["simulate.requests=900", "simulate.candidates=qwen3.5-9b,gpt-6-luna,claude-opus-5-5"]
    made = command("simulate", folder / "good.jsonl", *setting(*simulated))
    assert made.exit_code == 0, made.stderr
    log = pd.read_json(folder / "good.jsonl", lines=True)
    asked = log.groupby("request_id")["timestamp"].transform("min")
    early = asked < asked.drop_duplicates().quantile(0.8)  # what is trained and calibrated on, not the test part
    turned = log.assign(quality=log["quality"].where(~early, 1 - log["quality"]))
    turned.to_json(folder / "turned.jsonl", orient="records", lines=True, date_format="iso")
    few = ("fit.estimators=workflow-table", "evaluate.resamples=200", "evaluate.splits=false")
    fast = [*setting(*few), *tracked_in(folder)]
    printed = []
    for name in ("good", "good", "turned"):
        finished = command("run", "--data", folder / f"{name}.jsonl", "--out", folder / "models", *fast)
        assert finished.exit_code == 0, finished.stderr
        printed.append(finished.stdout)
    return Runs(folder, *printed)


@pytest.fixture
def copied(runs: Runs, tmp_path: Path) -> Path:
    """The runs' folder, to change."""
    shutil.copytree(runs.folder, tmp_path / "copy", symlinks=True, ignore=shutil.ignore_patterns("artifacts"))
    return tmp_path / "copy"


def aliases(folder: Path) -> dict[str, str]:
    """{alias: the bundle that has it in MLflow}."""
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}")
    numbers = client.get_registered_model("router").aliases
    return {name: client.get_model_version("router", number).tags["bundle"] for name, number in numbers.items()}


def test_the_first_and_an_equal_bundle_are_promoted(runs: Runs) -> None:
    first, again, _ = versions(runs.models)
    assert f"PROMOTED: {runs.models / 'current'} is now {first}. It is the first bundle" in runs.first
    assert "version 1 (champion)" in runs.first
    assert f"PROMOTED: {runs.models / 'current'} is now {again}. On " in runs.again
    assert "a difference of +0.0000 (95% +0.0000 … +0.0000)" in runs.again
    assert "version 2 (champion)" in runs.again


def test_a_much_worse_bundle_is_a_challenger_and_the_run_says_why(runs: Runs) -> None:
    first, again, worse = versions(runs.models)
    assert links(runs.models) == (again, first)
    assert f"NOT PROMOTED: {worse} is a challenger" in runs.worse
    assert "the lower bound is below -0.01 (tracking.margin)" in runs.worse
    assert f"router-train promote {worse} --out {runs.models}" in runs.worse
    assert "version 3 (challenger)" in runs.worse
    assert aliases(runs.folder) == {"champion": again, "previous": first, "challenger": worse}


def test_mlflow_keeps_the_promotion(runs: Runs) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{runs.folder / 'mlruns' / 'mlflow.db'}")
    challenger = client.get_model_version_by_alias("router", "challenger")
    run = client.get_run(challenger.run_id)
    for tags in (challenger.tags, run.data.tags):
        assert tags["promoted"] == "false"
        assert "(tracking.margin)" in tags["promotion"]
    assert run.data.params["tracking.margin"] == "0.01"


def test_the_commands_switch_the_links_and_mlflow_follows(copied: Path) -> None:
    models = copied / "models"
    first, again, worse = versions(models)
    promoted = command("promote", "--out", models, *tracked_in(copied))
    assert promoted.exit_code == 0, promoted.stderr
    assert f"current is now {worse} (before: {again}) · MLflow model router version 3 (champion)" in promoted.stdout
    assert links(models) == (worse, again)
    assert aliases(copied) == {"champion": worse, "previous": again}
    back = command("rollback", "--out", models, *tracked_in(copied))
    assert back.exit_code == 0, back.stderr
    assert links(models) == (again, worse)
    assert aliases(copied) == {"champion": again, "previous": worse}
    quiet = command("promote", first, "--out", models, "--no-track")
    assert quiet.exit_code == 0, quiet.stderr
    assert links(models) == (first, again)
    assert aliases(copied)["champion"] == again
    refused = command("promote", first, "--out", models, "--no-track")
    assert refused.exit_code == 2
    assert "is the current bundle" in refused.stderr.replace("\n", " ")


def test_the_champion_can_be_asked_for_and_set(copied: Path) -> None:
    from training.publish import tracking

    first, again, worse = versions(copied / "models")
    settings = replace(load_params().tracking, uri=f"sqlite:///{copied / 'mlruns' / 'mlflow.db'}")
    assert tracking.versions(settings) == {first: "1", again: "2", worse: "3"}
    assert aliases(copied)["champion"] == again
    assert tracking.set_champion(settings, first) == "1"
    assert tracking.set_champion(settings, "never registered") is None
    assert aliases(copied) == {"champion": first, "previous": again, "challenger": worse}
    absent = replace(settings, uri=f"sqlite:///{copied / 'none' / 'mlflow.db'}")
    assert tracking.versions(absent) == {}
    assert tracking.set_champion(absent, first) is None
    assert not (copied / "none").exists()
