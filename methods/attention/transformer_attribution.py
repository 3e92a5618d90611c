"""Attribution through attention maps (Chefer et al., arXiv 2012.09838 and 2103.15679)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...probe.attribution import Natural, pass_method
from ...probe.errors import MethodError
from ...probe.probe import Probe
from ...probe.relevance import preset, ratio
from ...probe.sites import is_script, sealed
from ...probe.trace import Value
from .token_rows import read_row

PORTS = ("map", "heads", "v")


@pass_method("generic_attention")
def generic_attention(runner: Any, x: Tensor, target: Any) -> Tensor:
    """R <- R + mean over heads of max(0, A dz/dA) R, from the first block to the last.

    The row of the class token, else the mean row; of a language model, the last token's.
    """
    with attending(runner, target, relevance=False) as (probe, paths):
        maps = [probe.trace[f"{path}:map"] for path in paths]
        return explained(probe, [_mean(gradient_of(m) * m.act) for m in maps], runner=runner)


@pass_method("transformer_attribution")
def transformer_attribution(runner: Any, x: Tensor, target: Any, *, start: Natural = 0) -> Tensor:
    """(I + C_L) ... (I + C_start), C = mean over heads of max(0, dz/dA R_A), R_A by relevance.

    start  the first block that takes part
    """
    with attending(runner, target, relevance=True) as (probe, paths):
        gradients = [gradient_of(probe.trace[f"{path}:map"]) for path in paths]
        owns = relevance_of_maps(probe, paths, target)
        parts = [_mean(g * r) for g, r in zip(gradients, owns, strict=True)]
        return explained(probe, parts[start:], runner=runner)


@contextmanager
def attending(
    runner: Any, target: Any, *, relevance: bool, gradients: bool = True
) -> Iterator[tuple[Probe, Sequence[str]]]:
    """A forward with all attention watched, and the gradients of the target there."""
    with runner.probe(grad=gradients, relevance=relevance) as probe:
        paths = probe.adapter.heads
        if not paths:
            if is_script(probe.model):
                raise sealed("attention")
            raise MethodError(
                "attention was to be explained, but this model has no attention that the probe "
                "knows; watch a module's 'map' port, or use a method for layers"
            )
        probe.watch(*(f"{path}:{port}" for path in paths for port in PORTS))
        probe(*runner.batch.args, **runner.batch.kwargs)
        if gradients:
            for hole in probe.trace.holes:
                runner.note(f"unseen by the probe: {hole}")
            probe.backward(target, retain=True)
        yield probe, paths


def gradient_of(attention: Value) -> Tensor:
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
    relevances = []
    for path, out in zip(paths, heads, strict=True):
        v = probe.trace[f"{path}:v"].act
        times = out.act.shape[1] // v.shape[1]
        back = ratio(arrived[id(out)], out.act, 1e-9)
        shares = back @ v.repeat_interleave(times, 1).transpose(-1, -2)
        relevances.append(probe.trace[f"{path}:map"].act * shares / 2)
    return relevances


def explained(
    probe: Probe, parts: Sequence[Tensor], *, normalise: bool = False, runner: Any = None
) -> Tensor:
    """The product of all I + C, read at the token that the model reads; on its grid, if it has one.

    Tokens that join later, in front, as a class token may, are rows and columns of their own
    before. Raises MethodError where blocks mix different tokens, as windows do.
    """
    whole = max(part.shape[-1] for part in parts)
    parts = [_grown(part, whole, probe) for part in parts]
    identity = torch.eye(whole, dtype=parts[0].dtype, device=parts[0].device)
    joint = identity.expand_as(parts[0])
    for part in parts:
        if normalise:
            step = part + identity
            joint = step / step.sum(-1, keepdim=True) @ joint
        else:
            joint = joint + part @ joint
    return read_row(probe, joint, runner)


def _grown(part: Tensor, whole: int, probe: Probe) -> Tensor:
    """A block's map among all tokens."""
    batch, rows, columns = part.shape
    more = whole - columns
    sensible = rows == columns and more in (0, probe.adapter.prefix or 0)
    if not sensible or batch != probe.given.samples:
        raise MethodError(
            "attention was to be followed through all blocks, but they mix different tokens "
            f"(a map of {rows} x {columns} among {whole} tokens); this model attends in windows, "
            "stages or from a class token alone: use raw maps, or relevance"
        )
    return F.pad(part, (more, 0, more, 0))
