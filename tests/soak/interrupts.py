"""Interrupts at random moments: the model, torch and the process are as before, and calls go on."""

from __future__ import annotations

import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import numpy as np
import torch
from soak_jobs import Job, jobs
from torch import Tensor, nn

from limelight.probe.capture import claims, model_state
from limelight.probe.sites import UNCHANGED


def trial(count: int, seed: int) -> tuple[int, int]:
    """Interrupt calls `count` times; how many were interrupted, and after how many all was well."""
    draw, made = random.Random(seed), jobs()
    seconds = [_seconds(job) for job in made]
    right = [job.call() for job in made]
    held = tried = 0
    for _ in range(count):
        n = draw.randrange(len(made))
        before = state(made[n].model)
        while not interrupted(made[n].call, draw.uniform(0, seconds[n])):
            pass
        tried += 1
        lost = [name for name, x in state(made[n].model).items() if x != before[name]]
        if not lost and not all(map(torch.equal, made[n].call(), right[n])):
            lost = ["what the next call gives"]
        held += not lost
        if lost:
            print(f"interrupted, {made[n].name}: changed {', '.join(lost)}")
    return tried, held


def _seconds(job: Job) -> float:
    job.call()
    start = time.perf_counter()
    job.call()
    return time.perf_counter() - start


def interrupted(call: Callable[[], object], after: float) -> bool:
    """Whether a call was stopped by a KeyboardInterrupt some seconds after its start."""
    open_ = True

    def interrupt(number: int, frame: FrameType | None) -> None:
        if open_:
            raise KeyboardInterrupt

    before, told = signal.signal(signal.SIGALRM, interrupt), sys.unraisablehook
    sys.unraisablehook = lambda _: None  # Python drops what a destructor raises; asked again
    try:
        signal.setitimer(signal.ITIMER_REAL, max(after, 1e-6))
        call()
        open_ = False
    except KeyboardInterrupt:
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        sys.unraisablehook = told
    return False


def state(model: nn.Module) -> dict[str, Any]:
    """All that a call could leave behind, by name."""
    modules = dict(model.named_modules())
    return {
        "hooks": {n: _hooks(m) for n, m in modules.items()},
        "modes": {n: m.training for n, m in modules.items()},
        "switches": {n: vars(m).get("use_checkpoint") for n, m in modules.items()},
        "weights": [_tensor(t) for t in (*model.parameters(), *model.buffers())],
        "torch": _torch(),
        "random numbers": (
            torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())
        ),
        "thread": (list(claims._held), claims._mine.get(), UNCHANGED.get(),
                   len(model_state._forwards.running), len(claims._waiting)),
        "process": (signal.getsignal(signal.SIGINT), threading.active_count(), sys.gettrace()),
    }  # fmt: skip


def _hooks(module: nn.Module) -> dict[str, list[Any]]:
    tables = {name: x for name, x in vars(module).items() if "hooks" in name and x}
    return {name: list(x) for name, x in tables.items()}


def _tensor(t: Tensor) -> tuple[Any, ...]:
    hooks = t._backward_hooks
    return t.requires_grad, t.dtype, str(t.device), t.grad is None, t.tolist(), bool(hooks)


def _torch() -> tuple[Any, ...]:
    """The modes that torch keeps for a thread, and for the process."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch._C._len_torch_function_stack(),
        torch._C._len_torch_dispatch_stack(),
        torch._C._is_torch_function_enabled(),
        torch._C._autograd._top_saved_tensors_default_hooks(False) is None,
        torch.backends.mha.get_fastpath_enabled(),
        _stance(),
    )


def _stance() -> str:
    frames = sys.modules.get("torch._dynamo.eval_frame")
    return "" if frames is None else str(frames._stance.stance)
