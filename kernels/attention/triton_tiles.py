"""What the kernels of attention share: tokens of windows, loads, scores, tile by tile."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# Triton types kernels when it compiles them.
from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ..shared.triton_rows import LOG2E


class Lattice(NamedTuple):
    """Where the places of windows lie.

    columns, rows    of places in one window
    windows_x        windows in a row
    apart_y, apart_x how far windows lie apart, down and across
    step_y, step_x   how far places of one window lie apart
    rim              rows and columns of places outside the window, on each side
    height, width    of the grid
    """

    columns: int
    rows: int
    windows_x: int
    apart_y: int
    apart_x: int
    step_y: int
    step_x: int
    rim: int
    height: int
    width: int


class Halo(NamedTuple):
    """Which windows see the keys of another: up to far_y down and far_x across from it.

    windows_y, windows_x   of the grid
    height, width          of a window without its rim
    """

    far_y: int
    far_x: int
    windows_y: int
    windows_x: int
    height: int
    width: int
    rim: int


class Pointers(NamedTuple):
    """The tensors of a call; None is what the call leaves out."""

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None
    position: Tensor | None
    gate: Tensor | None
    rows: Tensor | None
    columns: Tensor | None
    keep: Tensor | None
    mask: Tensor | None
    slopes: Tensor | None


Stride = tuple[int, ...]


class Strides(NamedTuple):
    """Of all tensors but the gate and the slopes, which are dense."""

    q: Stride
    k: Stride
    v: Stride
    bias: Stride | None
    position: Stride | None
    rows: Stride | None
    columns: Stride | None
    keep: Stride | None
    mask: Stride | None


class Saved(NamedTuple):
    """What the forward left, and sums over channels of the gradient g with it, `b h n`.

    change     of a gated result: what position gives - what content gives
    lse        log-sum-exps of scores in bits, lse_2 those of position
    delta      of g and what content gives
    dgate      of g and change: what a gate's gradient sums up
    """

    g: Tensor
    out: Tensor
    change: Tensor | None
    lse: Tensor | None
    lse_2: Tensor | None
    delta: Tensor
    dgate: Tensor


class Sizes(NamedTuple):
    """Heads, heads that share keys and that share values, windows, queries and keys in one, queries
    in all, the last and the first key that query 0 sees, and the scale of scores in bits."""

    heads: int
    shared_k: int
    shared_v: int
    windows: int
    n: int
    m: int
    total: int
    ahead: int
    behind: int
    scale: float


class Form(NamedTuple):
    """What is fixed when a kernel is compiled: widths, lattices, kind of scores, types of dots.

    CAUSAL, LEFT     whether a query misses keys beyond it, and keys far before it
    BIAS_M, BIAS_N   whether each query and each key has a bias of its own
    """

    D: int
    E: int
    AT_Q: Lattice | None
    AT_K: Lattice | None
    CAUSAL: bool
    LEFT: bool
    SIGMOID: bool
    BIAS_M: bool
    BIAS_N: bool
    PRECISION: str
    DTYPE: Any
    BLOCK_D: int
    BLOCK_E: int
    BLOCK_R: int


class Phases(NamedTuple):
    """Whether tiles without any mask (FIRST 0) and tiles with one (LAST 2) occur, and their size.

    M are queries, N are keys.
    """

    FIRST: int
    LAST: int
    BLOCK_M: int
    BLOCK_N: int


@triton.jit
def token_of(o_place, i_w, AT: tl.constexpr):
    """The token at a place of window i_w; any number where that lies outside the grid."""
    if AT is None:
        token = o_place
    else:
        y = i_w // AT.windows_x * AT.apart_y + o_place // AT.columns * AT.step_y - AT.rim
        x = i_w % AT.windows_x * AT.apart_x + o_place % AT.columns * AT.step_x - AT.rim
        token = y * AT.width + x
    return token


@triton.jit
def on_grid(o_place, i_w, m_place, AT: tl.constexpr):
    """Which of the places that there are lie on the grid and not in the rim."""
    inside = m_place
    if AT is not None and AT.rim > 0:
        y = i_w // AT.windows_x * AT.apart_y + o_place // AT.columns * AT.step_y - AT.rim
        x = i_w % AT.windows_x * AT.apart_x + o_place % AT.columns * AT.step_x - AT.rim
        inside = inside & (y >= 0) & (y < AT.height) & (x >= 0) & (x < AT.width)
    return inside


@triton.jit
def query_tile(z, FORM: tl.constexpr, BLOCK_M: tl.constexpr):
    """Of a program: picture, head, row of both, window, tile of queries, their places, which
    there are, and their tokens. Causal tiles that see many keys come first."""
    AT_Q: tl.constexpr = FORM.AT_Q
    tiles = tl.cdiv(z.n, BLOCK_M)
    i_m, i_w = tl.program_id(0) % tiles, tl.program_id(0) // tiles % z.windows
    i_row = (tl.program_id(0) // tiles // z.windows).to(tl.int64)
    if FORM.CAUSAL:
        i_m = tiles - 1 - i_m
    o_m = i_m * BLOCK_M + tl.arange(0, BLOCK_M)
    t_m = token_of(o_m, i_w, AT_Q)
    return i_row // z.heads, i_row % z.heads, i_row, i_w, i_m, o_m, o_m < z.n, t_m


@triton.jit
def key_tiles(i_m, z, FORM: tl.constexpr, PHASES: tl.constexpr, ALL: tl.constexpr):
    """Of a tile of queries: the end of the tiles of keys that it sees whole, and of those that it
    sees at all. Where all have a mask, the first is where those begin.

    ALL   also those that a query misses
    """
    full = z.m // PHASES.BLOCK_N
    tiles = tl.cdiv(z.m, PHASES.BLOCK_N)
    if FORM.CAUSAL:
        seen = tl.maximum(i_m * PHASES.BLOCK_M + z.ahead + 1, 0)
        full = tl.minimum(full, seen // PHASES.BLOCK_N)
        if not ALL:
            end = tl.maximum((i_m + 1) * PHASES.BLOCK_M + z.ahead, 0)
            tiles = tl.minimum(tiles, tl.cdiv(end, PHASES.BLOCK_N))
    if PHASES.FIRST == 1:
        full = 0
        if FORM.LEFT and not ALL:
            full = tl.maximum(i_m * PHASES.BLOCK_M + z.behind, 0) // PHASES.BLOCK_N
    return full, tiles


@triton.jit
def at_head(p, s, i_b, i_h):
    """Where a head begins."""
    return p + i_b * s[0] + i_h * s[1]


@triton.jit
def fetch(p, m_0, m_1, SOME: tl.constexpr, DTYPE: tl.constexpr):
    """A tile, zeros where m_1 or, if only SOME are there, m_0 is false; m_1 None is all."""
    if SOME:
        if m_1 is None:
            x = tl.load(p, mask=m_0, other=0.0)
        else:
            x = tl.load(p, mask=m_0 & m_1, other=0.0)
    elif m_1 is None:
        x = tl.load(p)
    else:
        x = tl.load(p, mask=m_1, other=0.0)
    return x.to(DTYPE)


@triton.jit
def rows_of(
    p, s, t_row, m_row, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    FULL: tl.constexpr, SOME: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Tokens of a head, `row BLOCK`, zeros where there is none.

    FULL   a BLOCK of exactly WIDTH needs no mask of channels
    SOME   some tokens may not be there; without it every one is
    """
    o_c = tl.arange(0, BLOCK)
    m_c = None if FULL and WIDTH == BLOCK else (o_c < WIDTH)[None, :]
    return fetch(p + t_row[:, None] * s[2] + o_c[None, :] * s[3], m_row[:, None], m_c, SOME, DTYPE)


@triton.jit
def columns_of(
    p, s, t_column, m_column, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    FULL: tl.constexpr, SOME: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """The same turned round, `BLOCK column`."""
    o_c = tl.arange(0, BLOCK)
    m_c = None if FULL and WIDTH == BLOCK else (o_c < WIDTH)[:, None]
    p_x = p + t_column[None, :] * s[2] + o_c[:, None] * s[3]
    return fetch(p_x, m_column[None, :], m_c, SOME, DTYPE)


@triton.jit
def masked_scores(
    b_s, o_m, o_n, m_m, m_n, p, s_bias, s_keep, s_mask, z, i_b, i_h, i_w, FORM: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """Scores in bits with their bias, -inf where a query must not look.

    o_m, o_n, m_m, m_n   broadcast to the scores
    """
    if p.bias is not None:
        p_bias = at_head(p.bias, s_bias, i_b, i_h) + i_w.to(tl.int64) * s_bias[2]
        if FORM.BIAS_M and FORM.BIAS_N:
            p_tile = p_bias + o_m * s_bias[3] + o_n * s_bias[4]
            b_bias = tl.load(p_tile, mask=m_m & m_n, other=0.0)
        elif FORM.BIAS_M:
            b_bias = tl.load(p_bias + o_m * s_bias[3], mask=m_m, other=0.0)
        elif FORM.BIAS_N:
            b_bias = tl.load(p_bias + o_n * s_bias[4], mask=m_n, other=0.0)
        else:
            b_bias = tl.load(p_bias)
        b_s += b_bias.to(tl.float32) * LOG2E
    if p.slopes is not None:
        slope = tl.load(p.slopes + i_h).to(tl.float32) * LOG2E
        b_s -= slope * tl.abs(o_m + (z.m - z.n) - o_n).to(tl.float32)
    if p.keep is not None:
        b_keep = tl.load(p.keep + i_b * s_keep[0] + o_n * s_keep[1], mask=m_n, other=0)
        b_s = tl.where(b_keep != 0, b_s, float("-inf"))
    if p.mask is not None:
        p_mask = at_head(p.mask, s_mask, i_b, i_h) + o_m * s_mask[2] + o_n * s_mask[3]
        b_seen = tl.load(p_mask, mask=m_m & m_n, other=0)
        b_s = tl.where(b_seen != 0, b_s, float("-inf"))
    if MASKED:
        seen = m_n
        if FORM.CAUSAL:
            seen = seen & (o_n <= o_m + z.ahead)
        if FORM.LEFT:
            seen = seen & (o_n >= o_m + z.behind)
        b_s = tl.where(seen, b_s, float("-inf"))
    return b_s


@triton.jit
def score_tile(
    b_q, b_k, b_relative, o_m, o_n, m_m, m_n, p, s_bias, s_keep, s_mask, z, i_b, i_h, i_w,
    FORM: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Scores in bits of a tile, `m n`, from queries `m d`, keys `d n` and relative logits."""
    AT_K: tl.constexpr = FORM.AT_K
    b_s = tl.dot(b_q, b_k, input_precision=FORM.PRECISION) * z.scale
    if p.rows is not None:
        o_r = tl.arange(0, FORM.BLOCK_R)
        b_axes = on_axes(o_n[None, :], o_r[:, None], AT_K, FORM.DTYPE)
        b_s += tl.dot(b_relative, b_axes, input_precision=FORM.PRECISION) * LOG2E
    return masked_scores(
        b_s, o_m[:, None], o_n[None, :], m_m[:, None], m_n[None, :],
        p, s_bias, s_keep, s_mask, z, i_b, i_h, i_w, FORM, MASKED,
    )  # fmt: skip


@triton.jit
def relative_logits(
    p, s_rows, s_columns, i_b, i_h, t_m, o_r, m_m, AT: tl.constexpr, DTYPE: tl.constexpr
):
    """Relative logits of queries by row, then by column of a window, side by side.

    t_m, o_r, m_m   broadcast to the logits
    """
    p_row = at_head(p.rows, s_rows, i_b, i_h) + t_m * s_rows[2] + o_r * s_rows[3]
    p_column = at_head(p.columns, s_columns, i_b, i_h) + t_m * s_columns[2]
    p_column += (o_r - AT.rows) * s_columns[3]
    b_row = tl.load(p_row, mask=m_m & (o_r < AT.rows), other=0.0).to(DTYPE)
    behind = m_m & (o_r >= AT.rows) & (o_r < AT.columns + AT.rows)
    return b_row + tl.load(p_column, mask=behind, other=0.0).to(DTYPE)


@triton.jit
def on_axes(o_n, o_r, AT: tl.constexpr, DTYPE: tl.constexpr):
    """1 where o_r is the row of key o_n or, past the rows, its column."""
    return ((o_r == o_n // AT.columns) | (o_r == AT.rows + o_n % AT.columns)).to(DTYPE)


@triton.jit
def share_of(b_s, b_lse, SIGMOID: tl.constexpr):
    """The map from scores in bits; a log-sum-exp of +inf makes it zero."""
    return 1.0 / (1.0 + tl.exp2(-b_s)) if SIGMOID else tl.exp2(b_s - b_lse)


@triton.jit
def score_gradient(b_p, b_dp, b_delta, SIGMOID: tl.constexpr):
    """The gradient of scores from that of the map."""
    return b_p * (1.0 - b_p) * b_dp if SIGMOID else b_p * (b_dp - b_delta)


@triton.jit
def position_scores(p, s_position, i_h, o_m, o_n, mask, OTHER: tl.constexpr):
    """The scores of position in bits, OTHER where the mask is false; offsets broadcast to them."""
    p_tile = p.position + i_h * s_position[0] + o_m * s_position[1] + o_n * s_position[2]
    return tl.load(p_tile, mask=mask, other=OTHER).to(tl.float32) * LOG2E
