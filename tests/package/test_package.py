"""The package as a whole: its floors, its wheel, its public names, how its tests start."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import get_args

import pytest

import limelight as ll
from limelight.probe.attribution import METHODS, MethodName

ROOT = Path(ll.__file__).parent
TOPS = ("kernels", "probe", "models", "methods", "reports", "cli")
FILES = sorted(p for top in TOPS for p in (ROOT / top).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_public_names_exist_and_unknown_ones_do_not():
    for name in ll.__all__:
        assert getattr(ll, name) is not None
        assert name in dir(ll)
    with pytest.raises(AttributeError, match="no attribute 'nothing_like_it'"):
        _ = ll.nothing_like_it


def test_dir_shows_public_names_alone():
    assert {name for name in dir(ll) if not name.startswith("__")} == set(ll.__all__)


def test_editors_complete_every_method_that_comes_along():
    names = {
        m.name for m in METHODS.matching("*") if m.function.__module__.startswith("limelight.")
    }
    assert set(get_args(MethodName)) == names


def test_importing_limelight_imports_nothing_heavy():
    code = (
        "import sys, torch; before = set(sys.modules); import limelight; "
        "print(sorted(m for m in set(sys.modules) - before if not m.startswith('limelight')))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"pandas", "captum", "PIL", "jinja2", "pyarrow", "rich", "typer", "sklearn", "timm"}
    assert not heavy & set(ast.literal_eval(out.stdout.strip()))


def test_methods_and_circuits_import_no_tables_before_they_make_one():
    code = (
        "import sys, limelight as ll; ll.list_methods(); ll.maps; ll.circuit; ll.circuit_method; "
        "print([m for m in ('pandas', 'pyarrow', 'PIL', 'sklearn') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ast.literal_eval(out.stdout.strip()) == []


def test_the_wheel_holds_the_package_and_no_tests(tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "py.typed"):
        shutil.copy(ROOT / name, tree)
    for source in (
        *ROOT.glob("*.py"),
        *(ROOT / f for f in (*TOPS, "tests") if (ROOT / f).is_dir()),
    ):
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, tree / source.name)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        str(tree),
    ]
    subprocess.run(build, check=True, capture_output=True)
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    inside = {n for n in names if ".dist-info/" not in n}
    assert {n for n in inside if n.count("/") == 1} == {
        f"limelight/{n}" for n in ("__init__.py", "__main__.py", "py.typed")
    }
    assert {n.split("/")[1] for n in inside if n.count("/") > 1} == set(TOPS)
    wanted = {f"limelight/{p.relative_to(ROOT)}" for p in FILES}
    assert wanted <= inside
    assert any(n.endswith("page.html") for n in inside)


@pytest.mark.parametrize("start", [".", "tests"])
def test_pytest_starts_from_the_root_and_from_tests(start):
    folder = ROOT / start
    target = "probe/sites/test_site.py" if start == "tests" else "tests/probe/sites/test_site.py"
    command = [sys.executable, "-m", "pytest", "-q", "-x", target]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
