"""The house: what may import what, how large a room may be, what a file keeps to itself."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import limelight as ll

ROOT = Path(ll.__file__).parent
TOPS = ("kernels", "probe", "models", "methods", "reports", "cli")
FILES = sorted(p.relative_to(ROOT).as_posix() for top in TOPS for p in (ROOT / top).rglob("*.py"))
MODULES = {p.removesuffix(".py").replace("/", ".").removesuffix(".__init__"): p for p in FILES}

# Every line is a building, floors from the ground up; a floor may import what stands below it.
# Names are files or folders; those of one floor know nothing of each other.
FLOORS = (
    ("kernels", "probe", "models methods", "reports", "cli"),
    (
        "probe/errors.py probe/mark.py probe/entry_points.py",
        "probe/sites",
        "probe/axes",
        "probe/trace probe/results",
        "probe/ops probe/targets",
        "probe/backward probe/attribution",
        "probe/capture",
        "probe/relevance",
        "probe/regimes.py",
        "probe/probe.py",
        "probe/engine",
    ),
    (
        "models/card.py",
        "models/layers models/weights models/inputs",
        "models/registry.py models/adapters",
        "models/zoo",
    ),
    (
        "reports/html reports/datasets",
        "reports/explanation reports/runs",
        "reports/scoring reports/circuit_page reports/recall_page reports/tiles_page",
        "reports/dataset_page",
    ),
    (
        "methods/circuits/tasks methods/circuits/codes methods/circuits/head_outputs.py "
        "methods/circuits/significance.py",
        "methods/circuits/evidence.py methods/circuits/score.py",
        "methods/circuits/interventions.py",
        "methods/circuits/scores",
        "methods/circuits/judging",
        "methods/circuits/circuit.py",
    ),
)
MOST_ENTRIES = 16


def _imported(path: str) -> dict[str, set[str]]:
    """The files that a file imports, anywhere in it, with the names it takes from each."""
    targets: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            folders = path.split("/")[:-1]
            base = folders[: len(folders) - node.level + 1]
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                name = inner if inner in MODULES else module
                if name in MODULES:
                    targets.setdefault(MODULES[name], set()).add(alias.name)
    return targets


IMPORTS = {path: _imported(path) for path in FILES}


def _floor(path: str, building: tuple[str, ...]) -> tuple[int, str] | None:
    """The floor of a file in a building, and the room it lies in there."""
    for height, floor in enumerate(building):
        for room in floor.split():
            if path == room or path.startswith(f"{room}/"):
                return height, room
    return None


def _reaches(start: str) -> set[str]:
    seen: set[str] = set()
    todo = [start]
    while todo:
        for path in IMPORTS[todo.pop()]:
            if path not in seen:
                seen.add(path)
                todo.append(path)
    return seen


@pytest.mark.parametrize("path", FILES)
def test_a_file_imports_only_what_stands_below_it(path: str) -> None:
    for building in FLOORS:
        here = _floor(path, building)
        for target in IMPORTS[path] if here is not None else ():
            there = _floor(target, building)
            if here is not None and there is not None and here[1] != there[1]:
                assert there[0] < here[0], f"{path} imports {target}, which stands above it"


@pytest.mark.parametrize("path", FILES)
def test_no_file_imports_itself_by_a_detour(path: str) -> None:
    assert path not in _reaches(path)


@pytest.mark.parametrize("path", FILES)
def test_private_names_stay_in_their_file(path: str) -> None:
    taken = {f"{target}: {n}" for target, ns in IMPORTS[path].items() for n in ns if n[0] == "_"}
    assert not taken


@pytest.mark.parametrize("path", [p for p in FILES if not p.endswith("__init__.py")])
def test_a_room_is_entered_by_its_door(path: str) -> None:
    """Names of another room come from its `__init__`; deferred imports may name the file."""
    tree = ast.parse((ROOT / path).read_text())
    room = path.rpartition("/")[0]
    doors = {Path(p).parent.as_posix() for p in FILES if p.endswith("__init__.py")}
    open_rooms = {*TOPS, "methods/circuits", "models/zoo"}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.level:
            folders = path.split("/")[:-1]
            base = folders[: len(folders) - node.level + 1]
            module = "/".join([*base, *(node.module or "").split(".")]).strip("/")
            target = Path(module).parent.as_posix()
            inside = room == target or room.startswith(f"{target}/")
            backend = Path(module).name.startswith("triton_")
            if f"{module}.py" in FILES and target in doors - open_rooms and not (inside or backend):
                pytest.fail(f"{path} reaches into {module}.py: take it from {target}")


def test_every_layer_and_folder_has_a_floor() -> None:
    for building in FLOORS[1:]:
        parents = {Path(room).parent.as_posix() for floor in building for room in floor.split()}
        for parent in parents - {"methods/circuits", "reports"}:
            for path in FILES:
                if path.startswith(f"{parent}/") and not path.endswith("__init__.py"):
                    assert _floor(path, building) is not None, f"{path} stands on no floor"


def test_no_room_is_crowded() -> None:
    for folder in {Path(p).parent.as_posix() for p in FILES} - {"models/zoo"}:
        entries = [e for e in (ROOT / folder).iterdir() if e.suffix == ".py" or _is_room(e)]
        names = {e.name for e in entries} - {"__init__.py"}
        assert len(names) <= MOST_ENTRIES, f"{folder} holds {len(names)}: {sorted(names)}"


def _is_room(entry: Path) -> bool:
    return entry.is_dir() and entry.name != "__pycache__"
