"""Models and providers by OpenRouter's names: whom they stand for, who may answer by them, and who is tried first."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.bundle.catalogue import Candidate
from serving.bundle.manifest import Bundle, open_bundle
from serving.decide.decision import Reason, Situation
from serving.decide.eligibility import NoEligibleCandidateError, Rule
from serving.decide.endpoints import Directory, Endpoints, Group, Preferences
from serving.decide.policy import Policy
from serving.decide.router import Router
from tests import fake_bundle
from tests.fake_bundle import LARGE, OPEN, SMALL

CATALOGUE = (
    Candidate(name="gpt-4o", provider="openai", aliases=("gpt-4o-2024-08-06", "azure/eu-gpt4o")),
    Candidate(name="anthropic/claude-opus-4.1", aliases=("claude-opus-4-1-20250805",)),
    Candidate(name="groq/llama-3.3-70b", provider="Groq"),
    Candidate(name="deepinfra/turbo/llama-3.3-70b"),
    Candidate(name="ollama/qwen:free"),
    Candidate(name="house"),
)


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Router:
    return Router.load(fake_bundle.build(tmp_path_factory.mktemp("models")))


def models(*names: str) -> Endpoints:
    return Endpoints(models=(Group("models", names),))


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("gpt-4o", {0}),
        ("openai/gpt-4o", {0}),
        ("GPT-4o:nitro", {0}),
        ("openai/gpt-4o:floor:online", {0}),
        ("openrouter/openai/gpt-4o", {0}),
        ("gpt-4o-2024-08-06", {0}),
        ("azure/eu-gpt4o", {0}),
        ("eu-gpt4o", {0}),
        ("azure/gpt-4o", {0}),  # a name without a prefix is nobody else's
        ("claude-opus-4.1", {1}),
        ("anthropic/claude-opus-4-1-20250805", {1}),
        ("bedrock/claude-opus-4.1", set()),  # it is said of another one
        ("llama-3.3-70b", {2, 3}),
        ("groq/llama-3.3-70b:free", {2}),
        ("ollama/qwen:free", {4}),
        ("ollama/qwen", set()),
        ("gpt-4o:70b", set()),
        ("anthropic/*", {1}),
        ("openai/*", {0}),
        ("*llama-3*", {2, 3}),
        ("*", {0, 1, 2, 3, 4, 5}),
        ("nobody", set()),
        ("/", set()),
        (":free", set()),
    ],
)
def test_whom_a_models_name_stands_for(name: str, columns: set[int]) -> None:
    assert set(Directory(CATALOGUE).named(name)) == columns


@pytest.mark.parametrize(
    ("slug", "columns"),
    [
        ("openai", {0}),
        ("OpenAI", {0}),
        ("anthropic", {1}),
        ("groq", {2}),
        ("deepinfra", {3}),
        ("deepinfra/turbo", {3}),
        ("deepinfra/slow", set()),
        ("house", set()),
        ("deep", set()),
    ],
)
def test_whom_a_provider_stands_for(slug: str, columns: set[int]) -> None:
    assert set(Directory(CATALOGUE).of_provider(slug)) == columns


def test_what_is_not_named_is_ruled_out(router: Router) -> None:
    decision = router.route("hello", Policy(endpoints=models("small:free", "open/medium")))
    assert [one.ruled_out for one in decision.alternatives] == [None, None, Rule.NOT_ALLOWED]
    both = Policy(endpoints=models(SMALL, OPEN)).tightened(Policy(endpoints=models(OPEN, LARGE)))
    assert router.route("hello", both).candidate == OPEN


@pytest.mark.parametrize(
    ("endpoints", "rules"),
    [
        (Endpoints(only=(Group("provider.only", ("acme",)),)), [None, Rule.NOT_ALLOWED, None]),
        (Endpoints(ignore=("acme",)), [Rule.DENIED, None, Rule.DENIED]),
        (Endpoints(input_usd_per_mtok=1.0), [None, Rule.MAX_PRICE, Rule.MAX_PRICE]),
        (Endpoints(output_usd_per_mtok=20.0), [None, Rule.MAX_PRICE, None]),
        (Endpoints(input_usd_per_mtok=5.0, output_usd_per_mtok=0.4), [None, Rule.MAX_PRICE, Rule.MAX_PRICE]),
    ],
)
def test_who_may_answer(router: Router, endpoints: Endpoints, rules: list[Rule | None]) -> None:
    decision = router.route("hello", Policy(endpoints=endpoints))
    assert [one.ruled_out for one in decision.alternatives] == rules


@pytest.mark.parametrize(
    ("endpoints", "said"),
    [
        (models("nobody"), "models: the one that arrived is not a candidate's name or alias"),
        (models("nobody", "else"), "models: none of the 2 that arrived is a candidate's name or alias"),
        (Endpoints(only=(Group("provider.only", ("x",)),)), "provider.only: the one that arrived is not a provider"),
        (
            Endpoints(models=(Group("models", (OPEN,)),), only=(Group("provider.only", ("acme",)),)),
            "models and provider.only have no candidate in common",
        ),
        (
            Endpoints(only=(Group("provider.only", ("acme",)),), ignore=("acme",)),
            "provider.ignore leaves none of those",
        ),
        (Endpoints(ignore=("acme", "open")), "provider.ignore leaves none of them"),
    ],
)
def test_fields_that_leave_nobody_are_named(router: Router, endpoints: Endpoints, said: str) -> None:
    with pytest.raises(NoEligibleCandidateError) as caught:
        router.route("hello", Policy(endpoints=endpoints))
    assert said in str(caught.value)
    assert caught.value.rules.keys() == {SMALL, OPEN, LARGE}


def test_fallbacks_are_in_the_order_of_the_models_and_the_choice_is_the_routers(router: Router) -> None:
    for names in ((SMALL, LARGE, OPEN), (OPEN, SMALL, LARGE), ("large", "medium", "small")):
        decision = router.route("hello", Policy(knob=30.0, preferences=Preferences(models=names)))
        assert decision.candidate == OPEN
        wanted = [one for name in names for one in (SMALL, OPEN, LARGE) if one.endswith(name) and one != OPEN]
        assert list(decision.fallbacks) == wanted


def test_without_fallbacks_there_are_none(router: Router) -> None:
    decision = router.route("hello", Policy(preferences=Preferences(fallbacks=False)))
    assert (decision.candidate, decision.fallbacks, decision.reason) == (LARGE, (), Reason.BEST_VALUE)


def test_who_is_slower_than_is_preferred_comes_last(router: Router) -> None:
    """Expected are 200 and 900 ms, at the 95th percentile thrice that, and of the open one nothing."""
    plain = Policy(knob=30.0)
    assert router.route("hello", plain).candidate == OPEN
    quick = router.route("hello", Policy(knob=30.0, preferences=Preferences(latency_ms=900.0)))
    assert (quick.candidate, quick.fallbacks) == (LARGE, (SMALL, OPEN))
    assert all(one.ruled_out is None for one in quick.alternatives)
    quicker = router.route("hello", Policy(knob=30.0, preferences=Preferences(latency_p95_ms=600.0)))
    assert (quicker.candidate, quicker.fallbacks) == (SMALL, (OPEN, LARGE))
    nobody = router.route("hello", Policy(knob=30.0, preferences=Preferences(latency_ms=1.0)))
    assert (nobody.candidate, nobody.fallbacks) == (OPEN, (LARGE, SMALL))
    poor = router.route("hello", Policy(preferences=Preferences(latency_ms=900.0)), Situation(most_usd=1e-5))
    assert (poor.candidate, poor.reason) == (SMALL, Reason.BUDGET)


def test_a_preference_never_explores_who_is_late(router: Router) -> None:
    policy = Policy(knob=30.0, preferences=Preferences(latency_ms=900.0))
    draws = [router.route("hello", policy, Situation(explore=0.2, draw=k / 50)) for k in range(50)]
    assert {(one.candidate, one.propensity) for one in draws} == {(LARGE, 0.8), (SMALL, 0.2)}


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Router:
    """The open one is the small one at another provider, and every point is certified."""
    opened = open_bundle(fake_bundle.build(tmp_path_factory.mktemp("twice")))
    small, other, large = opened.manifest.candidates
    renamed = other.model_copy(update={"name": "open/small"})
    manifest = opened.manifest.model_copy(
        update={
            "candidates": (small, renamed, large),
            "cost_from": {SMALL: "tokens", "open/small": "logged", LARGE: "tokens"},
            "usual": {**opened.manifest.usual, "open/small": opened.manifest.usual[OPEN]},
            "operating_points": tuple(
                one.model_copy(update={"certificate": fake_bundle.certificate()})
                for one in opened.manifest.operating_points
            ),
        }
    )
    return Router(Bundle(opened.folder, manifest))


def test_the_order_of_providers_is_for_the_same_llm(twice: Router) -> None:
    cheap = twice.route("hello", Policy(quality_target=0.8))
    assert (cheap.candidate, cheap.certificate is None) == ("open/small", False)

    def ordered(*providers: str, explore: float = 0.0) -> tuple[str, tuple[str, ...]]:
        policy = Policy(quality_target=0.8, preferences=Preferences(providers=providers))
        found = twice.route("hello", policy, Situation(explore=explore))
        assert (found.certificate is None) is (found.candidate != "open/small"), "it is of another choice"
        return found.candidate, found.fallbacks

    assert ordered("acme", "open") == (SMALL, (LARGE, "open/small"))
    assert ordered("open", "acme") == ("open/small", (SMALL, LARGE))
    assert ordered("open") == ("open/small", (SMALL, LARGE))
    assert ordered("unheard-of") == ("open/small", (SMALL, LARGE))
    reference = twice.route("hello", Policy(quality_target=0.99, preferences=Preferences(providers=("open",))))
    assert (reference.candidate, reference.fallbacks) == (LARGE, ("open/small", SMALL))


NAMES = st.sampled_from(["small", "acme/small:free", "acme/large", "open/*", "acme/*", "*", "nobody", OPEN, LARGE])
SLUGS = st.sampled_from(["acme", "open", "Acme", "nobody"])
ENDPOINTS = st.builds(
    Endpoints,
    models=st.lists(st.builds(Group, st.just("models"), st.lists(NAMES, min_size=1).map(tuple)), max_size=2).map(tuple),
    only=st.lists(st.builds(Group, st.just("only"), st.lists(SLUGS, min_size=1).map(tuple)), max_size=1).map(tuple),
    ignore=st.lists(SLUGS, max_size=1).map(tuple),
    input_usd_per_mtok=st.none() | st.floats(0, 10),
)
PREFERENCES = st.builds(
    Preferences,
    models=st.lists(NAMES, max_size=4).map(tuple),
    providers=st.lists(SLUGS, max_size=3).map(tuple),
    latency_ms=st.none() | st.floats(1, 2000),
    latency_p95_ms=st.none() | st.floats(1, 5000),
    fallbacks=st.booleans(),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ENDPOINTS, PREFERENCES, st.sampled_from([Policy(), Policy(knob=30.0), Policy(quality_target=0.99)]), st.floats(0, 1)
)
def test_a_preference_excludes_nobody_and_a_demand_is_never_broken(
    router: Router, endpoints: Endpoints, preferences: Preferences, aim: Policy, draw: float
) -> None:
    demanded = aim.tightened(Policy(endpoints=endpoints))
    try:
        plain = router.route("hello", demanded)
    except NoEligibleCandidateError as error:
        assert set(error.rules.values()) <= {Rule.NOT_ALLOWED, Rule.DENIED, Rule.MAX_PRICE}
        return
    situation = Situation(explore=0.2, draw=draw)
    found = router.route("hello", demanded.tightened(Policy(preferences=preferences)), situation)
    eligible = {one.candidate for one in plain.alternatives if one.ruled_out is None}
    assert [one.ruled_out for one in found.alternatives] == [one.ruled_out for one in plain.alternatives]
    if preferences.fallbacks:
        assert sorted([found.candidate, *found.fallbacks]) == sorted(eligible)
    else:
        assert (found.candidate in eligible, found.fallbacks) == (True, ())
    for one, candidate in zip(found.alternatives, router.manifest.candidates, strict=True):
        if one.candidate in eligible and endpoints.input_usd_per_mtok is not None:
            assert (candidate.input_usd_per_mtok or 0.0) <= endpoints.input_usd_per_mtok
            assert candidate.input_usd_per_mtok is not None
