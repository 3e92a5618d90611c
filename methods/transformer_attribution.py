"""Attribution through attention maps (Chefer et al., arXiv 2012.09838 and 2103.15679)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..probe.errors import MethodError
from ..probe.layout import find_grid
from ..probe.presets import preset
from ..probe.probe import Probe
from ..probe.registry import pass_method
from ..probe.rules import ratio
from ..probe.trace import Value
from ..probe.tree import first_tensor

PORTS = ("map", "heads", "v")


@pass_method("generic_attention")
def generic_attention(runner: Any, x: Tensor, target: Any) -> Tensor:
    """R <- R + mean over heads of max(0, A dz/dA) R, from the first block to the last.

    The row of the class token, else the mean row; of a language model, the last token's.
    """
    with _attending(runner, target, relevance=False) as (probe, paths):
        maps = [probe.trace[f"{path}:map"] for path in paths]
        return explained(probe, [_mean(_gradient(m) * m.act) for m in maps])


@pass_method("transformer_attribution")
def transformer_attribution(runner: Any, x: Tensor, target: Any, *, start: int = 0) -> Tensor:
    """(I + C_L) ... (I + C_start), C = mean over heads of max(0, dz/dA R_A), R_A by relevance.

    start  the first block that takes part
    """
    with _attending(runner, target, relevance=True) as (probe, paths):
        gradients = [_gradient(probe.trace[f"{path}:map"]) for path in paths]
        owns = relevance_of_maps(probe, paths, target)
        parts = [_mean(g * r) for g, r in zip(gradients, owns, strict=True)]
        return explained(probe, parts[start:])


@contextmanager
def _attending(
    runner: Any, target: Any, *, relevance: bool
) -> Iterator[tuple[Probe, Sequence[str]]]:
    """A forward with all attention watched, and the gradients of the target there."""
    with Probe(runner.model, relevance=relevance) as probe:
        paths = probe.adapter.heads
        if not paths:
            raise MethodError(
                "attention was to be explained, but this model has no attention that the probe "
                "knows; watch a module's 'map' port, or use a method for layers"
            )
        probe.watch(*(f"{path}:{port}" for path in paths for port in PORTS))
        probe(*runner.batch.args, **runner.batch.kwargs)
        probe.backward(target, retain=True)
        yield probe, paths


def _gradient(attention: Value) -> Tensor:
    grad = attention.grad
    return torch.zeros_like(attention.act) if grad is None else grad


def _mean(x: Tensor) -> Tensor:
    """Over heads, of the positive part: `b h q k` -> `b q k`."""
    return x.clamp(min=0).mean(1)


def relevance_of_maps(probe: Probe, paths: Sequence[str], target: Any) -> list[Tensor]:
    """R_A = A (R_O / O) v' / 2, half of what the heads O = A v receive, block by block."""
    heads = [probe.trace[f"{path}:heads"] for path in paths]
    arrived: dict[int, Tensor] = {}
    probe.differentiate(
        target, heads, lambda v, r: arrived.update({id(v): r}), regime=preset("chefer")
    )
    found = []
    for path, out in zip(paths, heads, strict=True):
        v = probe.trace[f"{path}:v"].act
        times = out.act.shape[1] // v.shape[1]
        back = ratio(arrived[id(out)], out.act, 1e-9)
        shares = back @ v.repeat_interleave(times, 1).transpose(-1, -2)
        found.append(probe.trace[f"{path}:map"].act * shares / 2)
    return found


def explained(probe: Probe, parts: Sequence[Tensor]) -> Tensor:
    """The product of all I + C, read at the token that the model reads; on its grid, if it has one.

    Raises MethodError where blocks mix different tokens, as windows do.
    """
    sizes = {tuple(part.shape) for part in parts}
    batch = first_tensor(probe.trace.output).shape[0]
    if len(sizes) != 1 or sizes != {(batch, *parts[0].shape[1:])}:
        raise MethodError(
            "attention was to be followed through all blocks, but they mix different tokens "
            f"(maps of {', '.join(str(s[1:]) for s in sorted(sizes))}); this model attends in "
            "windows or stages: use raw maps, or relevance"
        )
    identity = torch.eye(parts[0].shape[-1], dtype=parts[0].dtype, device=parts[0].device)
    joint = identity.expand_as(parts[0])
    for part in parts:
        joint = joint + part @ joint
    return _read(probe, joint)


def _read(probe: Probe, joint: Tensor) -> Tensor:
    grid = find_grid(joint.shape[-1], probe.size, probe.adapter.prefix)
    if grid is None:
        return joint[:, -1]
    row = joint[:, 0] if grid.prefix else joint.mean(1)
    return row[:, grid.prefix :].unflatten(1, (grid.rows, grid.columns))
