"""What kernels of several ops share: rows of channels in and out, a running softmax."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# Triton types kernels when it compiles them.
from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)  # bits of a nat: kernels exponentiate to base 2


@triton.jit
def load_rows(p, o_row, m_row, stride, D: tl.constexpr, BLOCK_D: tl.constexpr, DTYPE: tl.constexpr):
    """Tokens of a head, `row BLOCK_D`; zeros where there is none, and beyond D channels."""
    o_d = tl.arange(0, BLOCK_D)
    mask = m_row[:, None]
    if D < BLOCK_D:
        mask = mask & (o_d < D)[None, :]
    return tl.load(p + o_row[:, None] * stride + o_d[None, :], mask=mask, other=0.0).to(DTYPE)


@triton.jit
def store_rows(p, o_row, m_row, stride, b_x, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Write tokens of a head in the type of its memory."""
    o_d = tl.arange(0, BLOCK_D)
    p_x = p + o_row[:, None] * stride + o_d[None, :]
    tl.store(p_x, b_x.to(p.dtype.element_ty), mask=m_row[:, None] & (o_d < D)[None, :])


@triton.jit
def softmax_step(b_s, b_max, b_sum, SEEN: tl.constexpr):
    """More scores in bits: their shares, what sums before shrink by, the new maximum and sum.

    SEEN   every row sees something, so that no maximum is -inf
    """
    b_new = tl.maximum(b_max, tl.max(b_s, 1))
    b_base = b_new if SEEN else tl.where(b_new == float("-inf"), 0.0, b_new)
    b_p = tl.exp2(b_s - b_base[:, None])
    b_shrink = tl.exp2(b_max - b_base)
    return b_p, b_shrink, b_new, b_sum * b_shrink + tl.sum(b_p, 1)
