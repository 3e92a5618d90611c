"""The notebooks of the docs: run anew, `make notebooks`, or written as pages, `make docs`.

`python tests/support/notebooks.py run|pages docs/notebooks`
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nbformat
from nbformat import NotebookNode


def run(path: Path, folder: Path) -> NotebookNode:
    """A notebook with the outputs that it has in an empty folder; raises where a cell does."""
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=where).execute()
    for cell in notebook.cells:
        cell.metadata = {}  # times of running
    notebook.metadata["language_info"] = {"name": "python"}  # not this machine's version of it
    return notebook


def page(path: Path) -> str:
    """A notebook with its stored outputs in Markdown."""
    from nbconvert import MarkdownExporter

    text, _ = MarkdownExporter().from_filename(str(path))
    return str(text)


def main(asked: str, folder: str) -> None:
    for path in sorted(Path(folder).glob("*.ipynb")):
        if asked == "pages":
            path.with_suffix(".md").write_text(page(path))
            continue
        with tempfile.TemporaryDirectory() as here:
            nbformat.write(run(path, Path(here)), path)
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main(*sys.argv[1:])
