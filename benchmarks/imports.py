"""What `import limelight` adds to `import torch`, and how long `limelight --help` takes."""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence

from measure import Row

HELP = "import sys; from limelight.cli.app import main; sys.argv = ['limelight', '--help']; main()"


def rows(count: int) -> Iterator[Row]:
    """CPU seconds of fresh interpreters, interleaved."""
    torch, ours, names = [], [], []
    for _ in range(count):
        torch.append(_run("import torch"))
        ours.append(_run("import torch, limelight"))
        names.append(
            _run("import torch, limelight; [getattr(limelight, n) for n in dir(limelight)]")
        )
    yield _row("`import limelight` on top of `import torch`", ours, torch, 0.3)
    yield _row("`import limelight` and every public name", names, torch, None)
    if importlib.util.find_spec("limelight.cli.app") is not None:
        helps = [_run(HELP) for _ in range(count)]
        yield _row("`limelight --help`", helps, [0.0] * count, 0.5)


def _run(code: str) -> float:
    """CPU seconds of one interpreter."""
    before = os.times()
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=env)
    after = os.times()
    return (
        after.children_user
        + after.children_system
        - (before.children_user + before.children_system)
    )


def _row(what: str, times: Sequence[float], base: Sequence[float], limit: float | None) -> Row:
    spent = [a - b for a, b in zip(times, base, strict=True)]
    middle = statistics.median(spent)
    figure = f"{middle:.2f} ({min(spent):.2f} to {max(spent):.2f})"
    if limit is None:
        return Row(what, f"{figure} s", "for comparison", True)
    return Row.most(what, middle, limit, figure, "s")
