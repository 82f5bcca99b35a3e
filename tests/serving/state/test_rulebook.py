"""The rule file: what it takes, how it says no, and that what it holds only ever tightens a request."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from serving.api.app import create_app
from serving.bundle.catalogue import Capability
from serving.bundle.manifest import Objective
from serving.bundle.request import RouteRequest
from serving.decide.policy import Policy
from serving.runtime.pipeline import Service
from serving.settings import Settings
from serving.state.rates import Rates
from serving.state.rulebook import RuleBook, Rules, RulesError, digest_of, load_rules
from tests import fake_bundle
from tests.fake_bundle import LARGE, OPEN, SMALL

SECRET, ADMIN = "a-long-random-secret", "another-long-random-secret"
KEYS = f"""
[keys.app]
sha256 = "{digest_of(SECRET)}"
rate = "3/minute"
deny = ["{LARGE}"]
budget = {{ day_usd = 1.0 }}

[keys.root]
sha256 = "{digest_of(ADMIN)}"
admin = true
budget = {{ month_usd = 9.0 }}
"""


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], RuleBook]:
    def load_text(text: str) -> RuleBook:
        path = tmp_path / "policies.toml"
        path.write_text(text)
        return load_rules(path)

    return load_text


def test_every_field_is_read(load: Callable[[str], RuleBook]) -> None:
    book = load(
        f"""
        [default]
        allow = ["acme/*"]
        deny = ["*/small"]
        requires = ["tools"]
        zero_retention = true
        self_hosted = true
        no_training = true
        regions = ["eu"]
        max_cost_usd = 0.5
        max_latency_ms = 2000
        objective = "quality"
        abstain_below = 0.25
        no_candidate = "acme/large"
        [default.budget]
        day_usd = 5
        at_limit = "warn"
        pacing = true
        [workflows.sql]
        quality_target = 0.9
        {KEYS}
        """
    )
    assert book.default.policy() == Policy(
        allow=(("acme/*",),),
        deny=("*/small",),
        requires=frozenset({Capability.TOOLS}),
        zero_retention=True,
        self_hosted=True,
        no_training=True,
        regions=(frozenset({"eu"}),),
        max_cost_usd=0.5,
        max_latency_ms=2000.0,
        objective=Objective.QUALITY,
        abstain_below=0.25,
    )
    assert (book.default.budget.day_usd, book.default.budget.month_usd) == (5.0, None)
    assert (book.default.budget.at_limit, book.default.budget.pacing) == ("warn", True)
    assert [name for name, _ in book.every_scope()] == ["default", "workflow:sql", "key:app", "key:root"]
    assert [name for name, _ in book.scopes("app", "sql")] == ["default", "workflow:sql", "key:app"]
    assert [name for name, _ in book.scopes(None, "unknown")] == ["default"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[default\n", "policies.toml: not valid TOML"),
        (
            "[default]\nmax_cost = 1",
            "policies.toml: default.max_cost: there is no such field; did you mean max_cost_usd?",
        ),
        ("[workflows.a]\nmax_cost_usd = -1", "policies.toml: workflows.a.max_cost_usd: "),
        ("[default.budget]\nat_limit = 'stop'", "policies.toml: default.budget.at_limit: "),
        ("[default.budget]\nday_usd = inf", "policies.toml: default.budget.day_usd: "),
        ("[default.budget]\nmonth_usd = 1e300", "policies.toml: default.budget.month_usd: "),
        ("[default]\nmax_cost_usd = nan", "policies.toml: default.max_cost_usd: "),
        ("[default.budget]\npacing = true", "there is nothing to pace; expected day_usd or month_usd"),
        ("[default]\nquality_target = 0.9\ncost_quality = 5", "give at most one of quality_target and cost_quality"),
        ("[default]\nrequires = ['speech']", "policies.toml: default.requires"),
        ("[keys.a]\nsha256 = 'plain text'", "policies.toml: keys.a.sha256: "),
        ("[keys.a]\nrate = '1/second'", "policies.toml: keys.a.sha256: expected the SHA-256 of the key"),
        (f"[keys.a]\nsha256 = '{'0' * 64}'\nrate = 'often'", "policies.toml: keys.a.rate: "),
        (f"[keys.a]\nsha256 = '{'0' * 64}'\n[keys.b]\nsha256 = '{'0' * 64}'", "keys.a and keys.b have the same sha256"),
    ],
)
def test_a_wrong_file_is_refused_by_file_and_field(load: Callable[[str], RuleBook], text: str, said: str) -> None:
    with pytest.raises(RulesError) as error:
        load(text)
    assert said in str(error.value)
    assert "policies.toml" in str(error.value)


def test_every_mistake_of_a_file_is_told_at_once(load: Callable[[str], RuleBook]) -> None:
    with pytest.raises(RulesError) as caught:
        load("[default]\nmax_cost = 1\nabstain_below = 7\n[workflows.x]\nalow = []\n")
    told = str(caught.value).splitlines()
    assert len(told) == 3
    for field in ("default.max_cost: ", "workflows.x.alow: ", "default.abstain_below: "):
        assert sum(field in line for line in told) == 1, field
    many = "[default]\n" + "".join(f"wrong{n} = 1\n" for n in range(50))
    with pytest.raises(RulesError, match="and 30 more"):
        load(many)


def test_a_name_that_is_a_key_or_more_than_a_name_is_not_told(load: Callable[[str], RuleBook]) -> None:
    """A key in clear may stand where its name should, and a name may be anything."""
    secret = "sk-1234567890abcdef"
    for text in (f'[keys."{secret}"]\n', f'"{secret}" = 1\n', f'[default]\n"{secret}" = 1\n'):
        with pytest.raises(RulesError) as caught:
            load(text)
        assert secret not in str(caught.value)
        assert f"(a name of {len(secret)} characters)" in str(caught.value)
    for name in ("\\u001b[31m", "x" * 100_000):
        with pytest.raises(RulesError) as caught:
            load(f'[default]\n"{name}" = 1\n')
        assert "\x1b" not in str(caught.value)
        assert len(str(caught.value)) < 1_000


def test_a_missing_file_is_refused_and_none_is_no_rules(tmp_path: Path) -> None:
    with pytest.raises(RulesError, match="cannot be read"):
        load_rules(tmp_path / "none.toml")
    assert load_rules(None) == RuleBook()


@given(st.text(max_size=60), st.text(max_size=60))
def test_a_key_is_known_by_its_text_alone(secret: str, other: str) -> None:
    book = RuleBook.model_validate({"keys": {"one": {"sha256": digest_of(secret)}}})
    assert book.key_of(secret) == "one"
    assert book.key_of(other) == ("one" if other == secret else None)


def test_the_documented_command_makes_a_key(tmp_path: Path) -> None:
    document = (Path(__file__).parents[3] / "docs" / "serving.md").read_text()
    command = next(line for line in document.splitlines() if line.startswith("router-serve new-key "))
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    made = subprocess.run(
        command,
        shell=True,
        cwd=tmp_path,
        env={**os.environ, "PATH": search},
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    secret = made.stderr.split()[-1]
    assert load_rules(tmp_path / "policies.toml").key_of(secret) == "app"
    assert len(secret) >= 40


# --- a rule only tightens ---

limits = st.one_of(st.none(), st.floats(1e-5, 0.01))
targets = st.sampled_from([{}, {"quality_target": 0.8}, {"quality_target": 0.9}, {"cost_quality": 3.0}])
some_globs = st.lists(st.sampled_from(["acme/*", "open/*", SMALL, OPEN, LARGE, "*"]), max_size=2)


@st.composite
def section(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "allow": draw(some_globs),
        "deny": draw(st.lists(st.sampled_from([SMALL, OPEN, "none"]), max_size=1)),
        "self_hosted": draw(st.booleans()),
        "max_cost_usd": draw(limits),
        "max_latency_ms": draw(st.one_of(st.none(), st.floats(100, 4000))),
        **draw(targets),
    }


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle.build(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def service(bundle: Path) -> Iterator[Service]:
    service = Service(Settings(bundle=str(bundle), store=None))
    yield service
    service.close()


@given(section(), section(), section())
def test_server_rules_only_tighten(
    service: Service, default: dict[str, Any], workflow: dict[str, Any], own: dict[str, Any]
) -> None:
    from serving.decide.eligibility import NoEligibleCandidateError

    policy = Rules.model_validate(own).policy()
    request = RouteRequest("hello", workflow="easy")
    router = service.live.current.router

    def admitted(policy: Policy) -> set[str]:
        try:
            alternatives = router.route(request, policy).alternatives
        except NoEligibleCandidateError as error:
            return set(router.candidates) - set(error.rules)
        return {one.candidate for one in alternatives if one.ruled_out is None}

    service._reloading.rules = RuleBook.model_validate({"default": default, "workflows": {"easy": workflow}})
    case = service.case(request, policy, None)
    service._reloading.rules = RuleBook()
    theirs = [Rules.model_validate(one).policy() for one in (default, workflow)]
    assert admitted(case.policy) == admitted(policy) & admitted(theirs[0]) & admitted(theirs[1])
    highest = max((p.quality_target or 0.0) for p in (policy, *theirs))
    assert (case.policy.quality_target or 0.0) == highest


# --- at the start, and over HTTP ---


@pytest.fixture
def served(bundle: Path, tmp_path: Path) -> Iterator[Callable[[str], TestClient]]:
    clients: list[TestClient] = []

    def serve(text: str) -> TestClient:
        (tmp_path / "policies.toml").write_text(text)
        service = Service(Settings(bundle=str(bundle), policies=tmp_path / "policies.toml"))
        service.rates = Rates(service.rules.keys, lambda: 0.0)  # a slow machine uses its rate within one instant too
        client = TestClient(create_app(service.settings, service))
        clients.append(client)
        client.__enter__()
        return client

    yield serve
    for client in clients:
        client.__exit__(None, None, None)


def test_a_default_answer_that_the_bundle_does_not_have_is_refused_at_the_start(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "policies.toml").write_text('[workflows.sql]\nno_candidate = "acme/huge"\n')
    with pytest.raises(RulesError, match=r"policies\.toml: workflow:sql: no_candidate is 'acme/huge'; the bundle has"):
        Service(Settings(bundle=str(bundle), policies=tmp_path / "policies.toml", store=None))


@pytest.mark.parametrize(
    "text", ["x = " + "[" * 3_000, "x = " + "9" * 5_000, "\ufeff[default", '[keys.a]\nrate = "or-secret"']
)
def test_whatever_is_in_it_the_error_is_one_of_the_rules(load: Callable[[str], RuleBook], text: str) -> None:
    with pytest.raises(RulesError) as caught:
        load(text)
    assert "or-secret" not in str(caught.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "policies.toml")
    with pytest.raises(RulesError, match="is no file"):
        load_rules(tmp_path / "policies.toml")


def test_a_workflow_may_be_called_budget(load: Callable[[str], RuleBook]) -> None:
    with pytest.raises(RulesError, match=r"workflows\.budget\.foo: .*abstain_below"):
        load("[workflows.budget]\nfoo = 1")


def test_an_allow_that_matches_nobody_is_refused_at_the_start(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "policies.toml").write_text('[workflows.sql]\nallow = ["amce/*"]\n')
    with pytest.raises(
        RulesError, match=r"workflow:sql: allow = \['amce/\*'\] matches no candidate; the bundle has acme/"
    ):
        Service(Settings(bundle=str(bundle), policies=tmp_path / "policies.toml", store=None))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[default]\nalow = []", "default.alow: there is no such field; did you mean allow? expected one of abstain_below, al"),
        ("[workflows.x.budget]\ndaily_usd = 1", "workflows.x.budget.daily_usd: there is no such field; did you mean day_usd?"),
        ("[defaults]", "defaults: there is no such field; did you mean default? expected one of also, default, keys, work"),
        ('[keys.a]\nsha256 = "sk-in-clear"', "keys.a.sha256: expected the SHA-256 of the key, 64 digits of 0-9 and a-f, never"),
        (f'[keys.a]\nsha256 = "{"0" * 64}"\nqqq = 1', "keys.a.qqq: there is no such field; expected one of abstain_"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_what_is_meant_and_never_a_key(
    load: Callable[[str], RuleBook], text: str, message: str
) -> None:
    with pytest.raises(RulesError) as caught:
        load(text)
    assert f"policies.toml: {message}" in str(caught.value)
    assert "sk-in-clear" not in str(caught.value)


def test_nobody_eligible_is_a_422_with_every_rule_or_the_named_default(served: Callable[[str], TestClient]) -> None:
    rules = f'[default]\ndeny = ["{SMALL}"]\nmax_cost_usd = 0.0\n[workflows.easy]\nno_candidate = "{OPEN}"\n'
    client = served(rules)
    refused = client.post("/v1/route", json={"prompt": "hello"})
    assert refused.status_code == 422
    assert refused.json()["ruled_out"] == {SMALL: "denied", OPEN: "max_cost_usd", LARGE: "max_cost_usd"}
    body = {"prompt": "hello", "workflow": "easy"}
    answer = client.post("/v1/route", json=body).json()
    assert (answer["model"], answer["reason"], answer["confidence"]) == (OPEN, "no_candidate", None)
    assert answer["candidates"][0]["ruled_out"] == "denied"
    # it stands against the server's own rules, not against what the caller asks
    for asked in ({"max_cost_usd": 0.0}, {"deny": [OPEN]}, {"privacy": {"zero_retention": True}}):
        assert client.post("/v1/route", json={**body, **asked}).status_code == 422


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@pytest.mark.parametrize(
    "headers", [{}, bearer("wrong"), bearer(""), bearer(digest_of(SECRET)), {"Authorization": f"Basic {SECRET}"}]
)
@pytest.mark.parametrize("path", ["/v1/route", "/v1/route/batch", "/v1/feedback", "/v1/admin/reload"])
def test_without_a_known_key_nothing_is_answered(
    served: Callable[[str], TestClient], path: str, headers: dict[str, str]
) -> None:
    refused = served(KEYS).post(path, json={"prompt": "hello"}, headers=headers)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"] == "Bearer"
    assert refused.headers["content-type"] == "application/problem+json"
    assert SECRET not in refused.text


def test_a_key_has_its_own_rules_and_rate(served: Callable[[str], TestClient]) -> None:
    client = served(KEYS)
    answers = [
        client.post("/v1/route", json={"prompt": "hello", "cost_quality": 10}, headers=bearer(SECRET)) for _ in range(4)
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert {answer.json()["model"] for answer in answers[:3]} == {OPEN}
    assert 1 <= int(answers[3].headers["retry-after"]) <= 60
    assert answers[3].headers["content-type"] == "application/problem+json"
    other = client.post("/v1/route", json={"prompt": "hello", "cost_quality": 10}, headers=bearer(ADMIN))
    assert other.json()["model"] == LARGE


def test_each_request_of_a_batch_counts(served: Callable[[str], TestClient]) -> None:
    client = served(KEYS)
    requests = {"requests": [{"prompt": "hello"}] * 3}
    assert client.post("/v1/route/batch", json=requests, headers=bearer(SECRET)).status_code == 200
    assert client.post("/v1/route", json={"prompt": "hello"}, headers=bearer(SECRET)).status_code == 429


def test_only_an_admin_key_reloads(served: Callable[[str], TestClient]) -> None:
    client = served(KEYS)
    assert client.post("/v1/admin/reload", headers=bearer(SECRET)).status_code == 403
    assert client.post("/v1/admin/reload", headers=bearer(ADMIN)).status_code == 200


def test_a_key_sees_its_own_budget_and_an_admin_s_sees_all(served: Callable[[str], TestClient]) -> None:
    client = served(KEYS)

    def scopes(secret: str) -> list[str]:
        return [one["scope"] for one in client.get("/v1/budgets", headers=bearer(secret)).json()["budgets"]]

    assert scopes(SECRET) == ["key:app"]
    assert scopes(ADMIN) == ["key:app", "key:root"]
