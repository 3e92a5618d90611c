"""Attention on Triton: what it takes, its result, its gradients, its statistics."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..shared.triton_launch import MOST
from .arguments import AttentionArguments
from .checks import check
from .map_rows import by_row
from .triton_backward import gradients
from .triton_forward import attend
from .triton_operands import prepare
from .triton_statistics import StatisticsRequest

LARGEST_HEAD = 256
LARGEST_WIDE_HEAD = 128  # in float32: registers hold no more


def can_run(**arguments: Any) -> str | None:
    """None where the kernels take the call, else the reason against them.

    Raises KernelError for arguments that do not fit, before a pointer runs past their end.
    """
    x = AttentionArguments(**arguments)
    check(x)
    if not all(tensor.numel() for tensor in x.tensors):
        return "there is nothing to compute"
    if any(logits is not None and logits.dtype != x.q.dtype for logits in (x.rows, x.columns)):
        return f"relative logits are not in {x.q.dtype} as queries are"
    largest = LARGEST_WIDE_HEAD if x.q.dtype == torch.float32 else LARGEST_HEAD
    if max(x.q.shape[-1], x.v.shape[-1]) > largest:
        return f"heads are wider than {largest}"
    if any(_span(tensor) >= MOST for tensor in x.tensors):
        return f"one head reaches over more than {MOST} numbers"
    return None


def can_measure(
    x: AttentionArguments,
    grid: tuple[int, int] | None,
    radius: float | None,
    pool: int | None,
) -> str | None:
    """None where the kernels take these statistics too, else the reason against them."""
    if x.row_factor is not None:
        return "factors of rows are not measured on the way"
    if pool is not None and x.window is not None:
        return "peaks of windows are not pooled on the way"
    if pool is not None and pool < 1:
        return f"a pool of {pool} holds nothing"
    if radius is not None and grid is None:
        return "a mass within a radius needs the grid that tokens lie on"
    tokens = x.q.shape[2], x.k.shape[2]
    if grid is not None and tokens != (
        math.prod(side // x.stride for side in grid),
        math.prod(grid),
    ):
        return f"the grid of {grid[0]} x {grid[1]} holds other tokens"
    return None


def forward(**arguments: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The result, and for the backward the log-sum-exp of each row and what a gate mixes.

    Where rows have factors, also the result without them, first.
    """
    x = AttentionArguments(**arguments)
    out, saved, _ = attend(prepare(x))
    if x.row_factor is None:
        return out, saved
    return by_row(out, x.row_factor), (out, *saved)


def backward(
    g: Tensor, out: Tensor, saved: tuple[Tensor, ...], needs: set[str], **arguments: Any
) -> dict[str, Tensor]:
    """The gradients of the arguments named in `needs`, each in the shape and dtype of its own."""
    x, grads = AttentionArguments(**arguments), {}
    if x.row_factor is not None:
        out, saved = saved[0], saved[1:]
        if "row_factor" in needs:
            sums = torch.linalg.vecdot(g.float(), out.float())
            grads["row_factor"] = sums.sum_to_size(x.row_factor.shape)
        g = by_row(g, x.row_factor)
    grads |= gradients(prepare(x), x, g, out, saved, needs)
    return {name: y.to(arguments[name].dtype).view_as(arguments[name]) for name, y in grads.items()}


def statistics(
    x: AttentionArguments,
    grid: tuple[int, int] | None,
    radius: float | None,
    pool: int | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The result and, from the same pass, statistics of its map; see `attention_statistics`."""
    request = StatisticsRequest(None if grid is None else (*grid, x.stride), radius, pool)
    with torch.no_grad():
        out, _, stats = attend(prepare(x), request)
    return out, stats


def _span(x: Tensor) -> int:
    """How far apart two numbers of one head lie at most."""
    axes = list(zip(x.shape, x.stride(), strict=True))[-2:]
    return sum((size - 1) * step for size, step in axes)
