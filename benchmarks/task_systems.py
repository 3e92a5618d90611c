"""Systems with a task, trained small, and whether what explains them is true: `make tasks`.

`python benchmarks/task_systems.py [NAME ...] [--quick] [--seeds 3]`

Each file of benchmarks/tasks renders data from a seed, trains its system on one thread for at most
three minutes and measures it beside a control. A figure is the mean over seeds, (least to largest)
behind it; a floor that is not reached by every seed is named, and ends the run with 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
from figures import Figures

NAMES = sorted(path.stem for path in (Path(__file__).parent / "tasks").glob("[a-z]*.py"))


@dataclass(frozen=True)
class Task:
    """One file of benchmarks/tasks: its first sentence, its floors, what it measures."""

    about: str
    floors: Mapping[str, float]
    measure: Callable[..., dict[str, float]]


def task(name: str) -> Task:
    """The task of a name."""
    module = import_module(f"tasks.{name}")
    about = (module.__doc__ or "").partition("\n")[0]
    return Task(about, module.FLOORS, module.measure)


def measured(name: str, seeds: int, quick: bool) -> list[str]:
    """Measure a task, print its table; the floors that were not reached."""
    asked, found, missed = task(name), Figures("figure"), []
    print(f"\n## {asked.about}\n", flush=True)
    for seed in range(seeds):
        start = time.process_time()
        for figure, value in asked.measure(seed, quick=quick).items():
            floor = asked.floors.get(figure)
            title = figure if floor is None else f"{figure} (floor {floor:g})"
            found.add(title, "mean over seeds", value)
            if floor is not None and not value >= floor:
                missed.append(f"{name}, seed {seed}: {figure} is {value:.3f}, its floor {floor:g}")
        found.add("CPU seconds a seed", "mean over seeds", time.process_time() - start)
    print(found.markdown())
    return missed


def main() -> int:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="hardly trained: does it run at all")
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    if unknown := sorted(set(asked.names) - set(NAMES)):
        parser.error(f"{unknown[0]!r} is no task: write {', '.join(NAMES)}")
    missed = [
        line
        for name in asked.names or NAMES
        for line in measured(name, 1 if asked.quick else asked.seeds, asked.quick)
    ]
    for line in missed:
        print(f"not reached: {line}")
    return 1 if missed and not asked.quick else 0


if __name__ == "__main__":
    sys.exit(main())
