"""Gated linear attention by chunks, on Triton: both ops, tiles, and the order of launches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from ..kernel import interpreted
from ..shared.triton_launch import (
    ceil_div,
    dense_rows,
    dot_precision,
    dot_type,
    like_tokens,
    options,
    padded,
)
from . import triton_kernels as kernels
from .triton_kernels import Gates, Inputs, Plan, Sizes

CHUNK, PART, RUN = 64, kernels.PART.value, 128  # tokens of one program
CHANNELS, VALUES = 32, 64
WARPS, STAGES = 4, 2  # more stages need more shared memory than most devices have
MOST = 2**31 - 1  # programs on one axis, and numbers in one state


def can_run(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, gate_back: Tensor | None = None, **_: Any
) -> str | None:
    """None where the kernels take the call, else the reason against them."""
    gates = [gate] if gate_back is None else [gate, gate_back]
    if any(x.ndim != 4 for x in (q, k, v, *gates)):
        return "an argument has not four axes"
    if any(x.shape != q.shape for x in (k, *gates)) or v.shape[:3] != q.shape[:3]:
        return "shapes do not fit each other"
    if len({q.dtype, k.dtype, v.dtype}) > 1:
        return "q, k and v are of several dtypes"
    if q.numel() == 0 or v.numel() == 0:
        return "there is nothing to compute"
    parts = ceil_div(q.shape[2], CHUNK) * CHUNK // PART
    if q.shape[0] * q.shape[1] * parts > MOST or q.shape[3] * v.shape[3] > MOST:
        return f"there are more than {MOST} parts or numbers in a state"
    return None


@dataclass(frozen=True)
class ScanOperands:
    """The arguments of either op as kernels take them; a gate that is not there is the other.

    ways   1 for a scan from the first token, 2 from the last, 3 for the mean of both
    """

    q: Tensor
    k: Tensor
    v: Tensor
    gate: Tensor
    gate_back: Tensor
    ways: int
    factor: float

    @cached_property
    def sizes(self) -> Sizes:
        b, h, n, d = self.q.shape
        return Sizes(h, b * h, n, d, self.v.shape[3], self.factor)

    @property
    def gates(self) -> tuple[Gates, tuple[int, ...], tuple[int, ...]]:
        """Both gates, and the strides of each."""
        gates = Gates(self.gate, self.gate_back)
        return gates, _strides(self.gate), _strides(self.gate_back)

    @cached_property
    def plan(self) -> Plan:
        d, e = self.q.shape[3], self.v.shape[3]
        block_d, block_e = min(CHANNELS, padded(d)), min(VALUES, padded(e))
        parts = ceil_div(d, block_d), ceil_div(e, block_e)
        blocks = min(CHUNK, padded(self.q.shape[2])), block_d, block_e
        return Plan(self.ways, *blocks, *parts, *self._dots, *self._state_dots)

    @cached_property
    def _dots(self) -> tuple[Any, str]:
        """The type that dots of tokens take, and how they round."""
        return dot_type(self.q.dtype), dot_precision()

    @cached_property
    def _state_dots(self) -> tuple[Any, str]:
        """The same with a state, a sum over all tokens, that float16 may not hold."""
        dtype, precision = self._dots
        if dtype == tl.float16:
            return tl.float32, "ieee" if interpreted() else "tf32"
        return dtype, precision

    @property
    def chunks(self) -> int:
        return ceil_div(self.q.shape[2], self.plan.CHUNK)

    @property
    def scans(self) -> int:
        return 2 if self.ways == 3 else 1

    @property
    def wide_options(self) -> dict[str, Any]:
        """Dots in full float32 run on no tensor core: their tiles need more registers."""
        return options(8 if self.q.dtype == torch.float32 else WARPS, STAGES)


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    gate_back: Tensor | None = None,
    *,
    scale: float | None = None,
    reverse: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The result; states and scores are formed again in the backward."""
    x = _prepare(q, k, v, gate, gate_back, scale, reverse)
    states = _states(x, x.k, x.v, slope=False)
    return _results(x, x.q, x.v, _scores(x), states, slope=False), ()


def backward(
    g: Tensor,
    out: Tensor,
    saved: tuple[Tensor, ...],
    needs: set[str],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    gate_back: Tensor | None = None,
    *,
    scale: float | None = None,
    reverse: bool = False,
) -> dict[str, Tensor]:
    """Gradients by the opposite scan: of v as the result is formed, of a gate from those of q, k.

    A gate's gradient is the sum of q grad_q - k grad_k over the rest of the scan.
    """
    x, g = _prepare(q, k, v, gate, gate_back, scale, reverse), dense_rows(g)
    slope_states = _states(x, x.q, g, slope=True)
    grads: dict[str, Tensor] = {}
    if "v" in needs:
        grads["v"] = _results(x, x.k, g, _scores(x), slope_states, slope=True)
    if needs - {"v"}:
        grads["q"], grads["k"], turns = _q_and_k(x, g, slope_states)
        if "gate" in needs:
            grads["gate"] = _gate(turns[0], gate, back=x.ways == 2)
        if "gate_back" in needs:
            grads["gate_back"] = _gate(turns[1], x.gate_back, back=True)
    return {name: grad for name, grad in grads.items() if name in needs}


def _prepare(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    gate_back: Tensor | None,
    scale: float | None,
    reverse: bool,
) -> ScanOperands:
    ways = 3 if gate_back is not None else 2 if reverse else 1
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    q, k, v, gate = (dense_rows(x) for x in (q, k, v, gate))
    other = gate if gate_back is None else dense_rows(gate_back)
    return ScanOperands(q, k, v, gate, other, ways, factor / 2 if ways == 3 else factor)


def _states(x: ScanOperands, left: Tensor, right: Tensor, *, slope: bool) -> Tensor:
    """`scans b*h chunks d e`: states or their gradients, in float32 but for bfloat16 tokens."""
    z, plan = x.sizes, x.plan
    dtype = torch.bfloat16 if left.dtype == torch.bfloat16 else torch.float32
    states = left.new_empty(x.scans, z.rows, x.chunks, z.d, z.e, dtype=dtype)
    kernels.states[z.rows * plan.PARTS_D, plan.PARTS_E, x.scans](
        left, _strides(left), right, _strides(right), *x.gates, states, z, slope, plan,
        **options(WARPS, STAGES),
    )  # fmt: skip
    return states


def _scores(x: ScanOperands) -> Tensor:
    """`b*h chunks chunk chunk`: the map inside chunks, scaled, of both scans together."""
    z, plan = x.sizes, x.plan
    scores = x.q.new_empty(z.rows, x.chunks, plan.CHUNK, plan.CHUNK)
    kernels.scores[(z.rows * x.chunks * (plan.CHUNK // PART),)](
        x.q, _strides(x.q), x.k, _strides(x.k), *x.gates, scores, z, plan,
        **options(WARPS, STAGES),
    )  # fmt: skip
    return scores


def _results(
    x: ScanOperands, left: Tensor, right: Tensor, scores: Tensor, states: Tensor, *, slope: bool
) -> Tensor:
    out = like_tokens(x.v, x.v.shape[3])
    kernels.results[x.sizes.rows * x.chunks, x.plan.PARTS_E](
        left, _strides(left), right, _strides(right), *x.gates, scores, states,
        out, _strides(out), x.sizes, slope, x.plan, **x.wide_options,
    )  # fmt: skip
    return out


def _q_and_k(x: ScanOperands, g: Tensor, slope_states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q and k, and q grad_q - k grad_k of each scan, `scans b*h n d`."""
    q, k, v, z, plan = x.q, x.k, x.v, x.sizes, x.plan
    states = _states(x, k, v, slope=False)
    slopes = q.new_empty(z.rows, x.chunks, plan.CHUNK, plan.CHUNK, dtype=torch.float32)
    kernels.products[(z.rows * x.chunks,)](
        g, _strides(g), v, _strides(v), slopes, z, plan, **options(WARPS, STAGES)
    )
    dq, dk = like_tokens(q, z.d), like_tokens(k, z.d)
    turns = q.new_empty(x.scans, z.rows, z.n, z.d, dtype=torch.float32)
    kernels.to_q_and_k[z.rows * x.chunks * (plan.CHUNK // PART), plan.PARTS_D](
        Inputs(q, k, v), _strides(q), _strides(k), _strides(v), g, _strides(g), *x.gates,
        slopes, states, slope_states, dq, _strides(dq), dk, _strides(dk), turns, z, plan,
        **x.wide_options,
    )  # fmt: skip
    return dq, dk, turns


def _gate(turns: Tensor, gate: Tensor, *, back: bool) -> Tensor:
    h, n, d = gate.shape[1:]
    out = like_tokens(gate, d)
    block_t, block_d = min(RUN, padded(n)), min(CHANNELS, padded(d))
    kernels.to_gate[len(turns), ceil_div(d, block_d)](
        turns, out, _strides(out), h, n, d, back, block_t, block_d, enable_fp_fusion=True
    )
    return out


def _strides(x: Tensor) -> tuple[int, int, int]:
    """Of batch, head and token."""
    return x.stride(0), x.stride(1), x.stride(2)
