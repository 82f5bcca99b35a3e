"""The notebooks run top to bottom on a bundle of the default log, on one of public data, and on a service's store."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbconvert import HTMLExporter

from tests.conftest import QUICK, ROOT, Trained, router_train, setting
from tests.whole.live_store import fill

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = (
    "01_what_the_log_holds",
    "02_can_the_confidence_be_trusted",
    "03_cost_quality_frontier",
    "04_after_it_went_live",
)
# Two kernels at a time, on two cores.
TOGETHER = 2
# Of one cell, or of a kernel's start: no measure, only an end to what hangs, also on a machine with much else to do.
LONGEST_S = 1_200
Run = dict[str, Any]


def execute(
    monkeypatch: pytest.MonkeyPatch, folder: Path, names: tuple[str, ...] = NAMES, **environment: Path | str
) -> Run:
    """The notebooks run with these variables, by name; what they write is in `folder/out`."""
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR"):  # nobody's own start-up files
        monkeypatch.setenv(name, str(folder / name))
    for name in ("BUNDLE", "LOG", "STORE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"OUT": folder / "out", "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1", **environment}.items():
        monkeypatch.setenv(name, str(value))
    read = {path.stem: nbformat.read(path, as_version=4) for path in NOTEBOOKS if path.stem in names}

    async def all_of_them() -> None:
        free = asyncio.Semaphore(TOGETHER)

        async def one(notebook: Any) -> None:
            where = {"metadata": {"path": str(ROOT / "notebooks")}}
            async with free:
                await NotebookClient(
                    notebook, timeout=LONGEST_S, startup_timeout=LONGEST_S, resources=where
                ).async_execute()

        await asyncio.gather(*map(one, read.values()))

    asyncio.run(all_of_them())
    return read


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def shown(notebook: Any) -> str:
    """All HTML that a notebook shows."""
    return "\n".join(output["data"].get("text/html", "") for output in outputs(notebook) if "data" in output)


def missing(notebook: Any) -> list[str]:
    return [part.split("</em>")[0] for part in shown(notebook).split("Not shown: ")[1:]]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_is_committed_and_the_first_cell_asks_a_question(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert first.source.rstrip().endswith("?")


def test_these_are_the_notebooks() -> None:
    assert tuple(path.stem for path in NOTEBOOKS) == NAMES


@pytest.mark.filterwarnings("ignore")  # the kernel's transport warns about itself
def test_on_the_bundle_of_the_default_log(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = execute(monkeypatch, tmp_path, BUNDLE=trained.bundle)
    for name in NAMES[:3]:
        assert shown(done[name]).count("<figure") >= 2, name
        assert "<svg" in shown(done[name])
        assert missing(done[name]) == [], name
        assert len(pd.read_csv(tmp_path / "out" / f"{name}.csv")) > 1
        assert "router-train" in shown(done[name])
    assert "own test part" in shown(done[NAMES[2]])
    assert "(simulated)" in shown(done[NAMES[2]])
    assert "Cost and quality (simulated)" in shown(done[NAMES[2]])
    live = missing(done[NAMES[3]])
    assert any("No store of a service was given" in one for one in live)
    exported, _ = HTMLExporter().from_notebook_node(done[NAMES[2]])
    assert exported.count("<svg") >= 5
    assert "vegaEmbed" in exported


@pytest.mark.filterwarnings("ignore")
def test_on_a_bundle_of_public_data(public_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "routerbench"
    log.mkdir()
    for path in sorted((public_data / "routerbench").glob("*.csv")):
        table = pd.read_csv(path)
        table.sample(min(250, len(table)), random_state=0).to_csv(log / path.name, index=False)
    made = router_train("run", "--data", log, "--out", tmp_path / "models", "--no-track", *setting(*QUICK))
    assert made.returncode == 0, made.stdout + made.stderr
    done = execute(monkeypatch, tmp_path, BUNDLE=tmp_path / "models" / "current", LOG=log)
    for name, least in zip(NAMES[:3], (1, 5, 5), strict=True):  # without dates nothing is drawn over time
        assert shown(done[name]).count("<figure") >= least, name
        assert "(simulated)" not in shown(done[name]), name
    assert "no request in the log has a time" in "".join(missing(done[NAMES[0]]))
    assert "the log has no dates" in shown(done[NAMES[2]])


@pytest.mark.filterwarnings("ignore")
def test_on_the_store_of_a_service(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = fill(tmp_path / "decisions.db", trained.bundle)
    done = execute(monkeypatch, tmp_path, BUNDLE=trained.bundle, LOG=store)
    assert missing(done[NAMES[3]]) == []
    live = shown(done[NAMES[3]])
    assert live.count("<figure") >= 4
    assert "reference&#x27;s own answers" in live or "other candidates&#x27; answers" in live
    assert "stability index" in live
    lines = pd.read_csv(tmp_path / "out" / f"{NAMES[3]}.csv")
    assert {"saved_usd", "saved_low", "saved_high"} <= set(lines.columns)
    for name in NAMES[:3]:
        assert not [output for output in outputs(done[name]) if output.output_type == "error"]


@pytest.mark.filterwarnings("ignore")
def test_on_a_log_of_requests_and_candidates_alone(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without judgements, costs, dates, workflows and complete requests, each section says what is missing."""
    rows = [
        {"request_id": f"r{n}", "prompt": f"thing number {n}", "candidate": ("gpt-6-luna", "claude-opus-5-5")[n % 2]}
        for n in range(60)
    ]
    log = tmp_path / "bare.jsonl"
    log.write_text("\n".join(map(json.dumps, rows)))
    done = execute(monkeypatch, tmp_path, (NAMES[0], NAMES[1]), BUNDLE=trained.bundle, LOG=log)
    holds, trusted = ("".join(missing(done[name])) for name in NAMES[:2])
    assert "no call in the log has a cost" in holds
    assert "no request in the log has a time" in holds
    assert "No answer in this log was judged" in shown(done[NAMES[0]])
    assert trusted.count("no answer to these requests was judged") == 3
