"""How a speed is measured here: variants interleaved in one process, paired ratios, medians."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

torch.set_num_threads(1)
Work = Callable[[], object]


@dataclass(frozen=True)
class Ratio:
    """Paired ratios of two variants over the rounds."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(above: Sequence[float], below: Sequence[float]) -> Ratio:
        ratios = [a / b for a, b in zip(above, below, strict=True)]
        return Ratio(statistics.median(ratios), min(ratios), max(ratios))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Row:
    """One line of the report: a figure, the goal it is held to, whether it is met."""

    what: str
    figure: str
    goal: str
    met: bool

    @staticmethod
    def most(what: str, value: float, limit: float, figure: object = "", unit: str = "x") -> Row:
        shown = str(figure) or f"{value:.2f}"
        return Row(what, f"{shown} {unit}", f"at most {limit:g} {unit}", value <= limit)

    @staticmethod
    def least(what: str, value: float, limit: float, figure: object = "", unit: str = "x") -> Row:
        shown = str(figure) or f"{value:.2f}"
        return Row(what, f"{shown} {unit}", f"at least {limit:g} {unit}", value >= limit)


def seconds(work: Work, repeats: int = 1) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - start) / repeats


def rounds(
    variants: Mapping[str, Work], count: int, repeats: int = 1, warm: bool = True
) -> dict[str, list[float]]:
    """CPU seconds of every variant in every round; the order turns around from round to round."""
    names = list(variants)
    if warm:
        for work in variants.values():
            work()
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(count):
        for name in names if turn % 2 else reversed(names):
            times[name].append(seconds(variants[name], repeats))
    return times


def close(found: Tensor, wanted: Tensor, tolerance: float = 1e-2) -> float:
    """Norm of the difference over the norm of what is wanted. Raises ValueError when too large.

    Not the largest difference: in float32 a few ReLUs and max pools decide a near tie otherwise.
    """
    if found.shape != wanted.shape or not bool(wanted.abs().max() > 0):
        raise ValueError(f"shapes {found.shape} and {wanted.shape}, or nothing but zeros")
    error = float(((found.double() - wanted).norm() / wanted.norm()).detach())
    if error > tolerance:
        raise ValueError(f"a benchmarked map is off by {error:.1e}, more than {tolerance:.0e}")
    return error


def machine() -> str:
    """The processor and the software that the figures hold for."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        cpu = named[0].partition(":")[2].strip() if named else cpu
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{cpu}, {os.cpu_count()} cores, one thread{load}; "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )
