"""Calls repeated: no tensor, hook, thread, open file or memory stays between them."""

from __future__ import annotations

import gc
import random
import threading

import psutil
import torch
from interrupts import state
from soak_jobs import Job, jobs

MEBIBYTES = 4  # of resident memory that one kind of call may grow by


def trial(count: int, seed: int) -> tuple[int, int]:
    """Repeat each kind of call `count` times; how many kinds, and how many left nothing behind."""
    made = jobs()
    random.Random(seed).shuffle(made)
    held = 0
    for job in made:
        lost = _left(job, count)
        held += not lost
        if lost:
            print(f"leaks, {job.name}, {count} calls: {', '.join(lost)}")
    return len(made), held


def _left(job: Job, count: int) -> list[str]:
    for _ in range(3 + count // 10):
        job.call()
    before, as_it_was = counted(), state(job.model)
    for _ in range(count):
        job.call()
    after, now = counted(), state(job.model)
    lost = [f"{name} {after[name] - n:+d}" for name, n in before.items() if after[name] > n]
    lost = [word for word in lost if not word.startswith("MiB") or _number(word) > MEBIBYTES]
    return lost + [f"{name} changed" for name, x in as_it_was.items() if now[name] != x]


def _number(word: str) -> int:
    return int(word.rpartition(" ")[2])


def counted() -> dict[str, int]:
    """What there is now."""
    gc.collect()
    process = psutil.Process()
    return {
        "tensors": sum(issubclass(type(x), torch.Tensor) for x in gc.get_objects()),
        "threads": threading.active_count(),
        "files": process.num_fds(),
        "MiB": process.memory_info().rss >> 20,
    }
