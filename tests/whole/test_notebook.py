"""The notebook runs top to bottom on a fresh bundle."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT, Trained


@pytest.mark.filterwarnings("ignore")  # the kernel's transport warns about itself
def test_the_notebook_runs_and_shows_the_frontier(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUNDLE", str(trained.bundle))
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR"):  # nobody's own start-up files
        monkeypatch.setenv(name, str(tmp_path / name))
    notebook = nbformat.read(ROOT / "notebooks" / "cost_quality_frontier.ipynb", as_version=4)
    where = {"metadata": {"path": str(ROOT / "notebooks")}}
    NotebookClient(notebook, timeout=600, startup_timeout=300, resources=where).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error"] == []
    shown = [mime for output in outputs if "data" in output for mime in output["data"]]
    assert shown.count("image/svg+xml") == 2
    assert shown.count("text/html") >= 3
