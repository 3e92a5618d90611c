"""Attention in one pass over the keys, with statistics of the map on the way.

A running softmax after Milakov & Gimelshein 2018 (arXiv:1805.02867), tiled as in FlashAttention,
Dao et al. 2022 (arXiv:2205.14135).
"""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_statistics import NAMES, Told, mixed, pooled, room, shares
from .triton_tiles import (
    BITS,
    Call,
    Tiles,
    fetch,
    judged,
    like,
    logits,
    on_axes,
    on_grid,
    shared_memory,
    token_of,
)


@triton.jit
def _attend(
    q, k, v, bias, position, gate, rows, columns, keep,
    out, lse, turn, lse_2, entropy, distance, mass, peaks,
    q_s, k_s, v_s, bias_s, position_s, rows_s, columns_s, keep_s, out_s,
    heads, shared, windows, n, m, total, scale, radius, pools,
    d: tl.constexpr, e: tl.constexpr, at_q: tl.constexpr, at_k: tl.constexpr,
    causal: tl.constexpr, sigmoid: tl.constexpr, precision: tl.constexpr, dtype: tl.constexpr,
    block_d: tl.constexpr, block_e: tl.constexpr, block_r: tl.constexpr,
    grid: tl.constexpr, pool: tl.constexpr, wide_pool: tl.constexpr,
    first: tl.constexpr, last: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr,
):  # fmt: skip
    """One tile of queries of one window and head; see `attend`."""
    blocks = tl.cdiv(n, block_m)
    block, w = tl.program_id(0) % blocks, tl.program_id(0) // blocks % windows
    head = (tl.program_id(0) // blocks // windows).to(tl.int64)
    b, h = head // heads, head % heads
    if causal:
        block = blocks - 1 - block  # the long ones first
    i = block * block_m + tl.arange(0, block_m)
    here = i < n
    token = token_of(i, w, at_q)
    dd, ee = tl.arange(0, block_d), tl.arange(0, block_e)
    rim: tl.constexpr = at_k is not None and at_k[7] > 0
    q_at = q + b * q_s[0] + h * q_s[1] + token[:, None] * q_s[2] + dd[None, :] * q_s[3]
    q_tile = fetch(q_at, here[:, None], (dd < d)[None, :], True, dtype)
    k += b * k_s[0] + h // shared * k_s[1]
    v += b * v_s[0] + h // shared * v_s[1]
    if bias is not None:
        bias += b * bias_s[0] + h * bias_s[1] + w.to(tl.int64) * bias_s[2]
    if keep is not None:
        keep += b * keep_s[0]
    if rows is not None:
        rows += b * rows_s[0] + h * rows_s[1]
        columns += b * columns_s[0] + h * columns_s[1]
        t = tl.arange(0, block_r)
        relative = logits(
            rows, columns, rows_s, columns_s,
            token[:, None], t[None, :], here[:, None], at_k, dtype,
        )  # fmt: skip
    top = tl.full((block_m,), float("-inf"), tl.float32)
    norm = tl.zeros((block_m,), tl.float32)
    acc = tl.zeros((block_m, block_e), tl.float32)
    if position is not None:
        position += h * position_s[0]
        top_2 = tl.full((block_m,), float("-inf"), tl.float32)
        norm_2 = tl.zeros((block_m,), tl.float32)
        acc_2 = tl.zeros((block_m, block_e), tl.float32)
    if entropy is not None:
        expected = tl.zeros((block_m,), tl.float32)
        within = tl.zeros((block_m,), tl.float32)
    if distance is not None:
        y = (token // (grid[1] // grid[2])) * grid[2] + (grid[2] - 1) * 0.5
        x = (token % (grid[1] // grid[2])) * grid[2] + (grid[2] - 1) * 0.5
        far = tl.zeros((block_m,), tl.float32)
        near = tl.zeros((block_m,), tl.float32)
    best = tl.full((block_m,), float("-inf"), tl.float32)

    full = m // block_n
    tiles = tl.cdiv(m, block_n)
    if pool is not None:
        tiles = tl.cdiv(pools * wide_pool, block_n)
    elif causal:
        full = tl.minimum(full, tl.maximum(block * block_m + m - n + 1, 0) // block_n)
        if position is None:
            end = tl.maximum((block + 1) * block_m + m - n, 0)
            tiles = tl.minimum(tiles, tl.cdiv(end, block_n))
    if first == 1:
        full = 0
    for phase in tl.static_range(first, last):  # tiles where all is seen, then those with a mask
        if phase == 0:
            start = 0
            stop = full
        else:
            start = full
            stop = tiles
        for step in tl.range(start, stop):
            c = step * block_n + tl.arange(0, block_n)
            if pool is None:
                j = c
                there = j < m
            else:
                j = c // wide_pool * pool + c % wide_pool
                there = (c % wide_pool < pool) & (j < m)
            key = token_of(j, w, at_k)
            some: tl.constexpr = phase == 1 or rim
            inside = on_grid(j, w, there, at_k)
            narrow_d = None if d == block_d else (dd < d)[:, None]
            k_at = k + key[None, :] * k_s[2] + dd[:, None] * k_s[3]
            k_tile = fetch(k_at, inside[None, :], narrow_d, some, dtype)
            s = tl.dot(q_tile, k_tile, input_precision=precision) * scale
            if rows is not None:
                axes = on_axes(j[None, :], t[:, None], at_k, dtype)
                s += tl.dot(relative, axes, input_precision=precision) * BITS
            s = judged(
                s, i[:, None], j[None, :], here[:, None], there[None, :],
                bias, bias_s, keep, keep_s, m - n, causal, phase == 1,
            )  # fmt: skip
            sure: tl.constexpr = phase == 0 and bias is None and keep is None
            if sigmoid:
                p = 1.0 / (1.0 + tl.exp2(-s))
            else:
                higher = tl.maximum(top, tl.max(s, 1))
                base = higher if sure else tl.where(higher == float("-inf"), 0.0, higher)
                p = tl.exp2(s - base[:, None])
                shrink = tl.exp2(top - base)
                norm = norm * shrink + tl.sum(p, 1)
                acc *= shrink[:, None]
                top = higher
            if entropy is not None:
                own = tl.where(inside[None, :], p, 0.0) if rim else p
                if sigmoid:
                    log = tl.log2(tl.where(own > 0.0, own, 1.0))
                    expected += tl.sum(own * log, 1)
                else:
                    level = s if sure else tl.where(p > 0.0, s, 0.0)
                    expected = expected * shrink + tl.sum(own * level, 1)
                    within = within * shrink + tl.sum(own, 1)
            if distance is not None:
                dy = y[:, None] - (key // grid[1])[None, :]
                dx = x[:, None] - (key % grid[1])[None, :]
                square = dy * dy + dx * dx
                here_far = tl.sum(own * tl.sqrt(square), 1)
                far = here_far + (far if sigmoid else far * shrink)
                if mass is not None:
                    here_near = tl.sum(tl.where(square <= radius, own, 0.0), 1)
                    near = here_near + (near if sigmoid else near * shrink)
            if pool is not None:
                line = peaks + (head * total + token)[:, None] * pools
                if wide_pool <= block_n:
                    parts: tl.constexpr = block_n // wide_pool
                    found = tl.max(tl.reshape(s, (block_m, parts, wide_pool)), 2)
                    part = (step * parts + tl.arange(0, parts))[None, :]
                    tl.store(line + part, found, mask=here[:, None] & (part < pools))
                else:
                    turns: tl.constexpr = wide_pool // block_n
                    best = tl.where(step % turns == 0, float("-inf"), best)
                    best = tl.maximum(best, tl.max(s, 1))
                    tl.store(line + step // turns, best[:, None], mask=here[:, None])
            v_at = v + key[:, None] * v_s[2] + ee[None, :] * v_s[3]
            narrow_e = None if e == block_e else (ee < e)[None, :]
            v_tile = fetch(v_at, inside[:, None], narrow_e, some, dtype)
            acc = tl.dot(p.to(dtype), v_tile, acc, input_precision=precision)
            if position is not None:
                at = position + i[:, None] * position_s[1] + j[None, :] * position_s[2]
                seen = here[:, None] & there[None, :]
                s = tl.load(at, mask=seen, other=float("-inf")).to(tl.float32) * BITS
                higher = tl.maximum(top_2, tl.max(s, 1))
                base = tl.where(higher == float("-inf"), 0.0, higher)
                p = tl.exp2(s - base[:, None])
                shrink_2 = tl.exp2(top_2 - base)
                norm_2 = norm_2 * shrink_2 + tl.sum(p, 1)
                acc_2 = tl.dot(p.to(dtype), v_tile, acc_2 * shrink_2[:, None],
                               input_precision=precision)  # fmt: skip
                top_2 = higher

    place = head * total + token
    some_norm = tl.where(norm > 0.0, norm, 1.0)
    log_norm = top + tl.log2(some_norm)
    if not sigmoid:
        acc /= some_norm[:, None]
        if lse is not None:
            tl.store(lse + place, tl.where(norm > 0.0, log_norm, float("inf")), mask=here)
    out_at = b * out_s[0] + h * out_s[1] + token[:, None] * out_s[2] + ee[None, :]
    real = here[:, None] & (ee < e)[None, :]
    if position is not None:
        some_2 = tl.where(norm_2 > 0.0, norm_2, 1.0)
        change = acc_2 / some_2[:, None] - acc
        lse_at = tl.where(norm_2 > 0.0, top_2 + tl.log2(some_2), float("inf"))
        tl.store(lse_2 + place, lse_at, mask=here)
        tl.store(turn + out_at, change.to(turn.dtype.element_ty), mask=real)
        acc += tl.load(gate + h).to(tl.float32) * change
    tl.store(out + out_at, acc.to(out.dtype.element_ty), mask=real)
    if entropy is not None:
        if sigmoid:
            found = -expected
        else:
            level = tl.where(norm > 0.0, log_norm, 0.0)
            found = (level * within - expected) / some_norm
        tl.store(entropy + place, found / BITS, mask=here)
    if distance is not None:
        tl.store(distance + place, far if sigmoid else far / some_norm, mask=here)
        if mass is not None:
            tl.store(mass + place, near if sigmoid else near / some_norm, mask=here)


def attend(
    call: Call, told: Told | None = None
) -> tuple[Tensor, tuple[Tensor, ...], dict[str, Tensor]]:
    """The result, what the backward needs, and statistics.

    Needed are the log-sum-exp of each row in bits, with a gate also that of its position and the
    difference between what position and content give.
    """
    q, gated = call.q, call.position is not None
    out = like(q, call.v.shape[-1])
    sums = torch.empty(1 + gated, *q.shape[:3], dtype=torch.float32, device=q.device)
    lse = None if call.sigmoid else sums[0]
    turn, lse_2 = (torch.empty_like(out), sums[1]) if gated else (None, None)
    on_the_way = Told() if told is None or gated else told
    stats = room(call, None if told is None or gated else told)
    tiles = _tiles(call, told)
    programs = triton.cdiv(call.n, tiles.queries) * call.windows * q.shape[0] * q.shape[1]
    _attend[(programs,)](
        *call.tensors, out, lse, turn, lse_2, *(stats.get(name) for name in NAMES),
        *call.strides, out.stride(), *call.numbers, *on_the_way.numbers(call.m),
        *call.fixed, *call.blocks, *on_the_way.fixed,
        *_phases(call, on_the_way.pool, tiles), tiles.queries, tiles.keys,
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    if told is not None and gated:
        stats = mixed(call, told, sums, tiles)
    elif "peak" in stats:
        stats["peak"] = pooled(shares(stats["peak"], lse), on_the_way.pool)
    return out, tuple(x for x in (lse, turn, lse_2) if x is not None), stats


def _phases(call: Call, pool: int | None, tiles: Tiles) -> tuple[int, int]:
    """Whether tiles without any mask and tiles with one occur: the first and last + 1 of both."""
    first = 1 if pool is not None or call.m < tiles.keys else 0
    return first, 1 if not (first or call.causal or call.m % tiles.keys) else 2


def _tiles(call: Call, told: Told | None) -> Tiles:
    """By head size and precision; smaller where on-chip memory or registers would not hold."""
    block_d, block_e, _ = call.blocks
    width, size = max(block_d, block_e), call.q.element_size()
    if size == 4:
        tiles = Tiles(64, 32, 8, 2) if width <= 64 else Tiles(32, 32, 8, 2)
    elif call.position is not None or call.rows is not None:
        tiles = Tiles(64, 64, 4, 2) if width <= 64 else Tiles(64, 32, 4, 2)
    elif width <= 64:
        plain = told is None and call.bias is None and call.windows == 1
        tiles = Tiles(128, 64, 4 if plain else 8, 3)
    elif width <= 128:
        tiles = Tiles(128, 64, 8, 3)
    else:
        tiles = Tiles(64, 32, 4, 2)
    tiles = tiles.within(call.n, call.m)
    held = tiles.queries * block_d * size
    room = (shared_memory(call.q.device) - held) // (tiles.keys * (block_d + block_e) * size)
    stages = max(1, min(tiles.stages, room, triton.cdiv(call.m, tiles.keys)))
    return replace(tiles, stages=stages)
