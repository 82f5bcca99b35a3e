"""LiteLLM's Router by itself, without a proxy: the decision is made where deployments are filtered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import litellm
import pytest

from serving.integrations.litellm.decided import found
from serving.integrations.litellm.deciders import InProcess
from serving.integrations.litellm.plugin import OutcomeRouter
from serving.integrations.litellm.settings import LiteLLMSettings
from serving.runtime.pipeline import Service
from serving.settings import Settings
from tests import fake_bundle
from tests.fake_bundle import LARGE, OPEN, SMALL
from tests.serving.integrations.litellm.upstreams import Upstreams, serving

GROUP = "outcome-router/auto"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def upstreams() -> Iterator[Upstreams]:
    with serving(SMALL, OPEN, LARGE) as made:
        yield made


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[OutcomeRouter]:
    service = Service(Settings(bundle=str(fake_bundle.build(tmp_path)), store=""))
    service.start()
    settings = LiteLLMSettings()
    made = OutcomeRouter(settings, InProcess(settings, load=lambda: service))
    before = litellm.callbacks
    litellm.callbacks = [made]
    yield made
    litellm.callbacks = before
    service.close()


def rows(upstreams: Upstreams, *names: str, **info: Any) -> list[dict[str, Any]]:
    return [
        {
            "model_name": GROUP,
            "litellm_params": {
                "model": f"openai/{name.replace('/', '-')}",
                "api_base": upstreams[name].url,
                "api_key": "no",
            },
            "model_info": {"id": name, **info.get(name, {})},
        }
        for name in names
    ]


def routed(upstreams: Upstreams, calls: Callable[[litellm.Router], Awaitable[Any]], **settings: Any) -> Any:
    """What the calls give on a Router with a row for each candidate."""
    upstreams.forget()

    async def run() -> Any:
        router = litellm.Router(
            model_list=settings.pop("model_list", None) or rows(upstreams, SMALL, OPEN, LARGE),
            **{"num_retries": 2, "retry_after": 0, "disable_cooldowns": True, **settings},
        )
        return await calls(router)

    return asyncio.run(run())


def demanding(**fields: Any) -> dict[str, Any]:
    return {"outcome_router": fields}


@pytest.mark.usefixtures("plugin")
def test_a_call_goes_to_the_candidate_that_is_chosen(upstreams: Upstreams) -> None:
    async def calls(router: litellm.Router) -> list[str]:
        first = await router.acompletion(model=GROUP, messages=HELLO)
        second = await router.acompletion(model=GROUP, messages=HELLO, metadata=demanding(cost_quality=0))
        return [one.choices[0].message.content for one in (first, second)]

    assert routed(upstreams, calls) == [f"I am {LARGE}", f"I am {SMALL}"]
    assert all("outcome_router" not in str(body) for one in upstreams.values() for body in one.bodies)


@pytest.mark.usefixtures("plugin")
def test_a_dead_upstream_falls_back_to_the_next_rank_and_is_asked_once(upstreams: Upstreams) -> None:
    async def calls(router: litellm.Router) -> str:
        upstreams[SMALL].dead = True
        answer = await router.acompletion(model=GROUP, messages=HELLO, metadata=demanding(cost_quality=0))
        return str(answer.choices[0].message.content)

    assert routed(upstreams, calls) in (f"I am {OPEN}", f"I am {LARGE}")
    assert len(upstreams[SMALL].bodies) == 1


@pytest.mark.usefixtures("plugin")
def test_metadata_that_several_calls_share_carries_no_decision_over(upstreams: Upstreams) -> None:
    shared: dict[str, Any] = demanding(cost_quality=0)

    async def calls(router: litellm.Router) -> list[str | None]:
        ids = []
        for text in ("hello", "world"):
            await router.acompletion(model=GROUP, messages=[{"role": "user", "content": text}], metadata=shared)
            decided = found({"metadata": shared})
            ids.append(None if decided is None else decided["decision_id"])
        return ids

    first, second = routed(upstreams, calls)
    assert first != second or first is None
    assert upstreams.asked() == [SMALL, SMALL]


@pytest.mark.usefixtures("plugin")
def test_what_the_rules_refuse_is_an_error_that_says_so(upstreams: Upstreams) -> None:
    async def calls(router: litellm.Router) -> None:
        await router.acompletion(model=GROUP, messages=HELLO, metadata=demanding(privacy={"regions": ["moon"]}))

    with pytest.raises(litellm.exceptions.BadRequestError, match="no candidate is eligible"):
        routed(upstreams, calls)
    assert upstreams.asked() == []


def test_a_small_window_is_passed_over_where_pre_call_checks_are_on(
    plugin: OutcomeRouter, upstreams: Upstreams
) -> None:
    info = {SMALL: {"max_input_tokens": 5}, OPEN: {"max_input_tokens": 100_000}, LARGE: {"max_input_tokens": 100_000}}

    async def calls(router: litellm.Router) -> str:
        plugin.attach(router)
        messages = [{"role": "user", "content": "hello world " * 20}]
        answer = await router.acompletion(model=GROUP, messages=messages, metadata=demanding(cost_quality=0))
        return str(answer.choices[0].message.content)

    made = routed(upstreams, calls, model_list=rows(upstreams, SMALL, OPEN, LARGE, **info), enable_pre_call_checks=True)
    assert made in (f"I am {OPEN}", f"I am {LARGE}")
    assert SMALL not in upstreams.asked()


def test_programs_that_do_not_await_have_a_call_of_their_own(plugin: OutcomeRouter, upstreams: Upstreams) -> None:
    upstreams.forget()
    router = litellm.Router(model_list=rows(upstreams, SMALL, OPEN, LARGE), num_retries=0)
    answer = plugin.complete(router, model=GROUP, messages=HELLO, metadata=demanding(cost_quality=0))
    assert answer.choices[0].message.content == f"I am {SMALL}"
