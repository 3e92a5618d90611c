"""The tasks of `make tasks`: each runs on next to no training, and has its floors measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize("name", sorted(p.stem for p in (BENCHMARKS / "tasks").glob("[a-z]*.py")))
def test_a_task_measures_what_it_has_floors_for(name):
    from task_systems import NAMES, task

    assert name in NAMES
    asked = task(name)
    found = asked.measure(0, quick=True)
    assert asked.about
    assert asked.floors
    assert asked.floors.keys() <= found.keys()
    assert len(found) > len(asked.floors), "a control stands beside every figure"
    assert all(isinstance(value, float) for value in found.values())


def test_floors_that_are_not_reached_end_with_one(capsys, monkeypatch):
    import task_systems

    low = task_systems.Task("A task.", {"sum": 1.0}, lambda seed, quick: {"sum": 0.5})
    monkeypatch.setattr(task_systems, "task", lambda name: low)
    monkeypatch.setattr(sys, "argv", ["task_systems.py", "shelf_search", "--seeds", "2"])
    assert task_systems.main() == 1
    told = capsys.readouterr().out
    assert told.count("not reached") == 2
    assert "sum is 0.500, its floor 1" in told
