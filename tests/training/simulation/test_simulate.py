"""The simulated log looks like a gateway's, keeps its books, and has something to learn in it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from serving.bundle.catalogue import Candidate
from training.prices.catalogue import SHIPPED, load_catalogue
from training.simulation.prompts import WORKFLOWS, Draw, compose
from training.simulation.simulate import ACCEPTABLE_SCORE, GRADED, PROPENSITY_FLOOR, SimulatedLog, simulate

REQUESTS = 4000
COLUMNS = ["request_id", "prompt", "messages", "candidate", "quality", "cost_usd", "input_tokens", "output_tokens",
           "latency_ms", "timestamp", "session_id", "workflow", "propensity", "status"]  # fmt: skip


@pytest.fixture(scope="module")
def candidates() -> list[Candidate]:
    return list(load_catalogue(SHIPPED).values())


@pytest.fixture(scope="module")
def log(candidates: list[Candidate]) -> SimulatedLog:
    return simulate(candidates, requests=REQUESTS)


@pytest.fixture(scope="module")
def requests(log: SimulatedLog) -> pd.DataFrame:
    """One row per request, in the order of the truth tables, with the text that was sent."""
    first = log.outcomes.drop_duplicates("request_id").set_index("request_id").loc[log.acceptable.index]
    return first.assign(text=[said(row.prompt, row.messages) for row in first.itertuples()])


def said(prompt: str | None, messages: list[dict[str, str]] | None) -> str:
    if messages is None:
        assert prompt is not None
        return prompt
    return "\n".join(message["content"] for message in messages if message["role"] != "assistant")


def test_shape_and_columns(log: SimulatedLog, candidates: list[Candidate]) -> None:
    names = [candidate.name for candidate in candidates]
    assert list(log.outcomes.columns) == COLUMNS
    assert log.acceptable.shape == log.cost_usd.shape == (REQUESTS, len(candidates))
    assert list(log.acceptable.columns) == list(log.cost_usd.columns) == names
    assert log.acceptable.index.equals(log.cost_usd.index)
    assert set(log.outcomes["request_id"]) == set(log.acceptable.index)
    assert (log.outcomes["prompt"].isna() ^ log.outcomes["messages"].isna()).all()


def test_same_seed_same_log_another_seed_another(candidates: list[Candidate]) -> None:
    one, again, other = (simulate(candidates, requests=300, seed=seed) for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(one.outcomes, again.outcomes)
    pd.testing.assert_frame_equal(one.acceptable, again.acceptable)
    pd.testing.assert_frame_equal(one.cost_usd, again.cost_usd)
    assert not one.outcomes["quality"].equals(other.outcomes["quality"])


def test_a_quarter_is_shadow_traffic_with_a_row_for_every_candidate(log: SimulatedLog) -> None:
    rows = log.outcomes.groupby("request_id")["candidate"].agg(["size", "nunique"])
    assert (rows["size"] == rows["nunique"]).all()
    assert set(rows["size"]) == {1, log.acceptable.shape[1]}
    assert (rows["size"] > 1).mean() == pytest.approx(0.25, abs=0.03)


def test_propensities_are_the_frequencies_of_the_logging_policy(log: SimulatedLog) -> None:
    shadow = log.outcomes["request_id"].duplicated(keep=False)
    assert (log.outcomes.loc[shadow, "propensity"] == 1).all()
    single = log.outcomes[~shadow]
    assert single["propensity"].between(PROPENSITY_FLOOR, 1, inclusive="left").all()
    tagged = single.dropna(subset=["workflow"])
    assert (tagged.groupby(["workflow", "candidate"])["propensity"].nunique() == 1).all()
    # Inverse propensity sums to the number of requests for every candidate.
    weight = (1 / single["propensity"]).groupby(single["candidate"]).sum() / len(single)
    assert weight.to_numpy() == pytest.approx(1, abs=0.2)
    assert single["candidate"].value_counts().idxmax() == log.acceptable.mean().idxmax()


def test_a_log_is_partial(log: SimulatedLog) -> None:
    rows = log.outcomes
    shadow = rows["propensity"] == 1
    failed = rows["status"] == "error"
    assert set(rows["status"]) == {"success", "error"}
    assert 0.004 < failed.mean() < 0.02
    assert (rows.loc[failed, "quality"] == 0).all()
    assert (rows.loc[failed, "output_tokens"].dropna() == 0).all()
    assert (rows.loc[~failed, "output_tokens"].dropna() > 0).all()
    assert rows.loc[~shadow, "quality"].isna().mean() == pytest.approx(0.12, abs=0.02)
    assert rows.loc[shadow, "quality"].isna().mean() == pytest.approx(0.03, abs=0.01)
    assert rows["input_tokens"].isna().mean() == pytest.approx(0.05, abs=0.01)
    assert rows["input_tokens"].isna().equals(rows["output_tokens"].isna())
    assert 0.01 < rows["cost_usd"].isna().mean() < 0.03
    assert rows.drop_duplicates("request_id")["workflow"].isna().mean() == pytest.approx(0.04, abs=0.015)
    assert (rows["latency_ms"] > 0).all()


def test_cost_is_tokens_times_price(log: SimulatedLog, candidates: list[Candidate]) -> None:
    by_name = {candidate.name: candidate for candidate in candidates}
    known = log.outcomes.dropna(subset=["cost_usd", "input_tokens"])
    assert len(known) > 0.9 * len(log.outcomes)
    expected = [by_name[row.candidate].cost_usd(row.input_tokens, row.output_tokens) for row in known.itertuples()]
    assert known["cost_usd"].to_numpy() == pytest.approx(np.array(expected), rel=1e-9)


def test_logged_quality_and_cost_agree_with_the_truth(log: SimulatedLog) -> None:
    """On shadow rows, per candidate: the logged means are within four standard errors of the true ones."""
    shadow = log.outcomes[log.outcomes["propensity"] == 1]
    for name, rows in shadow.groupby("candidate"):
        judged = rows.dropna(subset=["quality"])
        error = (judged["quality"] >= ACCEPTABLE_SCORE).to_numpy() - log.acceptable.loc[judged["request_id"], name]
        assert abs(error.mean()) < 4 * error.std() / np.sqrt(len(error))
        paid = rows.dropna(subset=["cost_usd"])
        difference = paid["cost_usd"].to_numpy() - log.cost_usd.loc[paid["request_id"], name]
        assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(len(difference))


def test_graded_workflows_have_scores_and_the_others_pass_or_fail(log: SimulatedLog) -> None:
    judged = log.outcomes.dropna(subset=["quality", "workflow"])
    graded = judged["workflow"].isin(GRADED)
    assert set(judged.loc[graded, "quality"]) == {0.0, 0.25, 0.5, 0.75, 1.0}
    assert set(judged.loc[~graded, "quality"]) == {0.0, 1.0}


def test_conversations_grow_turn_by_turn(requests: pd.DataFrame) -> None:
    turns = requests.dropna(subset=["session_id"]).groupby("session_id")
    several = [rows.sort_values("timestamp") for _, rows in turns if len(rows) > 1]
    assert len(several) > 100
    for rows in several:
        assert rows["workflow"].dropna().isin({"support-triage", "code-review", "creative-writing"}).all()
        for before, after in zip(rows["messages"], rows["messages"].iloc[1:], strict=False):
            assert after[: len(before)] == before
            assert [message["role"] for message in after[len(before) :]] == ["assistant", "user"]


def test_some_prompts_are_sent_again_later_by_another_session(requests: pd.DataFrame) -> None:
    again = requests["text"].duplicated(keep="first")
    assert 0.03 < again.mean() < 0.10
    repeated = requests[requests["text"].duplicated(keep=False) & requests["session_id"].notna()]
    for _, rows in repeated.groupby("text"):
        assert rows["session_id"].is_unique
        assert rows["timestamp"].is_unique


def test_a_repeated_prompt_has_the_same_truth(log: SimulatedLog, requests: pd.DataFrame) -> None:
    long = requests[(requests["text"].str.len() > 250) & requests["prompt"].notna()]
    pairs = long.groupby("text").filter(lambda rows: len(rows) > 1)
    assert len(pairs) > 10
    truth = log.acceptable.loc[pairs.index].groupby(pairs["text"])
    assert (truth.max() - truth.min()).to_numpy().max() < 1e-9


def test_prompts_are_short_and_long_and_in_many_scripts(log: SimulatedLog, requests: pd.DataFrame) -> None:
    assert requests["text"].str.split().str.len().min() <= 5
    assert log.outcomes["input_tokens"].max() > 3000
    text = " ".join(requests["text"])
    for script in ("[а-я]{4}", "[ぁ-ん]{4}", "[ء-ي]{4}", "[ऀ-ॿ]{4}", "ß|ü", "ç|é"):
        assert pd.Series([text]).str.contains(script).item(), script
    assert not requests["text"].str.contains(r"\{(?:n\d|noun|verb|topic|city|person|money|target)\}").any()


def test_traffic_keeps_office_hours_and_its_mix_shifts(log: SimulatedLog, requests: pd.DataFrame) -> None:
    time = requests["timestamp"]
    assert str(time.dt.tz) == "UTC"
    assert log.outcomes["timestamp"].is_monotonic_increasing
    assert time.max() - time.min() < pd.Timedelta(days=60)
    assert ((time.dt.hour >= 8) & (time.dt.hour < 18)).mean() > 0.6
    assert (time.dt.weekday >= 5).mean() < 0.2
    early, late = (requests[part]["workflow"].value_counts(normalize=True) for part in (
        time < time.quantile(0.25), time > time.quantile(0.75)))  # fmt: skip
    assert set(early.index) == set(late.index) == set(WORKFLOWS)
    assert late["maths"] > 1.3 * early["maths"]
    assert late["code-review"] > 1.2 * early["code-review"]
    assert late["support-triage"] < 0.85 * early["support-triage"]


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_composed_difficulty_follows_what_was_wished(workflow: str) -> None:
    draw = Draw(np.random.default_rng(0))
    easy, hard = (np.mean([compose(workflow, level, draw).difficulty for _ in range(100)]) for level in (0.1, 0.9))
    assert easy < 0.35
    assert hard > 0.7


def test_text_predicts_the_truth_within_workflow(log: SimulatedLog, requests: pd.DataFrame) -> None:
    """Trained on the first 70% in time, a linear model on words ranks unseen requests; the workflow alone cannot."""
    cheapest = log.cost_usd.mean().idxmin()
    good = (log.acceptable[cheapest] > 0.5).to_numpy()
    cut = int(0.7 * len(requests))
    words = TfidfVectorizer(ngram_range=(1, 2), min_df=3, sublinear_tf=True)
    model = LogisticRegression(C=10.0, max_iter=300)
    model.fit(words.fit_transform(requests["text"].iloc[:cut]), good[:cut])
    test = requests.iloc[cut:]
    score = pd.Series(model.decision_function(words.transform(test["text"])), index=test.index)
    target = pd.Series(good[cut:], index=test.index)
    fresh = ~test["text"].isin(set(requests["text"].iloc[:cut]))
    areas = [
        roc_auc_score(target[rows], score[rows])
        for name in WORKFLOWS
        if 0.05 < target[rows := fresh & (test["workflow"] == name)].mean() < 0.95
    ]
    assert len(areas) >= 6
    assert np.mean(areas) > 0.8


def test_candidates_range_from_cheap_and_fair_to_dear_and_good(log: SimulatedLog) -> None:
    quality, cost = log.acceptable.mean(), log.cost_usd.mean()
    assert quality[cost.idxmin()] == pytest.approx(0.5, abs=0.05)
    assert quality[cost.idxmax()] == pytest.approx(0.9, abs=0.03)
    assert quality.idxmax() == cost.idxmax()
    assert cost.max() > 50 * cost.min()


def test_the_strongest_is_not_the_best_everywhere(log: SimulatedLog, requests: pd.DataFrame) -> None:
    by_workflow = log.acceptable.groupby(requests["workflow"]).mean()
    assert by_workflow.idxmax(axis=1).nunique() > 1


def test_there_is_headroom_above_the_workflow_table(log: SimulatedLog, requests: pd.DataFrame) -> None:
    quality, cost = log.acceptable.to_numpy(), log.cost_usd.to_numpy()
    flow = requests["workflow"].fillna("untagged").to_numpy()
    oracle = frontier(quality, cost, quality, cost)
    table = frontier(
        log.acceptable.groupby(flow).transform("mean").to_numpy(),
        log.cost_usd.groupby(flow).transform("mean").to_numpy(),
        quality,
        cost,
    )
    strongest = quality.mean(axis=0).argmax()
    best, paid = quality[:, strongest].mean(), cost[:, strongest].mean()
    assert cheapest_at(oracle, best) < 0.3 * paid
    assert cheapest_at(oracle, best) < 0.7 * cheapest_at(table, best)


def frontier(
    believed: NDArray[np.float64],
    priced: NDArray[np.float64],
    quality: NDArray[np.float64],
    cost: NDArray[np.float64],
) -> NDArray[np.float64]:
    """True mean (cost, quality) of argmax believed - lambda * priced, over many lambdas."""
    rows = np.arange(len(quality))
    points = []
    for trade in [0.0, *np.geomspace(0.01, 3000, 200)]:
        chosen = (believed - trade * priced).argmax(axis=1)
        points.append((cost[rows, chosen].mean(), quality[rows, chosen].mean()))
    return np.array(points)


def cheapest_at(points: NDArray[np.float64], quality: float) -> float:
    return float(points[points[:, 1] >= quality, 0].min())


def test_any_number_of_candidates_gets_a_profile(candidates: list[Candidate]) -> None:
    pair = simulate([candidates[5], candidates[0]], requests=200)
    assert list(pair.acceptable.columns) == [candidates[5].name, candidates[0].name]
    assert pair.acceptable.iloc[:, 0].mean() > pair.acceptable.iloc[:, 1].mean() + 0.2


def test_wrong_arguments_say_what_was_expected(candidates: list[Candidate]) -> None:
    with pytest.raises(ValueError, match="at least two"):
        simulate(candidates[:1])
    with pytest.raises(ValueError, match="each name once"):
        simulate([candidates[0], candidates[0]])
    with pytest.raises(ValueError, match=r"\['free'\] have no price"):
        simulate([candidates[0], Candidate(name="free")])
    with pytest.raises(ValueError, match="requests=0"):
        simulate(candidates, requests=0)
