"""A cached prefix is what two prompts have in common, for as long as the cache lives; conversations are told without an id."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import fake_bundle
from tests.fake_bundle import LARGE, SMALL
from tests.patience import PATIENCE
from tests.serving.attacks.conftest import Attack, Attacked

# Of SMALL's cache nothing is left by the next turn.
CACHES = {
    LARGE: {"cache_read_usd_per_mtok": 0.5, "cache_seconds": 3600.0},
    SMALL: {"cache_read_usd_per_mtok": 0.01, "cache_seconds": 1e-6},
}
LINE = "theorem sum "


@pytest.fixture(scope="module")
def caching(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        candidates = tuple(one.model_copy(update=CACHES.get(one.name, {})) for one in fake_bundle.CANDIDATES)
        patch.setattr(fake_bundle, "CANDIDATES", candidates)
        return fake_bundle.build(tmp_path_factory.mktemp("caching"))


def cost(service: Attacked, candidate: str, prompt: str, session: str) -> float:
    """What it is expected to cost there, in USD; the decision goes there as well."""
    answer = service.route(prompt=prompt, session_id=session, allow=[candidate])
    found: float = next(one["expected_cost_usd"] for one in answer["candidates"] if one["model"] == candidate)
    return found


def test_the_cached_part_is_what_two_prompts_have_in_common(attacked: Attack, caching: Path) -> None:
    service = attacked(bundle=caching)
    before, after = LINE * 200, LINE * 300
    plain = {name: cost(service, name, after, f"fresh-{name}") for name in (LARGE, SMALL)}
    for name in (LARGE, SMALL):
        cost(service, name, "mus" + before[3:], f"other-{name}")
        assert cost(service, name, after, f"other-{name}") == pytest.approx(plain[name]), (
            "of the same length, and another"
        )
        cost(service, name, before, f"same-{name}")
        time.sleep(0.001)
    # a token of it is what the prompt alone costs more than half of it does
    per_line = (plain[LARGE] - cost(service, LARGE, LINE * 150, "half")) / 150
    saved = per_line * 200 * (5.0 - 0.5) / 5.0
    assert cost(service, LARGE, after, f"same-{LARGE}") == pytest.approx(plain[LARGE] - saved, rel=0.01)
    assert cost(service, SMALL, after, f"same-{SMALL}") == pytest.approx(plain[SMALL]), "its cache has let go of it"
    # on another candidate in between, and back: what it had read is still there
    cost(service, SMALL, after + LINE, f"same-{LARGE}")
    again = cost(service, LARGE, after + LINE, f"same-{LARGE}")
    assert again == pytest.approx(plain[LARGE] + per_line - per_line * 300 * 0.9, rel=0.01)


def turns(number: int, system: str = "Be brief.") -> list[dict[str, Any]]:
    said = [{"role": "system", "content": system}, {"role": "user", "content": "hello"}]
    for turn in range(number):
        said += [{"role": "assistant", "content": f"sum {turn}"}, {"role": "user", "content": "world"}]
    return said


def test_a_conversation_without_an_id_is_told_by_how_it_begins(attacked: Attack) -> None:
    service = attacked(session_margin=10)
    service.route(messages=turns(0), allow=[SMALL])
    kept = service.route(messages=turns(1))
    assert (kept["model"], kept["reason"]) == (SMALL, "session")
    other = [{"role": "user", "content": "hello"}, *turns(1)[2:]]
    assert service.route(messages=other)["reason"] == "best_value"
    assert service.route(messages=turns(0))["reason"] == "best_value", "it only begins"
    without = attacked(session_margin=10, derived_sessions=False)
    without.route(messages=turns(0), allow=[SMALL])
    assert without.route(messages=turns(1))["reason"] == "best_value"


def test_workers_share_conversations(attacked: Attack) -> None:
    service = attacked(session_margin=10, workers=2, watch_seconds=0.2)

    def shared(begun: dict[str, Any], later: dict[str, Any], pause: float) -> bool:
        """Whether a conversation is known over many connections, so that both workers have had some.

        A worker that is asked before it knows moves the conversation, so no conversation is asked about twice.
        """
        service.route(**begun, allow=[SMALL])
        time.sleep(pause)
        answers = [httpx.post(f"{service.url}/v1/route", json=later, timeout=PATIENCE).json() for _ in range(16)]
        return {(one["model"], one["reason"]) for one in answers} == {(SMALL, "session")}

    def without_an_id(pause: float) -> bool:
        system = f"Be brief, in {pause} words."
        return shared({"messages": turns(0, system)}, {"messages": turns(1, system)}, pause)

    def named(pause: float) -> bool:
        body = {"prompt": "hello", "session_id": f"after {pause} s"}
        return shared(body, body, pause)

    for known in (without_an_id, named):  # each time with another conversation, left alone for longer
        assert any(known(0.5 * 2**times) for times in range(8))
    assert service.route(prompt="hello", session_id="another")["reason"] == "best_value"
