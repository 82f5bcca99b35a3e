"""Who asks, and what of the page there is for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.api.views.me import MeResponse
from tests import fake_bundle
from tests.serving.api.views.rules import get, serving
from tests.serving.attacks.conftest import bearer, key_rules

ALL = ["try", "frontier", "live", "bundles"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle.build(tmp_path_factory.mktemp("models"))


def test_each_key_is_told_what_it_is_for(bundle: Path, tmp_path: Path) -> None:
    with serving(bundle, tmp_path, shadow=str(bundle)) as client:
        me = {key: MeResponse.model_validate(get(client, "/v1/me", key)) for key in ("root", "app", "clinic")}
        for key in (None, "nobody"):
            assert client.get("/v1/me", headers=bearer(key)).status_code == 401
    assert (me["root"].key, me["root"].admin, me["root"].workflows) == ("root", True, [])
    assert (me["app"].key, me["app"].admin, me["app"].workflows) == ("app", False, [])
    assert (me["clinic"].admin, me["clinic"].workflows) == (False, ["medical"])
    assert all(one.keys and one.store and one.prompts and one.shadow and one.page_tabs == ALL for one in me.values())


def test_everybody_may_administer_where_there_are_no_keys(bundle: Path, tmp_path: Path) -> None:
    with serving(bundle, tmp_path, rules="", store_prompts=False) as client:
        me = get(client, "/v1/me")
    assert (me["key"], me["admin"], me["keys"]) == (None, True, False)
    assert (me["store"], me["prompts"], me["shadow"], me["page_tabs"]) == (True, False, False, ALL)


def test_live_is_not_offered_to_a_key_that_it_would_show_nothing(bundle: Path, tmp_path: Path) -> None:
    with serving(bundle, tmp_path, store="") as client:
        assert get(client, "/v1/me", "root")["page_tabs"] == ALL
        me = get(client, "/v1/me", "app")
        assert client.get("/v1/live/snapshot", headers=bearer("app")).status_code == 403
    assert (me["store"], me["prompts"], me["page_tabs"]) == (False, False, ["try", "frontier", "bundles"])


def test_it_counts_against_the_rate(bundle: Path, tmp_path: Path) -> None:
    with serving(bundle, tmp_path, rules=key_rules("app", "app", 'rate = "2/day"')) as client:
        assert [client.get("/v1/me", headers=bearer("app")).status_code for _ in range(3)] == [200, 200, 429]
