"""Outlook attention on Triton: what it takes, its result, its gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..shared.triton_launch import MOST, ceil_div, dense_rows, like_tokens, power_of_2
from .reference import check, windows
from .triton_kernels import Plan, Sizes, gather, to_v, to_weight

LARGEST_KERNEL = 8
LARGEST_HEAD = 512


def can_run(v: Tensor, weight: Tensor, kernel_size: int = 3, **_: Any) -> str | None:
    """None where the kernels take the call, else the reason against them."""
    if kernel_size > LARGEST_KERNEL:
        return f"a kernel of {kernel_size} is larger than {LARGEST_KERNEL}"
    if v.shape[3] > LARGEST_HEAD:
        return f"heads are wider than {LARGEST_HEAD}"
    if v.numel() == 0 or weight.numel() == 0:
        return "there is nothing to compute"
    if max(v[0].numel(), weight[0].numel(), weight.numel() // weight.shape[-1]) >= MOST:
        return f"a picture has more than {MOST} numbers"
    return None


@dataclass(frozen=True)
class OutlookOperands:
    """The arguments of one call as kernels take them."""

    v: Tensor
    weight: Tensor
    grid: tuple[int, int]
    kernel_size: int
    stride: int
    padding: int

    def sizes(self, per_head: int) -> Sizes:
        b, h = self.v.shape[:2]
        y, x = windows(self.grid, self.kernel_size, self.stride, self.padding)
        return Sizes(b * h * per_head, per_head, h, *self.grid, self.v.shape[3], y, x)

    @property
    def plan(self) -> Plan:
        """1024 numbers a program keep every value in registers on sm_90: 4096 spill to memory."""
        block_e = min(128, power_of_2(self.v.shape[3]))
        block = max(8, min(1024 // block_e, 128))
        reach = ceil_div(self.kernel_size, self.stride)
        options = self.kernel_size, self.stride, self.padding, reach
        return Plan(*options, block, block_e, power_of_2(self.kernel_size**2))

    @property
    def programs(self) -> tuple[int, int]:
        """Tokens of all heads and pictures, channels."""
        plan, tokens = self.plan, self.v.shape[0] * self.v.shape[1] * self.v.shape[2]
        return ceil_div(tokens, plan.BLOCK), ceil_div(self.v.shape[3], plan.BLOCK_E)


def forward(**arguments: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The result and, for the backward, the log-sum-exp of every row of weights inside the grid."""
    x = _prepare(**arguments)
    out = like_tokens(x.v, x.v.shape[3])
    norm = x.weight.new_empty(x.weight.shape[:4], dtype=torch.float32)
    gather[x.programs](
        x.v, x.v.stride()[:3], x.weight, x.weight.stride()[:3], out, out.stride()[:3], norm,
        x.sizes(x.v.shape[2]), x.plan, enable_fp_fusion=True,
    )  # fmt: skip
    return out, (norm,)


def backward(
    g: Tensor, out: Tensor, saved: tuple[Tensor, ...], needs: set[str], **arguments: Any
) -> dict[str, Tensor]:
    """The gradients of v, gathered as the result is, and of weight, row by row."""
    x, g = _prepare(**arguments), dense_rows(g)
    grads: dict[str, Tensor] = {}
    if "v" in needs:
        grads["v"] = _v_gradient(x, g, saved[0])
    if "weight" in needs:
        grads["weight"] = _weight_gradient(x, g)
    return grads


def _prepare(
    v: Tensor,
    weight: Tensor,
    *,
    grid: tuple[int, int],
    kernel_size: int = 3,
    stride: int = 1,
    padding: int = 1,
) -> OutlookOperands:
    check(v, weight, grid, kernel_size, stride, padding)  # pointers would run past the end
    return OutlookOperands(dense_rows(v), _planes(weight), grid, kernel_size, stride, padding)


def _v_gradient(x: OutlookOperands, g: Tensor, norm: Tensor) -> Tensor:
    dv = like_tokens(x.v, x.v.shape[3])
    to_v[x.programs](
        g, g.stride()[:3], x.weight, x.weight.stride()[:3], norm, dv, dv.stride()[:3],
        x.sizes(x.v.shape[2]), x.plan, enable_fp_fusion=True,
    )  # fmt: skip
    return dv


def _weight_gradient(x: OutlookOperands, g: Tensor) -> Tensor:
    dweight = torch.empty_like(x.weight)  # dense and with weight's order of axes
    if dweight.stride()[3:] != x.weight.stride()[3:]:
        dweight = torch.empty_like(x.weight, memory_format=torch.contiguous_format)
    sizes, plan = x.sizes(x.weight.shape[2] * x.weight.shape[3]), x.plan
    to_weight[(ceil_div(sizes.rows, plan.BLOCK),)](
        g, g.stride()[:3], x.v, x.v.stride()[:3], x.weight, x.weight.stride()[:3],
        dweight, dweight.stride()[:3], sizes, plan, ceil_div(x.v.shape[3], plan.BLOCK_E),
        enable_fp_fusion=True,
    )  # fmt: skip
    return dweight


def _planes(weight: Tensor) -> Tensor:
    """The tensor itself where the k2 x k2 weights of a window lie next to each other."""
    sources = weight.shape[-1]
    return weight if weight.stride()[3:] == (sources, 1) else weight.contiguous()
