"""Bodies that are nearly right: each is decided or refused, and memory stays flat."""

from __future__ import annotations

import random

from benchmarks.serving.fuzz import fuzz, mutated
from tests.serving.attacks.conftest import Attack

BODIES = 400


def test_what_is_sent_differs_and_comes_again_with_its_seed() -> None:
    document = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
    assert mutated(random.Random(1), document) == mutated(random.Random(1), document)
    draw = random.Random(0)
    assert len({mutated(draw, document) for _ in range(200)}) > 150
    assert document == {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}


def test_no_mutated_body_is_a_fault(attacked: Attack) -> None:
    service = attacked()
    port = service.client.base_url.port
    assert port is not None
    came = [fuzz(port, service.pid, BODIES, seed) for seed in range(3)]
    for one in came:
        assert not one.faults
        assert set(one.statuses) <= {200, 400, 404, 409, 422}
        assert one.statuses[200] > BODIES // 20
    # What is filled once has been filled by the first.
    assert came[2].memory_mib[-1] - came[1].memory_mib[0] < 20
