"""Execute the notebooks as a reader would: in order, in one directory, with what they leave there."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
CELL_TIMEOUT_S = 600
"""Of a cell, on a busy machine; the longest takes a minute on an idle one."""


def execute(notebook: Path, directory: Path) -> nbformat.NotebookNode:
    """Return an executed notebook.

    Args:
        notebook: the file.
        directory: where it runs, and finds what the ones before it left.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    read = nbformat.read(notebook, as_version=4)
    client = NotebookClient(
        read, timeout=CELL_TIMEOUT_S, resources={"metadata": {"path": str(directory)}}
    )
    client.execute()
    return read


def main() -> None:
    """Execute all notebooks in a directory, and leave them there with their outputs.

    Example: python tests/notebooks.py build/notebooks
    """
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for notebook in NOTEBOOKS:
        began = time.perf_counter()
        nbformat.write(execute(notebook, directory), directory / notebook.name)
        print(f"{notebook.name} {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
