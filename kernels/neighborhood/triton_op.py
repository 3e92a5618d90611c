"""Neighbourhood attention on Triton: what it takes, its result, its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..kernel import interpreted
from ..shared.triton_launch import (
    MOST,
    ceil_div,
    dense_rows,
    dot_precision,
    dot_type,
    like_tokens,
    options,
    padded,
    power_of_2,
    scarce,
)
from ..shared.triton_rows import LOG2E
from .axes import Axis, Ints, axes_of
from .reference import check
from .tiles import Tiles, Triple, tiles
from .triton_kernels import Plan, Pointers, Strides, attend, to_extra, to_keys, to_queries

LARGEST_HEAD = 256
MOST_HEADS = 65535  # of all pictures: the second axis of a launch
PARTS = 64  # parts of the queries whose gradients of extra keys are added up at the end


def can_run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extra_k: Tensor | None = None,
    extra_v: Tensor | None = None,
    **_: Any,
) -> str | None:
    """None where the kernels take the call, else the reason against them."""
    tensors = [x for x in (q, k, v, extra_k, extra_v) if x is not None]
    if len({x.dtype for x in tensors}) > 1:
        return "tensors have several dtypes"
    if any(x.ndim != 4 for x in tensors):
        return "tensors are not b h n d"
    if any(x.numel() == 0 for x in tensors):
        return "there is nothing to compute"
    if max(q.shape[3], v.shape[3]) > LARGEST_HEAD:
        return f"heads are wider than {LARGEST_HEAD}"
    if scarce(q) and _row_bytes(q, v) > 512:
        return "this device has too little shared memory for heads so wide"
    if q.shape[0] * q.shape[1] > MOST_HEADS:
        return f"pictures have more than {MOST_HEADS} heads together"
    if any(x.shape[2] * max(x.stride(2), x.shape[1] * x.shape[3]) > MOST for x in tensors):
        return f"a head spans more than {MOST} numbers"
    return None


@dataclass(frozen=True)
class NeighborhoodOperands:
    """The arguments of one call as kernels take them: channels side by side, options by axis."""

    q: Tensor
    k: Tensor
    v: Tensor
    extra_k: Tensor | None
    extra_v: Tensor | None
    axes: tuple[Axis, ...]
    factor: float

    @cached_property
    def pointers(self) -> Pointers:
        return Pointers(self.q, self.k, self.v, self.extra_k, self.extra_v)

    @cached_property
    def strides(self) -> Strides:
        extra = (None if x is None else _strides(x) for x in (self.extra_k, self.extra_v))
        return Strides(_strides(self.q), _strides(self.k), _strides(self.v), *extra)

    @property
    def shared(self) -> int:
        """Heads that share keys."""
        return self.q.shape[1] // self.k.shape[1]

    @property
    def extra(self) -> int:
        """How many extra keys there are."""
        return 0 if self.extra_k is None else self.extra_k.shape[2]

    @property
    def scale(self) -> float:
        """The scale of scores in bits."""
        return self.factor * float(LOG2E.value)

    def tiles(self, *, back: bool) -> Tiles:
        exact = _exact(self.q) and not interpreted()
        return tiles(self.axes, widest=_row_bytes(self.q, self.v), back=back, exact=exact)

    def plan(self, tiling: Tiles) -> Plan:
        d, e = self.q.shape[3], self.v.shape[3]
        sizes = d, padded(d), e, padded(e), dot_type(self.q.dtype), dot_precision()
        return Plan(tiling.windows, tiling.rows, tiling.columns, tiling.tests, tiling.whole, *sizes)


def forward(**arguments: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The result and, for the backward, the base-2 log-sum-exp of each query's scores."""
    x = _prepare(**arguments)
    out = like_tokens(x.q, x.v.shape[3])
    lse = x.q.new_empty(x.q.shape[:3], dtype=torch.float32)
    tiling = x.tiles(back=False)
    attend[(tiling.programs, x.q.shape[0] * x.q.shape[1])](
        x.pointers, *x.strides, out, _strides(out), lse,
        x.q.shape[1], x.shared, tiling.grid, x.extra, x.scale, x.plan(tiling),
        **options(tiling.warps, tiling.stages),
    )  # fmt: skip
    return out, (lse,)


def backward(
    g: Tensor, out: Tensor, saved: tuple[Tensor, ...], needs: set[str], **arguments: Any
) -> dict[str, Tensor]:
    """The gradients: of queries tile by tile, then of keys and values by those who see them."""
    x, g, lse = _prepare(**arguments), dense_rows(g), saved[0]
    delta = torch.empty_like(lse)
    grads: dict[str, Tensor] = {}
    dq = _to_queries(x, g, out, lse, delta, wanted="q" in needs)
    if dq is not None:
        grads["q"] = dq
    if needs & {"k", "v"}:
        grads["k"], grads["v"] = _to_keys(x, g, lse, delta)
    if x.extra_k is not None and x.extra_v is not None and needs & {"extra_k", "extra_v"}:
        extra = x.extra_k, x.extra_v
        grads["extra_k"], grads["extra_v"] = _to_extra(x, *extra, g, lse, delta)
    return {name: grad for name, grad in grads.items() if name in needs}


def _prepare(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    grid: Sequence[int],
    kernel_size: Ints,
    stride: Ints = 1,
    dilation: Ints = 1,
    causal: bool | Sequence[bool] = False,
    scale: float | None = None,
    extra_k: Tensor | None = None,
    extra_v: Tensor | None = None,
) -> NeighborhoodOperands:
    axes = axes_of(grid, kernel_size, stride, dilation, causal)
    check(q, k, v, axes, extra_k, extra_v)  # pointers would run past the end
    return NeighborhoodOperands(
        dense_rows(q),
        dense_rows(k),
        dense_rows(v),
        None if extra_k is None else dense_rows(extra_k),
        None if extra_v is None else dense_rows(extra_v),
        axes,
        q.shape[3] ** -0.5 if scale is None else scale,
    )


def _to_queries(
    x: NeighborhoodOperands, g: Tensor, out: Tensor, lse: Tensor, delta: Tensor, *, wanted: bool
) -> Tensor | None:
    """The gradient of queries, where wanted; delta is filled in any case."""
    dq = like_tokens(x.q, x.q.shape[3]) if wanted else None
    tiling = x.tiles(back=False)
    to_queries[(tiling.programs, x.q.shape[0] * x.q.shape[1])](
        x.pointers, *x.strides, out, _strides(out), g, _strides(g), lse, delta,
        dq, None if dq is None else _strides(dq),
        x.q.shape[1], x.shared, tiling.grid, x.extra, x.scale, x.factor, x.plan(tiling),
        **options(tiling.warps, tiling.stages),
    )  # fmt: skip
    return dq


def _to_keys(
    x: NeighborhoodOperands, g: Tensor, lse: Tensor, delta: Tensor
) -> tuple[Tensor, Tensor]:
    dk, dv = like_tokens(x.k, x.k.shape[3]), like_tokens(x.v, x.v.shape[3])
    tiling = x.tiles(back=True)
    to_keys[(tiling.programs, x.k.shape[0] * x.k.shape[1])](
        x.pointers, *x.strides[:3], g, _strides(g), lse, delta, dk, _strides(dk), dv, _strides(dv),
        x.k.shape[1], x.shared, tiling.grid, x.scale, x.factor, x.plan(tiling),
        **options(tiling.warps, tiling.stages),
    )  # fmt: skip
    return dk, dv


def _to_extra(
    x: NeighborhoodOperands, extra_k: Tensor, extra_v: Tensor, g: Tensor, lse: Tensor, delta: Tensor
) -> tuple[Tensor, Tensor]:
    """Every query sees extra keys: sums over some of them at a time, added up in the end."""
    (b, groups, extra, d), e, n = extra_k.shape, extra_v.shape[3], x.q.shape[2]
    block_n = 16 if _exact(x.q) else 32 if _row_bytes(x.q, extra_v) > 256 else 64
    block_m = min(block_n, max(16, power_of_2(extra)))
    part = ceil_div(ceil_div(n, block_n), PARTS) * block_n
    parts = ceil_div(n, part)
    dk = extra_k.new_empty(parts, b, groups, extra, d, dtype=torch.float32)
    dv = extra_v.new_empty(parts, b, groups, extra, e, dtype=torch.float32)
    to_extra[(parts * ceil_div(extra, block_m), b * groups)](
        x.pointers, x.strides.q, x.strides.extra_k, x.strides.extra_v,
        g, _strides(g), lse, delta, dk, dv,
        groups, x.q.shape[1] // groups, n, extra, x.scale, x.factor, part,
        x.plan(x.tiles(back=True)), block_m, block_n, **options(4, 2),
    )  # fmt: skip
    return dk.sum(0).to(extra_k.dtype), dv.sum(0).to(extra_v.dtype)


def _row_bytes(q: Tensor, v: Tensor) -> int:
    """Bytes of the widest row that a program holds; twice that where memory for it is scarce."""
    widest = max(padded(q.shape[3]), padded(v.shape[3])) * q.element_size()
    return 2 * widest if scarce(q) else widest


def _exact(q: Tensor) -> bool:
    """Whether products keep all of float32; half precision has no such choice."""
    return q.dtype == torch.float32 and not torch.backends.cuda.matmul.allow_tf32


def _strides(x: Tensor) -> Triple:
    """Of batch, head and token."""
    return x.stride(0), x.stride(1), x.stride(2)
