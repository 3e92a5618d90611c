"""Aggregated attention on Triton: what it takes, its result, its gradients, its statistics."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

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
from .arguments import AggregatedArguments, check
from .triton_gradients import (
    Given,
    QueryGradients,
    to_pool_bias,
    to_pooled,
    to_queries,
    to_tokens,
)
from .triton_kernels import Plan, Pointers, Sizes, Strides, Triple, attend

LARGEST_KERNEL = 7
LARGEST_HEAD = 128
MOST_HEADS = 65535  # of all pictures: the second axis of a launch
PARTS = 64  # parts of the queries whose gradients of pooled keys are added up at the end


def can_run(**arguments: Any) -> str | None:
    """None where the kernels take the call, else the reason against them."""
    x = AggregatedArguments(**arguments)
    if any(tensor.numel() == 0 for tensor in x.tensors):
        return "there is nothing to compute"
    check(x)
    if len({tensor.dtype for tensor in (x.q, x.k, x.v)}) > 1:
        return "q, k and v have several dtypes"
    if x.kernel_size > LARGEST_KERNEL:
        return f"a window of {x.kernel_size} is larger than {LARGEST_KERNEL}"
    if max(x.q.shape[3], x.v.shape[3]) > LARGEST_HEAD:
        return f"heads are wider than {LARGEST_HEAD}"
    if x.q.shape[0] * x.q.shape[1] > MOST_HEADS:
        return f"pictures have more than {MOST_HEADS} heads together"
    if any(t.shape[2] * max(t.stride(2), t.shape[1] * t.shape[3]) > MOST for t in (x.q, x.k, x.v)):
        return f"a head spans more than {MOST} numbers"
    return None


@dataclass(frozen=True)
class AggregatedOperands:
    """The arguments of one call as kernels take them: channels side by side, options dense."""

    arguments: AggregatedArguments

    @cached_property
    def pointers(self) -> Pointers:
        x = self.arguments
        _, h, n, d = x.q.shape

        def filled(given: Tensor | None, width: int, value: float) -> Tensor:
            return x.q.new_full((h, width), value) if given is None else given.contiguous()

        return Pointers(
            dense_rows(x.q),
            dense_rows(x.k),
            dense_rows(x.v),
            filled(x.embedding, d, 0.0),
            filled(x.scale, n, 1.0),
            filled(x.local_bias, x.window, 0.0),
            None if x.pool_bias is None else x.pool_bias.contiguous(),
            None if x.table is None else x.table.contiguous(),
        )

    @cached_property
    def strides(self) -> Strides:
        p = self.pointers
        return Strides(_strides(p.q), _strides(p.k), _strides(p.v))

    @property
    def sizes(self) -> Sizes:
        x = self.arguments
        return Sizes(x.q.shape[1], x.tokens, *x.grid, x.pooled)

    @property
    def rows(self) -> int:
        """Heads of all pictures."""
        return self.arguments.q.shape[0] * self.arguments.q.shape[1]

    @property
    def plan(self) -> Plan:
        """Tiles that sm_90 keeps in registers, but for 88 bytes of the widest float32 kernel."""
        x = self.arguments
        d, e = x.q.shape[3], x.v.shape[3]
        most = 1024 if x.q.dtype == torch.float32 else 2048  # numbers of a tile's widest rows
        block_m = max(16, min(64, most // max(padded(d), padded(e))))
        block_n = max(16, min(32, power_of_2(x.pooled)))
        sizes = d, padded(d), e, padded(e), dot_type(x.q.dtype), dot_precision()
        return Plan(x.kernel_size, power_of_2(x.window), block_m, block_n, *sizes)


def forward(**arguments: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The result and, for the backward, the base-2 log-sum-exp of each query's scores."""
    out, lse, _ = _attend(_prepare(AggregatedArguments(**arguments)))
    return out, (lse,)


def measured(x: AggregatedArguments) -> tuple[Tensor, Tensor]:
    """The result and, from the same pass, the share of each query's window, `b h n`."""
    out, _, foveal = _attend(_prepare(x))
    return out, foveal


def backward(
    g: Tensor, out: Tensor, saved: tuple[Tensor, ...], needs: set[str], **arguments: Any
) -> dict[str, Tensor]:
    """The gradients: of what belongs to queries, then of those who are seen by them."""
    x, g, lse = _prepare(AggregatedArguments(**arguments)), dense_rows(g), saved[0]
    given = Given(g, lse, torch.empty_like(lse))
    grads = _query_gradients(x, given)
    if needs & {"k", "v"}:
        grads["k"], grads["v"] = _key_gradients(x, given)
    if "pool_bias" in needs:
        grads["pool_bias"] = _bias_gradient(x, given)
    return {name: grads[name].to(arguments[name].dtype) for name in needs}


def _prepare(x: AggregatedArguments) -> AggregatedOperands:
    check(x)  # pointers would run past the end
    return AggregatedOperands(x)


def _attend(x: AggregatedOperands) -> tuple[Tensor, Tensor, Tensor]:
    q, plan = x.arguments.q, x.plan
    out = like_tokens(q, x.arguments.v.shape[3])
    lse, foveal = (q.new_empty(q.shape[:3], dtype=torch.float32) for _ in range(2))
    attend[(ceil_div(x.sizes.tokens, plan.BLOCK_M), x.rows)](
        x.pointers, *x.strides, out, _strides(out), lse, foveal, x.sizes, plan, **options(4, 2)
    )
    return out, lse, foveal


def _query_gradients(x: AggregatedOperands, given: Given) -> dict[str, Tensor]:
    """Delta is filled; parameters that queries share are summed over tiles and pictures."""
    q, plan, window = x.arguments.q, x.plan, x.arguments.window
    (b, h, n, d), tiles = q.shape, ceil_div(x.sizes.tokens, plan.BLOCK_M)
    exact = torch.float32
    memory = QueryGradients(
        like_tokens(q, d),
        q.new_empty(b, h, n, dtype=exact),
        q.new_empty(b, h, n, window),
        q.new_empty(tiles, b, h, d, dtype=exact),
        q.new_empty(tiles, b, h, window, dtype=exact),
    )
    to_queries[(tiles, x.rows)](
        x.pointers, *x.strides, given, _strides(given.g),
        memory, _strides(memory.q), x.sizes, plan, **options(4, 2),
    )  # fmt: skip
    return {
        "q": memory.q,
        "scale": memory.scale.sum(0),
        "table": memory.table,
        "embedding": memory.embedding.sum((0, 1)),
        "local_bias": memory.local_bias.sum((0, 1)),
    }


def _key_gradients(x: AggregatedOperands, given: Given) -> tuple[Tensor, Tensor]:
    k, v, plan, sizes = x.arguments.k, x.arguments.v, x.plan, x.sizes
    dk, dv = like_tokens(k, k.shape[3]), like_tokens(v, v.shape[3])
    to_tokens[(ceil_div(sizes.tokens, plan.BLOCK_M), x.rows)](
        x.pointers, *x.strides, given, _strides(given.g), dk, _strides(dk), dv, _strides(dv),
        sizes, plan, **options(4, 2),
    )  # fmt: skip
    part = ceil_div(ceil_div(sizes.tokens, plan.BLOCK_M), PARTS) * plan.BLOCK_M
    parts = ceil_div(sizes.tokens, part)
    sums = [k.new_empty(parts, *k.shape[:2], sizes.pooled, w, dtype=torch.float32)
            for w in (k.shape[3], v.shape[3])]  # fmt: skip
    to_pooled[(parts * ceil_div(sizes.pooled, plan.BLOCK_N), x.rows)](
        x.pointers, *x.strides, given, _strides(given.g), *sums, sizes, part, plan,
        **options(4, 2),
    )  # fmt: skip
    dk[:, :, sizes.tokens :] = _turned(sums[0].sum(0), k[:, :, sizes.tokens :])
    dv[:, :, sizes.tokens :] = sums[1].sum(0)
    return dk, dv


def _turned(slope: Tensor, k: Tensor) -> Tensor:
    """The gradient of keys from that of the same keys at length 1."""
    wide = k.float()
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).clamp(min=1e-12)
    unit = wide / length
    along = torch.linalg.vecdot(slope, unit)[..., None]
    return (slope - torch.where(length > 1e-12, along, 0.0) * unit) / length


def _bias_gradient(x: AggregatedOperands, given: Given) -> Tensor:
    sizes, plan, q = x.sizes, x.plan, x.arguments.q
    dbias = q.new_empty(sizes.heads, sizes.tokens, sizes.pooled, dtype=torch.float32)
    tiles = ceil_div(sizes.tokens, plan.BLOCK_M) * ceil_div(sizes.pooled, plan.BLOCK_N)
    to_pool_bias[(tiles, sizes.heads)](
        x.pointers, *x.strides, given, _strides(given.g), dbias, q.shape[0], sizes, plan,
        **options(4, 2),
    )  # fmt: skip
    return dbias


def _strides(x: Tensor) -> Triple:
    """Of batch, head and token."""
    return x.stride(0), x.stride(1), x.stride(2)
