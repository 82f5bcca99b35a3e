"""What the plug-in takes from the environment at its start: a wrong setting stops it, a right one is said in one line."""

from __future__ import annotations

import logging
from pathlib import Path

import litellm
import pytest

from serving.integrations.litellm.deciders import InProcess
from serving.integrations.litellm.plugin import OutcomeRouter
from serving.integrations.litellm.settings import LiteLLMSettings, StartError, said_of, settings_of_environment
from serving.settings import OF_PLUGINS


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ROUTER_LITELM_SHARE", "0", "ROUTER_LITELM_SHARE is no setting; did you mean ROUTER_LITELLM_SHARE?"),
        ("ROUTER_LITELLM_SHAR", "0", "ROUTER_LITELLM_SHAR is no setting; did you mean ROUTER_LITELLM_SHARE?"),
        ("ROUTER_STROE", "x", "ROUTER_STROE is no setting; did you mean ROUTER_STORE?"),
        ("ROUTER_LITELLM_SHARE", "10", "ROUTER_LITELLM_SHARE=10: expected a share from 0 to 1, as 0.1"),
        ("ROUTER_LITELLM_HEADERS", "perhaps", "ROUTER_LITELLM_HEADERS=perhaps: expected true or false"),
        ("ROUTER_LITELLM_TIMEOUT_SECONDS", "0", "ROUTER_LITELLM_TIMEOUT_SECONDS=0: expected seconds above 0, as 0.5"),
        (
            "ROUTER_URL",
            "localhost:18930",
            "ROUTER_URL=localhost:18930: expected an address with http:// or https://, as http://localhost:18930",
        ),
        (
            "ROUTER_LITELLM_GROUPS",
            "chat,outcome-router/auto",
            "ROUTER_LITELLM_GROUPS=chat,outcome-router/auto: expected existing groups; outcome-router/auto is the candidates' "
            "own group, which is decided on anyway",
        ),
        ("ROUTER_PORT", "x", "ROUTER_PORT=x: input should be a valid integer, unable to parse string as an integer"),
    ],
)
def test_a_wrong_setting_stops_the_start_in_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StartError) as caught:
        OutcomeRouter()
    assert str(caught.value) == said


def test_every_setting_of_the_plug_in_is_known_to_both() -> None:
    assert LiteLLMSettings.variables() == OF_PLUGINS


def test_the_candidates_group_by_another_name_is_no_existing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTER_LITELLM_GROUP", "mine")
    monkeypatch.setenv("ROUTER_LITELLM_GROUPS", "mi*")
    with pytest.raises(StartError, match=r"ROUTER_LITELLM_GROUPS=mi\*: expected existing groups"):
        settings_of_environment()


def test_what_others_read_is_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ROUTER_LITELLM_LANGFUSE", "ROUTER_MAX_FALLBACKS", "ROUTER_API_KEY"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("ROUTER_LITELLM_GROUPS", "*")
    assert settings_of_environment().groups == ("*",)


def test_it_says_once_who_decides_on_what_and_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(InProcess, "start", lambda _: None)
    monkeypatch.setattr(litellm, "callbacks", [])
    for name, value in (("BUNDLE", "models/b"), ("STORE", str(tmp_path / "dec.db")), ("LITELLM_GROUPS", "chat")):
        monkeypatch.setenv(f"ROUTER_{name}", value)
    monkeypatch.setenv("ROUTER_LITELLM_SHARE", "0")
    with caplog.at_level(logging.WARNING):
        OutcomeRouter()
    (line,) = [one.getMessage() for one in caplog.records if "candidates in" in one.getMessage()]
    assert line == (
        "outcome-router: bundle models/b in this process; candidates in outcome-router/auto, existing groups chat; "
        "share 0: calls are decided on and recorded, and served as before; "
        f"prompts are stored in sqlite:///{tmp_path}/dec.db, except where a policy has zero_retention or no_training"
    )


def test_over_http_it_names_the_router() -> None:
    said = said_of(LiteLLMSettings(ROUTER_URL="http://router:8080", share=0.1))  # type: ignore[call-arg]
    assert "router at http://router:8080; candidates in outcome-router/auto, no existing groups; share 0.1;" in said


def test_it_says_so_before_it_begins_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line needs modules that loading needs: imported by two threads at once, one of them may see half of one."""
    order: list[str] = []
    monkeypatch.setattr(InProcess, "start", lambda _: order.append("load"))
    monkeypatch.setattr("serving.integrations.litellm.plugin.announce", lambda _: order.append("said"))
    OutcomeRouter()
    assert order == ["said", "load"]
