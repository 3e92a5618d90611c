"""Learned maps on Triton: what they take, their result, their gradients.

The kernels make Phi(A) `b h n r` from queries and keys; what comes after it is small, and torch's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..shared import by_rows, fused
from ..shared.triton_launch import (
    MOST,
    ceil_div,
    dense_rows,
    dot_precision,
    dot_type,
    like_tokens,
    options,
    padded,
)
from .arguments import Functions, KanArguments, check
from .reference import rows_at_once
from .rows import mixed, scaled
from .triton_kernels import Plan, Sizes, reduce_keys, to_keys, to_queries, to_table

LARGEST_HEAD = 256
MOST_FUNCTIONS = 64
BASE_NUMBERS = {"zero": 0, "identity": 1, "silu": 2, "gelu": 3}
FUNCTIONS = ("a", "b", "scale_base", "scale_sp")


def can_run(**arguments: Any) -> str | None:
    """None where the kernels take the call, else the reason against them."""
    x = KanArguments(**arguments)
    if x.q.ndim != 4 or x.k.ndim != 4 or x.a.ndim != 4:
        return "tensors are not b h n d"
    if any(t.numel() == 0 for t in (x.q, x.k, x.v, x.a)):
        return "there is nothing to compute"
    if x.basis != "fourier" or x.order != "w_phi":
        return f"no kernel for basis {x.basis!r} in order {x.order!r}"
    if x.a.shape[1] > MOST_FUNCTIONS:
        return f"rows are reduced to more than {MOST_FUNCTIONS} numbers"
    if x.q.shape[3] > LARGEST_HEAD:
        return f"heads are wider than {LARGEST_HEAD}"
    spans = (t.shape[2] * max(t.stride(2), t.shape[1] * t.shape[3]) for t in (x.q, x.k))
    if max(*spans, x.a.shape[1] * max(x.q.shape[2], x.k.shape[2])) > MOST:
        return f"a head spans more than {MOST} numbers"
    return None


@dataclass(frozen=True)
class KanOperands:
    """Queries, keys and coefficients of one call as kernels take them.

    table  `h t m r` in float32: of all cosines, all sines, the base function
    """

    q: Tensor
    k: Tensor
    table: Tensor
    grid: int
    base: int
    factor: float

    @cached_property
    def sizes(self) -> Sizes:
        _, h, n, _ = self.q.shape
        m, functions = self.table.shape[2:]
        return Sizes(h, n, m, functions, self.factor)

    @cached_property
    def plan(self) -> Plan:
        (_, _, n, d), m = self.q.shape, self.k.shape[2]
        tile = 64 if self.q.element_size() < 4 and padded(d) <= 128 else 32
        blocks = padded(d), padded(self.table.shape[3]), min(tile, padded(n)), min(tile, padded(m))
        return Plan(self.grid, self.base, d, *blocks, dot_type(self.q.dtype), dot_precision())

    @property
    def inputs(self) -> tuple[Any, ...]:
        return self.q, self.q.stride()[:3], self.k, self.k.stride()[:3]

    def programs(self, count: int, tile: int) -> int:
        """One for each tile of the `count` tokens of a head."""
        return self.q.shape[0] * self.q.shape[1] * ceil_div(count, tile)


def forward(**arguments: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The result and, for the backward, Phi(A) in float32."""
    whole = _checked(arguments)
    x = whole.learned()
    p = _operands(x)
    phi = x.q.new_empty(*x.q.shape[:3], x.a.shape[1], dtype=torch.float32)
    reduce_keys[(p.programs(p.sizes.n, p.plan.BLOCK_M),)](
        *p.inputs, p.table, phi, p.sizes, p.plan, **options(4, 2)
    )
    out = _after(x, phi, x.W, x.v).to(x.v.dtype)
    if whole.softmax_heads:
        rest = whole.softmax()
        out = whole.joined(out, fused(rest.q, rest.k, rest.v, scale=rest.scale))
    return out, (phi,)


def backward(
    g: Tensor, out: Tensor, saved: tuple[Tensor, ...], needs: set[str], **arguments: Any
) -> dict[str, Tensor]:
    """Gradients: torch's back to Phi(A) and those of W and v, then kernels to scores and table."""
    whole = _checked(arguments)
    x, heads = whole.learned(), whole.learned_heads
    (phi,) = saved
    received = g[:, heads] if whole.softmax_heads else g
    grads = _before(x, phi, received)
    dphi = grads.pop("phi").contiguous()
    p = _operands(x)
    if "q" in needs:
        grads["q"] = _query_gradient(p, dphi)
    if "k" in needs:
        grads["k"] = _key_gradient(p, dphi)
    if needs & set(FUNCTIONS):
        grads |= _function_gradients(x, _table_gradient(p, dphi), needs)
    if whole.softmax_heads:
        grads |= _joined(whole, grads, g)
    return {name: d.to(arguments[name].dtype) for name, d in grads.items() if name in needs}


def _checked(arguments: dict[str, Any]) -> KanArguments:
    x = KanArguments(**arguments)
    check(x)  # pointers would run past the end
    return x


def _operands(x: KanArguments) -> KanOperands:
    with torch.no_grad():
        table = _table(x.first, x.base)
    base = BASE_NUMBERS[x.base]
    return KanOperands(
        dense_rows(x.q), dense_rows(x.k), table.contiguous(), x.a.shape[3], base, x.factor
    )


def _table(f: Functions, base: str) -> Tensor:
    """Coefficients as kernels read them, `h t m r`."""
    parts = [t.float().permute(0, 3, 2, 1) for t in scaled(f.a, f.b, f.scale_sp)]
    if base != "zero":
        beside = torch.ones_like(f.a[..., 0]) if f.scale_base is None else f.scale_base
        parts.append(beside.float().mT[:, None])
    return torch.cat(parts, 1)


def _after(x: KanArguments, phi: Tensor, projector: Tensor | None, v: Tensor) -> Tensor:
    """The map times the values from Phi(A), in blocks of queries."""

    def run(part: Tensor, projector: Tensor | None, v: Tensor) -> Tensor:
        return mixed(replace(x, W=projector, v=v), part)

    return by_rows(run, phi, projector, v, block=rows_at_once(x))


def _before(x: KanArguments, phi: Tensor, g: Tensor) -> dict[str, Tensor]:
    """The gradients of Phi(A), W and v."""
    assert x.W is not None
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in (phi, x.W, x.v)]
        out = _after(x, *leaves)
        found = torch.autograd.grad(out, leaves, g.to(out.dtype))
    return dict(zip(("phi", "W", "v"), found, strict=True))


def _query_gradient(p: KanOperands, dphi: Tensor) -> Tensor:
    """Eight warps: with four, sm_90 spills 200 bytes and more of the tiles of scores."""
    dq = like_tokens(p.q, p.q.shape[3])
    to_queries[(p.programs(p.sizes.n, p.plan.BLOCK_M),)](
        *p.inputs, p.table, dphi, dq, dq.stride()[:3], p.sizes, p.plan, **options(8, 2)
    )
    return dq


def _key_gradient(p: KanOperands, dphi: Tensor) -> Tensor:
    dk = like_tokens(p.k, p.k.shape[3])
    to_keys[(p.programs(p.sizes.m, p.plan.BLOCK_N),)](
        *p.inputs, p.table, dphi, dk, dk.stride()[:3], p.sizes, p.plan, **options(8, 2)
    )
    return dk


def _table_gradient(p: KanOperands, dphi: Tensor) -> Tensor:
    """The gradient of the table, summed over pictures."""
    parts = dphi.new_empty(len(p.q), *p.table.shape)
    tiles = p.programs(p.sizes.m, p.plan.BLOCK_N)
    for on_base, terms in ((False, p.grid), (True, 1 if p.base else 0)):
        if terms:
            to_table[(tiles, terms)](
                *p.inputs, dphi, parts, p.sizes, p.plan, on_base, **options(4, 2)
            )
    return parts.sum(0)


def _function_gradients(x: KanArguments, dtable: Tensor, needs: set[str]) -> dict[str, Tensor]:
    """What the table's gradient is for the tensors that it was made of."""
    with torch.enable_grad():
        leaves: dict[str, Any] = {}
        for name in FUNCTIONS:
            held = getattr(x, name)
            if held is not None:
                leaves[name] = held.detach().requires_grad_(name in needs)
        wanted = [name for name in leaves if name in needs]
        found = torch.autograd.grad(
            _table(Functions(**leaves), x.base),
            [leaves[name] for name in wanted],
            dtable,
            allow_unused=True,
        )
    return {name: d for name, d in zip(wanted, found, strict=True) if d is not None}


def _joined(whole: KanArguments, grads: dict[str, Tensor], g: Tensor) -> dict[str, Tensor]:
    """Gradients of q, k and v of all heads: those of the softmax heads are torch's."""
    rest = whole.softmax()
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in (rest.q, rest.k, rest.v)]
        out = fused(*leaves, scale=rest.scale)
        found = torch.autograd.grad(out, leaves, g[:, list(whole.softmax_heads)])
    names = ("q", "k", "v")
    return {
        name: whole.joined(grads[name].to(d.dtype), d)
        for name, d in zip(names, found, strict=True)
        if name in grads
    }
