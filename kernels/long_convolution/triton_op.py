"""Convolutions of few taps between gates in one pass over memory, on Triton."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..shared.triton_launch import ceil_div, power_of_2
from .triton_kernels import Plan, Sizes, convolve, to_filter, to_input

MOST_TAPS = 64  # beyond, a transform takes less
MOST_LINES = 65535  # programs along the third axis of a launch


def can_run(
    v: Tensor,
    filter: Tensor,
    gate_in: Tensor | None = None,
    gate_out: Tensor | None = None,
    skip: Tensor | None = None,
    circular: bool = False,
) -> str | None:
    """None where the kernels take the call, else the reason against them."""
    if v.ndim != 4 or filter.ndim not in (2, 3):
        return "shapes do not fit each other"
    if v.numel() == 0:
        return "there is nothing to compute"
    heads = tuple(filter.shape[:-1])
    gates = [gate for gate in (gate_in, gate_out) if gate is not None]
    fits = heads in (tuple(v.shape[1:2]), tuple(v.shape[:2]))
    fits = fits and all(gate.shape == v.shape[:3] for gate in gates)
    if not fits or (skip is not None and (skip.shape != v.shape[1:2] or filter.ndim == 3)):
        return "shapes do not fit each other"
    if filter.is_complex():
        return "the filter is a spectrum"
    if not 1 <= filter.shape[-1] <= MOST_TAPS:
        return f"{filter.shape[-1]} taps, where the kernels take 1 to {MOST_TAPS}"
    if circular and filter.shape[-1] > v.shape[2]:
        return "a circular filter longer than the sequence"
    if len(v) * v.shape[3] > MOST_LINES:
        return f"more than {MOST_LINES} samples times values"
    return None


@dataclass(frozen=True, eq=False)
class ConvolutionOperands:
    """The arguments as the kernels take them: filters dense, gates as if each value had its own."""

    v: Tensor
    filter: Tensor
    gate_in: Tensor | None
    gate_out: Tensor | None
    skip: Tensor | None
    circular: bool

    @staticmethod
    def of(
        v: Tensor,
        filter: Tensor,
        gate_in: Tensor | None = None,
        gate_out: Tensor | None = None,
        skip: Tensor | None = None,
        circular: bool = False,
    ) -> ConvolutionOperands:
        before, behind = (None if g is None else _each(g, v) for g in (gate_in, gate_out))
        dense = None if skip is None else skip.contiguous()
        return ConvolutionOperands(v, filter.contiguous(), before, behind, dense, circular)

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.v.shape[1], self.v.shape[2], self.v.shape[3])

    @property
    def filter_strides(self) -> tuple[int, int]:
        """Of sample and head."""
        return self.filter.stride(0) * (self.filter.ndim == 3), self.filter.stride(-2)

    def plan(self) -> tuple[Plan, tuple[int, int, int]]:
        """Heads and tokens a program, as memory runs, and the programs: tokens, heads, lines."""
        heads, tokens, width = self.sizes
        heads_last = self.v.stride(1) == 1 and heads > 1
        inner, outer = (heads, tokens) if heads_last else (tokens, heads)
        along = min(64 if heads_last else 512, power_of_2(inner))
        across = min(max(1, 1024 // along), power_of_2(outer))
        h, n = (along, across) if heads_last else (across, along)
        grid = ceil_div(tokens, n), ceil_div(heads, h), len(self.v) * width
        return Plan(self.filter.shape[-1], self.circular, h, n), grid


def forward(**arguments: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The result; nothing is kept, since the backward forms sums again."""
    x = ConvolutionOperands.of(**arguments)
    return _convolved(x, x.gate_out, x.v.dtype), ()


def backward(
    g: Tensor, out: Tensor, saved: tuple[Tensor, ...], needs: set[str], **arguments: Any
) -> dict[str, Tensor]:
    """The gradients: g in the place of gate_out, the transposed sum, sums by lag."""
    x = ConvolutionOperands.of(**arguments)
    grads: dict[str, Tensor] = {}
    if x.gate_out is not None and "gate_out" in needs:
        grads["gate_out"] = _convolved(x, g, torch.float32).sum(-1).to(x.gate_out.dtype)
    if needs & {"v", "gate_in"}:
        grads |= _to_input(x, g, wanted="gate_in" in needs)
    if needs & {"filter", "skip"}:
        sums = _sums(x, g)
        taps = sums[..., :-1] if x.filter.ndim == 3 else sums[..., :-1].sum(0)
        grads["filter"] = taps.to(x.filter.dtype)
        if x.skip is not None:
            grads["skip"] = sums[..., -1].sum(0).to(x.skip.dtype)
    return {name: grad for name, grad in grads.items() if name in needs}


def _convolved(x: ConvolutionOperands, gate: Tensor | None, dtype: torch.dtype) -> Tensor:
    out = torch.empty_like(x.v, dtype=dtype)
    plan, grid = x.plan()
    convolve[grid](
        x.v, x.v.stride(), x.gate_in, _strides(x.gate_in), gate, _strides(gate),
        x.filter, x.filter_strides, x.skip, out, out.stride(), x.sizes, plan,
        enable_fp_fusion=True,
    )  # fmt: skip
    return out


def _to_input(x: ConvolutionOperands, g: Tensor, *, wanted: bool) -> dict[str, Tensor]:
    dv, plan, grid = torch.empty_like(x.v), *x.plan()
    has = wanted and x.gate_in is not None
    din = torch.empty_like(x.v, dtype=torch.float32) if has else None
    to_input[grid](
        g, g.stride(), x.gate_out, _strides(x.gate_out), x.filter, x.filter_strides, x.skip,
        x.v, x.v.stride(), x.gate_in, _strides(x.gate_in), dv, dv.stride(), din, _strides(din),
        x.sizes, plan, enable_fp_fusion=True,
    )  # fmt: skip
    if din is None or x.gate_in is None:
        return {"v": dv}
    return {"v": dv, "gate_in": din.sum(-1).to(x.gate_in.dtype)}


def _sums(x: ConvolutionOperands, g: Tensor) -> Tensor:
    """`b h taps+1`: the gradient of each tap, and last that of skip, in float32."""
    plan, grid = x.plan()
    b, (h, _, e) = len(x.v), x.sizes
    parts = x.v.new_empty(b, e * grid[0], h, plan.TAPS + 1, dtype=torch.float32)
    to_filter[grid](
        g, g.stride(), x.gate_out, _strides(x.gate_out), x.v, x.v.stride(),
        x.gate_in, _strides(x.gate_in), parts, x.sizes, plan, enable_fp_fusion=True,
    )  # fmt: skip
    return parts.sum(1)


def _each(gate: Tensor, v: Tensor) -> Tensor:
    """A gate `b h n` for every value, without more memory."""
    return gate[..., None].expand(v.shape)


def _strides(x: Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0, 0) if x is None else x.stride()
