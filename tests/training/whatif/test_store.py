"""What the decisions of a service say: by conversations, and by what both bundles decided by themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from training.whatif import store


def decisions(sessions: list[Any], quality: list[float], **columns: Any) -> pd.DataFrame:
    n = len(sessions)
    usual: dict[str, Any] = {
        "id": [str(place) for place in range(n)],
        "session_id": sessions,
        "key": "app",
        "workflow": "w",
        "reason": "best_value",
        "candidate": "a",
        "confidence": 0.7,
        "expected_cost_usd": 0.1,
        "instead_expected_cost_usd": np.nan,
        "propensity": 0.9,
        "told_quality": quality,
        "told_quality_source": None,
        "told_candidate": None,
        "shadow_candidate": "a",
        "shadow_expected_cost_usd": 0.1,
        "shadow_confidence": 0.7,
    }
    return pd.DataFrame(usual | columns)


def test_turns_of_a_conversation_do_not_narrow_an_interval() -> None:
    """40 conversations of 6 turns each, that went well or badly as a whole, against 240 requests by themselves."""
    quality = np.repeat(np.arange(40) % 2, 6).astype(float).tolist()
    together = store.exploration(decisions(np.repeat([f"s{n}" for n in range(40)], 6).tolist(), quality), 0.5).iloc[1]
    alone = store.exploration(decisions([None] * 240, quality), 0.5).iloc[1]
    assert together["acceptable"] == alone["acceptable"] == 0.5
    assert together["to"] - together["95% from"] > 2.2 * (alone["to"] - alone["95% from"])


def test_the_shadow_is_not_held_against_what_was_explored() -> None:
    frame = decisions([None] * 4, [1.0] * 4)
    frame.loc[0, ["reason", "candidate"]] = ["explore", "b"]
    frame.loc[1, ["reason", "candidate"]] = ["held_back", "c"]
    (line, _) = store.shadow(frame).to_dict("records")
    assert (line["decisions"], line["agree"]) == (2, 1.0)


def test_traffic_like_trainings_has_no_stability_index_of_few_and_none_of_many() -> None:
    shares = [1 / 64] * 64
    for n, told in ((100, False), (400, False), (2_000, True)):
        clusters = np.random.default_rng(n).integers(64, size=n)
        frame = decisions([None] * n, [1.0] * n, bundle="b", cluster=clusters.astype(float), novelty=0.0)
        found = store.drift(frame, shares, 1.0, "b")
        assert found is not None
        assert (found.decisions, found.novel, found.psi is not None) == (n, 0.0, told)
        if found.psi is not None:
            assert found.psi < 0.02
    turns = frame.assign(session_id=np.repeat([f"s{one}" for one in range(100)], 20))
    turns["cluster"] = np.repeat(np.random.default_rng(1).integers(64, size=100), 20).astype(float)
    found = store.drift(turns, shares, 1.0, "b")
    assert found is not None
    assert found.psi is None, "100 conversations, for all their turns"
    assert store.drift(turns, shares, 1.0, "another") is None
