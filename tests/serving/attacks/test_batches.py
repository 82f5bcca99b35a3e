"""One request of a batch never fails the others: not by what is in it, and not by the time that it takes."""

from __future__ import annotations

import json

from tests.serving.attacks.conftest import Attack


def test_each_request_of_a_batch_is_for_itself(attacked: Attack) -> None:
    service = attacked(embed_wait_ms=0.001)
    # Longer than what is embedded at once, and none like another: these wait for a thread, and most too long.
    long = [f"sum of two {number} " * 4_000 for number in range(3)]
    huge = {"messages": [{"role": "user", "content": "hello", "seed": 10**30, "parts": [{"deep": [[[10**40]]]}]}]}
    requests = [
        {"prompt": "hello"},
        {"prompt": long[0]},
        huge,
        {"prompt": "hello", "deny": ["*"]},
        {"prompt": long[1]},
        {"messages": [{"role": "user", "content": "half \ud83d"}]},
        {"prompt": "hello", "session_id": "s"},
    ]
    answer = service.post("/v1/route/batch", json.dumps({"requests": requests}).encode())
    assert answer.status_code == 200, answer.text
    reasons = [one.get("reason", one.get("status")) for one in answer.json()["results"]]
    assert [reasons[place] for place in (0, 2, 3, 6)] == ["best_value", "best_value", 422, "best_value"]
    answered = {reasons[1], reasons[4], service.route(prompt=long[2])["reason"]}
    assert answered <= {"timeout", "only_eligible"}, "by whoever was faster, and answered"
    assert service.post("/v1/route", json.dumps(huge).encode()).json()["reason"] == "best_value"
