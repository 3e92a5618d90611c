"""What holds for every file of the zoo: what it imports, and where its rows stand."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import limelight as ll
from limelight.models import list_models
from limelight.models.registry import hyper_parameters

ZOO = Path(ll.__file__).parent / "models" / "zoo"
FILES = [p for p in sorted(ZOO.rglob("*.py")) if p.parent != ZOO or p.name != "__init__.py"]


def architecture(path: Path) -> str:
    """The entry of the zoo that a file belongs to."""
    return path.relative_to(ZOO).parts[0].removesuffix(".py")


def targets(path: Path) -> list[Path]:
    """The files or folders that a file's relative imports name."""
    reached = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            reached += [base / alias.name for alias in node.names] if not node.module else [base]
    return reached


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ZOO).as_posix())
def test_no_architecture_imports_another(path):
    inside = [target for target in targets(path) if target.is_relative_to(ZOO)]
    assert {architecture(target) for target in inside if target != ZOO} <= {architecture(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ZOO).as_posix())
def test_no_rows_are_unrolled_at_import(path):
    assert not [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.For)]


def test_every_model_is_found_by_searching_for_its_name():
    text = "\n".join(path.read_text() for path in FILES)
    assert [card.name for card in list_models() if f'"{card.name}"' not in text] == []


def test_every_hyper_parameter_has_a_default():
    for card in list_models():
        assert inspect.Parameter.empty not in hyper_parameters(card.name).values(), card.name
