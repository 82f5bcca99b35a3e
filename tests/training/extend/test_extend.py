"""Adding a candidate: one new column and nothing else, a bundle that serves, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serving.bundle.layout import BY_CANDIDATE
from serving.bundle.manifest import BundleError, Manifest, open_bundle
from serving.bundle.request import RouteRequest
from serving.decide.policy import Policy
from serving.decide.router import Router
from tests.conftest import router_train_here
from tests.training.extend import world
from tests.training.extend.conftest import Extended, World
from training.certify.tested import TESTED_HEAD, as_tested
from training.dataset.matrix import build_matrix
from training.dataset.split import group_requests
from training.extend.extend import add
from training.extend.fit import amounts, ground_of, new_column
from training.extend.graph import check_extension
from training.extend.graph import extended as extended_head
from training.extend.log import ExtendError
from training.extend.plan import plan_of
from training.extend.probes import ProbeError
from training.learn.export import ParityError
from training.publish.document import read_document
from training.publish.promote import version_at
from training.replay.pairs import read_plan, write_plan

REQUESTS = [
    RouteRequest(prompt="Summarise this report in two sentences.", workflow="summarising"),
    RouteRequest(prompt="Prove that the square root of 2 is irrational.", workflow="maths"),
    "hello",
    RouteRequest(prompt="Übersetze: the weather is nice", workflow="never seen"),
]


# The plan


def test_the_plan_asks_logged_requests_outside_the_test_part(made: World) -> None:
    asked = made.ask(world.table(world.others(made.log)), made.models)
    rows = {name: row for row, name in enumerate(asked.log.matrix.request_id)}
    assert 110 <= len(made.plan.pairs) <= 120
    for pair in made.plan.pairs:
        assert pair.candidate == world.NEW
        assert pair.purpose == "learn"
        assert 0 < pair.propensity <= 1
        assert pair.expected_usd > 0
        assert (pair.prompt is None) != (pair.messages is None)
        row = rows[pair.request_id]
        assert asked.log.fresh[row], "the champion's heads never saw it"
        assert not asked.log.tested[row]
        assert pair.workflow == asked.log.matrix.workflow[row]
    assert sum(pair.expected_usd for pair in made.plan.pairs) <= made.plan.header.budget_usd
    assert made.plan.header.reference == open_bundle(made.models / "current").manifest.reference


def test_the_plan_is_a_file_that_reads_as_it_was_written(made: World, tmp_path: Path) -> None:
    write_plan(tmp_path / "probes.jsonl", made.plan)
    assert read_plan(tmp_path / "probes.jsonl") == made.plan


def test_a_budget_that_buys_too_few_is_refused(made: World) -> None:
    asked = made.ask(world.table(world.others(made.log)), made.models)
    with pytest.raises(ProbeError, match="--budget-usd"):
        plan_of(asked, made.params, count=100, budget_usd=1e-4)


# The bundle


def test_only_the_new_candidate_s_column_is_new(made: World, extended: Extended) -> None:
    inputs = made.ask(made.answered, made.models).log.inputs
    asked = inputs.embedding, inputs.sent, inputs.counted
    before, after = extended.champion.estimate_embedded(*asked), extended.router.estimate_embedded(*asked)
    m = len(extended.champion.candidates)
    assert extended.router.candidates == [*extended.champion.candidates, world.NEW]
    for name in ("acceptable", "quality", "violation", "output_tokens", "latency_ms", "latency_p95_ms", "cost_usd"):
        np.testing.assert_array_equal(getattr(after, name)[:, :m], getattr(before, name), err_msg=name)
    for name in ("nearness", "novelty"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name), err_msg=name)
    new = after.acceptable[:, m]
    assert np.isfinite(new).all()
    assert 0 < new.min() < new.max() < 1
    assert (after.cost_usd[:, m] > 0).all()
    reference = extended.router.candidates.index(extended.router.manifest.reference)
    best, violation = after.acceptable[:, reference], after.violation[:, m]
    assert (violation >= np.maximum(best - new, 0) - 1e-6).all()
    assert (violation <= np.minimum(1 - new, best) + 1e-6).all()


def test_the_tested_head_has_the_column_too(made: World, extended: Extended) -> None:
    inputs = made.ask(made.answered, made.models).log.inputs
    tested = as_tested(extended.router)
    assert TESTED_HEAD in extended.router.manifest.files
    found = tested.estimate_embedded(inputs.embedding, inputs.sent, inputs.counted)
    before = as_tested(extended.champion).estimate_embedded(inputs.embedding, inputs.sent, inputs.counted)
    np.testing.assert_array_equal(found.acceptable[:, :-1], before.acceptable)
    assert found.acceptable.shape[1] == len(extended.router.candidates)


def test_the_column_follows_what_the_candidate_is_like(made: World, extended: Extended) -> None:
    log = made.ask(made.answered, made.models).log
    unseen = ~log.answered
    truth = made.log.acceptable.loc[list(log.matrix.request_id[unseen]), world.NEW].to_numpy()
    found = extended.router.estimate_embedded(
        log.inputs.embedding[unseen], log.inputs.sent[unseen], log.inputs.counted[unseen]
    ).acceptable[:, -1]
    assert abs(found.mean() - truth.mean()) < 0.15
    assert np.corrcoef(found, truth)[0, 1] > 0.3


def test_it_serves_and_the_reference_stays(extended: Extended) -> None:
    before, after = extended.champion.manifest, extended.router.manifest
    assert after.reference == before.reference
    assert after.default_point == before.default_point
    assert [point.name for point in after.operating_points] == [point.name for point in before.operating_points]
    assert after.usual[world.NEW].output_tokens > 0
    assert after.cost_from[world.NEW] == "tokens"
    assert world.NEW in after.head.learned_from
    decisions = extended.router.route_many(REQUESTS)
    assert {decision.candidate for decision in decisions} <= set(extended.router.candidates)
    only = extended.router.route("hello", Policy(allow=((world.NEW,),)))
    assert only.candidate == world.NEW
    assert only.certificate is None


def test_what_was_measured_is_told_of_the_champion_and_not_of_the_extended(made: World, extended: Extended) -> None:
    before, after = read_document(made.models / "current"), read_document(extended.router.bundle.folder)
    assert before is not None
    assert after is not None
    assert before.keys() == after.keys()
    assert (before["basis"], after["basis"]) == ("complete", None)
    assert after["sweep"] == after["routers"] == []
    assert f"{world.NEW} was added without learning anew" in after["why_not"]
    assert after["version"] == extended.router.manifest.version
    assert [point["name"] for point in after["points"]] == [point["name"] for point in before["points"]]
    assert after["log"] == before["log"], "the volume stays the champion's"
    assert after["month"]["requests"] == before["month"]["requests"] > 0


def test_the_champion_s_month_follows_from_its_log(made: World) -> None:
    """Of a bundle as training writes it: what the document, the manifest and the formula say is the same."""
    manifest, document = open_bundle(made.models / "current").manifest, read_document(made.models / "current")
    assert document is not None
    metrics, month = manifest.metrics, document["month"]
    assert metrics["log_requests"] == document["log"]["requests"] == world.others(made.log)["request_id"].nunique()
    a_month = document["log"]["counted"] / metrics["log_days"] * 30.4375
    assert metrics["requests_a_month"] == pytest.approx(a_month)
    point = manifest.default
    assert month["saved_usd"] == pytest.approx(month["reference_usd"] * (point.saving or 0.0))
    assert month["reference_usd"] == pytest.approx(a_month * metrics["reference_cost_usd_per_request"])
    assert metrics["month_saved_against_log_usd"] == pytest.approx(
        a_month * metrics["log_cost_usd_per_request"] - month["routed_usd"]
    )
    default = next(one for one in document["points"] if one["default"])
    assert default["test"]["quality"] == pytest.approx(metrics["quality"])
    assert default["test"]["saving"] == pytest.approx(metrics["saving"])
    assert [mark["knob"] for mark in document["sweep"]] == list(manifest.knobs)
    assert {one["candidate"] for one in document["profiles"]} == {one.name for one in manifest.candidates}


def test_what_the_champion_certified_holds_without_the_new_candidate(extended: Extended) -> None:
    before = {point.name: point for point in extended.champion.manifest.operating_points}
    certified = [point for point in extended.router.manifest.operating_points if point.certificate is not None]
    assert certified
    for point in certified:
        if point.without:
            assert point.without == (world.NEW,)
            assert point.model_copy(update={"without": ()}) == before[point.name]
            target = Policy(quality_target=point.quality_target)
            for one, two in zip(
                extended.champion.route_many(REQUESTS, target),
                extended.router.route_many(REQUESTS, target),
                strict=True,
            ):
                assert (one.candidate, one.certificate) == (two.candidate, two.certificate)
                assert world.NEW not in two.fallbacks
        else:
            assert point.certificate.delta == pytest.approx(0.05), "one of two is picked: half of delta each"
            assert point.saving > (before[point.name].saving or 0.0) - 0.1


def test_the_gate_says_why(extended: Extended) -> None:
    promotion = extended.added.promotion
    current = version_at(extended.models, "current")
    assert promotion.comparison is not None
    assert promotion.comparison.candidates[-1] == world.NEW
    assert (current == extended.router.manifest.version) is promotion.promoted
    assert "AIQ" in promotion.reason


def test_a_candidate_that_fails_on_everything_is_never_promoted_for_it(made: World, tmp_path: Path) -> None:
    models = made.copied(tmp_path / "models")
    bad = world.answers(made.log, made.plan).assign(quality=0.0)
    added = add(made.ask(world.together(made.log, bad), models), made.params)
    router = Router.load(added.bundle.folder)
    assert router.estimate(REQUESTS).acceptable[:, -1].max() < 0.3
    assert all(decision.candidate != world.NEW for decision in router.route_many(REQUESTS))
    # What is never chosen changes nothing.
    if added.promotion.promoted:
        assert added.promotion.comparison is not None
        assert added.promotion.comparison.difference >= 0


def test_a_second_candidate_may_follow(made: World, extended: Extended, tmp_path: Path) -> None:
    """An extended head is extended again: names of nodes do not collide."""
    asked = made.ask(made.answered, made.models)
    head = extended.added.bundle.path("head.onnx").read_bytes()
    manifest = extended.router.manifest
    again = manifest.candidates[-1].model_copy(update={"name": "another"})
    log = asked.log
    wider = replace(
        log,
        labels=np.column_stack([log.labels, log.labels[:, -1]]),
        matrix=replace(
            log.matrix,
            candidates=(*log.matrix.candidates, again.name),
            **{
                name: np.column_stack([getattr(log.matrix, name), getattr(log.matrix, name)[:, -1]])
                for name in (
                    "quality",
                    "cost_usd",
                    "input_tokens",
                    "output_tokens",
                    "latency_ms",
                    "attempted",
                    "chained",
                )
            },
        ),
    )
    ground = ground_of(head, manifest, wider)
    column = new_column(ground, wider, amounts(ground, again, wider, wider.basis()), wider.basis())
    m, surface = len(manifest.candidates), log.inputs.surface
    model = extended_head(head, column, m, surface).SerializeToString()
    feed = {"embedding": log.inputs.embedding, "features": log.inputs.sent}
    assert check_extension(head, model, column, m, feed, surface, 1e-5) <= 1e-5
    other = replace(column, harm=column.harm + 0.5)
    with pytest.raises(ParityError, match="violation"):
        check_extension(head, model, other, m, feed, surface, 1e-5)


def test_a_manifest_that_leaves_nobody_out_reads_as_before(extended: Extended) -> None:
    document = json.loads(extended.champion.manifest.model_dump_json())
    assert all("without" not in point for point in document["operating_points"])
    document["operating_points"][0]["without"] = [document["reference"]]
    with pytest.raises(ValueError, match="which is the reference"):
        Manifest.model_validate(document)
    document["operating_points"][0]["without"] = ["nobody"]
    with pytest.raises(ValueError, match="'nobody'"):
        Manifest.model_validate(document)


def test_every_output_of_the_head_has_a_column_for_it(extended: Extended) -> None:
    estimates = extended.router.estimate(REQUESTS)
    assert len(BY_CANDIDATE) == 7
    assert estimates.acceptable.shape == (len(REQUESTS), len(extended.router.candidates))
    assert np.isfinite(estimates.latency_ms[:, -1]).all()


def test_of_a_small_log_the_champion_s_certificates_stay_and_nothing_is_certified_anew(
    made: World, tmp_path: Path
) -> None:
    """Its heads saw all requests: none is left to certify on."""
    models = made.copied(tmp_path / "models")
    params = world.settings("policy.cross_fit_below=2000")
    asked = made.ask(made.answered, models, params=params)
    assert not asked.log.fresh.any()
    added = add(asked, params)
    assert added.fresh == 0
    before = open_bundle(made.models / "current").manifest.operating_points
    for old, new in zip(before, added.bundle.manifest.operating_points, strict=True):
        assert new.model_copy(update={"without": ()}) == old
        assert new.without == ((world.NEW,) if old.certificate is not None else ())
    assert added.promotion.comparison is not None


# What is refused


def test_a_name_that_is_not_known_has_no_price_or_is_there_already(made: World) -> None:
    with pytest.raises(ExtendError, match="nobody is not in the catalogue"):
        made.ask(made.answered, made.models, "nobody")
    with pytest.raises(ExtendError, match="has claude-opus-5-5 already"):
        made.ask(made.answered, made.models, "claude-opus-5-5")


def test_without_a_champion_there_is_nothing_to_add_to(made: World, tmp_path: Path) -> None:
    with pytest.raises(ExtendError, match="has no champion"):
        made.ask(made.answered, tmp_path / "models")


def test_a_broken_champion_is_told_of(made: World, tmp_path: Path) -> None:
    models = made.copied(tmp_path / "models")
    with (models / "current" / "head.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match="the file was changed"):
        made.ask(made.answered, models)


def test_answers_that_nobody_judged_are_told_of(made: World) -> None:
    silent = world.together(made.log, world.answers(made.log, made.plan, judged=False))
    with pytest.raises(ExtendError, match="none of them was judged: give them a quality"):
        made.ask(silent, made.models)


def test_too_few_judged_answers_make_no_column(made: World) -> None:
    few = world.together(made.log, world.answers(made.log, made.plan).head(19))
    asked = made.ask(few, made.models)
    assert asked.judged == 19
    with pytest.raises(ExtendError, match=r"19 answers of .* were judged, and at least 20"):
        add(asked, made.params)


def test_a_log_of_other_candidates_is_told_of(made: World) -> None:
    frame = world.answers(made.log, made.plan).assign(candidate="somebody")
    with pytest.raises(ExtendError, match="the log has no outcome of"):
        made.ask(world.table(frame), made.models)


def test_the_champion_s_encoder_counts_not_the_parameters(made: World) -> None:
    other = replace(made.params, embed=replace(made.params.embed, encoder="transformer"))
    asked = made.ask(made.answered, made.models, params=other)
    assert asked.log.inputs.embedding.shape[1] == open_bundle(made.models / "current").manifest.encoder.dim


# The command


def test_the_command_plans_then_adds(made: World, tmp_path: Path) -> None:
    models = made.copied(tmp_path / "models")
    world.others(made.log).to_parquet(tmp_path / "log.parquet")
    common = ["add-candidate", world.NEW, "--data", tmp_path / "log.parquet", "--out", models, "--cache", made.cache]
    common += ["--no-track"]
    quick = ["--set", "policy.cross_fit_below=0", "--set", "evaluate.resamples=100"]
    done = router_train_here(*common, *quick, "--plan", tmp_path / "probes.jsonl", "--probes", "60")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing was sent" in done.stdout
    assert f"router-train replay --plan {tmp_path / 'probes.jsonl'} --out probed" in done.stdout
    assert f"router-train add-candidate {world.NEW} --data {tmp_path / 'log.parquet'} --data probed" in done.stdout
    plan = read_plan(tmp_path / "probes.jsonl")
    (tmp_path / "replayed").mkdir()
    world.answers(made.log, plan).to_parquet(tmp_path / "replayed" / "part.parquet")
    done = router_train_here(*common, *quick, "--data", tmp_path / "replayed", "--no-promote")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"by {len(plan.pairs)} judged answers" in done.stdout
    assert version_at(models, "current") == version_at(made.models, "current"), "--no-promote"
    refused = router_train_here(*common, *quick, "--plan", tmp_path / "none.jsonl", "--budget-usd", "0.0001")
    assert refused.returncode == 2
    assert "--budget-usd" in refused.stderr
    assert not (tmp_path / "none.jsonl").exists()


# The logged requests that go along


def test_the_logged_requests_know_the_new_candidate_s_answers(made: World, extended: Extended) -> None:
    before, after = extended.champion.neighbours, extended.router.neighbours
    assert before is not None
    assert after is not None
    assert after.candidates == (*before.candidates, world.NEW)
    assert set(before.ids) <= set(after.ids)
    assert len(after) == len(set(after.ids)) <= made.params.export.neighbours
    answered = {pair.request_id for pair in made.plan.pairs}
    known = {identifier for identifier, tried in zip(after.ids, after.logged[:, -1], strict=True) if tried}
    assert known <= answered
    log = build_matrix(made.answered.frame)
    of = dict(zip(log.request_id.tolist(), group_requests(list(log.texts), list(log.session_id)).tolist(), strict=True))
    assert sorted(of[one] for one in known) == sorted({of[one] for one in answered}), "one of each conversation"
    assert after.texts is None
    champion = extended.champion.bundle.path("neighbours.npz").read_bytes()
    assert extended.added.bundle.path("neighbours.npz").read_bytes() != champion
