"""Softmax attention by torch's fused op, differentiable as often as one likes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from .precision import wide


def fused(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    scale: float | None = None,
    causal: bool = False,
) -> Tensor:
    """softmax(scale q k' + mask) v over `... n d`; a query that sees nothing gives zeros.

    The fused op has no second derivative and no forward mode: those come from the formula. On a
    CPU it holds no n x m only where keys are as wide as values: zeros fill up the narrower.
    """
    d, e = q.shape[-1], v.shape[-1]
    moving = mask is not None and mask.requires_grad  # whose gradient is n x m in any case
    if d != e and q.device.type == "cpu" and not moving and not transformed():
        q, k, v = (F.pad(x, (0, max(d, e) - x.shape[-1])) for x in (q, k, v))
        out = _of_one_width(q, k, v, mask, d**-0.5 if scale is None else scale, causal)
        return out[..., :e]
    return _of_one_width(q, k, v, mask, scale, causal)


def _of_one_width(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool
) -> Tensor:
    if torch.compiler.is_compiling():
        return _sdpa(q, k, v, mask, scale, causal)
    if transformed():
        return written(q, k, v, mask, scale, causal)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, mask)):
        return cast(Callable[..., Tensor], _Fused.apply)(q, k, v, mask, scale, causal)
    return _sdpa(q, k, v, mask, scale, causal)


def written(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool
) -> Tensor:
    """The same written out, in float32 or float64."""
    scores = wide(q) @ wide(k).mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = scores + mask
    if causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
        scores = scores.masked_fill(~seen, -torch.inf)
    return (normal(scores) @ wide(v)).to(v.dtype)


def normal(scores: Tensor) -> Tensor:
    """softmax over the last axis; a row of minus infinities gives zeros."""
    empty = scores.amax(-1, keepdim=True) == -torch.inf
    return scores.masked_fill(empty, 0.0).softmax(-1).masked_fill(empty, 0.0)


def _sdpa(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None, causal: bool
) -> Tensor:
    out: Tensor = F.scaled_dot_product_attention(q, k, v, mask, scale=scale, is_causal=causal)
    return out


def transformed() -> bool:
    """Whether torch.func or forward mode is at work."""
    stack = torch._C._functorch.peek_interpreter_stack()
    return stack is not None or torch.autograd.forward_ad._current_level >= 0


class _Fused(torch.autograd.Function):
    """The fused op with its own graph for the first backward, the formula for a second order."""

    @staticmethod
    def forward(ctx: Any, *call: Any) -> Tensor:
        ctx.save_for_backward(*call[:4])
        ctx.options = call[4:]
        ctx.leaves, ctx.out = _run(call[:4], ctx.needs_input_grad[:4], ctx.options)
        out: Tensor = ctx.out.detach()
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        again, moving = torch.is_grad_enabled(), ctx.needs_input_grad[:4]
        if again:  # views, so that a tensor that is q and k has a gradient as each
            leaves: list[Any] = [x if x is None else x.view_as(x) for x in ctx.saved_tensors]
            out = written(*leaves, *ctx.options)
        elif ctx.out is not None:
            leaves, out = ctx.leaves, ctx.out
        else:
            leaves, out = _run(ctx.saved_tensors, moving, ctx.options)
        ctx.leaves = ctx.out = None  # the first backward frees its graph, a later one runs again
        wanted = [x for x, moves in zip(leaves, moving, strict=True) if moves]
        slopes = iter(torch.autograd.grad(out, wanted, grads[0], create_graph=again))
        return (*(next(slopes) if moves else None for moves in moving), None, None)


def _run(
    tensors: tuple[Tensor | None, ...], moving: tuple[bool, ...], options: tuple[Any, ...]
) -> tuple[list[Any], Tensor]:
    """The fused op on copies of its arguments that share their memory, with a graph to them."""
    with torch.enable_grad():
        leaves: list[Any] = [
            x if x is None else x.detach().requires_grad_(moves)
            for x, moves in zip(tensors, moving, strict=True)
        ]
        return leaves, _sdpa(*leaves, *options)
