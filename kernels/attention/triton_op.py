"""Attention on Triton: what it takes, its result, its gradients, its statistics."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .checks import check
from .triton_backward import gradients
from .triton_forward import attend
from .triton_statistics import Told
from .triton_tiles import prepare

LARGEST_HEAD = 256
LARGEST_WIDE_HEAD = 128  # in float32: registers hold no more
MOST = 2**31 - 2**20  # places within one head are counted in 32 bits


def can_run(**arguments: Any) -> str | None:
    """None where the kernels take the call, else the reason against them.

    Raises KernelError for arguments that do not fit, before a pointer runs past their end.
    """
    check(**arguments)
    given = [x for x in arguments.values() if isinstance(x, Tensor)]
    q = arguments["q"]
    if not all(x.numel() for x in given):
        return "there is nothing to compute"
    if any(x is not None and x.dtype != q.dtype for x in (arguments["rows"], arguments["columns"])):
        return f"relative logits are not in {q.dtype} as queries are"
    largest = LARGEST_WIDE_HEAD if q.dtype == torch.float32 else LARGEST_HEAD
    if max(q.shape[-1], arguments["v"].shape[-1]) > largest:
        return f"heads are wider than {largest}"
    if any(_span(x) >= MOST for x in given):
        return f"one head reaches over more than {MOST} numbers"
    return None


def can_measure(
    *,
    grid: tuple[int, int] | None = None,
    radius: float | None = None,
    pool: int | None = None,
    **arguments: Any,
) -> str | None:
    """None where the kernels take these statistics too, else the reason against them."""
    q, k, window = arguments["q"], arguments["k"], arguments.get("window")
    if pool is not None and window is not None:
        return "peaks of windows are not pooled on the way"
    if pool is not None and pool < 1:
        return f"a pool of {pool} holds nothing"
    if radius is not None and grid is None:
        return "a mass within a radius needs the grid that tokens lie on"
    stride = 1 if window is None else window.stride
    if grid is not None and (
        math.prod(grid) != k.shape[2] or math.prod(side // stride for side in grid) != q.shape[2]
    ):
        return f"the grid of {grid[0]} x {grid[1]} holds other tokens"
    return None


def forward(**arguments: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The result, and for the backward the log-sum-exp of each row and what a gate mixes."""
    out, saved, _ = attend(prepare(**arguments))
    return out, saved


def backward(
    g: Tensor, out: Tensor, saved: tuple[Tensor, ...], needs: set[str], **arguments: Any
) -> dict[str, Tensor]:
    """The gradients of the arguments named in `needs`, each in the shape and dtype of its own."""
    found = gradients(prepare(**arguments), arguments.get("bias"), g, out, saved, needs)
    return {name: x.to(arguments[name].dtype).view_as(arguments[name]) for name, x in found.items()}


def statistics(
    *,
    grid: tuple[int, int] | None = None,
    radius: float | None = None,
    pool: int | None = None,
    **arguments: Any,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The result and, from the same pass, statistics of its map; see `attention_statistics`."""
    window = arguments.get("window")
    stride = 1 if window is None else window.stride
    told = Told(None if grid is None else (*grid, stride), radius, pool)
    given = [x for x in arguments.values() if isinstance(x, Tensor)]
    moving = torch.is_grad_enabled() and any(x.requires_grad for x in given)
    with torch.no_grad():
        out, _, found = attend(prepare(**arguments), told)
    if moving:
        from .reference import attention  # which imports this module

        out = attention(**arguments)
    return out, found


def _span(x: Tensor) -> int:
    """How far apart two numbers of one head lie at most."""
    own = list(zip(x.shape, x.stride(), strict=True))[-2:]
    return sum((size - 1) * step for size, step in own)
