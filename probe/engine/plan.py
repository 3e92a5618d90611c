"""What a run will cost, before it runs: passes, memory, and how the batch is split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import psutil
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ..attribution import BoundMethod, Sites
from ..capture import guarded
from .batch import Batch, chunks

MANY = 16  # samples; more are not taken at once without measuring one
ALONE = ("path", "pass")  # kinds of methods that run copies of single samples
_SHARE = 0.6
_COPIES = 8  # as many copies pass a network on the CPU faster than one by one, more do not


@dataclass(frozen=True)
class Split:
    """How many samples run at a time, and how many inputs pass the model at a time.

    copies  at least `samples`; more where methods run many copies of few samples
    """

    samples: int
    copies: int

    @property
    def halved(self) -> Split:
        """What to do when memory has filled."""
        copies = max(1, self.copies // 2)
        return Split(min(self.samples, copies), copies)


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

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

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
    split = _split(bounds, _fit(need, free, len(batch)), _fit(need, free, _COPIES))
    regimes = {
        b.method.regime for b in bounds if b.method.kind == "site" and "grad" in b.method.needs
    }
    paths = {path.points for b in bounds if b.method.kind == "path" for path in [b()]}
    parts = [len(part) for part in chunks(len(batch), split.samples)]
    visits = targets * sum(
        -(-points.count // max(1, split.copies // size)) for points in paths for size in parts
    )
    first = any(b.method.kind == "site" for b in bounds) or bool(paths)
    own = tuple(b.name for b in bounds if b.method.kind == "pass")
    return Plan(
        len(batch),
        len(parts) * int(first) + visits,
        len(parts) * targets * len(regimes) + visits,
        own,
        need,
        free,
        split.samples,
    )


def split_of(model: nn.Module, batch: Batch, bounds: Sequence[BoundMethod]) -> Split:
    """Small batches run whole; from 17 samples on, one is measured first."""
    if len(batch) <= MANY:
        return _split(bounds, len(batch), _COPIES)
    need, free = measure(model, batch), free_bytes(model)
    return _split(bounds, _fit(need, free, len(batch)), _fit(need, free, _COPIES))


def _split(bounds: Sequence[BoundMethod], samples: int, copies: int) -> Split:
    repeats = any(b.method.kind in ALONE for b in bounds)
    return Split(samples, max(samples, copies) if repeats else samples)


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
        lifted = one.copied()
        if not one.ids:
            lifted = lifted.with_x(one.x.detach().clone().requires_grad_())
        model(*lifted.args, **lifted.kwargs)
    return sum(seen.values()) + 2 * largest


def free_bytes(model: nn.Module) -> int:
    """Free memory of the device that the model is on."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free
    return int(psutil.virtual_memory().available)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means a full memory; on the CPU torch raises a plain RuntimeError."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


def _fit(need: int, free: int, samples: int) -> int:
    return max(1, min(samples, int(_SHARE * free / max(need, 1))))


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
