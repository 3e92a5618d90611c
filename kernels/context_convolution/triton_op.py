"""Context convolution on Triton: what it takes, its result, its gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..shared.triton_launch import MOST, ceil_div, dense_rows, like_tokens, power_of_2
from .reference import check
from .tiles import kernel_size
from .triton_kernels import Plan, Sizes, gather, to_v, to_weight

LARGEST_KERNEL = 31
Grid = tuple[int, int]


def can_run(v: Tensor, small: Tensor, large: Tensor | None = None, *, grid: Grid) -> str | None:
    """None where the kernels take the call, else the reason against them."""
    weights = [small] if large is None else [small, large]
    largest = max(kernel_size(weight) for weight in weights)
    if largest > LARGEST_KERNEL:
        return f"a kernel of {largest} is larger than {LARGEST_KERNEL}"
    if v.numel() == 0 or any(weight.numel() == 0 for weight in weights):
        return "there is nothing to compute"
    pixels = v.shape[0] * v.shape[1] * v.shape[2]
    if max(v[0].numel(), pixels, *(weight[0].numel() for weight in weights)) >= MOST:
        return f"a picture has more than {MOST} numbers"
    return None


@dataclass(frozen=True)
class ContextOperands:
    """One kernel of a call: the heads that it mixes, and their weights as they lie."""

    heads: slice
    v: Tensor
    weight: Tensor
    grid: Grid

    @property
    def sizes(self) -> Sizes:
        b, h, n, e = self.v.shape
        return Sizes(b * h * n, n, h, *self.grid, e)

    @property
    def plan(self) -> Plan:
        """1024 numbers a program, which stay in registers."""
        block_e = min(64, power_of_2(self.v.shape[3]))
        block = max(8, min(1024 // block_e, 128))
        size = kernel_size(self.weight)
        reach = [side if side < 2 * size else size + size // 2 for side in self.grid]
        return Plan(size, reach[0], reach[1], block, block_e)

    @property
    def programs(self) -> tuple[int, int]:
        """Blocks of pixels of all heads and pictures, of channels."""
        plan, sizes = self.plan, self.sizes
        return ceil_div(sizes.rows, plan.BLOCK), ceil_div(sizes.channels, plan.BLOCK_E)


def forward(
    v: Tensor, small: Tensor, large: Tensor | None = None, *, grid: Grid
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The result; nothing is kept besides, since it is linear in both arguments."""
    out = like_tokens(v, v.shape[3])
    for x in _operands(v, small, large, grid):
        part = out[:, x.heads]
        gather[x.programs](
            x.v, x.v.stride()[:3], x.weight, x.weight.stride(), part, part.stride()[:3],
            x.sizes, x.plan, enable_fp_fusion=True,
        )  # fmt: skip
    return out, ()


def backward(
    g: Tensor,
    out: Tensor,
    saved: tuple[Tensor, ...],
    needs: set[str],
    v: Tensor,
    small: Tensor,
    large: Tensor | None = None,
    *,
    grid: Grid,
) -> dict[str, Tensor]:
    """The gradients of v, gathered from those that see it, and of the weights, tap by tap."""
    g, grads = dense_rows(g), {}
    if "v" in needs:
        grads["v"] = like_tokens(v, v.shape[3])
    for name, x in zip(("small", "large"), _operands(v, small, large, grid), strict=False):
        back = g[:, x.heads]
        if "v" in needs:
            part = grads["v"][:, x.heads]
            to_v[x.programs](
                back, back.stride()[:3], x.weight, x.weight.stride(), part, part.stride()[:3],
                x.sizes, x.plan, enable_fp_fusion=True,
            )  # fmt: skip
        if name in needs:
            grads[name] = _weight_gradient(x, back)
    return grads


def _weight_gradient(x: ContextOperands, back: Tensor) -> Tensor:
    dweight = torch.empty_like(x.weight)
    blocks, parts = x.programs
    to_weight[(blocks,)](
        back, back.stride()[:3], x.v, x.v.stride()[:3], dweight, dweight.stride(),
        x.sizes, x.plan, parts, enable_fp_fusion=True,
    )  # fmt: skip
    return dweight


def _operands(
    v: Tensor, small: Tensor, large: Tensor | None, grid: Grid
) -> Iterator[ContextOperands]:
    check(v, small, large, grid)  # pointers would run past the end
    v, count = dense_rows(v), small.shape[1]
    for place, weight in enumerate((small,) if large is None else (small, large)):
        heads = slice(place * count, (place + 1) * count)
        yield ContextOperands(heads, v[:, heads], weight, (grid[0], grid[1]))
