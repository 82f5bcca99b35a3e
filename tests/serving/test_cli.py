"""`router-serve`: where its settings come from, and how it gives up."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import resource
import runpy
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient

from serving import cli
from serving.connections import BoundedHttp
from serving.settings import Settings
from serving.state.rulebook import load_rules
from serving.store.engine import kept
from tests import fake_bundle
from tests.postgres_server import needs_postgres, own_database


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle.build(tmp_path_factory.mktemp("models"))


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTER_PORT", "9001")
    monkeypatch.setenv("ROUTER_BUNDLE", "elsewhere")
    assert (Settings().port, Settings().bundle, Settings().host) == (9001, "elsewhere", "127.0.0.1")


def test_home_is_where_the_bundle_and_the_store_are_unless_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROUTER_STORE", raising=False)
    at_home = Settings(home=Path("there"))
    assert (at_home.bundle, at_home.store) == ("there/models/current", "there/data/decisions.db")
    monkeypatch.setenv("ROUTER_HOME", "/var/router")
    monkeypatch.setenv("ROUTER_STORE", "")
    assert (Settings().bundle, Settings().store) == ("/var/router/models/current", "")
    assert Settings(bundle="other").bundle == "other"


def serve(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, dict[str, Any]]:
    """Exit code, standard error, and what uvicorn would have been run with."""
    ran: dict[str, Any] = {}
    monkeypatch.setattr(cli, "configure_logging", lambda _: None)  # the test run's logging stays as it is
    monkeypatch.setattr(cli.uvicorn, "run", lambda app, **options: ran.update(options, app=app))
    error = io.StringIO()
    monkeypatch.setattr(cli.sys, "stderr", error)
    try:
        cli.main(arguments)
    except SystemExit as gave_up:
        return int(gave_up.code or 0), error.getvalue(), ran
    return 0, error.getvalue(), ran


def test_router_serve_takes_options_over_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTER_PORT", "9001")
    monkeypatch.setenv("ROUTER_HOST", "0.0.0.0")
    code, _, ran = serve(monkeypatch, "--bundle", str(folder), "--port", "9002")
    assert code == 0
    assert (ran["host"], ran["port"], ran["access_log"]) == ("0.0.0.0", 9002, False)
    with TestClient(ran["app"]) as client:
        assert client.get("/readyz").status_code == 200


def test_router_serve_without_a_bundle_exits_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, error, ran = serve(monkeypatch, "--bundle", str(tmp_path))
    assert (code, ran) == (2, {})
    assert error.startswith(f"router-serve: {tmp_path} is not a bundle: it has no manifest.json.")
    assert error.count("\n") == 1


def test_the_module_is_router_serve_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = io.StringIO()
    monkeypatch.setattr("sys.stderr", wrong)
    monkeypatch.setattr("sys.argv", ["router-serve", "check", "--bundle", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(cli.__file__), run_name="__main__")
    assert ended.value.code == 2
    assert f"{tmp_path} is not a bundle" in wrong.getvalue()


def test_router_serve_names_a_wrong_setting(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTER_PORT", "many")
    code, error, ran = serve(monkeypatch, "--bundle", str(folder))
    assert (code, ran) == (2, {})
    assert error.startswith("router-serve: port: ")
    assert error.count("\n") == 1


def test_router_serve_names_a_wrong_option_in_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {
        "--port=many": "port: Input should be a valid integer",
        "--workers=0": "workers: Input should be greater than or equal to 1; '0' arrived",
        "--log-level=loud": "log_level: Input should be 'critical', 'error', 'warning', 'info' or 'debug'; 'loud' arrived",
        "--prot=9001": "unrecognized arguments: --prot=9001",
        "--port": "argument --port: expected one argument",
    }
    for option, why in wrong.items():
        code, error, ran = serve(monkeypatch, "--bundle", str(folder), option)
        assert (code, ran) == (2, {})
        assert error.startswith(f"router-serve: {why}")
        assert error.count("\n") == 1


def test_a_misspelt_variable_stops_the_start(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTER_STROE", "x.db")
    code, error, ran = serve(monkeypatch, "--bundle", str(folder))
    assert (code, ran) == (2, {})
    assert error == "router-serve: ROUTER_STROE is no setting; did you mean ROUTER_STORE?\n"
    assert serve(monkeypatch, "--help")[0] == 0
    monkeypatch.setenv("ROUTER_ZZZ", "1")
    assert serve(monkeypatch, "--bundle", str(folder))[1].endswith("did you mean ROUTER_STORE? (1 more)\n")


def test_no_home_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, error, _ = serve(monkeypatch, "--bundle", str(folder), "--home=none")
    assert (code, error.count("\n")) == (2, 1)


def test_check_looks_at_everything_and_makes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rules, store = tmp_path / "policies.toml", tmp_path / "new" / "decisions.db"
    rules.write_text(f'[keys.a]\nsha256 = "{"0" * 64}"\n[workflows.sql]\nzero_retention = true\n')
    options = ["check", "--bundle", str(folder), "--policies", str(rules), "--store", str(store)]
    code, error, ran = serve(monkeypatch, *options)
    assert (code, error, ran) == (0, "", {})
    told = capsys.readouterr().out
    assert (
        f"rules: {rules}: 1 workflows, 1 API keys\nstore: sqlite:///{store} is not there yet, and will be made\n"
        in told
    )
    assert told.endswith("ready to serve\n")
    assert not store.parent.exists()
    rules.write_text('[default]\ndeny = ["*"]\n')
    assert serve(monkeypatch, *options)[0] == 0
    assert (
        "WARNING: under the rules of default nobody may answer a plain prompt: no candidate" in capsys.readouterr().out
    )
    rules.write_text('[default]\nalow = ["x"]\n')
    code, error, _ = serve(monkeypatch, *options)
    assert (code, error.count("\n")) == (2, 1)
    assert "did you mean allow?" in error
    assert serve(monkeypatch, "check", "--bundle", str(tmp_path))[0] == 2
    (tmp_path / "file").write_text("")
    code, error, _ = serve(monkeypatch, "check", "--bundle", str(folder), "--store", str(tmp_path / "file" / "x.db"))
    assert code == 2
    assert "nothing can be written in" in error


def test_a_new_key_is_one_that_its_section_lets_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, error, _ = serve(monkeypatch, "new-key", "app")
    section, key = capsys.readouterr().out, error.split()[-1]
    assert code == 0
    assert key not in section
    (tmp_path / "policies.toml").write_text(section)
    assert load_rules(tmp_path / "policies.toml").key_of(key) == "app"
    assert serve(monkeypatch, "new-key", "app")[1] != error
    for wrong in ([], ["a b"], ["a]\nb"], ["a", "b"]):
        code, error, _ = serve(monkeypatch, "new-key", *wrong)
        assert (code, error.count("\n")) == (2, 1)


def test_what_kubernetes_says_of_a_service_called_router_is_no_setting(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "SERVICE_HOST",
        "SERVICE_PORT",
        "SERVICE_PORT_HTTP",
        "PORT_8080_TCP",
        "PORT_8080_TCP_ADDR",
        "SERVE_SERVICE_HOST",
        "SERVE_PORT",
    ):
        monkeypatch.setenv(f"ROUTER_{name}", "10.0.0.1")
    assert serve(monkeypatch, "--bundle", str(folder))[0] == 0


def test_the_help_has_every_setting_with_its_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, _, ran = serve(monkeypatch, "--help")
    assert (code, ran) == (0, {})
    text = " ".join(capsys.readouterr().out.split())
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert str(field.description) in text
        assert f"[env: ROUTER_{name.upper()}]" in text


def test_the_server_finds_nothing_by_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, ran = serve(monkeypatch, "--bundle", str(folder), "--log-level", "debug")
    assert (ran["loop"], ran["http"], ran["ws"], ran["access_log"]) == ("uvloop", BoundedHttp, "none", True)


def test_workers_read_what_was_given_from_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "environ", {**os.environ, "ROUTER_STORE": "", "ROUTER_SHADOW": str(folder)})
        options = ["--workers=2", f"--bundle={folder}", "--shadow=none", "--no-store-prompts", "--session-margin=0.5"]
        options += ["--redis=redis://:secret@127.0.0.1:9/0"]
        code, _, ran = serve(patch, *options)
        assert (code, ran["app"], ran["factory"], ran["workers"]) == (0, "serving.cli:worker", True, 2)
        settings = Settings()
    assert (settings.workers, settings.bundle, settings.shadow, settings.store) == (2, str(folder), None, "")
    assert (settings.store_prompts, settings.session_margin, settings.port) == (False, 0.5, 8080)
    assert settings.redis is not None
    assert settings.redis.get_secret_value() == "redis://:secret@127.0.0.1:9/0"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "prompts are stored in sqlite:///{store}, except where a policy has zero_retention or no_training"),
        (
            ["--no-store-prompts"],
            "prompts are not stored (ROUTER_STORE_PROMPTS is false); decisions are, in sqlite:///{store}",
        ),
        (["--store", ""], "prompts are not stored, and neither are decisions (ROUTER_STORE is empty)"),
    ],
)
def test_it_says_whether_and_where_prompts_are_stored(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    options: list[str],
    says: str,
) -> None:
    caplog.set_level(logging.INFO, "serving.cli")
    store = tmp_path / "decisions.db"
    if "--store" not in options:
        options = [*options, "--store", str(store)]
    code, _, _ = serve(monkeypatch, "--bundle", str(folder), *options)
    assert code == 0
    assert [one.getMessage() for one in caplog.records if one.name == "serving.cli"] == [says.format(store=store)]


def test_where_prompts_are_stored_is_said_without_a_password() -> None:
    said = kept("postgresql://me:secret@db.example/router?sslpassword=hidden", prompts=True)
    assert "postgresql" in said
    assert "db.example/router" in said
    assert "secret" not in said
    assert "hidden" not in said


def test_connections_leave_files_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_024, 4_096))
    assert cli.server_options(Settings())["limit_concurrency"] == 1_024 - 128
    assert cli.server_options(Settings(connections=50))["limit_concurrency"] == 50
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert cli.server_options(Settings())["limit_concurrency"] == 10_000


def test_an_idle_connection_outlives_the_caller_s_use_of_it() -> None:
    """Load balancers keep one for a minute; the first to close it must be the caller, who would send the next request."""
    assert cli.server_options(Settings())["timeout_keep_alive"] > 60


def test_nobody_s_forwarded_address_is_believed_but_that_of_a_proxy_which_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    assert address_by(Settings()) == "10.0.0.1"
    assert address_by(Settings(trusted_proxies="192.168.0.0/16, 127.0.0.1")) == "10.0.0.1"
    assert address_by(Settings(trusted_proxies="192.168.0.0/16, 10.0.0.1")) == "203.0.113.9"
    code, error, _ = serve(monkeypatch, "--bundle", str(folder), "--trusted-proxies", "proxy.example")
    assert code == 2
    assert error.startswith("router-serve: trusted_proxies: ")
    assert "proxy.example" in error


def address_by(settings: Settings) -> str:
    """Which address a request is from, as uvicorn has it, that 10.0.0.1 sends on for 203.0.113.9."""

    async def seen(scope: Any, receive: Any, send: Any) -> None:
        came.append(scope["client"][0])

    came: list[str] = []
    config = uvicorn.Config(seen, **{**cli.server_options(settings), "log_config": None})
    config.load()
    headers = [(b"x-forwarded-for", b"198.51.100.1, 203.0.113.9")]
    scope: Any = {"type": "http", "client": ("10.0.0.1", 5_000), "headers": headers, "scheme": "http"}
    nothing: Any = None
    asyncio.run(config.loaded_app(scope, nothing, nothing))
    return came[0]


@needs_postgres
def test_replicas_without_a_secret_of_their_own_are_warned_of(
    folder: Path, postgres: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    options = ["--bundle", str(folder), "--store", own_database(postgres)]
    for secret, warned in (([], 1), (["--hash-secret", "s"], 0)):
        caplog.clear()
        assert serve(monkeypatch, *options, *secret)[0] == 0
        assert sum("ROUTER_HASH_SECRET is not set" in one for one in caplog.messages) == warned
