"""Routed attention in one pass, on Triton: keys are read where the index points, never gathered.

A program holds queries of one block and walks over the keys of the blocks that its row of the
index names. Backwards a program holds keys of one block and walks over the queries that named it,
by the index turned round, so nothing is added up by atomics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..kernel import interpreted
from ..windows import Window
from .reference import check

LARGEST_HEAD = 256
MOST = 2**31 - 2**20  # numbers of one head are counted in 32 bits
SHARED_MEMORY = 160 * 1024  # bytes, what the largest tiles take
LOG2E = 1.4426950408889634
LN2 = tl.constexpr(1 / LOG2E)

# Where the tokens of a block lie: blocks side by side, rows and columns of one, the grid's width.
Lattice = tuple[int, int, int, int]


@triton.jit
def _token(block, place, at: tl.constexpr):
    """The token at a place of a block."""
    y = block // at[0] * at[1] + place // at[2]
    x = block % at[0] * at[2] + place % at[2]
    return y * at[3] + x


@triton.jit
def _load(ptr, token, there, step, d: tl.constexpr, block_d: tl.constexpr, dtype: tl.constexpr):
    c = tl.arange(0, block_d)
    real = there[:, None] & (c < d)[None, :]
    return tl.load(ptr + token[:, None] * step + c[None, :], mask=real, other=0.0).to(dtype)


@triton.jit
def _store(ptr, token, there, step, x, d: tl.constexpr, block_d: tl.constexpr):
    c = tl.arange(0, block_d)
    real = there[:, None] & (c < d)[None, :]
    to = ptr + token[:, None] * step + c[None, :]
    tl.store(to, x.to(ptr.dtype.element_ty), mask=real)


@triton.jit
def _named(index, index_t, j, size, named, blocks, at: tl.constexpr):
    """The tokens of keys j, counted through the named blocks, and which of them are seen."""
    block = tl.load(index + j // size * index_t, mask=j < named * size, other=-1)
    there = (block >= 0) & (block < blocks)
    return _token(tl.where(there, block, 0).to(tl.int32), j % size, at), there


@triton.jit
def _attend(
    q_ptr, k_ptr, v_ptr, index_ptr, weight_ptr, out_ptr, lse_ptr,
    heads, tokens, blocks, queries, keys, named, scale,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n,
    i_b, i_h, i_r, i_t, w_b, w_h, w_r, w_t, out_b, out_h, out_n,
    at_q: tl.constexpr, at_k: tl.constexpr, weighted: tl.constexpr,
    d: tl.constexpr, block_d: tl.constexpr, e: tl.constexpr, block_e: tl.constexpr,
    block_m: tl.constexpr, block_n: tl.constexpr, dtype: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Queries of one block: their result and the base-2 log-sum-exp of their scores."""
    tiles = tl.cdiv(queries, block_m)
    own = tl.program_id(0) // tiles % blocks
    head = (tl.program_id(0) // tiles // blocks).to(tl.int64)
    b, h = head // heads, head % heads
    i = tl.program_id(0) % tiles * block_m + tl.arange(0, block_m)
    here, token = i < queries, _token(own, i, at_q)
    q = _load(q_ptr + b * q_b + h * q_h, token, here, q_n, d, block_d, dtype)
    k, v = k_ptr + b * k_b + h * k_h, v_ptr + b * v_b + h * v_h
    index = index_ptr + b * i_b + h * i_h + own * i_r
    weight = weight_ptr + b * w_b + h * w_h + own * w_r
    top = tl.full((block_m,), float("-inf"), tl.float32)
    total = tl.zeros((block_m,), tl.float32)
    out = tl.zeros((block_m, block_e), tl.float32)
    for start in range(0, named * keys, block_n):
        j = start + tl.arange(0, block_n)
        near, there = _named(index, i_t, j, keys, named, blocks, at_k)
        key = _load(k, near, there, k_n, d, block_d, dtype)
        s = tl.dot(q, tl.trans(key), input_precision=precision) * scale
        if weighted:
            factor = tl.load(weight + j // keys * w_t, mask=there, other=0.0).to(tl.float32)
            s *= factor[None, :]
        s = tl.where(there[None, :], s, float("-inf"))
        new = tl.maximum(top, tl.max(s, 1))
        base = tl.where(new == float("-inf"), 0.0, new)
        p, kept = tl.exp2(s - base[:, None]), tl.exp2(top - base)
        top, total = new, total * kept + tl.sum(p, 1)
        if weighted:
            p *= factor[None, :]
        value = _load(v, near, there, v_n, e, block_e, dtype)
        out = tl.dot(p.to(dtype), value, out * kept[:, None], input_precision=precision)
    seen = total > 0
    total = tl.where(seen, total, 1.0)
    _store(out_ptr + b * out_b + h * out_h, token, here, out_n, out / total[:, None], e, block_e)
    lse = tl.where(seen, top + tl.log2(total), float("inf"))  # +inf: a map of zeros
    tl.store(lse_ptr + head * tokens + token, lse, mask=here)


@triton.jit
def _to_queries(
    q_ptr, k_ptr, v_ptr, index_ptr, weight_ptr, out_ptr, g_ptr, lse_ptr, delta_ptr,
    dq_ptr, parts_ptr, heads, tokens, blocks, queries, keys, named, scale, factor_q,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n,
    i_b, i_h, i_r, i_t, w_b, w_h, w_r, w_t, out_b, out_h, out_n,
    g_b, g_h, g_n, dq_b, dq_h, dq_n,
    at_q: tl.constexpr, at_k: tl.constexpr, weighted: tl.constexpr,
    d: tl.constexpr, block_d: tl.constexpr, e: tl.constexpr, block_e: tl.constexpr,
    block_m: tl.constexpr, block_n: tl.constexpr, dtype: tl.constexpr, precision: tl.constexpr,
    slopes: tl.constexpr, to_weight: tl.constexpr,
):  # fmt: skip
    """delta = the sum of out g over channels; the gradient of queries; of weights, key by key."""
    tiles = tl.cdiv(queries, block_m)
    own = tl.program_id(0) // tiles % blocks
    head = (tl.program_id(0) // tiles // blocks).to(tl.int64)
    b, h = head // heads, head % heads
    i = tl.program_id(0) % tiles * block_m + tl.arange(0, block_m)
    here, token = i < queries, _token(own, i, at_q)
    g = _load(g_ptr + b * g_b + h * g_h, token, here, g_n, e, block_e, dtype)
    out = _load(out_ptr + b * out_b + h * out_h, token, here, out_n, e, block_e, dtype)
    delta = tl.sum(g.to(tl.float32) * out.to(tl.float32), 1)
    tl.store(delta_ptr + head * tokens + token, delta, mask=here)
    if slopes:
        lse = tl.load(lse_ptr + head * tokens + token, mask=here, other=float("inf"))
        q = _load(q_ptr + b * q_b + h * q_h, token, here, q_n, d, block_d, dtype)
        k, v = k_ptr + b * k_b + h * k_h, v_ptr + b * v_b + h * v_h
        index = index_ptr + b * i_b + h * i_h + own * i_r
        weight = weight_ptr + b * w_b + h * w_h + own * w_r
        parts = parts_ptr + tl.program_id(0).to(tl.int64) * named * keys
        dq = tl.zeros((block_m, block_d), tl.float32)
        for start in range(0, named * keys, block_n):
            j = start + tl.arange(0, block_n)
            near, there = _named(index, i_t, j, keys, named, blocks, at_k)
            key = _load(k, near, there, k_n, d, block_d, dtype)
            value = _load(v, near, there, v_n, e, block_e, dtype)
            raw = tl.dot(q, tl.trans(key), input_precision=precision) * scale
            slope = tl.dot(g, tl.trans(value), input_precision=precision)
            if weighted:
                factor = tl.load(weight + j // keys * w_t, mask=there, other=0.0).to(tl.float32)
                s, ds = raw * factor[None, :], slope * factor[None, :]
            else:
                s, ds = raw, slope
            p = tl.exp2(tl.where(there[None, :], s, float("-inf")) - lse[:, None])
            ds = p * (ds - delta[:, None])
            if to_weight:
                found = tl.sum(ds * raw * LN2 + p * slope, 0)
                tl.store(parts + j, found, mask=j < named * keys)
            if weighted:
                ds *= factor[None, :]
            dq = tl.dot(ds.to(dtype), key, dq, input_precision=precision)
        to = dq_ptr + b * dq_b + h * dq_h
        _store(to, token, here, dq_n, dq * factor_q, d, block_d)


@triton.jit
def _to_keys(
    q_ptr, k_ptr, v_ptr, weight_ptr, order_ptr, starts_ptr, g_ptr, lse_ptr, delta_ptr,
    dk_ptr, dv_ptr, heads, tokens, blocks, queries, keys, named, scale, factor_k,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n,
    w_b, w_h, w_r, w_t, o_b, o_h, s_b, s_h, g_b, g_h, g_n, dk_b, dk_h, dk_n, dv_b, dv_h, dv_n,
    at_q: tl.constexpr, at_k: tl.constexpr, weighted: tl.constexpr,
    d: tl.constexpr, block_d: tl.constexpr, e: tl.constexpr, block_e: tl.constexpr,
    block_m: tl.constexpr, block_n: tl.constexpr, dtype: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Gradients of keys and values of one block, over all queries whose blocks named it."""
    tiles = tl.cdiv(keys, block_n)
    own = tl.program_id(0) // tiles % blocks
    head = (tl.program_id(0) // tiles // blocks).to(tl.int64)
    b, h = head // heads, head % heads
    i = tl.program_id(0) % tiles * block_n + tl.arange(0, block_n)
    here, token = i < keys, _token(own, i, at_k)
    k = _load(k_ptr + b * k_b + h * k_h, token, here, k_n, d, block_d, dtype)
    v = _load(v_ptr + b * v_b + h * v_h, token, here, v_n, e, block_e, dtype)
    q_ptr += b * q_b + h * q_h
    g_ptr += b * g_b + h * g_h
    order, weight = order_ptr + b * o_b + h * o_h, weight_ptr + b * w_b + h * w_h
    first = tl.load(starts_ptr + b * s_b + h * s_h + own)
    last = tl.load(starts_ptr + b * s_b + h * s_h + own + 1)
    dk = tl.zeros((block_n, block_d), tl.float32)
    dv = tl.zeros((block_n, block_e), tl.float32)
    for start in range(first * queries, last * queries, block_m):
        j = start + tl.arange(0, block_m)
        there = j < last * queries
        entry = tl.load(order + j // queries, mask=there, other=0)
        near = _token(entry // named, j % queries, at_q)
        q = _load(q_ptr, near, there, q_n, d, block_d, dtype)
        g = _load(g_ptr, near, there, g_n, e, block_e, dtype)
        lse = tl.load(lse_ptr + head * tokens + near, mask=there, other=float("inf"))
        delta = tl.load(delta_ptr + head * tokens + near, mask=there, other=0.0)
        s = tl.dot(k, tl.trans(q), input_precision=precision) * scale
        slope = tl.dot(v, tl.trans(g), input_precision=precision)
        if weighted:
            at = weight + entry // named * w_r + entry % named * w_t
            factor = tl.load(at, mask=there, other=0.0).to(tl.float32)
            s *= factor[None, :]
            slope *= factor[None, :]
        p = tl.exp2(tl.where(here[:, None], s, float("-inf")) - lse[None, :])
        slope = p * (slope - delta[None, :])
        if weighted:
            p *= factor[None, :]
            slope *= factor[None, :]
        dv = tl.dot(p.to(dtype), g, dv, input_precision=precision)
        dk = tl.dot(slope.to(dtype), q, dk, input_precision=precision)
    _store(dk_ptr + b * dk_b + h * dk_h, token, here, dk_n, dk * factor_k, d, block_d)
    _store(dv_ptr + b * dv_b + h * dv_h, token, here, dv_n, dv, e, block_e)


def can_run(
    q: Tensor, k: Tensor, v: Tensor, index: Tensor, weight: Tensor | None = None, **_: Any
) -> str | None:
    """None where the kernels take the call, else the reason against them."""
    given = q, k, v
    if len({x.dtype for x in given}) > 1:
        return "tensors have several dtypes"
    if any(x.ndim != 4 for x in given):
        return "tensors are not b h n d"
    if any(x.numel() == 0 for x in (*given, index)):
        return "there is nothing to compute"
    if max(q.shape[3], v.shape[3]) > LARGEST_HEAD:
        return f"heads are wider than {LARGEST_HEAD}"
    if any(x.shape[2] * max(x.stride(2), x.shape[1] * x.shape[3]) > MOST for x in given):
        return f"a head spans more than {MOST} numbers"
    if max(index.shape[-1] * k.shape[2], index[0].numel() * q.shape[2]) > MOST:
        return f"an index names more than {MOST} keys"
    return None


@dataclass(frozen=True)
class Call:
    """The arguments of one call as kernels take them; index and weight are `b h R t`."""

    q: Tensor
    k: Tensor
    v: Tensor
    index: Tensor
    weight: Tensor | None
    scale: float
    blocks: int
    at_q: Lattice
    at_k: Lattice

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.q, self.k, self.v

    @property
    def factors(self) -> Tensor:
        """The weights; without any something that is not read."""
        return self.index if self.weight is None else self.weight

    @property
    def sizes(self) -> tuple[Any, ...]:
        """Heads, queries in all, blocks, queries and keys in one, blocks named, the scale."""
        n, m = self.q.shape[2], self.k.shape[2]
        counts = self.q.shape[1], n, self.blocks, n // self.blocks, m // self.blocks
        return (*counts, self.index.shape[3], self.scale * LOG2E)

    @property
    def fixed(self) -> tuple[Any, ...]:
        """Lattices, whether weighted, head sizes and their blocks, tiles, type, dot precision."""
        d, e = self.q.shape[3], self.v.shape[3]
        coarse = self.q.dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32
        rounding = "tf32" if coarse and not interpreted() else "ieee"
        form = self.at_q, self.at_k, self.weight is not None, d, _padded(d), e, _padded(e)
        return (*form, *self.tiles, _dot_type(self.q.dtype), rounding)

    @property
    def tiles(self) -> tuple[int, int]:
        """Queries and keys that a program holds at once."""
        width = max(_padded(self.q.shape[3]), _padded(self.v.shape[3])) * self.q.element_size()
        width *= 2 if _scarce(self.q) else 1
        most = 64 if width <= 256 else 32 if width <= 512 else 16
        named = self.index.shape[3] * self.sizes[4]
        return min(most, _padded(self.sizes[3])), min(most, _padded(named))

    @property
    def back(self) -> tuple[int, int]:
        """The same where a program holds keys of one block and walks over queries."""
        most = max(self.tiles)
        named = self.index.shape[3] * self.sizes[3]
        return min(most, _padded(named)), min(most, _padded(self.sizes[4]))


def _prepare(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: Tensor,
    *,
    weight: Tensor | None = None,
    scale: float | None = None,
    window: Window | None = None,
    block: int | None = None,
) -> Call:
    check(q, k, v, index, weight, window, block)  # pointers would run past the end
    b, h, n, d = q.shape
    if window is None:
        at_q = (1, block or n, 1, 1)
    else:
        at_q = (window.grid[1] // window.size[1], *window.size, window.grid[1])
    blocks = index.shape[-2]
    at_k = at_q if k.shape[2] == n else (1, k.shape[2] // blocks, 1, 1)
    shape = (b, h, *index.shape[-2:])
    if index.ndim == 3:
        index = index[:, None].expand(shape)
    if weight is not None and weight.ndim == 3:
        weight = weight[:, None].expand(shape)
    scale = d**-0.5 if scale is None else scale
    return Call(_rows(q), _rows(k), _rows(v), index, weight, scale, blocks, at_q, at_k)


def forward(**arguments: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The result and, for the backward, the base-2 log-sum-exp of each query's scores."""
    call = _prepare(**arguments)
    out = _like_tokens(call.q, call.v.shape[3])
    lse = call.q.new_empty(call.q.shape[:3], dtype=torch.float32)
    _attend[_programs(call)](
        *call.tensors, call.index, call.factors, out, lse, *call.sizes,
        *_strides(*call.tensors), *call.index.stride(), *call.factors.stride(), *_strides(out),
        *call.fixed, num_warps=_warps(call, call.tiles), num_stages=2,
    )  # fmt: skip
    return out, (lse,)


def backward(
    g: Tensor, out: Tensor, saved: tuple[Tensor, ...], needs: set[str], **arguments: Any
) -> dict[str, Tensor]:
    """The gradients: of queries and weights by block, then of keys and values by who saw them."""
    call, g = _prepare(**arguments), _rows(g)
    delta = torch.empty_like(saved[0])
    found = _query_gradients(call, g, out, saved[0], delta, needs)
    if needs & {"k", "v"}:
        found["k"], found["v"] = _key_gradients(call, g, saved[0], delta)
    if "weight" in found and arguments["weight"].ndim == 3:
        found["weight"] = found["weight"].sum(1)
    return {name: x.to(arguments[name].dtype) for name, x in found.items() if name in needs}


def _query_gradients(
    call: Call, g: Tensor, out: Tensor, lse: Tensor, delta: Tensor, needs: set[str]
) -> dict[str, Tensor]:
    """The gradients of q and of the weight of each head; delta is filled on the way."""
    slopes, to_weight = bool(needs & {"q", "weight"}), "weight" in needs
    dq = _like_tokens(call.q, call.q.shape[3]) if slopes else call.q
    named, keys = call.index.shape[3], call.k.shape[2] // call.blocks
    programs = _programs(call)
    parts = delta
    if to_weight:
        parts = delta.new_empty(*programs, named, keys)
    _to_queries[programs](
        *call.tensors, call.index, call.factors, out, g, lse, delta, dq, parts,
        *call.sizes, call.scale,
        *_strides(*call.tensors), *call.index.stride(), *call.factors.stride(),
        *_strides(out, g, dq), *call.fixed, slopes, to_weight,
        num_warps=_warps(call, call.tiles), num_stages=2,
    )  # fmt: skip
    found = {"q": dq} if slopes else {}
    if to_weight:
        shape = (*call.q.shape[:2], call.blocks, -1, named, keys)
        found["weight"] = parts.reshape(shape).sum((3, 5))
    return found


def _key_gradients(call: Call, g: Tensor, lse: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    order, starts = turned(call.index, call.blocks)
    dk, dv = _like_tokens(call.k, call.k.shape[3]), _like_tokens(call.v, call.v.shape[3])
    fixed, size = list(call.fixed), call.back
    fixed[7:9] = size
    keys = call.k.shape[2] // call.blocks
    count = call.q.shape[0] * call.q.shape[1] * call.blocks * triton.cdiv(keys, size[1])
    _to_keys[(count,)](
        *call.tensors, call.factors, order, starts, g, lse, delta, dk, dv,
        *call.sizes, call.scale,
        *_strides(*call.tensors), *call.factors.stride(), *order.stride()[:2],
        *starts.stride()[:2], *_strides(g, dk, dv), *fixed,
        num_warps=_warps(call, size), num_stages=2,
    )  # fmt: skip
    return dk, dv


def turned(index: Tensor, blocks: int) -> tuple[Tensor, Tensor]:
    """The index turned round: its entries by the block they name, and where each block's start.

    index: b h R t -> entries (R t) `b h n`, starts `b h (blocks + 1)`, in 32 bits. Entries that
    name no block come last. One list serves all heads where the index is the same for them.
    """
    shared = index.stride(1) == 0
    flat = (index[:, :1] if shared else index).flatten(2)
    flat = torch.where((flat >= 0) & (flat < blocks), flat, blocks)
    by_block, order = flat.sort(dim=-1, stable=True)
    numbers = torch.arange(blocks + 1, device=index.device, dtype=flat.dtype)
    numbers = numbers.expand(*flat.shape[:2], -1).contiguous()
    starts = torch.searchsorted(by_block, numbers)
    heads = index.shape[1]
    return order.int().expand(-1, heads, -1), starts.int().expand(-1, heads, -1)


def _programs(call: Call) -> tuple[int]:
    tiles = triton.cdiv(call.q.shape[2] // call.blocks, call.tiles[0])
    return (math.prod(call.q.shape[:2]) * call.blocks * tiles,)


def _warps(call: Call, tiles: tuple[int, int]) -> int:
    """A warp for each kilobyte of the larger tile: with fewer, sm_90 spills registers."""
    wide = max(_padded(call.q.shape[3]), _padded(call.v.shape[3])) * call.q.element_size()
    return min(8, max(1, max(tiles) * wide // 1024))


def _padded(size: int) -> int:
    """The next power of two that a dot takes."""
    return max(16, triton.next_power_of_2(size))


def _dot_type(dtype: torch.dtype) -> Any:
    """What dots take; numpy, where the interpreter computes, knows no bfloat16."""
    known = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
    return tl.float32 if interpreted() and dtype == torch.bfloat16 else known[dtype]


def _scarce(x: Tensor) -> bool:
    """Whether the device has less shared memory than tiles are sized for, those of an H100."""
    if not x.is_cuda:
        return False
    told = torch.cuda.get_device_properties(x.device)
    return getattr(told, "shared_memory_per_block_optin", SHARED_MEMORY) < SHARED_MEMORY


def _strides(*tensors: Tensor) -> list[int]:
    return [step for x in tensors for step in x.stride()[:3]]


def _like_tokens(x: Tensor, width: int) -> Tensor:
    """Memory for `b h n width` that lies as `b n h width`, as the layers around the op read it."""
    b, h, n, _ = x.shape
    return x.new_empty(b, n, h, width).transpose(1, 2)


def _rows(x: Tensor) -> Tensor:
    """The tensor itself where the channels of a token lie next to each other."""
    return x if x.stride(-1) == 1 else x.contiguous()
