"""The gradients of scores summed to the shape of a bias or a position, tile by tile.

Each program sums over what shares its tile; parts of long sums are added up by torch.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_tiles import (
    BITS,
    Call,
    backward_tiles,
    fetch,
    flat,
    judged,
    logits,
    on_axes,
    on_grid,
    share_of,
    token_of,
)

MOST_PROGRAMS = 1024  # sums in parts keep a GPU busy, but each part is written once more


@triton.jit
def _to_scores(
    q, k, v, bias, position, gate, rows, columns, keep,
    g, lse, lse_2, delta, swing, found,
    q_s, k_s, v_s, bias_s, position_s, rows_s, columns_s, keep_s, g_s,
    heads, shared, windows, n, m, total, scale,
    kept_h, kept_w, loop_h, loop_w, loops, each, high, wide,
    d: tl.constexpr, e: tl.constexpr, at_q: tl.constexpr, at_k: tl.constexpr,
    causal: tl.constexpr, sigmoid: tl.constexpr, precision: tl.constexpr, dtype: tl.constexpr,
    block_d: tl.constexpr, block_e: tl.constexpr, block_r: tl.constexpr,
    placed: tl.constexpr, over_q: tl.constexpr, over_k: tl.constexpr,
    block_m: tl.constexpr, block_n: tl.constexpr,
):  # fmt: skip
    """ds of one tile, summed over what the bias is shared by; or that of position, if `placed`.

    kept, loop   of pictures, heads and windows: those with a bias of their own, those that share
    found        `part kept high wide`: where queries (over_q) or keys (over_k) share a bias, one
                 row or column for each tile
    """
    down, across = tl.cdiv(n, block_m), tl.cdiv(m, block_n)
    tile_k, tile_q = tl.program_id(0) % across, tl.program_id(0) // across % down
    kept = tl.program_id(0) // across // down
    i = tile_q * block_m + tl.arange(0, block_m)
    j = tile_k * block_n + tl.arange(0, block_n)
    here, there = i < n, j < m
    dd, ee = tl.arange(0, block_d), tl.arange(0, block_e)
    acc = tl.zeros((block_m, block_n), tl.float32)
    first = tl.program_id(1) * each
    for turn in tl.range(first, tl.minimum(first + each, loops)):
        w = kept % kept_w + turn % loop_w
        h = (kept // kept_w % kept_h + turn // loop_w % loop_h).to(tl.int64)
        b = (kept // kept_w // kept_h + turn // loop_w // loop_h).to(tl.int64)
        token = token_of(i, w, at_q)
        key = token_of(j, w, at_k)
        inside = on_grid(j, w, there, at_k)
        g_at = g + b * g_s[0] + h * g_s[1] + token[:, None] * g_s[2] + ee[None, :] * g_s[3]
        g_tile = fetch(g_at, here[:, None], (ee < e)[None, :], True, dtype)
        v_at = v + b * v_s[0] + h // shared * v_s[1] + key[None, :] * v_s[2] + ee[:, None] * v_s[3]
        v_tile = fetch(v_at, inside[None, :], (ee < e)[:, None], True, dtype)
        ds = tl.dot(g_tile, v_tile, input_precision=precision)
        place = (b * heads + h) * total + token
        inner = tl.zeros((block_m,), tl.float32)
        if not sigmoid:
            inner = tl.load(delta + place, mask=here, other=0.0)
        if placed:
            acc += ds - (inner + tl.load(swing + place, mask=here, other=0.0))[:, None]
        else:
            q_at = q + b * q_s[0] + h * q_s[1] + token[:, None] * q_s[2] + dd[None, :] * q_s[3]
            q_tile = fetch(q_at, here[:, None], (dd < d)[None, :], True, dtype)
            k_head = k + b * k_s[0] + h // shared * k_s[1]
            k_at = k_head + key[None, :] * k_s[2] + dd[:, None] * k_s[3]
            k_tile = fetch(k_at, inside[None, :], (dd < d)[:, None], True, dtype)
            s = tl.dot(q_tile, k_tile, input_precision=precision) * scale
            if rows is not None:
                t = tl.arange(0, block_r)
                relative = logits(
                    rows + b * rows_s[0] + h * rows_s[1],
                    columns + b * columns_s[0] + h * columns_s[1],
                    rows_s, columns_s, token[:, None], t[None, :], here[:, None], at_k, dtype,
                )  # fmt: skip
                axes = on_axes(j[None, :], t[:, None], at_k, dtype)
                s += tl.dot(relative, axes, input_precision=precision) * BITS
            bias_at = bias + b * bias_s[0] + h * bias_s[1] + w.to(tl.int64) * bias_s[2]
            keep_at = keep
            if keep is not None:
                keep_at = keep + b * keep_s[0]
            s = judged(
                s, i[:, None], j[None, :], here[:, None], there[None, :],
                bias_at, bias_s, keep_at, keep_s, m - n, causal, True,
            )  # fmt: skip
            norm = tl.zeros((block_m,), tl.float32)
            if not sigmoid:
                norm = tl.load(lse + place, mask=here, other=float("inf"))
            p = share_of(s, norm[:, None], sigmoid)
            ds = p * (1.0 - p) * ds if sigmoid else p * (ds - inner[:, None])
            if position is not None:
                ds *= 1.0 - tl.load(gate + h).to(tl.float32)
            acc += ds
    if placed:
        h = kept.to(tl.int64)
        at = position + h * position_s[0] + i[:, None] * position_s[1] + j[None, :] * position_s[2]
        s = tl.load(at, mask=here[:, None] & there[None, :], other=0.0).to(tl.float32) * BITS
        norm = tl.load(lse_2 + h * total + i, mask=here, other=float("inf"))
        acc *= tl.exp2(s - norm[:, None]) * tl.load(gate + h).to(tl.float32)
    acc = tl.where(here[:, None] & there[None, :], acc, 0.0)
    line = (tl.program_id(1) * (tl.num_programs(0) // across // down) + kept).to(tl.int64)
    found += line * high * wide
    if over_q and over_k:
        tl.store(found + tile_q * wide + tile_k, tl.sum(tl.sum(acc, 1), 0))
    elif over_q:
        tl.store(found + tile_q * wide + j, tl.sum(acc, 0), mask=there)
    elif over_k:
        tl.store(found + i * wide + tile_k, tl.sum(acc, 1), mask=here)
    else:
        real = here[:, None] & there[None, :]
        tl.store(found + i[:, None] * wide + j[None, :], acc, mask=real)


def bias_gradient(
    call: Call, bias: Tensor, g: Tensor, lse: Tensor | None, lse_2: Tensor | None, sums: Tensor
) -> Tensor:
    """The gradient of the bias in the shape that the caller gave it."""
    whole = bias if bias.ndim == 5 else flat(bias).unsqueeze(-3)
    return scores_gradient(call, whole, g, lse, lse_2, sums).reshape(bias.shape)


def scores_gradient(
    call: Call, own: Tensor, g: Tensor, lse: Tensor | None, lse_2: Tensor | None, sums: Tensor,
    *, placed: bool = False,
) -> Tensor:  # fmt: skip
    """ds summed to the shape of a bias `b h w q k` or, if `placed`, a position `h n m`."""
    sizes = call.q.shape[0], call.q.shape[1], call.windows
    kept = (1, own.shape[0], 1) if placed else tuple(own.shape[:3])
    loop = tuple(1 if have == size else size for have, size in zip(kept, sizes, strict=True))
    over_q = not placed and own.shape[-2] != call.n
    over_k = not placed and own.shape[-1] != call.m
    tiles = backward_tiles(call, (64, 64), call.m)
    down, across = triton.cdiv(call.n, tiles.queries), triton.cdiv(call.m, tiles.keys)
    high, wide = down if over_q else call.n, across if over_k else call.m
    loops, programs = math.prod(loop), down * across * math.prod(kept)
    parts = max(1, min(loops, MOST_PROGRAMS // programs, 65_535))
    each = triton.cdiv(loops, parts)
    parts = triton.cdiv(loops, each)
    found = g.new_empty(parts, *kept, high, wide, dtype=torch.float32)
    _to_scores[(programs, parts)](
        *call.tensors, g, lse, lse_2, sums[0], sums[1], found,
        *call.strides, g.stride(), *call.numbers,
        *kept[1:], *loop[1:], loops, each, high, wide,
        *call.fixed, *call.blocks, placed, over_q, over_k, tiles.queries, tiles.keys,
        num_warps=tiles.warps, num_stages=1,
    )  # fmt: skip
    found = found[0] if parts == 1 else found.sum(0)
    found = found.sum(-2, keepdim=True) if over_q else found
    found = found.sum(-1, keepdim=True) if over_k else found
    return found.reshape(own.shape).to(own.dtype)
