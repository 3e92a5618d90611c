"""Kernels of gated linear attention by chunks: a scan of states, then all chunks at once.

Decays are sums of gates inside a chunk, each summed afresh from where it starts, so no exponent is
positive and none is a difference of large numbers. Pairs of tokens in one part of a chunk are
weighted one by one; parts meet through the border between them, chunks through the state.
`ways` is 1 for the scan from the first token, 2 for the one from the last, 3 for their mean.
"""

from __future__ import annotations

import triton
import triton.language as tl

PART = tl.constexpr(16)


@triton.jit
def _tile(x, stride, t, c, low, high, channels):
    """Tokens t of low to high and channels c in float32, zeros elsewhere."""
    mask = (t >= low) & (t < high) & (c < channels)
    return tl.load(x + t.to(tl.int64) * stride + c, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _head(x, strides, row, heads):
    """Where a head begins: row counts the heads of all pictures."""
    return x + (row // heads).to(tl.int64) * strides[0] + (row % heads).to(tl.int64) * strides[1]


@triton.jit
def _until(
    gate, stride, t, c, low, high, channels,
    axis: tl.constexpr, back: tl.constexpr, after: tl.constexpr,
):  # fmt: skip
    """Sums of gates in low to high: up to t with its own, or `after` t until the last one passed.

    back   the scan comes from the last token
    """
    shift: tl.constexpr = 0 if not after else (-1 if back else 1)
    g = _tile(gate, stride, t + shift, c, low, high, channels)
    return tl.cumsum(g, axis, reverse=back != after)


@triton.jit
def _scan(
    x, y, gate, out, x_n, y_n, gate_n, n, d, e, c, f,
    chunk: tl.constexpr, back: tl.constexpr, slope: tl.constexpr,
    dot: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """The state that each chunk meets, or with `slope` the gradient of the state that it leaves."""
    chunks = tl.cdiv(n, chunk)
    size = tl.cast(d, tl.int64) * e
    at_c, at_f = c[:, None], f[None, :]
    real = (at_c < d) & (at_f < e)
    state = tl.zeros((c.shape[0], f.shape[0]), tl.float32)
    for step in range(chunks):
        at = chunks - 1 - step if back != slope else step
        first = at * chunk
        end = tl.minimum(first + chunk, n)
        tl.store(out + at * size + at_c * e + at_f, state.to(out.dtype.element_ty), mask=real)
        t = first + tl.arange(0, chunk)
        far = _until(gate, gate_n, t[None, :], at_c, first, end, d, 1, back, not slope)
        given = _tile(x, x_n, t[None, :], at_c, first, end, d) * tl.exp(far)
        values = _tile(y, y_n, t[:, None], at_f, first, end, e)
        fade = tl.exp(tl.sum(_tile(gate, gate_n, t[None, :], at_c, first, end, d), 1))
        new = tl.dot(given.to(dot), values.to(dot), input_precision=precision)
        state = state * fade[:, None] + new


@triton.jit
def states(
    x, y, gate, gate_back, out, x_s, y_s, gate_s, back_s, heads, rows, n, d, e,
    ways: tl.constexpr, slope: tl.constexpr, chunk: tl.constexpr,
    block_d: tl.constexpr, block_e: tl.constexpr, dot: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """A scan over chunks for a block of channels and values; out: `ways b*h chunks d e`."""
    row, way = tl.program_id(0) // tl.cdiv(d, block_d), tl.program_id(2)
    c = tl.program_id(0) % tl.cdiv(d, block_d) * block_d + tl.arange(0, block_d)
    f = tl.program_id(1) * block_e + tl.arange(0, block_e)
    out += (way * rows + row).to(tl.int64) * tl.cdiv(n, chunk) * d * e
    x, y = _head(x, x_s, row, heads), _head(y, y_s, row, heads)
    if ways == 1 or (ways == 3 and way == 0):
        gate = _head(gate, gate_s, row, heads)
        _scan(
            x, y, gate, out, x_s[2], y_s[2], gate_s[2], n, d, e, c, f,
            chunk, False, slope, dot, precision,
        )  # fmt: skip
    if ways == 2 or (ways == 3 and way == 1):
        gate_back = _head(gate_back, back_s, row, heads)
        _scan(
            x, y, gate_back, out, x_s[2], y_s[2], back_s[2], n, d, e, c, f,
            chunk, True, slope, dot, precision,
        )  # fmt: skip


@triton.jit
def _faded(local, back: tl.constexpr, strict: tl.constexpr):
    """exp of the gates between tokens s and t of one part, `t s c`; zeros where t misses s."""
    t, s = tl.arange(0, PART)[:, None], tl.arange(0, PART)[None, :]
    seen = s >= t if back else s <= t
    if strict:
        seen = seen & (s != t)
    between = local[:, None, :] - local[None, :, :]
    return tl.exp(tl.where(seen[:, :, None], between, float("-inf")))


@triton.jit
def _pairs(
    q, k, gate, k_n, gate_n, own_q, own_k, t, c, first, start, end, d,
    chunk: tl.constexpr, back: tl.constexpr, dot: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """Scores of one part's tokens with the tokens passed in the chunk, and with each other."""
    local = _until(gate, gate_n, t[:, None], c[None, :], start, end, d, 0, back, False)
    if back:
        low, high = start + PART, end
    else:
        low, high = first, tl.minimum(start, end)
    s = first + tl.arange(0, chunk)[None, :]
    far = _until(gate, gate_n, s, c[:, None], low, high, d, 1, back, True)
    passed = _tile(k, k_n, s, c[:, None], low, high, d) * tl.exp(far)
    asked = own_q * tl.exp(local)
    scores = tl.dot(asked.to(dot), passed.to(dot), input_precision=precision)
    near = tl.sum(own_q[:, None, :] * own_k[None, :, :] * _faded(local, back, False), 2)
    return scores, near


@triton.jit
def scores(
    q, k, gate, gate_back, out, q_s, k_s, gate_s, back_s, heads, n, d, factor,
    ways: tl.constexpr, chunk: tl.constexpr, block_d: tl.constexpr, parts: tl.constexpr,
    dot: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """The map inside each chunk, `b*h chunks chunk chunk`; a program makes the rows of a part."""
    per_head = tl.cdiv(n, chunk) * (chunk // PART)
    row, start = tl.program_id(0) // per_head, tl.program_id(0) % per_head * PART
    first = start // chunk * chunk
    end, limit = tl.minimum(first + chunk, n), tl.minimum(start + PART, n)
    t = start + tl.arange(0, PART)
    q, k = _head(q, q_s, row, heads), _head(k, k_s, row, heads)
    gate, gate_back = _head(gate, gate_s, row, heads), _head(gate_back, back_s, row, heads)
    scores = tl.zeros((PART, chunk), tl.float32)
    near = tl.zeros((PART, PART), tl.float32)
    for part in range(parts):
        c = part * block_d + tl.arange(0, block_d)
        own_q = _tile(q, q_s[2], t[:, None], c[None, :], start, limit, d)
        own_k = _tile(k, k_s[2], t[:, None], c[None, :], start, limit, d)
        if ways != 2:
            far, close = _pairs(
                q, k, gate, k_s[2], gate_s[2], own_q, own_k, t, c, first, start, end, d,
                chunk, False, dot, precision,
            )  # fmt: skip
            scores += far
            near += close
        if ways != 1:
            far, close = _pairs(
                q, k, gate_back, k_s[2], back_s[2], own_q, own_k, t, c, first, start, end, d,
                chunk, True, dot, precision,
            )  # fmt: skip
            scores += far
            near += close
    out += tl.program_id(0).to(tl.int64) * PART * chunk + tl.arange(0, PART)[:, None] * chunk
    s = first + tl.arange(0, chunk)[None, :]
    apart = (s < start) | (s >= start + PART)
    tl.store(out + s - first, (scores * factor).to(out.dtype.element_ty), mask=apart)
    s = start - first + tl.arange(0, PART)[None, :]
    tl.store(out + s, (near * factor).to(out.dtype.element_ty))


@triton.jit
def _recall(
    x, gate, state, gate_n, t, c, f, first, end, d, e,
    back: tl.constexpr, slope: tl.constexpr, dot: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """What the state of a chunk brings to its tokens, `t e`."""
    far = _until(gate, gate_n, t[:, None], c[None, :], first, end, d, 0, back, slope)
    at_c, at_f = c[:, None], f[None, :]
    held = tl.load(state + at_c * e + at_f, mask=(at_c < d) & (at_f < e), other=0.0)
    asked = x * tl.exp(far)
    return tl.dot(asked.to(dot), held.to(tl.float32).to(dot), input_precision=precision)


@triton.jit
def results(
    x, y, gate, gate_back, scores, states, out, x_s, y_s, gate_s, back_s, out_s,
    heads, rows, n, d, e, factor,
    ways: tl.constexpr, slope: tl.constexpr, chunk: tl.constexpr,
    block_d: tl.constexpr, block_e: tl.constexpr, parts: tl.constexpr,
    dot: tl.constexpr, precision: tl.constexpr,
    state_dot: tl.constexpr, state_precision: tl.constexpr,
):  # fmt: skip
    """A chunk's result from its state and its scores; with `slope` the gradient of its values."""
    chunks = tl.cdiv(n, chunk)
    place = tl.program_id(0).to(tl.int64)
    row, first = tl.program_id(0) // chunks, tl.program_id(0) % chunks * chunk
    end = tl.minimum(first + chunk, n)
    i = tl.arange(0, chunk)
    t = first + i
    f = tl.program_id(1) * block_e + tl.arange(0, block_e)
    x, y, out = _head(x, x_s, row, heads), _head(y, y_s, row, heads), _head(out, out_s, row, heads)
    gate, gate_back = _head(gate, gate_s, row, heads), _head(gate_back, back_s, row, heads)
    states += place * d * e
    other = states
    if ways == 3:
        other += tl.cast(rows, tl.int64) * chunks * d * e
    total = tl.zeros((chunk, block_e), tl.float32)
    for part in range(parts):
        c = part * block_d + tl.arange(0, block_d)
        own = _tile(x, x_s[2], t[:, None], c[None, :], first, end, d)
        if ways != 2:
            total += _recall(
                own, gate, states, gate_s[2], t, c, f, first, end, d, e,
                False, slope, state_dot, state_precision,
            )  # fmt: skip
        if ways != 1:
            total += _recall(
                own, gate_back, other, back_s[2], t, c, f, first, end, d, e,
                True, slope, state_dot, state_precision,
            )  # fmt: skip
    at = i[None, :] * chunk + i[:, None] if slope else i[:, None] * chunk + i[None, :]
    score = tl.load(scores + place * chunk * chunk + at).to(tl.float32).to(dot)
    values = _tile(y, y_s[2], t[:, None], f[None, :], first, end, e).to(dot)
    total = total * factor + tl.dot(score, values, input_precision=precision)
    to = out + t[:, None].to(tl.int64) * out_s[2] + f[None, :]
    tl.store(to, total.to(out.dtype.element_ty), mask=(t < n)[:, None] & (f < e)[None, :])


@triton.jit
def products(
    g, v, out, g_s, v_s, heads, n, e, factor,
    chunk: tl.constexpr, block_e: tl.constexpr, parts: tl.constexpr,
    dot: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """The gradient of the map inside each chunk: g v'."""
    chunks = tl.cdiv(n, chunk)
    row, first = tl.program_id(0) // chunks, tl.program_id(0) % chunks * chunk
    end = tl.minimum(first + chunk, n)
    i = tl.arange(0, chunk)
    g, v = _head(g, g_s, row, heads), _head(v, v_s, row, heads)
    total = tl.zeros((chunk, chunk), tl.float32)
    for part in range(parts):
        f = part * block_e + tl.arange(0, block_e)
        back = _tile(g, g_s[2], first + i[:, None], f[None, :], first, end, e)
        values = _tile(v, v_s[2], first + i[None, :], f[:, None], first, end, e)
        total += tl.dot(back.to(dot), values.to(dot), input_precision=precision)
    out += tl.program_id(0).to(tl.int64) * chunk * chunk
    tl.store(out + i[:, None] * chunk + i[None, :], total * factor)


@triton.jit
def _through_state(
    y, state, y_n, t, c, start, limit, d, e,
    block_e: tl.constexpr, parts: tl.constexpr, dot: tl.constexpr, precision: tl.constexpr,
):  # fmt: skip
    """y times the transposed state, `t d`."""
    total = tl.zeros((t.shape[0], c.shape[0]), tl.float32)
    for part in range(parts):
        f = part * block_e + tl.arange(0, block_e)
        own = _tile(y, y_n, t[:, None], f[None, :], start, limit, e)
        mask = (f < e)[:, None] & (c < d)[None, :]
        held = tl.load(state + c[None, :] * e + f[:, None], mask=mask, other=0.0).to(tl.float32)
        total += tl.dot(own.to(dot), held.to(dot), input_precision=precision)
    return total


@triton.jit
def _one_way(
    q, k, v, g, gate, slopes, state, slope_state, q_n, k_n, v_n, g_n, gate_n,
    own_q, own_k, near, t, c, first, start, end, limit, d, e, factor,
    chunk: tl.constexpr, back: tl.constexpr, block_e: tl.constexpr, parts: tl.constexpr,
    dot: tl.constexpr, precision: tl.constexpr,
    state_dot: tl.constexpr, state_precision: tl.constexpr,
):  # fmt: skip
    """Gradients of a part's q and k through one scan, but for each token's meeting with itself."""
    if back:
        old, before, new, after = start + PART, end, first, tl.minimum(start, end)
    else:
        old, before, new, after = first, tl.minimum(start, end), start + PART, end
    at = first + tl.arange(0, chunk)
    at_t, at_s, at_c = t[:, None], at[:, None], c[None, :]
    local = _until(gate, gate_n, at_t, at_c, start, limit, d, 0, back, False)
    rest = _until(gate, gate_n, at_t, at_c, start, limit, d, 0, back, True)
    i, j = at_t - first, at[None, :] - first
    score = tl.load(slopes + i * chunk + j, mask=(at >= old)[None, :] & (at < before)[None, :])
    score = tl.where(((at >= old) & (at < before))[None, :], score, 0.0)
    far = _until(gate, gate_n, at_s, at_c, old, before, d, 0, back, True)
    passed = _tile(k, k_n, at_s, at_c, old, before, d) * tl.exp(far)
    to_q = tl.dot(score.to(dot), passed.to(dot), input_precision=precision)
    fade = tl.exp(tl.sum(_tile(gate, gate_n, at_s, at_c, old, before, d), 0))[None, :]
    to_q += fade * factor * _through_state(
        g, state, g_n, t, c, start, limit, d, e, block_e, parts, state_dot, state_precision
    )  # fmt: skip
    to_q *= tl.exp(local)
    score = tl.load(slopes + j * chunk + i, mask=(at >= new)[None, :] & (at < after)[None, :])
    score = tl.where(((at >= new) & (at < after))[None, :], score, 0.0)
    far = _until(gate, gate_n, at_s, at_c, new, after, d, 0, back, False)
    coming = _tile(q, q_n, at_s, at_c, new, after, d) * tl.exp(far)
    to_k = tl.dot(score.to(dot), coming.to(dot), input_precision=precision)
    fade = tl.exp(tl.sum(_tile(gate, gate_n, at_s, at_c, new, after, d), 0))[None, :]
    to_k += fade * factor * _through_state(
        v, slope_state, v_n, t, c, start, limit, d, e, block_e, parts, state_dot, state_precision
    )  # fmt: skip
    to_k *= tl.exp(rest)
    pairs = _faded(local, back, True) * near[:, :, None]
    to_q += tl.sum(pairs * own_k[None, :, :], 1)
    to_k += tl.sum(pairs * own_q[:, None, :], 0)
    return to_q, to_k


@triton.jit
def to_q_and_k(
    q, k, v, g, gate, gate_back, slopes, states, slope_states, out_q, out_k, turns,
    q_s, k_s, v_s, g_s, gate_s, back_s, out_q_s, out_k_s, heads, rows, n, d, e, factor,
    ways: tl.constexpr, chunk: tl.constexpr, block_d: tl.constexpr, block_e: tl.constexpr,
    parts: tl.constexpr, dot: tl.constexpr, precision: tl.constexpr,
    state_dot: tl.constexpr, state_precision: tl.constexpr,
):  # fmt: skip
    """Gradients of one part's q and k, and in turns what q and k would give to their decays."""
    per_head = tl.cdiv(n, chunk) * (chunk // PART)
    row, start = tl.program_id(0) // per_head, tl.program_id(0) % per_head * PART
    first = start // chunk * chunk
    end, limit = tl.minimum(first + chunk, n), tl.minimum(start + PART, n)
    i = tl.arange(0, PART)
    t, c = start + i, tl.program_id(1) * block_d + tl.arange(0, block_d)
    mask = (t < n)[:, None] & (c < d)[None, :]
    place = row.to(tl.int64) * tl.cdiv(n, chunk) + first // chunk
    slopes += place * chunk * chunk
    states, slope_states = states + place * d * e, slope_states + place * d * e
    turns += (row.to(tl.int64) * n + t[:, None]) * d + c[None, :]
    q, k, v = _head(q, q_s, row, heads), _head(k, k_s, row, heads), _head(v, v_s, row, heads)
    gate, gate_back = _head(gate, gate_s, row, heads), _head(gate_back, back_s, row, heads)
    g = _head(g, g_s, row, heads)
    own_q = _tile(q, q_s[2], t[:, None], c[None, :], start, limit, d)
    own_k = _tile(k, k_s[2], t[:, None], c[None, :], start, limit, d)
    inside = slopes + (start - first + i)[:, None] * chunk + start - first
    near = tl.load(inside + i[None, :])
    itself = tl.sum(tl.where(i[:, None] == i[None, :], near, 0.0), 1)[:, None]
    if ways == 3:
        itself *= 2
    to_q, to_k = itself * own_k, itself * own_q
    if ways != 2:
        by_q, by_k = _one_way(
            q, k, v, g, gate, slopes, states, slope_states, q_s[2], k_s[2], v_s[2], g_s[2],
            gate_s[2], own_q, own_k, near, t, c, first, start, end, limit, d, e, factor,
            chunk, False, block_e, parts, dot, precision, state_dot, state_precision,
        )  # fmt: skip
        tl.store(turns, own_q * by_q - own_k * by_k, mask=mask)
        to_q, to_k = to_q + by_q, to_k + by_k
    if ways == 3:
        turns += tl.cast(rows, tl.int64) * n * d
        states += tl.cast(rows, tl.int64) * tl.cdiv(n, chunk) * d * e
        slope_states += tl.cast(rows, tl.int64) * tl.cdiv(n, chunk) * d * e
    if ways != 1:
        by_q, by_k = _one_way(
            q, k, v, g, gate_back, slopes, states, slope_states, q_s[2], k_s[2], v_s[2], g_s[2],
            back_s[2], own_q, own_k, near, t, c, first, start, end, limit, d, e, factor,
            chunk, True, block_e, parts, dot, precision, state_dot, state_precision,
        )  # fmt: skip
        tl.store(turns, own_q * by_q - own_k * by_k, mask=mask)
        to_q, to_k = to_q + by_q, to_k + by_k
    out_q, out_k = _head(out_q, out_q_s, row, heads), _head(out_k, out_k_s, row, heads)
    at = t[:, None].to(tl.int64)
    tl.store(out_q + at * out_q_s[2] + c[None, :], to_q.to(out_q.dtype.element_ty), mask=mask)
    tl.store(out_k + at * out_k_s[2] + c[None, :], to_k.to(out_k.dtype.element_ty), mask=mask)


@triton.jit
def to_gate(
    turns, out, out_s, heads, n, d,
    back: tl.constexpr, block_t: tl.constexpr, block_d: tl.constexpr,
):  # fmt: skip
    """The gradient of a gate: the sum of turns from its token to the end of the scan."""
    row = tl.program_id(0)
    at_c = tl.program_id(1) * block_d + tl.arange(0, block_d)[None, :]
    turns += row.to(tl.int64) * n * d
    out = _head(out, out_s, row, heads)
    carried = tl.zeros((1, block_d), tl.float32)
    blocks = tl.cdiv(n, block_t)
    for step in range(blocks):
        at = step if back else blocks - 1 - step
        t = (at * block_t + tl.arange(0, block_t))[:, None]
        own = _tile(turns, d, t, at_c, 0, n, d)
        total = carried + tl.cumsum(own, 0, reverse=not back)
        to = out + t.to(tl.int64) * out_s[2] + at_c
        tl.store(to, total.to(out.dtype.element_ty), mask=(t < n) & (at_c < d))
        carried += tl.sum(own, 0)[None, :]
