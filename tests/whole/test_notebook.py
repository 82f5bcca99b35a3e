"""The notebook runs top to bottom on a fresh bundle."""

from __future__ import annotations

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT, Trained


@pytest.mark.filterwarnings("ignore")  # the kernel's transport warns about itself
def test_the_notebook_runs_and_shows_the_frontier(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUNDLE", str(trained.bundle))
    notebook = nbformat.read(ROOT / "notebooks" / "cost_quality_frontier.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(ROOT / "notebooks")}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error"] == []
    shown = [mime for output in outputs if "data" in output for mime in output["data"]]
    assert shown.count("image/svg+xml") == 2
    assert shown.count("text/html") >= 3
