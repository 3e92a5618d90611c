"""Gradients of attention from recomputed tiles: no atomics, so the same bits in every run."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton_bias import bias_gradient, scores_gradient
from .triton_tiles import (
    BITS,
    Call,
    backward_tiles,
    fetch,
    judged,
    like,
    logits,
    on_axes,
    on_grid,
    share_of,
    token_of,
)


@triton.jit
def _to_queries(
    q, k, v, bias, position, gate, rows, columns, keep,
    g, out, turn, lse, delta, swing, dq, drows, dcolumns,
    q_s, k_s, v_s, bias_s, position_s, rows_s, columns_s, keep_s,
    g_s, out_s, dq_s, drows_s, dcolumns_s,
    heads, shared, windows, n, m, total, scale, slope,
    d: tl.constexpr, e: tl.constexpr, at_q: tl.constexpr, at_k: tl.constexpr,
    causal: tl.constexpr, sigmoid: tl.constexpr, precision: tl.constexpr, dtype: tl.constexpr,
    block_d: tl.constexpr, block_e: tl.constexpr, block_r: tl.constexpr, alone: tl.constexpr,
    first: tl.constexpr, last: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr,
):  # fmt: skip
    """dq = slope sum of ds k, ds = p (dp - delta), dp = g v', delta = sum of g out; and delta.

    rows, columns   ds summed over the keys of each row and column
    swing           sum of g (what position gives - what content gives), the gate's slope
    alone           delta and swing only
    """
    blocks = tl.cdiv(n, block_m)
    block, w = tl.program_id(0) % blocks, tl.program_id(0) // blocks % windows
    head = (tl.program_id(0) // blocks // windows).to(tl.int64)
    b, h = head // heads, head % heads
    if causal:
        block = blocks - 1 - block
    i = block * block_m + tl.arange(0, block_m)
    here = i < n
    token = token_of(i, w, at_q)
    dd, ee = tl.arange(0, block_d), tl.arange(0, block_e)
    rim: tl.constexpr = at_k is not None and at_k[7] > 0
    g_at = g + b * g_s[0] + h * g_s[1] + token[:, None] * g_s[2] + ee[None, :] * g_s[3]
    g_tile = fetch(g_at, here[:, None], (ee < e)[None, :], True, dtype)
    out_at = b * out_s[0] + h * out_s[1] + token[:, None] * out_s[2] + ee[None, :] * out_s[3]
    o_tile = fetch(out + out_at, here[:, None], (ee < e)[None, :], True, tl.float32)
    place = head * total + token
    inner = tl.sum(g_tile.to(tl.float32) * o_tile, 1)
    part = 1.0
    if position is not None:
        turned = fetch(turn + out_at, here[:, None], (ee < e)[None, :], True, tl.float32)
        change = tl.sum(g_tile.to(tl.float32) * turned, 1)
        tl.store(swing + place, change, mask=here)
        share = tl.load(gate + h).to(tl.float32)
        inner -= share * change
        part = 1.0 - share
    tl.store(delta + place, inner, mask=here)
    if not alone:
        q_at = q + b * q_s[0] + h * q_s[1] + token[:, None] * q_s[2] + dd[None, :] * q_s[3]
        q_tile = fetch(q_at, here[:, None], (dd < d)[None, :], True, dtype)
        k += b * k_s[0] + h // shared * k_s[1]
        v += b * v_s[0] + h // shared * v_s[1]
        norm = tl.zeros((block_m,), tl.float32)
        if not sigmoid:
            norm = tl.load(lse + place, mask=here, other=float("inf"))
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
            acc_r = tl.zeros((block_m, block_r), tl.float32)
        acc = tl.zeros((block_m, block_d), tl.float32)
        full = m // block_n
        tiles = tl.cdiv(m, block_n)
        if causal:
            full = tl.minimum(full, tl.maximum(block * block_m + m - n + 1, 0) // block_n)
            end = tl.maximum((block + 1) * block_m + m - n, 0)
            tiles = tl.minimum(tiles, tl.cdiv(end, block_n))
        if first == 1:
            full = 0
        for phase in tl.static_range(first, last):
            if phase == 0:
                start = 0
                stop = full
            else:
                start = full
                stop = tiles
            for step in tl.range(start, stop):
                j = step * block_n + tl.arange(0, block_n)
                there = j < m
                key = token_of(j, w, at_k)
                inside = on_grid(j, w, there, at_k)
                some: tl.constexpr = phase == 1 or rim
                narrow_d = None if d == block_d else (dd < d)[:, None]
                k_at = k + key[None, :] * k_s[2] + dd[:, None] * k_s[3]
                k_tile = fetch(k_at, inside[None, :], narrow_d, some, dtype)
                narrow_e = None if e == block_e else (ee < e)[:, None]
                v_at = v + key[None, :] * v_s[2] + ee[:, None] * v_s[3]
                v_tile = fetch(v_at, inside[None, :], narrow_e, some, dtype)
                s = tl.dot(q_tile, k_tile, input_precision=precision) * scale
                if rows is not None:
                    axes = on_axes(j[None, :], t[:, None], at_k, dtype)
                    s += tl.dot(relative, axes, input_precision=precision) * BITS
                s = judged(
                    s, i[:, None], j[None, :], here[:, None], there[None, :],
                    bias, bias_s, keep, keep_s, m - n, causal, phase == 1,
                )  # fmt: skip
                p = share_of(s, norm[:, None], sigmoid)
                ds = tl.dot(g_tile, v_tile, input_precision=precision)
                ds = p * (1.0 - p) * ds if sigmoid else p * (ds - inner[:, None])
                ds = (ds * part).to(dtype)
                acc = tl.dot(ds, tl.trans(k_tile), acc, input_precision=precision)
                if rows is not None:
                    flipped = on_axes(j[:, None], t[None, :], at_k, dtype)
                    acc_r = tl.dot(ds, flipped, acc_r, input_precision=precision)
        if dq is not None:
            dq_at = dq + b * dq_s[0] + h * dq_s[1] + token[:, None] * dq_s[2] + dd[None, :]
            real = here[:, None] & (dd < d)[None, :]
            tl.store(dq_at, (acc * slope).to(dq.dtype.element_ty), mask=real)
        if drows is not None:
            high: tl.constexpr = at_k[1]
            wide: tl.constexpr = at_k[0]
            row_at = drows + b * drows_s[0] + h * drows_s[1] + token[:, None] * drows_s[2]
            real = here[:, None] & (t < high)[None, :]
            tl.store(row_at + t[None, :], acc_r.to(drows.dtype.element_ty), mask=real)
            at = dcolumns + b * dcolumns_s[0] + h * dcolumns_s[1] + token[:, None] * dcolumns_s[2]
            real = here[:, None] & ((t >= high) & (t < high + wide))[None, :]
            tl.store(at + (t - high)[None, :], acc_r.to(dcolumns.dtype.element_ty), mask=real)


@triton.jit
def _to_keys(
    q, k, v, bias, position, gate, rows, columns, keep,
    g, lse, lse_2, delta, dk, dv,
    q_s, k_s, v_s, bias_s, position_s, rows_s, columns_s, keep_s, g_s, dk_s, dv_s,
    heads, shared, windows, n, m, total, scale, slope, count,
    d: tl.constexpr, e: tl.constexpr, at_q: tl.constexpr, at_k: tl.constexpr,
    causal: tl.constexpr, sigmoid: tl.constexpr, precision: tl.constexpr, dtype: tl.constexpr,
    block_d: tl.constexpr, block_e: tl.constexpr, block_r: tl.constexpr,
    home: tl.constexpr, reach: tl.constexpr, near: tl.constexpr,
    first: tl.constexpr, last: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr,
):  # fmt: skip
    """dv = sum of p g and dk = slope sum of ds q, over all queries that see a tile of keys.

    count   keys of a window of `home`
    near    windows that may see them: 1, with a halo those around
    """
    blocks = tl.cdiv(count, block_n)
    block, own = tl.program_id(0) % blocks, tl.program_id(0) // blocks % windows
    head = (tl.program_id(0) // blocks // windows).to(tl.int64)
    b, group = head // (heads // shared), head % (heads // shared)
    c = block * block_n + tl.arange(0, block_n)
    real = c < count
    key = token_of(c, own, home)
    dd, ee = tl.arange(0, block_d), tl.arange(0, block_e)
    k_at = k + b * k_s[0] + group * k_s[1] + key[:, None] * k_s[2] + dd[None, :] * k_s[3]
    k_tile = fetch(k_at, real[:, None], (dd < d)[None, :], True, dtype)
    v_at = v + b * v_s[0] + group * v_s[1] + key[:, None] * v_s[2] + ee[None, :] * v_s[3]
    v_tile = fetch(v_at, real[:, None], (ee < e)[None, :], True, dtype)
    acc_k = tl.zeros((block_n, block_d), tl.float32)
    acc_v = tl.zeros((block_n, block_e), tl.float32)
    if keep is not None:
        keep += b * keep_s[0]
    if rows is not None:
        t = tl.arange(0, block_r)
    for turn in range(near):
        w = own
        j = c
        there = real
        seen_from = True
        if reach is not None:  # the window `over` from the keys' own sees them at another place
            over_y = turn // (2 * reach[1] + 1) - reach[0]
            over_x = turn % (2 * reach[1] + 1) - reach[1]
            at_y, at_x = own // reach[3] + over_y, own % reach[3] + over_x
            seen_from = (at_y >= 0) & (at_y < reach[2]) & (at_x >= 0) & (at_x < reach[3])
            w = at_y * reach[3] + at_x
            y = c // reach[5] - over_y * reach[4] + reach[6]
            x = c % reach[5] - over_x * reach[5] + reach[6]
            there = real & (y >= 0) & (y < at_k[1]) & (x >= 0) & (x < at_k[0])
            j = y * at_k[0] + x
        start_m = 0
        whole_m = 0
        if causal and position is None:
            early = block * block_n - (m - n)
            start_m = tl.minimum(tl.maximum(early, 0) // block_m, tl.cdiv(n, block_m))
            whole_m = tl.cdiv(tl.maximum(early + block_n - 1, 0), block_m)
            whole_m = tl.maximum(start_m, tl.minimum(whole_m, tl.cdiv(n, block_m)))
        end_m = tl.cdiv(n, block_m)
        if reach is not None:
            end_m = tl.where(seen_from, end_m, 0)
        if first == 1:
            whole_m = end_m
        for member in range(shared):
            h = group * shared + member
            q_head = q + b * q_s[0] + h * q_s[1]
            g_head = g + b * g_s[0] + h * g_s[1]
            line = (b * heads + h) * total
            part = 1.0
            if position is not None:
                gate_h = tl.load(gate + h).to(tl.float32)
                part = 1.0 - gate_h
            bias_h = bias
            if bias is not None:
                bias_h = bias + b * bias_s[0] + h * bias_s[1] + w.to(tl.int64) * bias_s[2]
            for phase in tl.static_range(first, last):
                if phase == 0:
                    start = whole_m
                    stop = end_m
                else:
                    start = start_m
                    stop = whole_m
                for step in tl.range(start, stop):
                    i = step * block_m + tl.arange(0, block_m)
                    here = i < n
                    token = token_of(i, w, at_q)
                    q_at = q_head + token[:, None] * q_s[2] + dd[None, :] * q_s[3]
                    narrow_d = None if d == block_d else (dd < d)[None, :]
                    q_tile = fetch(q_at, here[:, None], narrow_d, True, dtype)
                    g_at = g_head + token[:, None] * g_s[2] + ee[None, :] * g_s[3]
                    narrow_e = None if e == block_e else (ee < e)[None, :]
                    g_tile = fetch(g_at, here[:, None], narrow_e, True, dtype)
                    s = tl.dot(k_tile, tl.trans(q_tile), input_precision=precision) * scale
                    if rows is not None:
                        relative = logits(
                            rows + b * rows_s[0] + h * rows_s[1],
                            columns + b * columns_s[0] + h * columns_s[1],
                            rows_s, columns_s, token[None, :], t[:, None], here[None, :],
                            at_k, dtype,
                        )  # fmt: skip
                        axes = on_axes(j[:, None], t[None, :], at_k, dtype)
                        s += tl.dot(axes, relative, input_precision=precision) * BITS
                    s = judged(
                        s, i[None, :], j[:, None], here[None, :], there[:, None],
                        bias_h, bias_s, keep, keep_s, m - n, causal, phase == 1,
                    )  # fmt: skip
                    norm = tl.zeros((block_m,), tl.float32)
                    if not sigmoid:
                        norm = tl.load(lse + line + token, mask=here, other=float("inf"))
                    p = share_of(s, norm[None, :], sigmoid)
                    mixed = p
                    if position is not None:
                        at = position + h * position_s[0] + i[None, :] * position_s[1]
                        seen = here[None, :] & there[:, None]
                        s_2 = tl.load(at + j[:, None] * position_s[2], mask=seen, other=0.0)
                        norm_2 = tl.load(lse_2 + line + token, mask=here, other=float("inf"))
                        p_2 = tl.exp2(s_2.to(tl.float32) * BITS - norm_2[None, :])
                        mixed = part * p + gate_h * p_2
                    acc_v = tl.dot(mixed.to(dtype), g_tile, acc_v, input_precision=precision)
                    if dk is not None:
                        ds = tl.dot(v_tile, tl.trans(g_tile), input_precision=precision)
                        if sigmoid:
                            ds = p * (1.0 - p) * ds
                        else:
                            inner = tl.load(delta + line + token, mask=here, other=0.0)
                            ds = p * (ds - inner[None, :])
                        ds = (ds * part).to(dtype)
                        acc_k = tl.dot(ds, q_tile, acc_k, input_precision=precision)
    if dk is not None:
        at = dk + b * dk_s[0] + group * dk_s[1] + key[:, None] * dk_s[2] + dd[None, :]
        mask = real[:, None] & (dd < d)[None, :]
        tl.store(at, (acc_k * slope).to(dk.dtype.element_ty), mask=mask)
    if dv is not None:
        at = dv + b * dv_s[0] + group * dv_s[1] + key[:, None] * dv_s[2] + ee[None, :]
        mask = real[:, None] & (ee < e)[None, :]
        tl.store(at, acc_v.to(dv.dtype.element_ty), mask=mask)


def gradients(
    call: Call, bias: Tensor | None, g: Tensor, out: Tensor, saved: tuple[Tensor, ...],
    needs: set[str],
) -> dict[str, Tensor]:  # fmt: skip
    """The gradients of the arguments named in `needs`; bias as the caller gave it."""
    lse = None if call.sigmoid else saved[0]
    turn, lse_2 = saved[-2:] if call.position is not None else (None, None)
    found: dict[str, Tensor] = {}
    sums = _queries(call, g, out, turn, lse, needs, found)
    if needs & {"k", "v"}:
        _keys(call, g, lse, lse_2, sums[0], needs, found)
    if bias is not None and "bias" in needs:
        found["bias"] = bias_gradient(call, bias, g, lse, lse_2, sums)
    if call.position is not None and "position" in needs:
        found["position"] = scores_gradient(call, call.position, g, lse, lse_2, sums, placed=True)
    if call.gate is not None and "gate" in needs:
        found["gate"] = sums[1].sum((0, 2))
    return found


def _queries(
    call: Call, g: Tensor, out: Tensor, turn: Tensor | None, lse: Tensor | None, needs: set[str],
    found: dict[str, Tensor],
) -> Tensor:  # fmt: skip
    """The gradients of q, rows and columns into `found`; returned are delta and swing."""
    q = call.q
    sums = torch.empty(2, *q.shape[:3], dtype=torch.float32, device=q.device)
    own = {name: None for name in ("q", "rows", "columns")}
    relative = bool(needs & {"rows", "columns"})
    new: dict[str, Tensor] = {}
    if "q" in needs:
        new["q"] = like(q, q.shape[-1])
    if relative and call.rows is not None and call.columns is not None:
        new["rows"] = torch.empty_like(call.rows, memory_format=torch.contiguous_format)
        new["columns"] = torch.empty_like(call.columns, memory_format=torch.contiguous_format)
    given = [new.get(name) for name in own]
    tiles = backward_tiles(call, (128, 64), call.m)
    first = 1 if call.m < tiles.keys else 0
    last = 1 if not (first or call.causal or call.m % tiles.keys) else 2
    programs = triton.cdiv(call.n, tiles.queries) * call.windows * q.shape[0] * q.shape[1]
    _to_queries[(programs,)](
        *call.tensors, g, out, turn, lse, sums[0], sums[1], *given,
        *call.strides, g.stride(), out.stride(),
        *(None if x is None else x.stride() for x in given),
        *call.numbers, call.scale, *call.fixed, *call.blocks, not new,
        first, last, tiles.queries, tiles.keys,
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    found.update((name, x) for name, x in new.items() if name in needs)
    return sums


def _keys(
    call: Call, g: Tensor, lse: Tensor | None, lse_2: Tensor | None, delta: Tensor,
    needs: set[str], found: dict[str, Tensor],
) -> None:  # fmt: skip
    k, v = call.k, call.v
    dk, dv = (like(x, x.shape[-1]) if name in needs else None for name, x in (("k", k), ("v", v)))
    count = call.m if call.home is None else call.home[0] * call.home[1]
    near = 1 if call.reach is None else math.prod(2 * far + 1 for far in call.reach[:2])
    tiles = backward_tiles(call, (64, 128), count)
    bound = call.causal or call.reach is not None or call.position is not None
    first = 1 if call.reach is not None or call.position is not None else 0
    last = 2 if bound else 1
    programs = triton.cdiv(count, tiles.keys) * call.windows * k.shape[0] * k.shape[1]
    _to_keys[(programs,)](
        *call.tensors, g, lse, lse_2, delta, dk, dv,
        *call.strides, g.stride(), *(None if x is None else x.stride() for x in (dk, dv)),
        *call.numbers, call.scale, count, *call.fixed, *call.blocks,
        call.home, call.reach, near, first, last, tiles.queries, tiles.keys,
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    found.update((name, x) for name, x in (("k", dk), ("v", dv)) if x is not None)
