"""The notebooks in `recipes/` run from top to bottom, and are kept without output."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "recipes").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "strip the outputs"
    NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    tables = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "<table>" in output.get("data", {}).get("text/html", "")
    ]
    assert len(tables) >= 3, "results show themselves as tables"


def test_both_notebooks_are_there() -> None:
    assert len(NOTEBOOKS) == 2
