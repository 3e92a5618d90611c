"""Threads that probe at once: other models never disturb, one model is refused or right."""

from __future__ import annotations

import random
import sys
from concurrent.futures import ThreadPoolExecutor

import torch
from interrupts import state
from soak_jobs import METHODS, Job, convnet, map_job

from limelight.probe.errors import ProbeError

WORKERS = 3


def trial(count: int, seed: int) -> tuple[int, int]:
    """Run `count` calls in threads, half on one model; how many, and how many were right."""
    draw, shared, interval = random.Random(seed), convnet(), sys.getswitchinterval()
    kinds = [draw.choice([kind for kind in METHODS if kind != "pass"]) for _ in range(count)]
    made = [map_job(kind, shared if n % 2 else convnet()) for n, kind in enumerate(kinds)]
    right = {kind: map_job(kind).call() for kind in set(kinds)}
    before = [state(job.model) for job in made]
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(WORKERS) as pool:
            given = list(pool.map(_given, made))
    finally:
        sys.setswitchinterval(interval)
    held = 0
    for job, kind, maps, was in zip(made, kinds, given, before, strict=True):
        same = maps is None or all(map(torch.equal, maps, right[kind]))
        held += same and state(job.model) == was
    return count, held


def _given(job: Job) -> list[torch.Tensor] | None:
    """The maps of a call; None where it was refused in a sentence."""
    try:
        return job.call()
    except ProbeError:
        return None
