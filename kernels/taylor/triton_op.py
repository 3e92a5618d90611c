"""Taylor attention by segments, on Triton: sums of segments, and the order of launches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton.language as tl
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
)
from . import triton_kernels as kernels
from .triton_kernels import Plan, Sizes, Tokens

BLOCK, VALUES, RUN = 64, 64, 1024  # tokens, channels of values, and sums of one program
SEGMENTS = 64, 1024  # the fewest and the most tokens of one
MOST_CHANNELS = 128
WARPS, STAGES = 4, 2


def can_run(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> str | None:
    """None where the kernels take the call, else the reason against them."""
    if any(x.ndim != 4 for x in (q, k, v)):
        return "an argument has not four axes"
    if q.shape != k.shape or v.shape[:3] != q.shape[:3]:
        return "shapes do not fit each other"
    if len({q.dtype, k.dtype, v.dtype}) > 1:
        return "q, k and v are of several dtypes"
    if q.numel() == 0 or v.numel() == 0:
        return "there is nothing to compute"
    if q.shape[3] > MOST_CHANNELS:
        return f"queries of more than {MOST_CHANNELS} channels"
    if any(x.shape[2] * max(x.stride(2), x.shape[3]) > MOST for x in (q, k, v)):
        return f"a head reaches over more than {MOST} numbers"
    return None


@dataclass(frozen=True)
class TaylorOperands:
    """The arguments of one call as kernels take them."""

    q: Tensor
    k: Tensor
    v: Tensor
    factor: float
    eps: float

    @property
    def sizes(self) -> Sizes:
        return Sizes(self.q.shape[1], self.q.shape[2], self.eps)

    @property
    def rows(self) -> int:
        """Heads of all pictures."""
        return self.q.shape[0] * self.q.shape[1]

    @property
    def keys(self) -> Tokens:
        """Keys, and values beside them."""
        return Tokens(self.k, self.v, None, None, 1.0)

    def queries(self, g: Tensor, share: Tensor, weight: Tensor) -> Tokens:
        """Queries, and beside them the gradients of their results."""
        return Tokens(self.q, g, share, weight, self.factor)

    def plan(self, *, back: bool) -> Plan:
        n, d, e = self.q.shape[2], self.q.shape[3], self.v.shape[3]
        fewest, most = SEGMENTS  # as long as scores cost what sums cost
        segment = max(fewest, min(most, power_of_2(2 * d * d * e // (d + e))))
        sums = ceil_div((d + 1) * (d * e + d) + e + 1, 16) * 16
        blocks = segment, min(BLOCK, padded(n)), d, e, padded(d), min(VALUES, padded(e))
        return Plan(*blocks, sums, back, *self._dots, *self._state_dots)

    @property
    def _dots(self) -> tuple[Any, str]:
        return dot_type(self.q.dtype), dot_precision()

    @property
    def _state_dots(self) -> tuple[Any, str]:
        """Of sums over tokens and of weights, which float16 may not hold."""
        dtype, precision = self._dots
        if dtype == tl.float16:
            return tl.float32, "ieee" if interpreted() else "tf32"
        return dtype, precision

    @property
    def options(self) -> dict[str, Any]:
        """Dots in full float32 run on no tensor core: their tiles need more registers."""
        return options(8 if self.q.dtype == torch.float32 else WARPS, STAGES)

    @property
    def blocks(self) -> int:
        """Blocks of tokens of all heads."""
        return self.rows * ceil_div(self.q.shape[2], min(BLOCK, padded(self.q.shape[2])))

    @property
    def parts(self) -> int:
        """Blocks of channels of values."""
        return ceil_div(self.v.shape[3], min(VALUES, padded(self.v.shape[3])))


@dataclass(frozen=True)
class SegmentSums:
    """What tokens meet of other segments.

    sums    `b*h segments numbers`, see Plan; each with those of all segments before (behind) it
    count   segments but one: the last (first) is met by none
    """

    sums: Tensor
    count: int


def forward(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, eps: float
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The result, and for the backward the sum of weights of each query, `b*h n`."""
    x = _prepare(q, k, v, scale, eps)
    out = like_tokens(v, v.shape[3])
    weights = q.new_empty(x.rows, q.shape[2], dtype=torch.float32)
    _results(x, x.q, x.factor, x.keys, _sums(x, x.keys, back=False), out, weights, back=False)
    return out, (weights,)


def backward(
    g: Tensor,
    out: Tensor,
    saved: tuple[Tensor, ...],
    needs: set[str],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    eps: float,
) -> dict[str, Tensor]:
    """Gradients of v as results are formed, from behind; of q and k by one kernel."""
    x, g, (weights,) = _prepare(q, k, v, scale, eps), dense_rows(g), saved
    share = weights.reciprocal()
    weight = (g.float() * out.float()).sum(-1).reshape_as(weights) * share
    queries = x.queries(g, share, weight)
    grads: dict[str, Tensor] = {}
    if "q" in needs:
        grads["q"] = _to_scores(x, queries, x.keys, _sums(x, x.keys, back=False), back=False)
    if needs - {"q"}:
        sums = _sums(x, queries, back=True)
        if "v" in needs:
            grads["v"] = like_tokens(v, v.shape[3])
            _results(x, x.k, 1.0, queries, sums, grads["v"], None, back=True)
        if "k" in needs:
            grads["k"] = _to_scores(x, x.keys, queries, sums, back=True)
    return grads


def _prepare(q: Tensor, k: Tensor, v: Tensor, scale: float | None, eps: float) -> TaylorOperands:
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    q, k, v = (dense_rows(x) for x in (q, k, v))
    return TaylorOperands(q, k, v, float(factor), float(eps))


def _sums(x: TaylorOperands, tokens: Tokens, *, back: bool) -> SegmentSums:
    plan, (n, d) = x.plan(back=back), x.q.shape[2:]
    count = ceil_div(n, plan.SEGMENT) - 1
    sums = x.q.new_empty(x.rows, count, plan.SUMS, dtype=torch.float32)
    if count:
        kernels.segment_sums[x.rows * count, d + 1, x.parts](
            tokens, _strides(tokens.x), _strides(tokens.y), sums, x.sizes, count, plan,
            **options(WARPS, STAGES),
        )  # fmt: skip
        run = min(RUN, padded(plan.SUMS))
        kernels.add_up[x.rows, ceil_div(plan.SUMS, run)](
            sums, count, plan.SUMS, run, **options(WARPS, STAGES)
        )
    return SegmentSums(sums, count)


def _results(
    x: TaylorOperands,
    own: Tensor,
    scale: float,
    tokens: Tokens,
    met: SegmentSums,
    out: Tensor,
    weights: Tensor | None,
    *,
    back: bool,
) -> None:
    """Fill out, and the sums of weights where they are wanted."""
    kernels.results[x.blocks, x.parts](
        own, _strides(own), scale, tokens, _strides(tokens.x), _strides(tokens.y), met.sums,
        out, _strides(out), weights, x.sizes, met.count, x.plan(back=back),
        **x.options,
    )  # fmt: skip


def _to_scores(
    x: TaylorOperands, own: Tokens, tokens: Tokens, met: SegmentSums, *, back: bool
) -> Tensor:
    """The gradient of queries, or of keys."""
    out = like_tokens(own.x, own.x.shape[3])
    kernels.to_scores[(x.blocks,)](
        own, _strides(own.x), _strides(own.y), tokens, _strides(tokens.x), _strides(tokens.y),
        met.sums, out, _strides(out), x.sizes, met.count, x.parts, x.plan(back=back),
        **x.options,
    )  # fmt: skip
    return out


def _strides(x: Tensor) -> tuple[int, int, int]:
    """Of batch, head and token."""
    return x.stride(0), x.stride(1), x.stride(2)
