"""deploy/kubernetes against the service: its settings, rules, metrics and alerts are those of a `router-serve` that runs."""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from sqlalchemy import QueuePool, create_engine

from serving.settings import OF_PLUGINS, Settings, unknown_variables
from serving.state.rulebook import load_rules
from serving.store.engine import looked_at, open_engine
from tests import fake_bundle
from tests.conftest import ROOT
from tests.patience import until
from tests.serving.attacks.conftest import Attacked, key_rules, running
from tests.whole import promtool
from tests.whole.test_compose import families, labels_of, metrics_of
from tests.whole.test_kubernetes import (
    BASE,
    CHECK,
    FOLDER,
    PRUNING,
    ROUTER,
    documents,
    files,
    kubectl,
    one,
    settings_file,
)

SECRETS = (FOLDER / "secret.env.example").read_text(encoding="utf-8")
README = (FOLDER / "README.md").read_text(encoding="utf-8")
(OF_ALL, OF_REPLICAS) = one("PrometheusRule", files())["spec"]["groups"]
(ADAPTED,) = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text(encoding="utf-8"))["rules"]["custom"]
OF_THE_CLUSTER = "kube_"  # metrics of kube-state-metrics
TOKEN = "what-prometheus-sends"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    folder = tmp_path_factory.mktemp("kubernetes")
    (folder / "models").mkdir()
    with running(fake_bundle.build(folder / "models"), folder, metrics_token=TOKEN) as found:
        found.route(prompt="hello world")
        yield found


def router_serve(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`router-serve` in a folder, with nothing else in its environment."""
    return subprocess.run(
        [sys.executable, "-c", "from serving.cli import main; main()", *arguments],
        cwd=folder, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


# --- settings


def test_every_variable_that_is_named_is_a_setting() -> None:
    texts = [path.read_text(encoding="utf-8") for path in FOLDER.rglob("*") if path.is_file()]
    named = {name for text in texts for name in re.findall(r"\bROUTER_[A-Z_]+\b", text)}
    assert {"ROUTER_STORE", "ROUTER_HASH_SECRET", "ROUTER_POLICIES"} <= named
    assert named <= {f"ROUTER_{name.upper()}" for name in Settings.model_fields} | OF_PLUGINS


def test_a_replica_starts_with_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a container has in its environment is read as settings, and nothing of it is unknown."""
    for name in [name for name in os.environ if name.startswith("ROUTER_")]:
        monkeypatch.delenv(name)
    assert ROUTER["envFrom"] == [{"configMapRef": {"name": "outcome-router-settings"}}]
    for name, value in settings_file().items():
        monkeypatch.setenv(name, value)
    for variable in ROUTER["env"]:
        monkeypatch.setenv(variable["name"], "redis://redis:6379/0" if variable["name"] == "ROUTER_REDIS" else "secret")
    settings = Settings()
    assert (settings.bundle, settings.policies) == ("/models/current", Path("/rules/policies.toml"))
    assert settings.hash_secret == settings.store == "secret"
    assert unknown_variables() == []
    mounted = {mount["mountPath"]: mount["name"] for mount in ROUTER["volumeMounts"]}
    assert (mounted["/models"], mounted["/rules"]) == ("models", "rules")


def test_every_secret_has_its_place_in_the_file_to_fill_in(tmp_path: Path) -> None:
    asked = {each["name"]: each["valueFrom"]["secretKeyRef"] for each in ROUTER["env"]}
    assert all(each["key"] == name and each["name"] == "outcome-router" for name, each in asked.items())
    optional = {name for name, each in asked.items() if each.get("optional")}
    assert set(re.findall(r"^(\w+)=$", SECRETS, flags=re.MULTILINE)) == asked.keys() - optional
    assert set(re.findall(r"^#(\w+)=$", SECRETS, flags=re.MULTILINE)) == optional == {"ROUTER_REDIS"}
    filled = tmp_path / "secret.env"
    filled.write_text(re.sub(r"^#?(\w+)=$", r"\1=x", SECRETS, flags=re.MULTILINE), encoding="utf-8")
    (command,) = re.findall(r"^kubectl -n \S+ (create secret .*)secret\.env$", README, flags=re.MULTILINE)
    made = yaml.safe_load(kubectl(*shlex.split(f"{command}{filled} --dry-run=client -o yaml")))
    assert (made["metadata"]["name"], made["data"].keys()) == ("outcome-router", asked.keys())
    (scraped,) = one("ServiceMonitor", files())["spec"]["endpoints"]
    assert scraped["authorization"]["credentials"] == {"name": "outcome-router", "key": "ROUTER_METRICS_TOKEN"}
    ignored = subprocess.run(
        ["git", "check-ignore", str(FOLDER / "secret.env")], cwd=ROOT, capture_output=True, check=False
    )
    assert ignored.returncode == 0 or not (ROOT / ".git").exists(), "secret.env may never be committed"


def test_prometheus_and_the_probes_are_answered(service: Attacked) -> None:
    for kind in ("startup", "readiness", "liveness"):
        assert service.get(ROUTER[f"{kind}Probe"]["httpGet"]["path"]).status_code == 200
    (scraped,) = one("ServiceMonitor", files())["spec"]["endpoints"]
    assert service.get(scraped["path"], TOKEN).status_code == 200


def test_the_check_is_of_what_is_served(tmp_path: Path) -> None:
    """Its variables are the replicas' own, another version's image can be put in, and the command ends with its verdict."""
    (container,) = CHECK["spec"]["template"]["spec"]["containers"]
    of_replicas = {each["name"]: each for each in ROUTER["env"]}
    for variable in container["env"]:
        name = variable["name"]
        assert variable == of_replicas.get(name, {"name": name, "value": settings_file().get(name)})
    assert container["volumeMounts"] == ROUTER["volumeMounts"]
    (command,) = re.findall(r"^kubectl (set image .*?) \| kubectl .* create -f -$", README, flags=re.MULTILINE)
    (filled,) = documents(kubectl(*shlex.split(command)))
    assert filled["spec"]["template"]["spec"]["containers"][0]["image"].endswith("/outcome-router:0.2.0")
    assert "name" not in filled["metadata"], "kubectl create gives every check a name of its own"
    (tmp_path / "models").mkdir()
    fake_bundle.build(tmp_path / "models")
    places = {"/models": tmp_path / "models", "/rules": BASE}
    given = {each["name"]: each.get("value", "decisions.db") for each in container["env"]}
    for place, here in places.items():
        given = {name: re.sub(f"^{place}(?=/)", str(here), value) for name, value in given.items()}
    done = router_serve(tmp_path, *container["args"], **given)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "ready to serve"


def test_what_the_check_says_of_the_store_is_what_the_readme_goes_by(tmp_path: Path) -> None:
    """One that this version made, and one that it would bring up to date."""
    file = str(tmp_path / "decisions.db")
    open_engine(file).dispose()
    assert looked_at(file).endswith(" is of this version")
    with sqlite3.connect(file) as store:
        store.execute("UPDATE outcome_router_store SET version_num = '4'")
    store.close()
    assert " will be upgraded from version 4 " in looked_at(file)
    assert "store `is of this version`" in README
    assert "store `will be upgraded`" in README


def test_old_decisions_are_let_go_by_a_command_that_there_is(tmp_path: Path) -> None:
    (container,) = PRUNING["spec"]["containers"]
    (variable,) = container["env"]
    assert variable in ROUTER["env"]
    open_engine(str(tmp_path / "decisions.db")).dispose()
    done = router_serve(tmp_path, *container["args"], "--dry-run", ROUTER_STORE="decisions.db")
    assert done.returncode == 0, done.stderr
    assert f"older than {container['args'][-1].removesuffix('d')} days" in README


def test_a_replica_holds_as_many_connections_as_the_readme_counts() -> None:
    pool = create_engine(
        "postgresql+psycopg://router@postgres/router"
    ).pool  # as the store's, whose pool is the usual one
    assert isinstance(pool, QueuePool)
    most = pool.size() + pool._max_overflow
    replicas = one("HorizontalPodAutoscaler", files())["spec"]["maxReplicas"]
    assert f"up to {most} connections to PostgreSQL: ten replicas want {most * replicas}" in README


# --- rules


@pytest.mark.parametrize(("file", "keys"), [("base", 0), ("overlays/example", 1)])
def test_its_rule_files_are_read(file: str, keys: int) -> None:
    rules = load_rules(FOLDER / file / "policies.toml")
    assert len(rules.keys) == keys
    assert rules.default.abstain_below or rules.default.budget.day_usd


def test_rules_in_a_config_map_are_taken_over_as_a_node_changes_them(tmp_path: Path) -> None:
    """A node writes a folder beside the old one and lets a link lead to it: the file's own link never changes."""
    mounted = tmp_path / "rules"

    def put(name: str, text: str) -> None:
        (mounted / name).mkdir(parents=True)
        (mounted / name / "policies.toml").write_text(text, encoding="utf-8")
        (mounted / "..data_tmp").symlink_to(name)
        (mounted / "..data_tmp").rename(mounted / "..data")

    put("..2026_1", (BASE / "policies.toml").read_text(encoding="utf-8"))
    (mounted / "policies.toml").symlink_to(Path("..data") / "policies.toml")
    (tmp_path / "models").mkdir()
    bundle = fake_bundle.build(tmp_path / "models")
    with running(bundle, tmp_path, policies=mounted / "policies.toml", watch_seconds=0.1) as found:
        assert found.post("/v1/route", {"prompt": "hello"}).status_code == 200
        put("..2026_2", key_rules("gateway", "its-key"))
        until(lambda: found.post("/v1/route", {"prompt": "hello"}).status_code == 401, "the key is asked for")
        assert found.post("/v1/route", {"prompt": "hello"}, "its-key").status_code == 200


# --- metrics


def test_the_autoscaler_goes_by_a_metric_that_is_served_and_adapted(service: Attacked, tmp_path: Path) -> None:
    """The adapter's query gives each pod its decisions per second, whatever their candidates and reasons are."""
    name = ADAPTED["name"]
    (series,) = re.findall(r"^(\w+)\{", ADAPTED["seriesQuery"])
    assert series in families(service.get("/metrics").text)
    metrics = one("HorizontalPodAutoscaler", files())["spec"]["metrics"]
    by_pods = next(each["pods"] for each in metrics if each["type"] == "Pods")
    assert re.sub(name["matches"], name["as"], series) == by_pods["metric"]["name"]
    assert ADAPTED["resources"]["overrides"].keys() == set(re.findall(r'(\w+)!=""', ADAPTED["seriesQuery"]))
    query = ADAPTED["metricsQuery"]
    for place, filled in (("Series", series), ("LabelMatchers", 'namespace="a",pod=~"p-0|p-1"'), ("GroupBy", "pod")):
        query = query.replace(f"<<.{place}>>", filled)
    promtool.says(
        tmp_path,
        query,
        {
            f'{series}{{namespace="a", pod="p-0", reason="best_value"}}': "0+540x130",
            f'{series}{{namespace="a", pod="p-0", reason="novel"}}': "0+60x130",
            f'{series}{{namespace="a", pod="p-1", reason="best_value"}}': "0+1200x130",
            f'{series}{{namespace="b", pod="p-0", reason="best_value"}}': "0+6000x130",
        },
        {'{pod="p-0"}': 10, '{pod="p-1"}': 20},
    )


def test_the_alerts_are_those_of_compose_and_some_about_replicas(service: Attacked) -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose" / "prometheus" / "alerts.yml").read_text(encoding="utf-8"))
    assert compose["groups"] == [OF_ALL]
    known = families(service.get("/metrics", TOKEN).text) | {"up": set()}
    for rule in OF_REPLICAS["rules"]:
        served = {name for name in metrics_of(rule["expr"]) if not name.startswith(OF_THE_CLUSTER)}
        assert served <= known.keys(), rule["alert"]
        if served:
            labels = set().union(*(known[name] for name in served)) | {"job", "namespace", "pod"}
            assert labels_of(rule["expr"]) <= labels, rule["alert"]


def test_prometheus_fires_the_alerts_about_replicas(tmp_path: Path) -> None:
    job = 'job="outcome-router"'
    scaled = 'horizontalpodautoscaler="outcome-router", namespace="a"'
    container = {"container": "router", "pod": "outcome-router-1", "namespace": "a"}
    restarts = "kube_pod_container_status_restarts_total{" + ", ".join(f'{k}="{v}"' for k, v in container.items()) + "}"
    desired, most = (
        f"kube_horizontalpodautoscaler_{name}{{{scaled}}}" for name in ("status_desired_replicas", "spec_max_replicas")
    )
    up = {f'up{{{job}, pod="{pod}"}}': "1+0x130" for pod in "abc"}

    def deciding(*per_minute: int) -> dict[str, str]:
        pods = zip("abc", per_minute, strict=True)
        return {f'router_decisions_total{{{job}, pod="{pod}"}}': f"0+{rate}x130" for pod, rate in pods}

    def bundles(*versions: str) -> dict[str, str]:
        pods = zip("abc", versions, strict=True)
        return {f'router_bundle_info{{{job}, pod="{pod}", version="{version}"}}': "1+0x130" for pod, version in pods}

    ill = {
        "RouterHasFewReplicas": {f'up{{{job}, pod="a"}}': "1+0x130", f'up{{{job}, pod="b"}}': "0+0x130"},
        "RouterReplicasServeDifferentBundles": {**up, **bundles("1", "1", "2")},
        "RouterRatesUnshared": {**up, f"router_rates_unshared{{{job}}}": "1+0x130"},
        "RouterLoadIsUneven": {**up, **deciding(30_000, 900, 900)},
        "RouterCannotScale": {**up, desired: "10+0x130", most: "10+0x130"},
        "RouterRestarts": {**up, restarts: "0+0x100 1 2 3 4 4 4 4 4 4 4 4 4 4 4 4 4 4 4 4 4 4 4"},
    }
    healthy = {
        **up,
        **deciding(9_000, 11_000, 10_000),
        **bundles("2", "2", "2"),
        f'router_bundle_info{{{job}, pod="a", version="1"}}': "0+0x130",  # as workers leave the one before
        f"router_rates_unshared{{{job}}}": "0+0x130",
        desired: "4+0x130",
        most: "10+0x130",
        restarts: "0+0x110 1+0x20",
    }
    labels = {
        "RouterRatesUnshared": {"job": "outcome-router"},
        "RouterCannotScale": {"horizontalpodautoscaler": "outcome-router", "namespace": "a"},
        "RouterRestarts": container,
    }
    promtool.each_alert_fires(tmp_path, [OF_REPLICAS], ill, healthy, labels)
    nobody = {**OF_REPLICAS, "rules": OF_REPLICAS["rules"][:1]}
    promtool.each_alert_fires(tmp_path, [nobody], {"RouterHasFewReplicas": {"scraped": "1+0x130"}}, up, {})


# --- what its README says


def test_its_commands_name_what_there_is() -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    named = {document["metadata"]["name"] for document in files()}
    labels = [ROUTER, one("Deployment", files())["spec"]["template"]["metadata"]["labels"]]
    assert len(lines) > 10
    for line in lines:
        for folder in re.findall(r"-k (\S+)", line):
            assert (FOLDER / folder / "kustomization.yaml").is_file(), line
        for file in re.findall(r"-f (\w\S+)", line):
            assert (FOLDER / file).is_file(), line
        for name in re.findall(r"deployment/(\S+)", line):
            assert name in named, line
        for label, value in re.findall(r"-l (\S+)=(\S+)", line):
            of_check = CHECK["spec"]["template"]["metadata"]["labels"]
            assert value in {labels[1].get(label), of_check.get(label)}, line
    metric = next(line for line in lines if "custom.metrics" in line).rstrip("'").rpartition("/")[2]
    assert metric == ADAPTED["name"]["as"]
