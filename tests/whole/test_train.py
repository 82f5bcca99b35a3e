"""The whole way: a log in, a bundle out, and a served recommendation."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from serving.api.app import create_app
from serving.bundle.manifest import open_bundle
from serving.decide.router import Router
from serving.settings import Settings
from tests.conftest import QUICK, ROOT, Trained, router_train, router_train_here, setting, tracked_in
from training.cli.main import app

FAST = ["--no-track", *setting("fit.estimators=workflow-table,ridge", "evaluate.resamples=50")]
UNSEEN = ["--no-track", *setting(*QUICK)]


def small_log(path: Path, requests: int = 900) -> pd.DataFrame:
    finished = router_train_here("simulate", path, "--set", f"simulate.requests={requests}")
    assert finished.returncode == 0, finished.stderr
    return pd.read_json(path, lines=True)


def test_the_default_run_ends_with_the_table_and_a_sentence(trained: Trained) -> None:
    assert "Simulated figures" in trained.output
    for name in ("outcome-router", "workflow table", "oracle", "best reachable", "always cheapest", "random"):
        assert name in trained.output
    assert re.search(r"routing\s+costs\s+\d+\.\d%\s+less\s+than\s+sending\s+everything\s+to", trained.output)


def test_the_bundle_holds_what_its_page_says(trained: Trained) -> None:
    files = {path.name for path in trained.bundle.iterdir()}
    page = (ROOT / "docs" / "bundle-format.md").read_text(encoding="utf-8")
    table = page.partition("\n## Files\n")[2].partition("\n## ")[0]
    rows = [
        (set(re.findall(r"`([\w.]+)`", row.split("|")[1])), row) for row in re.findall(r"^\| `.*", table, re.MULTILINE)
    ]
    always = set().union(*(names for names, row in rows if not re.search("only with|if any|unless", row)))
    assert always <= files <= set().union(*(names for names, _ in rows))
    assert set(open_bundle(trained.bundle).manifest.files) == files - {"manifest.json"}


def test_the_router_beats_the_zero_router_and_does_not_beat_the_oracle(trained: Trained) -> None:
    metrics = open_bundle(trained.bundle).manifest.metrics
    assert metrics["aiq_zero_router"] + 0.02 < metrics["aiq"] < metrics["aiq_oracle"]
    assert metrics["complete_requests"] >= 200
    document = json.loads((trained.bundle / "frontier.json").read_text())
    table = next(line for line in document["routers"] if line["name"] == "workflow table")
    assert table["beats"][1] > 0, "the router is worse than the workflow table, beyond what chance explains"


def test_the_default_point_is_certified_and_every_answer_says_so(trained: Trained) -> None:
    manifest = open_bundle(trained.bundle).manifest
    point = manifest.default
    proof = point.certificate
    assert proof is not None
    assert proof.alpha == pytest.approx(0.05)
    assert proof.violation_rate < proof.bound <= proof.alpha
    assert 0 < proof.saving_low < point.saving < proof.saving_high < 1
    assert sum(bound.requests for bound in proof.workflows.values()) == proof.requests
    assert "Certified at 90.0% confidence" in trained.output
    said = " ".join(trained.output.split())
    assert re.search(r"Where traffic would go at quality-0\.95: \d+\.\d% \S+, \d+\.\d% ", said)
    assert re.search(r"What that saves: \d+\.\d% \(95% .*\) of what sending everything to \S+ costs\.", said)
    (title,) = re.findall("<h1>(.*?)</h1>", (trained.bundle / "report.html").read_text())
    assert f"The report's headline: {unescape(re.sub('</?span[^>]*>', '', title))}" in said
    assert re.search(
        r"What now: router-serve --bundle \S+current; another certified trade-off of quality-\S+.*set-point NAME", said
    )
    with TestClient(create_app(Settings(bundle=trained.bundle))) as client:
        answer = client.post("/v1/route", json={"prompt": "Hello", "quality_target": 0.94}).json()
        assert answer["operating_point"] == "quality-0.95"
        assert answer["certificate"]["bound"] == pytest.approx(proof.bound)
        above = client.post("/v1/route", json={"prompt": "Hello", "quality_target": 0.999}).json()
        assert (above["model"], above["reason"]) == (manifest.reference, "reference")
        assert above["certificate"] is None


def test_a_graded_log_has_an_expected_quality_of_its_own(trained: Trained) -> None:
    """The simulated log has judge scores beside 0/1 outcomes, so the two estimates differ and either can be maximised."""
    router = Router.load(trained.bundle)
    assert router.manifest.graded
    estimates = router.estimate(["Write a sestina about the sea.", "Translate to German: hello"])
    assert ((estimates.quality > 0) & (estimates.quality < 1)).all()
    assert np.abs(estimates.quality - estimates.acceptable).max() > 0.01
    request = {"prompt": "Write a sestina about the sea.", "objective": "quality"}
    with TestClient(create_app(Settings(bundle=trained.bundle))) as client:
        answer = client.post("/v1/route", json=request).json()
    assert answer["certificate"] is None, "the certificate is for the objective that the bundle was trained for"
    assert all(0 <= candidate["expected_quality"] <= 1 for candidate in answer["candidates"])


def test_p95_latency_lies_above_the_mean(trained: Trained) -> None:
    estimates = Router.load(trained.bundle).estimate(["Hello", "Prove that the square root of two is irrational."])
    assert (estimates.latency_p95_ms > estimates.latency_ms).all()


def test_every_figure_of_a_simulated_log_says_so(trained: Trained) -> None:
    assert open_bundle(trained.bundle).manifest.simulated
    report = (trained.bundle / "report.html").read_text()
    headings = re.findall(r"<h[23][^>]*>(.*?)</h[23]>", report)
    for heading in (
        "Cost and quality",
        "What is certified",
        "Workflows before and after",
        "Does the confidence mean what it says?",
        "The candidates",
        "Does it hold by other splits?",
    ):
        assert f"{heading} (simulated)" in headings
    assert re.search(r"<h1>Simulated: routing saves \$[\d.,]+ a month against sending everything to ", report)
    assert "Simulated" in (trained.bundle / "card.md").read_text()
    assert json.loads((trained.bundle / "frontier.json").read_text())["simulated"] is True


def test_a_run_tells_its_figures_by_three_splits(trained: Trained) -> None:
    document = json.loads((trained.bundle / "frontier.json").read_text())
    names = ["random by prompt", "by time", "workflows left out"]
    assert [line["name"] for line in document["splits"]] == names
    metrics = open_bundle(trained.bundle).manifest.metrics
    report, card = (trained.bundle / "report.html").read_text(), (trained.bundle / "card.md").read_text()
    assert "By three splits, quick estimators (simulated)" in trained.output
    assert "Quick estimators" in report
    assert "quick estimators" in card
    assert "- split_" not in card, "figures by another split are not figures on the test part"
    for line in document["splits"]:
        assert line["why_not"] is None
        assert line["requests"] >= 30
        assert metrics[f"split_{line['name'].replace(' ', '_')}_aiq"] == line["aiq"]
        low, high = line["lead"]
        for text in (report, card, trained.output):
            assert line["name"] in text
            assert f"{line['aiq']:.4f}" in text
            assert f"{low:+.4f} … {high:+.4f}" in text


def test_the_splits_can_be_switched_off_and_say_why_they_have_no_figures(tmp_path: Path) -> None:
    log = small_log(tmp_path / "log.jsonl")
    log["timestamp"] = None
    log["workflow"] = "only"
    log.to_json(tmp_path / "bare.jsonl", orient="records", lines=True)
    bare = ["run", "--data", tmp_path / "bare.jsonl", "--out", tmp_path / "m", *FAST]
    finished = router_train_here(*bare)
    assert finished.returncode == 0, finished.stderr
    said = " ".join(finished.stdout.split())
    assert "no figures by time: a split by time needs every timestamp; 900 of 900 requests have none" in said
    assert "no figures workflows left out: the log names 1 workflow; leaving one out takes at least 2" in said
    report = (tmp_path / "m" / "current" / "report.html").read_text()
    assert report.count(">not measured: ") == 2
    off = router_train_here(*bare, "--set", "evaluate.splits=false")
    assert off.returncode == 0, off.stderr
    assert "By three splits" not in off.stdout
    assert "other splits" not in (tmp_path / "m" / "current" / "report.html").read_text()
    wrong = router_train_here(*bare, "--set", "evaluate.split_estimators=oracle")
    assert wrong.returncode == 2
    assert "'oracle' is no estimator" in wrong.stderr


@pytest.mark.parametrize(("name", "begins"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml"), ("a.pdf", b"%PDF")])
def test_the_picture_for_a_slide(trained: Trained, tmp_path: Path, name: str, begins: bytes) -> None:
    drawn = CliRunner().invoke(app, ["plot", "--bundle", str(trained.bundle), "--out", str(tmp_path / name)])
    assert drawn.exit_code == 0, drawn.output
    assert (tmp_path / name).read_bytes().startswith(begins)
    assert trained.bundle.resolve().name in drawn.output


def test_a_picture_of_no_kind_is_refused(trained: Trained, tmp_path: Path) -> None:
    refused = CliRunner().invoke(app, ["plot", "--bundle", str(trained.bundle), "--out", str(tmp_path / "a.doc")])
    assert refused.exit_code == 2
    assert ".doc is no kind of picture" in " ".join(refused.output.split())
    assert list(tmp_path.iterdir()) == []


def asked_for(page: str) -> list[str]:
    """What the page's markup, without its scripts, takes from elsewhere."""
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    return re.findall(r"""(?:src|href|srcset)=["'](?!#|data:image/)[^"']*""", markup)


def test_the_report_is_one_file_with_a_table_behind_each_chart(trained: Trained) -> None:
    report = (trained.bundle / "report.html").read_text()
    assert report.count('<figure class="chart"') == report.count("data:image/svg+xml") / 2 == 7
    assert len(re.findall(r"<figure.*?<table.*?</figure>", report, re.DOTALL)) == 7
    assert not asked_for(report)
    assert len(report.encode()) < 5_000_000


def test_the_reports_month_is_the_manifests(trained: Trained) -> None:
    manifest = open_bundle(trained.bundle).manifest
    report, known = (trained.bundle / "report.html").read_text(), manifest.metrics
    shown = dict(re.findall(r'data-figure="(\w+)" data-number="([^"]+)"', report))
    assert float(shown["month_saved_usd"]) == known["month_saved_usd"]
    assert float(shown["month_saved_against_log_usd"]) == known["month_saved_against_log_usd"]
    assert float(shown["quality"]) == manifest.default.quality, "of the requests that the saving is of"
    assert f"it saved {known['saving']:.1%}" in report
    assert f"with {known['quality']:.1%} acceptable answers" in report
    assert float(shown["log_requests"]) == known["log_requests"]


def test_two_bundles_on_one_page(trained: Trained, tmp_path: Path) -> None:
    name, page = trained.bundle.resolve().name, tmp_path / "both.html"
    done = CliRunner().invoke(app, ["compare", name, name, "--out", str(trained.models), "--html", str(page)])
    assert done.exit_code == 0, done.output
    text = page.read_text()
    assert "No log was given to compare the two on" in text
    assert text.count('data-figure="month_saved_usd"') == 2
    assert 'id="chart-two-frontiers"' in text
    assert not asked_for(text)


def test_no_prompt_text_is_in_the_bundle(trained: Trained, tmp_path: Path) -> None:
    log = small_log(tmp_path / "log.jsonl", 50)
    prompts = [p for p in log["prompt"].dropna() if len(p) > 40]
    everything = b"".join(path.read_bytes() for path in trained.bundle.iterdir())
    assert prompts
    assert not [prompt for prompt in prompts if prompt[:40].encode() in everything]


def test_mlflow_has_the_run_and_its_champion(trained: Trained) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{trained.models.parent / 'mlruns' / 'mlflow.db'}")
    champion = client.get_model_version_by_alias("router", "champion")
    run = client.get_run(champion.run_id)
    assert run.info.run_name == trained.bundle.resolve().name
    assert run.data.metrics["aiq"] == pytest.approx(open_bundle(trained.bundle).manifest.metrics["aiq"])
    assert run.data.params["policy.quality_target"] == "0.95"
    artifacts = {file.path for file in client.list_artifacts(champion.run_id, "bundle")}
    assert artifacts == {f"bundle/{path.name}" for path in trained.bundle.iterdir()}
    kept = Path(run.info.artifact_uri.removeprefix("file://"), "bundle", "encoder.onnx")
    assert kept.samefile(trained.bundle / "encoder.onnx"), "the file is there once, under two names"


def test_a_trained_bundle_is_served_over_http(trained: Trained) -> None:
    app = create_app(Settings(bundle=trained.bundle))
    with TestClient(app) as client:
        answer = client.post("/v1/route", json={"prompt": "Translate to French: good morning"}).json()
        assert answer["model"] in Router.load(trained.bundle).candidates
        assert 0 < answer["confidence"] < 1
        assert answer["expected_cost_usd"] > 0
        assert len(answer["candidates"]) == 6
        assert client.get("/v1/bundle").json()["version"] == trained.bundle.resolve().name


def test_an_environment_with_the_base_dependencies_alone_serves_it(trained: Trained, tmp_path: Path) -> None:
    """Every package that only training needs is made unimportable, as if it were not installed."""
    script = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {{"torch", "sklearn", "lightgbm", "pandas", "mlflow", "onnx", "scipy", "rich",
                                  "sentence_transformers", "training", "pyarrow", "matplotlib", "jinja2"}}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from serving.decide.router import Router
print(Router.load({str(trained.bundle)!r}).route("Translate to French: good morning").candidate)
"""
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=300)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() in Router.load(trained.bundle).candidates


def test_a_second_run_embeds_nothing_and_gives_the_same_figures(tmp_path: Path) -> None:
    small_log(tmp_path / "log.jsonl")
    runs = []
    for out, command in (("a", router_train_here), ("b", router_train)):  # the second in a process with other hashes
        finished = command("run", "--data", tmp_path / "log.jsonl", "--out", tmp_path / out, *FAST)
        assert finished.returncode == 0, finished.stderr
        runs.append(open_bundle(tmp_path / out / "current").manifest)
    assert runs[0].metrics == runs[1].metrics
    assert runs[0].files["head.onnx"] == runs[1].files["head.onnx"]
    assert runs[0].data_fingerprint == runs[1].data_fingerprint


def test_a_held_out_file_is_the_test_part(tmp_path: Path) -> None:
    log = small_log(tmp_path / "log.jsonl")
    cut = log["request_id"].drop_duplicates().iloc[700]
    log[log["request_id"] < cut].to_json(tmp_path / "train.jsonl", orient="records", lines=True, date_format="iso")
    later = log[log["request_id"] >= cut]
    later.to_json(tmp_path / "test.jsonl", orient="records", lines=True, date_format="iso")
    finished = router_train_here(
        "run", "--data", tmp_path / "train.jsonl", "--test", tmp_path / "test.jsonl", "--out", tmp_path / "m", *UNSEEN
    )
    assert finished.returncode == 0, finished.stderr
    metrics = open_bundle(tmp_path / "m" / "current").manifest.metrics
    assert metrics["test_requests"] == later["request_id"].nunique()


def test_a_log_with_half_its_rows_broken_trains_on_the_rest_and_accounts_for_every_row(tmp_path: Path) -> None:
    log = small_log(tmp_path / "log.jsonl")
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    lines[::2] = [line[: len(line) // 2] for line in lines[::2]]
    (tmp_path / "broken.jsonl").write_text("\n".join(lines))
    finished = router_train_here("run", "--data", tmp_path / "broken.jsonl", "--out", tmp_path / "m", *UNSEEN)
    assert finished.returncode == 0, finished.stderr
    broken = (len(log) + 1) // 2
    assert f"{len(log):,} rows read as canonical: {len(log) - broken:,} used, {broken:,} skipped" in finished.stdout
    assert "unreadable line" in finished.stdout
    assert len(pd.read_csv(tmp_path / "m" / "current" / "skipped.csv")) == broken


def test_a_log_without_complete_requests_says_what_is_missing(tmp_path: Path) -> None:
    log = small_log(tmp_path / "log.jsonl", 1200)
    counts = log.groupby("request_id")["candidate"].transform("size")
    log[counts == 1].to_json(tmp_path / "single.jsonl", orient="records", lines=True, date_format="iso")
    finished = router_train_here("run", "--data", tmp_path / "single.jsonl", "--out", tmp_path / "m", *UNSEEN)
    assert finished.returncode == 0, finished.stderr
    assert "no test request has a judged, costed outcome of every candidate" in finished.stdout.replace("\n", " ")
    assert "off-policy, outcome-router: quality" in finished.stdout.replace("\n", " ")
    manifest = open_bundle(tmp_path / "m" / "current").manifest
    assert "aiq" not in manifest.metrics
    assert len(manifest.knobs) > 10
    for point in manifest.operating_points:
        assert point.always == manifest.reference or (point.certificate and point.certificate.method == "weighted")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x00\xff\x13garbage\x07" * 50, "log.jsonl"),
        (b"", "is empty"),
        (b'{"request_id": "a", "prompt": "hi", "candidate": "x", "quality": 1}\n' * 3, "one candidate only"),
        (b'{"a": 1}\n', "request_id"),
    ],
    ids=["garbage", "empty", "one candidate", "other columns"],
)
def test_a_hopeless_log_ends_in_one_clear_message(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "log.jsonl").write_bytes(content)
    finished = router_train_here("run", "--data", tmp_path / "log.jsonl", "--out", tmp_path / "m", *UNSEEN)
    assert finished.returncode == 2
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr
    assert not (tmp_path / "m").exists() or not any((tmp_path / "m").iterdir())


def test_a_failed_export_leaves_no_bundle_and_keeps_the_current_one(tmp_path: Path) -> None:
    small_log(tmp_path / "log.jsonl")
    good = router_train_here("run", "--data", tmp_path / "log.jsonl", "--out", tmp_path / "m", *UNSEEN)
    assert good.returncode == 0, good.stderr
    before = (tmp_path / "m" / "current").resolve()
    bad = router_train_here(
        "run", "--data", tmp_path / "log.jsonl", "--out", tmp_path / "m", *UNSEEN, "--set", "export.tolerance=0.0"
    )
    assert bad.returncode == 2
    assert "the exported graph gives" in bad.stderr.replace("\n", " ")
    assert (tmp_path / "m" / "current").resolve() == before
    assert {path.name for path in (tmp_path / "m").iterdir()} == {"current", "kept", before.name}
    assert [path.name for path in (tmp_path / "m" / "kept").iterdir()] == [before.name]


def test_what_is_only_tried_is_tracked_where_it_is_told_and_not_promoted(tmp_path: Path) -> None:
    small_log(tmp_path / "log.jsonl")
    arguments = ["run", "--data", tmp_path / "log.jsonl", "--out", tmp_path / "m", *UNSEEN[1:], *tracked_in(tmp_path)]
    finished = router_train_here(*arguments, "--no-promote")
    assert finished.returncode == 0, finished.stderr
    assert "MLflow model router version 1 (challenger)" in finished.stdout
    assert "NOT PROMOTED" in finished.stdout
    assert "It was only to be tried. It is the first bundle" in " ".join(finished.stdout.split())
    (bundle,) = (path for path in (tmp_path / "m").iterdir() if path.name != "kept")
    assert open_bundle(bundle).manifest.version == bundle.name
    assert (tmp_path / "mlruns" / "mlflow.db").is_file()


@pytest.mark.parametrize("name", ["routerbench", "routellm"])
def test_parity_holds_on_public_data_and_the_router_is_no_worse_than_the_table(
    public_data: Path, name: str, tmp_path: Path
) -> None:
    quick = ("fit.estimators=workflow-table,table+low-rank,logistic,lightgbm-long,knn", "evaluate.splits=false")
    finished = router_train_here("run", "--data", public_data / name, "--out", tmp_path, "--no-track", *setting(*quick))
    assert finished.returncode == 0, finished.stderr
    metrics = open_bundle(tmp_path / "current").manifest.metrics
    assert metrics["aiq"] > metrics["aiq_zero_router"]
    document = json.loads((tmp_path / "current" / "frontier.json").read_text())
    table = next(line for line in document["routers"] if line["name"] == "workflow table")
    assert metrics["aiq"] >= metrics["aiq_workflow_table"] or table["beats"][1] > 0
    assert metrics["ece"] <= 0.03


def test_evaluating_a_bundle_on_another_log(trained: Trained, tmp_path: Path) -> None:
    router_train_here(
        "simulate", tmp_path / "other.jsonl", "--set", "simulate.seed=9", "--set", "simulate.requests=600"
    )
    finished = router_train_here(
        "evaluate", "--bundle", trained.bundle, "--data", tmp_path / "other.jsonl", "--json", tmp_path / "figures.json"
    )
    assert finished.returncode == 0, finished.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    router = next(line for line in figures["routers"] if line["name"] == "outcome-router")
    best = max(line["quality"] for line in figures["routers"] if line["name"].startswith("only "))
    assert figures["complete_requests"] > 50
    assert 0.5 < router["aiq"] <= 1
    assert router["quality"] <= best + 0.05
    assert np.isfinite(router["cost_usd"])


def test_a_test_part_that_contradicts_the_certificate_stops_the_promotion_and_is_told_first(tmp_path: Path) -> None:
    """Held out are requests on which every answer but the reference's fails: traffic changed after the calibration."""
    small_log(tmp_path / "log.jsonl", 1_200)
    other = ["simulate", tmp_path / "other.jsonl", *setting("simulate.requests=300", "simulate.seed=5")]
    assert router_train_here(*other).returncode == 0
    held = pd.read_json(tmp_path / "other.jsonl", lines=True)
    held = held[held["quality"].notna()].assign(request_id="held-" + held["request_id"].astype(str), timestamp=None)
    held["quality"] = (held["candidate"] == "claude-opus-5-5").astype(float)
    held.to_json(tmp_path / "held.jsonl", orient="records", lines=True)
    named = ["run", "--data", tmp_path / "log.jsonl", "--test", tmp_path / "held.jsonl", "--out", tmp_path / "m"]
    done = router_train_here(*named, *UNSEEN, *setting("policy.quality_target=0.9"))
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "Certified at 90.0% confidence" in said
    told = "THE TEST PART CONTRADICTS THE CERTIFICATE of quality-0.9"
    assert said.index(told) < said.index("Simulated figures" if "Simulated figures" in said else "Test figures")
    assert "NOT PROMOTED" in said
    assert not (tmp_path / "m" / "current").exists()
