"""Gradients of attention from recomputed tiles: no atomics, so the same bits in every run."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# Triton types kernels when it compiles them.
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..shared.triton_launch import options
from ..shared.triton_rows import LOG2E
from .arguments import AttentionArguments
from .triton_bias import bias_gradient, scores_gradient, slopes_gradient
from .triton_operands import AttentionOperands, backward_tiles, like
from .triton_tiles import (
    Phases,
    Saved,
    at_head,
    columns_of,
    key_tiles,
    masked_scores,
    on_axes,
    on_grid,
    position_scores,
    query_tile,
    relative_logits,
    rows_of,
    score_gradient,
    score_tile,
    share_of,
    token_of,
)


@triton.jit
def _to_queries(
    p, s_q, s_k, s_v, s_bias, s_position, s_rows, s_columns, s_keep, s_mask, saved, s_g, s_out,
    p_dq, s_dq, p_drows, s_drows, p_dcolumns, s_dcolumns, z, factor,
    FORM: tl.constexpr, PHASES: tl.constexpr, ALONE: tl.constexpr,
):  # fmt: skip
    """dq = factor sum of ds k, ds = p (dp - delta), dp = g v', delta = sum of g out; and delta.

    rows, columns   ds summed over the keys of each row and column
    ALONE           delta and dgate only
    """
    AT_K: tl.constexpr = FORM.AT_K
    FIRST: tl.constexpr = PHASES.FIRST
    LAST: tl.constexpr = PHASES.LAST
    BLOCK_R: tl.constexpr = FORM.BLOCK_R
    BLOCK_D: tl.constexpr = FORM.BLOCK_D
    BLOCK_M: tl.constexpr = PHASES.BLOCK_M
    RIM: tl.constexpr = FORM.AT_K is not None and FORM.AT_K.rim > 0
    i_b, i_h, i_row, i_w, i_m, o_m, m_m, t_m = query_tile(z, FORM, BLOCK_M)
    o_row = i_row * z.total + t_m
    p_g = at_head(saved.g, s_g, i_b, i_h)
    b_g = rows_of(p_g, s_g, t_m, m_m, FORM.E, FORM.BLOCK_E, False, True, FORM.DTYPE)
    p_out = at_head(saved.out, s_out, i_b, i_h)
    b_out = rows_of(p_out, s_out, t_m, m_m, FORM.E, FORM.BLOCK_E, False, True, tl.float32)
    b_delta = tl.sum(b_g.to(tl.float32) * b_out, 1)
    content = 1.0
    if p.position is not None:
        p_change = at_head(saved.change, s_out, i_b, i_h)
        b_change = rows_of(p_change, s_out, t_m, m_m, FORM.E, FORM.BLOCK_E, False, True, tl.float32)
        b_dgate = tl.sum(b_g.to(tl.float32) * b_change, 1)
        tl.store(saved.dgate + o_row, b_dgate, mask=m_m)
        gate = tl.load(p.gate + i_h).to(tl.float32)
        b_delta -= gate * b_dgate
        content = 1.0 - gate
    tl.store(saved.delta + o_row, b_delta, mask=m_m)
    if not ALONE:
        p_q = at_head(p.q, s_q, i_b, i_h)
        b_q = rows_of(p_q, s_q, t_m, m_m, FORM.D, FORM.BLOCK_D, False, True, FORM.DTYPE)
        p_k = at_head(p.k, s_k, i_b, i_h // z.shared_k)
        p_v = at_head(p.v, s_v, i_b, i_h // z.shared_v)
        b_lse = tl.zeros((BLOCK_M,), tl.float32)
        if not FORM.SIGMOID:
            b_lse = tl.load(saved.lse + o_row, mask=m_m, other=float("inf"))
        b_relative = None
        if p.rows is not None:
            o_r = tl.arange(0, FORM.BLOCK_R)
            b_relative = relative_logits(
                p, s_rows, s_columns, i_b, i_h, t_m[:, None], o_r[None, :], m_m[:, None], AT_K,
                FORM.DTYPE,
            )  # fmt: skip
            b_dr = tl.zeros((BLOCK_M, BLOCK_R), tl.float32)
        b_dq = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
        full, tiles = key_tiles(i_m, z, FORM, PHASES, False)
        for phase in tl.static_range(FIRST, LAST):
            if phase == 0:
                start = 0
                stop = full
            else:
                start = full
                stop = tiles
            for step in tl.range(start, stop):
                o_n = step * PHASES.BLOCK_N + tl.arange(0, PHASES.BLOCK_N)
                m_n = o_n < z.m
                t_n = token_of(o_n, i_w, AT_K)
                m_grid = on_grid(o_n, i_w, m_n, AT_K)
                SOME: tl.constexpr = phase == 1 or RIM
                b_k = columns_of(
                    p_k, s_k, t_n, m_grid, FORM.D, FORM.BLOCK_D, True, SOME, FORM.DTYPE
                )
                b_v = columns_of(
                    p_v, s_v, t_n, m_grid, FORM.E, FORM.BLOCK_E, True, SOME, FORM.DTYPE
                )
                b_s = score_tile(
                    b_q, b_k, b_relative, o_m, o_n, m_m, m_n,
                    p, s_bias, s_keep, s_mask, z, i_b, i_h, i_w, FORM, phase == 1,
                )  # fmt: skip
                b_p = share_of(b_s, b_lse[:, None], FORM.SIGMOID)
                b_dp = tl.dot(b_g, b_v, input_precision=FORM.PRECISION)
                b_ds = score_gradient(b_p, b_dp, b_delta[:, None], FORM.SIGMOID)
                b_ds = (b_ds * content).to(FORM.DTYPE)
                b_dq = tl.dot(b_ds, tl.trans(b_k), b_dq, input_precision=FORM.PRECISION)
                if p.rows is not None:
                    b_axes = on_axes(o_n[:, None], o_r[None, :], AT_K, FORM.DTYPE)
                    b_dr = tl.dot(b_ds, b_axes, b_dr, input_precision=FORM.PRECISION)
        if p_dq is not None:
            o_d = tl.arange(0, FORM.BLOCK_D)
            p_tile = at_head(p_dq, s_dq, i_b, i_h) + t_m[:, None] * s_dq[2]
            mask = m_m[:, None] & (o_d < FORM.D)[None, :]
            b_dq = (b_dq * factor).to(p_dq.dtype.element_ty)
            tl.store(p_tile + o_d[None, :], b_dq, mask=mask)
        if p_drows is not None:
            HIGH: tl.constexpr = FORM.AT_K.rows
            WIDE: tl.constexpr = FORM.AT_K.columns
            p_dr = at_head(p_drows, s_drows, i_b, i_h) + t_m[:, None] * s_drows[2]
            mask = m_m[:, None] & (o_r < HIGH)[None, :]
            tl.store(p_dr + o_r[None, :], b_dr.to(p_drows.dtype.element_ty), mask=mask)
            p_dc = at_head(p_dcolumns, s_dcolumns, i_b, i_h)
            p_dc += t_m[:, None] * s_dcolumns[2] + (o_r - HIGH)[None, :]
            mask = m_m[:, None] & ((o_r >= HIGH) & (o_r < HIGH + WIDE))[None, :]
            tl.store(p_dc, b_dr.to(p_dcolumns.dtype.element_ty), mask=mask)


@triton.jit
def _seen_from(i, i_home, o_c, m_c, FORM: tl.constexpr, HALO: tl.constexpr):
    """The i-th window that may see keys o_c of window i_home: the window, whether it is on the
    grid, and the places of the keys in it and which of them it sees."""
    if HALO is None:
        i_w = i_home
        on = True
        o_n = o_c
        m_n = m_c
    else:
        over_y = i // (2 * HALO.far_x + 1) - HALO.far_y
        over_x = i % (2 * HALO.far_x + 1) - HALO.far_x
        at_y, at_x = i_home // HALO.windows_x + over_y, i_home % HALO.windows_x + over_x
        on = (at_y >= 0) & (at_y < HALO.windows_y) & (at_x >= 0) & (at_x < HALO.windows_x)
        i_w = at_y * HALO.windows_x + at_x
        y = o_c // HALO.width - over_y * HALO.height + HALO.rim
        x = o_c % HALO.width - over_x * HALO.width + HALO.rim
        m_n = m_c & (y >= 0) & (y < FORM.AT_K.rows) & (x >= 0) & (x < FORM.AT_K.columns)
        o_n = y * FORM.AT_K.columns + x
    return i_w, on, o_n, m_n


@triton.jit
def _key_scores(
    b_k, b_q, t_m, o_m, o_n, m_m, m_n, p, s_bias, s_rows, s_columns, s_keep, s_mask, z,
    i_b, i_h, i_w, FORM: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Scores in bits turned round, `n m`, from keys `n d` and queries `m d`."""
    AT_K: tl.constexpr = FORM.AT_K
    b_s = tl.dot(b_k, tl.trans(b_q), input_precision=FORM.PRECISION) * z.scale
    if p.rows is not None:
        o_r = tl.arange(0, FORM.BLOCK_R)
        b_relative = relative_logits(
            p, s_rows, s_columns, i_b, i_h, t_m[None, :], o_r[:, None], m_m[None, :], AT_K,
            FORM.DTYPE,
        )  # fmt: skip
        b_axes = on_axes(o_n[:, None], o_r[None, :], AT_K, FORM.DTYPE)
        b_s += tl.dot(b_axes, b_relative, input_precision=FORM.PRECISION) * LOG2E
    return masked_scores(
        b_s, o_m[None, :], o_n[:, None], m_m[None, :], m_n[:, None],
        p, s_bias, s_keep, s_mask, z, i_b, i_h, i_w, FORM, MASKED,
    )  # fmt: skip


@triton.jit
def _query_tiles(i_n, on, z, FORM: tl.constexpr, PHASES: tl.constexpr, HALO: tl.constexpr,
                 GATED: tl.constexpr):  # fmt: skip
    """Of a tile of keys: the first tile of queries that sees it, the first that sees it whole,
    and the end."""
    first = 0
    whole = 0
    end = tl.cdiv(z.n, PHASES.BLOCK_M)
    if FORM.CAUSAL and not GATED:
        early = i_n * PHASES.BLOCK_N - z.ahead
        first = tl.minimum(tl.maximum(early, 0) // PHASES.BLOCK_M, end)
        whole = tl.cdiv(tl.maximum(early + PHASES.BLOCK_N - 1, 0), PHASES.BLOCK_M)
        whole = tl.maximum(first, tl.minimum(whole, end))
    if FORM.LEFT and not GATED:
        late = tl.maximum((i_n + 1) * PHASES.BLOCK_N - z.behind, 0)
        end = tl.minimum(end, tl.cdiv(late, PHASES.BLOCK_M))
        whole = tl.minimum(whole, end)
    if HALO is not None:
        end = tl.where(on, end, 0)
    if PHASES.FIRST == 1:
        whole = end
    return first, whole, end


@triton.jit
def _to_keys(
    p, s_q, s_k, s_v, s_bias, s_position, s_rows, s_columns, s_keep, s_mask, saved, s_g, p_dk, s_dk,
    p_dv, s_dv, z, factor, count, around, members, FORM: tl.constexpr, PHASES: tl.constexpr,
    HOME: tl.constexpr, HALO: tl.constexpr, APART: tl.constexpr,
):  # fmt: skip
    """dv = sum of p g and dk = factor sum of ds q, over all queries that see a tile of keys.

    members  query heads that share the keys, or the values, whose gradient is asked for
    APART    keys and values have other numbers of heads: only one gradient is asked for
    count    keys of a window of HOME
    around   windows that may see them: 1, with a halo those around
    """
    AT_Q: tl.constexpr = FORM.AT_Q
    FIRST: tl.constexpr = PHASES.FIRST
    LAST: tl.constexpr = PHASES.LAST
    BLOCK_D: tl.constexpr = FORM.BLOCK_D
    BLOCK_E: tl.constexpr = FORM.BLOCK_E
    BLOCK_M: tl.constexpr = PHASES.BLOCK_M
    BLOCK_N: tl.constexpr = PHASES.BLOCK_N
    blocks, groups = tl.cdiv(count, BLOCK_N), z.heads // members
    i_n, i_home = tl.program_id(0) % blocks, tl.program_id(0) // blocks % z.windows
    i_row = (tl.program_id(0) // blocks // z.windows).to(tl.int64)
    i_b, i_g = i_row // groups, i_row % groups
    o_c = i_n * BLOCK_N + tl.arange(0, BLOCK_N)
    m_c = o_c < count
    t_n = token_of(o_c, i_home, HOME)
    i_first = i_g * members
    p_k = at_head(p.k, s_k, i_b, i_first // z.shared_k)
    p_v = at_head(p.v, s_v, i_b, i_first // z.shared_v)
    b_k = rows_of(p_k, s_k, t_n, m_c, FORM.D, FORM.BLOCK_D, False, True, FORM.DTYPE)
    b_v = rows_of(p_v, s_v, t_n, m_c, FORM.E, FORM.BLOCK_E, False, True, FORM.DTYPE)
    b_dk = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    b_dv = tl.zeros((BLOCK_N, BLOCK_E), tl.float32)
    for i in range(around):
        i_w, on, o_n, m_n = _seen_from(i, i_home, o_c, m_c, FORM, HALO)
        first, whole, end = _query_tiles(i_n, on, z, FORM, PHASES, HALO, p.position is not None)
        for member in range(members):
            i_h = i_first + member
            if APART:
                p_k = at_head(p.k, s_k, i_b, i_h // z.shared_k)
                p_v = at_head(p.v, s_v, i_b, i_h // z.shared_v)
                b_k = rows_of(p_k, s_k, t_n, m_c, FORM.D, FORM.BLOCK_D, False, True, FORM.DTYPE)
                b_v = rows_of(p_v, s_v, t_n, m_c, FORM.E, FORM.BLOCK_E, False, True, FORM.DTYPE)
            p_q, p_g = at_head(p.q, s_q, i_b, i_h), at_head(saved.g, s_g, i_b, i_h)
            o_line = (i_b * z.heads + i_h) * z.total
            content = 1.0
            if p.position is not None:
                gate = tl.load(p.gate + i_h).to(tl.float32)
                content = 1.0 - gate
            for phase in tl.static_range(FIRST, LAST):
                if phase == 0:
                    start = whole
                    stop = end
                else:
                    start = first
                    stop = whole
                for step in tl.range(start, stop):
                    o_m = step * BLOCK_M + tl.arange(0, BLOCK_M)
                    m_m = o_m < z.n
                    t_m = token_of(o_m, i_w, AT_Q)
                    b_q = rows_of(p_q, s_q, t_m, m_m, FORM.D, FORM.BLOCK_D, True, True, FORM.DTYPE)
                    b_g = rows_of(p_g, s_g, t_m, m_m, FORM.E, FORM.BLOCK_E, True, True, FORM.DTYPE)
                    b_s = _key_scores(
                        b_k, b_q, t_m, o_m, o_n, m_m, m_n,
                        p, s_bias, s_rows, s_columns, s_keep, s_mask, z, i_b, i_h, i_w, FORM,
                        phase == 1,
                    )  # fmt: skip
                    b_lse = tl.zeros((BLOCK_M,), tl.float32)
                    if not FORM.SIGMOID:
                        b_lse = tl.load(saved.lse + o_line + t_m, mask=m_m, other=float("inf"))
                    b_p = share_of(b_s, b_lse[None, :], FORM.SIGMOID)
                    b_mixed = b_p
                    if p.position is not None:
                        mask = m_m[None, :] & m_n[:, None]
                        b_s_2 = position_scores(
                            p, s_position, i_h, o_m[None, :], o_n[:, None], mask, 0.0
                        )
                        b_lse_2 = tl.load(saved.lse_2 + o_line + t_m, mask=m_m, other=float("inf"))
                        b_p_2 = tl.exp2(b_s_2 - b_lse_2[None, :])
                        b_mixed = content * b_p + gate * b_p_2
                    if p_dv is not None:
                        b_w = b_mixed.to(FORM.DTYPE)
                        b_dv = tl.dot(b_w, b_g, b_dv, input_precision=FORM.PRECISION)
                    if p_dk is not None:
                        b_dp = tl.dot(b_v, tl.trans(b_g), input_precision=FORM.PRECISION)
                        b_delta = tl.zeros((BLOCK_M,), tl.float32)
                        if not FORM.SIGMOID:
                            b_delta = tl.load(saved.delta + o_line + t_m, mask=m_m, other=0.0)
                        b_ds = score_gradient(b_p, b_dp, b_delta[None, :], FORM.SIGMOID)
                        b_ds = (b_ds * content).to(FORM.DTYPE)
                        b_dk = tl.dot(b_ds, b_q, b_dk, input_precision=FORM.PRECISION)
    if p_dk is not None:
        o_d = tl.arange(0, FORM.BLOCK_D)
        p_tile = at_head(p_dk, s_dk, i_b, i_g) + t_n[:, None] * s_dk[2] + o_d[None, :]
        mask = m_c[:, None] & (o_d < FORM.D)[None, :]
        tl.store(p_tile, (b_dk * factor).to(p_dk.dtype.element_ty), mask=mask)
    if p_dv is not None:
        o_e = tl.arange(0, FORM.BLOCK_E)
        p_tile = at_head(p_dv, s_dv, i_b, i_g) + t_n[:, None] * s_dv[2] + o_e[None, :]
        mask = m_c[:, None] & (o_e < FORM.E)[None, :]
        tl.store(p_tile, b_dv.to(p_dv.dtype.element_ty), mask=mask)


def gradients(
    x: AttentionOperands,
    given: AttentionArguments,
    g: Tensor,
    out: Tensor,
    saved: tuple[Tensor, ...],
    needs: set[str],
) -> dict[str, Tensor]:
    """The gradients of the arguments named in `needs`; bias as the caller has it in `given`."""
    q, lse = x.pointers.q, None if x.sigmoid else saved[0]
    change, lse_2 = saved[-2:] if x.gated else (None, None)
    delta, dgate = torch.empty(2, *q.shape[:3], dtype=torch.float32, device=q.device)
    kept = Saved(g, out, change, lse, lse_2, delta, dgate)
    grads = _query_gradients(x, kept, needs)  # which fills delta and dgate
    if needs & {"k", "v"}:
        grads.update(_key_gradients(x, kept, needs))
    if given.bias is not None and "bias" in needs:
        grads["bias"] = bias_gradient(x, given.bias, kept)
    if given.slopes is not None and "slopes" in needs:
        grads["slopes"] = slopes_gradient(x, given.slopes, kept)
    if x.pointers.position is not None and "position" in needs:
        grads["position"] = scores_gradient(x, x.pointers.position, kept, placed=True)
    if x.gated and "gate" in needs:
        grads["gate"] = dgate.sum((0, 2))
    return grads


def _query_gradients(x: AttentionOperands, saved: Saved, needs: set[str]) -> dict[str, Tensor]:
    """The gradients of q, rows and columns."""
    p = x.pointers
    rows = columns = None
    if p.rows is not None and p.columns is not None and needs & {"rows", "columns"}:
        rows = torch.empty_like(p.rows, memory_format=torch.contiguous_format)
        columns = torch.empty_like(p.columns, memory_format=torch.contiguous_format)
    dq = like(p.q, p.q.shape[-1]) if "q" in needs else None
    named = {"q": dq, "rows": rows, "columns": columns}
    tiles = backward_tiles(x, (128, 64), x.m)
    _to_queries[x.programs(x.n, tiles.queries)](
        p, *x.strides, saved, saved.g.stride(), saved.out.stride(),
        *(y for grad in named.values() for y in (grad, None if grad is None else grad.stride())),
        x.sizes, x.factor, x.form, x.phases(tiles), all(grad is None for grad in named.values()),
        **options(tiles.warps, tiles.stages),
    )  # fmt: skip
    return {name: grad for name, grad in named.items() if grad is not None and name in needs}


def _key_gradients(x: AttentionOperands, saved: Saved, needs: set[str]) -> dict[str, Tensor]:
    k, v = x.pointers.k, x.pointers.v
    if k.shape[1] != v.shape[1] and {"k", "v"} <= needs:  # a program for each head of either
        return _key_gradients(x, saved, {"k"}) | _key_gradients(x, saved, {"v"})
    dk = like(k, k.shape[-1]) if "k" in needs else None
    dv = like(v, v.shape[-1]) if "v" in needs else None
    count = x.m if x.home is None else x.home.columns * x.home.rows
    around = 1 if x.halo is None else (2 * x.halo.far_y + 1) * (2 * x.halo.far_x + 1)
    tiles = backward_tiles(x, (64, 128), count)
    masked = x.halo is not None or x.gated or x.behind is not None
    last = 2 if masked or x.ahead is not None else 1
    phases = Phases(int(masked), last, tiles.queries, tiles.keys)
    own = v if dk is None else k
    groups, members = own.shape[0] * own.shape[1], x.pointers.q.shape[1] // own.shape[1]
    _to_keys[(-(-count // tiles.keys) * x.windows * groups,)](
        x.pointers, *x.strides, saved, saved.g.stride(),
        dk, None if dk is None else dk.stride(), dv, None if dv is None else dv.stride(),
        x.sizes, x.factor, count, around, members, x.form, phases, x.home, x.halo,
        k.shape[1] != v.shape[1],
        **options(tiles.warps, tiles.stages),
    )  # fmt: skip
    return {name: grad for name, grad in (("k", dk), ("v", dv)) if grad is not None}
