"""The notebooks run as they stand, in order, in one directory, each with what the others left there.

The executed ones are kept in ``build/notebooks``, from where the documentation takes their outputs.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
EXECUTED = ROOT / "build" / "notebooks"
CELL_TIMEOUT_S = 600
"""On a busy machine."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all notebooks run."""
    return tmp_path_factory.mktemp("notebooks")


def test_notebooks_are_numbered_and_kept_without_outputs() -> None:
    assert len(NOTEBOOKS) == 5
    for number, path in enumerate(NOTEBOOKS, start=1):
        assert path.name.startswith(f"{number:02d}_")
        cells = nbformat.read(path, as_version=4).cells
        assert re.match(r"# \w", cells[0].source)
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.filterwarnings("ignore")  # of Jupyter's libraries; the notebooks have their own Python
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, directory: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(directory)}}
    NotebookClient(notebook, timeout=CELL_TIMEOUT_S, resources=resources).execute()
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source]
    assert all(cell.execution_count for cell in code)
    EXECUTED.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, EXECUTED / path.name)
