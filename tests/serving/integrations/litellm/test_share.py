"""The way into a proxy that is there already: shadow mode, a share, and a router that goes away."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from serving.store.queries import held_back
from tests import fake_bundle, processes
from tests.conftest import ROOT
from tests.fake_bundle import LARGE, OPEN, SMALL
from tests.patience import reserved_port, until
from tests.serving.integrations.litellm.proxy import EXISTING, GROUP, ROWS, Proxy, configuration, needs_proxy, running
from tests.serving.integrations.litellm.upstreams import Upstreams, serving
from training.logs.sources import reading

pytestmark = needs_proxy
TIMEOUT = (
    8.0  # of the plug-in for the router: so long that no answer of a slow machine is taken for one that waited for it
)


@pytest.fixture(scope="module")
def upstreams() -> Iterator[Upstreams]:
    with serving(*ROWS, EXISTING) as made:
        yield made


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle.build(tmp_path_factory.mktemp("models"))


def decisions(store: Path) -> list[dict[str, object]]:
    engine = sa.create_engine(f"sqlite:///{store}")
    with engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT * FROM decision")).mappings().all()
    engine.dispose()
    return [dict(row) for row in rows]


def test_in_shadow_mode_nothing_changes_and_everything_is_recorded(
    bundle: Path, upstreams: Upstreams, tmp_path: Path
) -> None:
    store = tmp_path / "decisions.db"
    settings = {"ROUTER_LITELLM_SHARE": "0", "ROUTER_LITELLM_GROUPS": "gpt-4o-*"}
    upstreams.forget()
    with running(
        tmp_path / "proxy",
        configuration(upstreams),
        upstreams,
        ROUTER_BUNDLE=str(bundle),
        ROUTER_STORE=str(store),
        **settings,
    ) as proxy:
        proxy.keys(**{"sk-existing": {"models": [EXISTING]}})
        texts = [f"hello number {number}" for number in range(8)]
        answers = [proxy.ask(text, model=EXISTING, provider={"order": ["x"]}) for text in texts]
        # What the rules would refuse, and a key that may use no candidate: as before.
        answers.append(proxy.ask("hello", model=EXISTING, privacy={"regions": ["moon"]}))
        answers.append(proxy.ask("hello", model=EXISTING, key="sk-existing"))
        assert [answer.status_code for answer in answers] == [200] * 10
        assert upstreams.asked() == [EXISTING] * 10
        assert upstreams[EXISTING].bodies[0]["provider"] == {"order": ["x"]}
        ids = [answer.headers["x-router-decision-id"] for answer in answers[:8]]
        assert {answer.headers["x-router-reason"] for answer in answers[:8]} == {"held_back"}
        assert proxy.record(ids[0])["held_back"] == LARGE
        until(lambda: len(decisions(store)) >= 8, "the decisions in the store")
        rows = {row["id"]: row for row in decisions(store)}
        assert {rows[one]["candidate"] for one in ids} == {EXISTING}
        assert {rows[one]["propensity"] for one in ids} == {1.0}
        assert {rows[one]["shadow_candidate"] for one in ids} == {LARGE}
        # The candidates' own group is held back to the reference.
        assert proxy.ask("hello", cost_quality=0).status_code == 200
        assert upstreams.asked().count(LARGE) == 1


def test_what_is_shadowed_is_priced_and_trained_on_as_the_candidate_behind_the_group(
    bundle: Path, upstreams: Upstreams, tmp_path: Path
) -> None:
    store = tmp_path / "decisions.db"
    config = configuration(upstreams)
    config["model_list"][3]["model_info"] = {"outcome_router": LARGE}
    settings = {"ROUTER_LITELLM_SHARE": "0", "ROUTER_LITELLM_GROUPS": EXISTING, "ROUTER_STORE": str(store)}
    upstreams.forget()
    with running(tmp_path / "proxy", config, upstreams, ROUTER_BUNDLE=str(bundle), **settings) as proxy:
        answers = [proxy.ask(f"hello number {number}", model=EXISTING, cost_quality=0) for number in range(4)]
        assert [answer.status_code for answer in answers] == [200] * 4
        assert {answer.headers["x-router-model"] for answer in answers} == {LARGE}
        assert {answer.headers["x-router-held-back"] for answer in answers} == {SMALL}
        assert upstreams.asked() == [EXISTING] * 4
        until(lambda: "router_litellm_held_back_priced_total 4.0" in proxy.metrics(), "their costs are counted")
        until(lambda: len(reading.read([str(store)]).frame["cost_usd"].dropna()) == 4, "their costs in the store")
        log = (proxy.folder / "proxy.log").read_text()
        assert f"outcome-router: bundle {bundle} in this process" in log
    frame = reading.read([str(store)]).frame
    assert frame[["candidate", "propensity", "status"]].drop_duplicates().to_numpy().tolist() == [
        [LARGE, 1.0, "success"]
    ]
    engine = sa.create_engine(f"sqlite:///{store}")
    (total, *_) = held_back(engine, fake_bundle.VERSION, 0.0)
    engine.dispose()
    assert total.spent is not None
    assert total.spent.decisions == 4
    assert total.spent.cost_usd == pytest.approx(frame["cost_usd"].sum())
    assert total.agreement == 0.0


def test_a_share_splits_the_traffic_and_a_conversation_keeps_its_side(
    bundle: Path, upstreams: Upstreams, tmp_path: Path
) -> None:
    settings = {"ROUTER_LITELLM_SHARE": "0.3", "ROUTER_LITELLM_GROUPS": EXISTING, "ROUTER_HASH_SECRET": "fixed"}
    upstreams.forget()
    with running(
        tmp_path / "proxy", configuration(upstreams), upstreams, ROUTER_BUNDLE=str(bundle), **settings
    ) as proxy:
        with ThreadPoolExecutor(4) as pool:
            answers = list(
                pool.map(
                    lambda number: proxy.ask("hello", model=EXISTING, session_id=f"s{number}", cost_quality=0),
                    range(100),
                )
            )
        assert {answer.status_code for answer in answers} == {200}
        asked = upstreams.asked()
        assert set(asked) == {EXISTING, SMALL}
        assert 15 <= asked.count(SMALL) <= 45  # 30 in 100, with four standard deviations
        sides = [answer.headers["x-router-model"] for answer in answers[:12]]
        assert set(sides) == {EXISTING, SMALL}
        again = [proxy.ask("more", model=EXISTING, session_id=f"s{number}", cost_quality=0) for number in range(12)]
        assert [answer.headers["x-router-model"] for answer in again] == sides
        for answer in answers[:12]:
            record = proxy.record(answer.headers["x-router-decision-id"])
            assert record["propensity"] == pytest.approx(0.3 if record["held_back"] is None else 0.7)
        # A key that may not use the candidates stays where it was.
        proxy.keys(**{"sk-existing": {"models": [EXISTING]}})
        upstreams.forget()
        for number in range(12):
            assert proxy.ask("hello", model=EXISTING, key="sk-existing", session_id=f"s{number}").status_code == 200
        assert set(upstreams.asked()) == {EXISTING}


@contextmanager
def router(bundle: Path, folder: Path) -> Iterator[tuple[BaseProcess, str]]:
    """`router-serve` with the bundle, and its address."""
    with reserved_port() as port:
        options = ["--bundle", str(bundle), "--port", str(port), "--store", ""]
        process = processes.serve(options, folder / "router.log", os.environ, ROOT)
        url = f"http://127.0.0.1:{port}"
        try:
            until(lambda: _up(url), "the router is up")
            yield process, url
        finally:
            process.kill()
            process.join()


def _up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def timed(proxy: Proxy, key: str = "sk-master") -> tuple[int, float]:
    started = time.monotonic()
    status = proxy.ask("hello", cost_quality=0, key=key).status_code
    return status, time.monotonic() - started


def test_over_http_a_router_that_hangs_costs_one_slow_call_and_one_that_is_killed_none(
    bundle: Path, upstreams: Upstreams, tmp_path: Path
) -> None:
    upstreams.forget()
    with router(bundle, tmp_path) as (process, url):
        settings = {
            "ROUTER_URL": url,
            "ROUTER_LITELLM_TIMEOUT_SECONDS": str(TIMEOUT),
            "ROUTER_LITELLM_RETRY_AFTER_SECONDS": "600",
        }
        with running(tmp_path / "proxy", configuration(upstreams), upstreams, **settings) as proxy:
            answer = proxy.ask("hello", cost_quality=0)
            assert answer.headers["x-router-model"] == SMALL
            assert answer.headers["x-router-decision-id"]
            assert proxy.ask("hello", privacy={"regions": ["moon"]}).status_code == 422
            until(lambda: proxy.ask("hello", model=EXISTING).status_code == 200, "the reference is read")
            time.sleep(1)
            upstreams.forget()

            os.kill(process.pid or 0, signal.SIGSTOP)
            first = timed(proxy)
            with ThreadPoolExecutor(16) as pool:
                others = list(pool.map(lambda _: timed(proxy), range(32)))
            assert {status for status, _ in (first, *others)} == {200}
            assert [seconds for _, seconds in others if seconds >= TIMEOUT] == []
            assert set(upstreams.asked()) == {LARGE}, "the reference answers"

            process.kill()
            assert timed(proxy)[0] == 200
            proxy.keys(**{"sk-few": {"models": [GROUP, SMALL, OPEN]}})
            upstreams.forget()
            assert timed(proxy, "sk-few")[0] == 200
            assert set(upstreams.asked()) <= {SMALL, OPEN}
            refused = proxy.ask("hello", privacy={"zero_retention": True})
            assert refused.status_code == 503
            assert "privacy" in json.dumps(refused.json())
