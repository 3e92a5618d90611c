"""What a run will cost, before it runs: passes, memory, and how the batch is split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ..attribution import BoundMethod
from ..capture import guarded
from .batch import Batch
from .runner import Sites

_MANY = 16
_SHARE = 0.6


@dataclass(frozen=True)
class Plan:
    """Passes over the whole batch, bytes for one sample, and samples at a time."""

    samples: int
    forwards: int
    backwards: int
    own: tuple[str, ...]
    bytes_per_sample: int
    bytes_free: int
    batch: int

    def __str__(self) -> str:
        lines = [
            f"{self.samples} samples, {self.batch} at a time",
            f"{self.forwards} forward and {self.backwards} backward passes"
            + (f", and the passes of {', '.join(self.own)}" if self.own else ""),
            f"about {_size(self.bytes_per_sample * self.batch)} for a batch "
            f"({_size(self.bytes_per_sample)} a sample), {_size(self.bytes_free)} free",
        ]
        return "\n".join(lines)


def make_plan(
    model: nn.Module, batch: Batch, bounds: Sequence[BoundMethod], targets: int, sites: Sites
) -> Plan:
    """Count passes and measure one sample."""
    need, free = measure(model, batch), free_bytes(model)
    size = _fit(need, free, len(batch))
    regimes = {
        b.method.regime for b in bounds if b.method.kind == "site" and "grad" in b.method.needs
    }
    points = {path.points for b in bounds if b.method.kind == "path" for path in [b()]}
    visits = targets * sum(p.count for p in points)
    first = any(b.method.kind == "site" for b in bounds) or bool(points)
    own = tuple(b.name for b in bounds if b.method.kind == "pass")
    turns = -(-len(batch) // size)
    return Plan(
        len(batch),
        turns * (int(first) + visits),
        turns * (targets * len(regimes) + visits),
        own,
        need,
        free,
        size,
    )


def fitting(model: nn.Module, batch: Batch, bounds: Sequence[BoundMethod], sites: Sites) -> int:
    """Samples at a time. Small batches run whole; from 17 samples on, one is measured first."""
    if len(batch) <= _MANY:
        return len(batch)
    return _fit(measure(model, batch), free_bytes(model), len(batch))


def measure(model: nn.Module, batch: Batch) -> int:
    """Bytes that the graph of one sample holds, and its largest value twice for the backward."""
    one = batch.take([0])
    seen: dict[int, int] = {}
    largest = 0
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(t: Tensor) -> Tensor:
        nonlocal largest
        storage = t.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
            largest = max(largest, storage.nbytes())
        return t

    with (
        guarded(model, grad=True, evaluate=True),
        torch.enable_grad(),
        saved_tensors_hooks(pack, lambda t: t),
    ):
        lifted = one
        if any(t.is_floating_point() for t in one.args if isinstance(t, Tensor)):
            lifted = one.with_x(one.x.detach().clone().requires_grad_())
        model(*lifted.args, **lifted.kwargs)
    return sum(seen.values()) + 2 * largest


def free_bytes(model: nn.Module) -> int:
    """Free memory of the device that the model is on."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means a full memory; on the CPU torch raises a plain RuntimeError."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


def _fit(need: int, free: int, samples: int) -> int:
    return max(1, min(samples, int(_SHARE * free / max(need, 1))))


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
