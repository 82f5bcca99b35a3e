"""`router-train run --since`: the same figures as training on everything with the same choices, and what it says."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.bundle.manifest import open_bundle
from serving.decide.router import Router
from tests.conftest import ROOT, router_train_here, setting
from training.kept.files import ACCOUNT, added_before, kept_folder, open_kept
from training.publish.making import read_making
from training.publish.promote import versions

REQUESTS, OLD = 1_100, 950
QUICK = (
    "fit.estimators=workflow-table,table+low-rank,ridge",
    "fit.few_outcomes=20",
    "evaluate.splits=false",
    "evaluate.resamples=50",
    "policy.quality_target=0.6",
    "policy.cross_fit_below=0",
)
CORE = ("scale.core_train=300", "scale.core_measured=100", "scale.floor=20")


def cut(path: Path) -> tuple[Path, Path]:
    """The log's first requests and the others, a file each, with one row of the first in the second once more."""
    rows = path.read_text(encoding="utf-8").splitlines()
    ids = [json.loads(row)["request_id"] for row in rows]
    first = set(list(dict.fromkeys(ids))[:OLD])
    old = [row for row, one in zip(rows, ids, strict=True) if one in first]
    new = [row for row, one in zip(rows, ids, strict=True) if one not in first]
    made = path.with_name("old.jsonl"), path.with_name("new.jsonl")
    for file, lines in zip(made, (old, [old[3], *new]), strict=True):
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    done = router_train_here("simulate", path, *setting(f"simulate.requests={REQUESTS}"))
    assert done.returncode == 0, done.stderr
    return cut(path)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of this module's own; encoders are made once for all tests and runs."""
    encoders = ROOT / ".cache" / "encoders"
    encoders.mkdir(parents=True, exist_ok=True)
    folder = tmp_path_factory.mktemp("cache")
    (folder / "encoders").symlink_to(encoders.resolve())
    return folder


def run(out: Path, cache: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return router_train_here("run", "--out", out, "--cache", cache, "--no-track", *words)


def data(*paths: Path) -> list[str | Path]:
    return [word for path in paths for word in ("--data", path)]


@pytest.fixture(scope="module")
def earlier(logs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """The folder of a bundle of the first requests."""
    out = tmp_path_factory.mktemp("earlier")
    done = run(out, cache, *data(logs[0]), *setting(*QUICK))
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture
def out(earlier: Path, tmp_path: Path) -> Path:
    """That folder, to be added to."""
    return Path(shutil.copytree(earlier, tmp_path / "models", symlinks=True))


def newest(out: Path) -> Path:
    return out / max(versions(out))


def told(bundle: Path) -> dict[str, Any]:
    """All that a manifest says, but for which bundle it is and what log it is of."""
    manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    return {
        name: value
        for name, value in manifest.items()
        if name not in ("version", "created", "data_fingerprint", "files")
    }


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Where two documents differ: numbers by more than 1e-6, all else at all."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            line
            for name in sorted({*one, *other})
            for line in differences(one.get(name), other.get(name), f"{place}.{name}")
        ]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [
            line
            for at, pair in enumerate(zip(one, other, strict=True))
            for line in differences(*pair, f"{place}[{at}]")
        ]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other))
    same = one == pytest.approx(other, rel=0, abs=1e-6, nan_ok=True) if numbers else one == other
    return [] if same else [f"{place}: {one!r}, {other!r}"]


def same_bundles(first: Path, second: Path, texts: list[str]) -> None:
    """Predictions, thresholds, certificates and test figures to 1e-6."""
    assert differences(told(first), told(second)) == []
    documents = [json.loads((bundle / "frontier.json").read_text(encoding="utf-8")) for bundle in (first, second)]
    for document in documents:
        document.pop("version", None)
    assert differences(*documents) == []
    estimates = [Router.load(bundle).estimate(texts) for bundle in (first, second)]
    for name in ("acceptable", "quality", "violation", "cost_usd", "latency_ms"):
        a, b = (np.asarray(getattr(one, name), dtype=np.float64) for one in estimates)
        assert np.allclose(a, b, rtol=1e-6, atol=1e-6, equal_nan=True), name


def texts_of(*paths: Path) -> list[str]:
    rows = [json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    return [row["prompt"] for row in rows if row.get("prompt")]


def test_adding_rows_gives_what_training_on_everything_gives(
    logs: tuple[Path, Path], out: Path, tmp_path: Path, cache: Path
) -> None:
    current = out / "current"
    whole = run(tmp_path / "whole", cache, *data(*logs), "--choices-of", current, *setting(*QUICK))
    assert whole.returncode == 0, whole.stderr
    assert "since" not in whole.stdout
    before = open_bundle(current).manifest.version
    added = run(out, cache, *data(logs[1]), "--since", current)
    assert added.returncode == 0, added.stderr
    said = " ".join(added.stdout.split())
    assert f"since {before}:" in said
    assert f"{REQUESTS - OLD:,} new requests, were added to the" in said
    assert "1 rows were known or contradict what was, and were skipped" in said
    bundle = newest(out)
    assert bundle.name != before
    same_bundles(bundle, newest(tmp_path / "whole"), texts_of(*logs)[::20])
    making = read_making(bundle)
    assert making is not None
    assert f"since {before}" in making["split"]["note"]
    assert f"the choices of {before}" in making["split"]["note"]
    assert f"Since {before}" in (bundle / "report.html").read_text(encoding="utf-8")
    assert [said.partition(" ")[0] for said in making["since"]] == ["since", "the"]
    assert f"| goes on from | since {before}" in (bundle / "card.md").read_text(encoding="utf-8")
    assert making["reasons"] == {"duplicate row": 1}
    assert {head["selected_by"].endswith("kept") for head in making["heads"]} == {True}


def test_what_was_added_to_can_be_added_to_again(
    logs: tuple[Path, Path], out: Path, tmp_path: Path, cache: Path
) -> None:
    rows = logs[1].read_text(encoding="utf-8").splitlines()[1:]
    ids = list(dict.fromkeys(json.loads(row)["request_id"] for row in rows))
    parts = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    half = set(ids[: len(ids) // 2])
    for path, inside in zip(parts, (True, False), strict=True):
        lines = [row for row in rows if (json.loads(row)["request_id"] in half) is inside]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    first = open_kept(out / "current").bundle
    whole = run(tmp_path / "whole", cache, *data(logs[0], *parts), "--choices-of", out / "current", *setting(*QUICK))
    assert whole.returncode == 0, whole.stderr
    for path in parts:
        done = run(out, cache, *data(path), "--since", newest(out))
        assert done.returncode == 0, done.stderr
        assert "are not in this log" not in done.stdout
    second, other = (one.bundle for one in added_before(open_kept(out / first)))
    more, missing = (sum((json.loads(row)["request_id"] in half) >= inside for row in rows) for inside in (False, True))
    missed = run(out, cache, *data(parts[1]), "--since", out / first)
    assert (
        f"{missing:,} of the {more:,} rows that were added to {first} before, for {other}, are not in this log: go on from "
        f"that one, promoted or not, to have them too (--since {out / other})" in " ".join(missed.stdout.split())
    )
    shutil.rmtree(out / other)
    shutil.rmtree(newest(out))
    again = run(out, cache, *data(parts[0]), "--since", out / first)
    assert again.returncode == 0, again.stderr
    assert "are not in this log" not in again.stdout, f"all rows of {second} are in it"
    done = run(out, cache, *data(parts[1]), "--since", newest(out))
    assert done.returncode == 0, done.stderr
    same_bundles(newest(out), newest(tmp_path / "whole"), texts_of(*logs)[::20])
    kept = open_kept(newest(out))
    assert kept.since[0] == first
    assert len(kept.since) == 2
    assert kept.choices.bundle == first
    assert kept.requests == REQUESTS


def test_a_sampled_log_is_added_to_as_exactly(logs: tuple[Path, Path], tmp_path: Path, cache: Path) -> None:
    settings = setting(*QUICK, *CORE)
    out, whole = tmp_path / "models", tmp_path / "whole"
    assert run(out, cache, *data(logs[0]), *settings).returncode == 0
    done = run(whole, cache, *data(*logs), "--choices-of", out / "current", *settings)
    assert done.returncode == 0, done.stderr
    added = run(out, cache, *data(logs[1]), "--since", out / "current")
    assert added.returncode == 0, added.stderr
    assert "requests are in the core" in " ".join(added.stdout.split())
    assert "are left out" not in added.stdout
    same_bundles(newest(out), newest(whole), texts_of(*logs)[::20])


def test_no_text_and_no_id_is_kept(logs: tuple[Path, Path], out: Path) -> None:
    rows = [json.loads(line) for line in logs[0].read_text(encoding="utf-8").splitlines()]
    folder = kept_folder(out / "current")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.parent == out / "kept"
    content = b"".join(path.read_bytes() for path in folder.iterdir())
    import pyarrow.parquet as pq

    for path in folder.glob("*.parquet"):  # packed: what is in it is looked for unpacked too
        content += str(pq.read_table(path).to_pylist()).encode()
    looked_for = {row["request_id"] for row in rows} | {row["session_id"] for row in rows if row.get("session_id")}
    for text in filter(None, (row.get("prompt") for row in rows)):
        looked_for |= {text[:40]} if len(text) >= 12 else set()
    assert len(looked_for) > 900
    assert [one for one in looked_for if one.encode() in content] == []
    assert versions(out) == [open_bundle(out / "current").manifest.version]


@pytest.mark.parametrize("what", ["gone", "damaged", "format", "another's", "switched off"])
def test_what_cannot_be_added_to_says_why(
    what: str, logs: tuple[Path, Path], out: Path, cache: Path, tmp_path: Path
) -> None:
    folder = kept_folder(out / "current")
    if what in ("gone", "switched off"):
        shutil.rmtree(folder)
    elif what == "damaged":
        with (folder / "rows.parquet").open("r+b") as file:
            file.seek(200)
            file.write(b"\0\0\0\0")
    else:
        account = json.loads((folder / ACCOUNT).read_text(encoding="utf-8"))
        other = {"format": {"format_version": 99}, "another's": {"bundle": "other"}}[what]
        (folder / ACCOUNT).write_text(json.dumps(account | other), encoding="utf-8")
    done = run(out, cache, *data(logs[1]), "--since", out / "current")
    assert done.returncode == 2
    told = " ".join((done.stderr + done.stdout).split())
    words = {
        "gone": "nothing is kept of",
        "switched off": "since.keep=false or ended before it had kept anything",
        "damaged": "rows.parquet is not what was written",
        "format": "has format version 99, this release reads 1",
        "another's": "kept.json is of other, and this is 2",
    }
    assert words[what] in told
    assert told.count("Train on everything: router-train run --data OLD --data NEW") == 1


def test_what_does_not_go_with_it_is_refused(logs: tuple[Path, Path], out: Path, cache: Path, tmp_path: Path) -> None:
    def refused(*words: str | Path) -> str:
        done = run(out, cache, "--since", out / "current", *words)
        assert done.returncode == 2, done.stdout
        return " ".join((done.stderr + done.stdout).split())

    assert "give them with --data" in refused()
    assert "nowhere is not a bundle" in refused("--since", out / "nowhere")
    assert "no text is kept" in refused(*data(logs[1]), "--keep-text")
    assert "leave --choices-of out" in refused(*data(logs[1]), "--choices-of", out / "current")
    assert "split.seed is 7" in refused(*data(logs[1]), *setting("split.seed=7"))
    assert "none of the" in refused(*data(logs[0]))
    rows = [json.loads(line) for line in logs[1].read_text(encoding="utf-8").splitlines()]
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(row | {"candidate": "new-llm"}) + "\n" for row in rows[1:20]), encoding="utf-8")
    assert "new-llm: not in what was kept" in refused(*data(other))
    assert len(versions(out)) == 1


def test_keeping_can_be_switched_off_and_goes_with_its_bundle(logs: tuple[Path, Path], out: Path, cache: Path) -> None:
    kept, gone = kept_folder(out / "current"), out / "kept" / "20200101T000000000000-00000000"
    gone.mkdir()
    done = run(out, cache, *data(logs[1]), "--since", out / "current", "--no-promote", *setting("since.keep=false"))
    assert done.returncode == 0, done.stderr
    assert "Tomorrow's rows" not in done.stdout
    assert not (out / "kept" / newest(out).name).exists()
    assert gone.exists()
    again = run(out, cache, *data(logs[1]), "--since", out, "--no-promote")  # the newest that something is kept of
    assert again.returncode == 0, again.stderr
    said = " ".join(again.stdout.split())
    assert f"since {kept.name}: " in said
    assert said.endswith(
        f"Tomorrow's rows: router-train run --data NEW --since {newest(out)} ({out / 'current'} has not got today's rows)."
    )
    assert (out / "kept" / newest(out).name).exists()
    assert not gone.exists()
    assert kept.exists()
