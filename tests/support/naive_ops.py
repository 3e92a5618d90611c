"""The ops of kernels/ by their formulas, as simply as they can be written; for float64."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from limelight.kernels.outlook.reference import window_tokens
from limelight.kernels.windows import Window


def shares(q, k, *, bias=None, position=None, gate=None, keep=None, mask=None, scale=None,
           causal=False, score="softmax", slopes=None, row_factor=None, left=None,
           right=None) -> Tensor:  # fmt: skip
    """Attention's map, `b h n m`; zeros where a row sees nothing."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    scores = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = scores if bias is None else scores + bias
    if keep is not None:
        scores = scores.masked_fill(~keep[:, None, None], -torch.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    n, m = scores.shape[-2:]
    past = torch.arange(n)[:, None] + m - n - torch.arange(m)
    if slopes is not None:
        scores = scores - slopes[:, None, None] * past.abs()
    if left is not None:
        scores = scores.masked_fill(past > left, -torch.inf)
    if right is not None:
        scores = scores.masked_fill(-past > right, -torch.inf)
    if causal:
        scores = scores.masked_fill(~torch.ones(n, m, dtype=torch.bool).tril(m - n), -torch.inf)
    share = scores.sigmoid() if score == "sigmoid" else scores.softmax(-1).nan_to_num(0.0)
    if position is not None:
        g = gate[:, None, None]
        share = (1 - g) * share + g * position.softmax(-1)
    return share if row_factor is None else share * row_factor[..., None]


def window_shares(q, k, window: Window, bias=None, rows=None, columns=None,
                  score="softmax") -> Tensor:  # fmt: skip
    """The map window by window, `b h n m+1`; last the share of what lies outside the grid."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    k = torch.cat([k, torch.zeros_like(k[:, :, :1])], 2)
    places = torch.arange(window.key_size[0] * window.key_size[1])
    parts = []
    for number, keys in enumerate(window.key_index()):
        tokens = window.query_index()[number]
        scores = q[:, :, tokens] @ k[:, :, keys].mT * q.shape[-1] ** -0.5
        if bias is not None:
            scores = scores + (bias[:, :, number] if bias.ndim == 5 else bias)
        if rows is not None:
            scores = scores + rows[:, :, tokens][..., places // window.key_size[1]]
            scores = scores + columns[:, :, tokens][..., places % window.key_size[1]]
        share = scores.sigmoid() if score == "sigmoid" else scores.softmax(-1)
        whole = share.new_zeros(*share.shape[:3], k.shape[2])
        index = (keys % k.shape[2]).expand(share.shape)
        parts.append(whole.scatter_add(-1, index, share))
    order = window.query_index().flatten().argsort()
    return torch.cat(parts, 2)[:, :, order]


def attention(*, v, window=None, **named) -> Tensor:
    v = v.repeat_interleave(named["q"].shape[1] // v.shape[1], 1)
    if window is None:
        return shares(**named) @ v
    factor = named.pop("row_factor", None)
    out = window_shares(window=window, **named)[..., :-1] @ v
    return out if factor is None else out * factor[..., None]


def neighborhood_attention(*, q, k, v, grid, kernel_size, stride=1, dilation=1, causal=False,
                           scale=None, extra_k=None, extra_v=None) -> Tensor:  # fmt: skip
    """Query by query: the keys of its window on each axis, then those that all see."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    if extra_k is not None:
        times = q.shape[1] // extra_k.shape[1]
        extra_k, extra_v = (x.repeat_interleave(times, 1) for x in (extra_k, extra_v))
    options = zip(*(
        [x] * len(grid) if isinstance(x, int) else list(x)
        for x in (kernel_size, stride, dilation, causal)
    ), strict=True)  # fmt: skip
    axes = list(zip(grid, options, strict=True))
    numbers = torch.arange(q.shape[2]).reshape(tuple(grid))
    out = []
    for place in product(*(range(side) for side in grid)):
        seen = [axis_keys(i, side, *how) for i, (side, how) in zip(place, axes, strict=True)]
        tokens = numbers[torch.meshgrid(*map(torch.tensor, seen), indexing="ij")].flatten()
        keys, values = k[:, :, tokens], v[:, :, tokens]
        if extra_k is not None:
            keys, values = torch.cat([keys, extra_k], 2), torch.cat([values, extra_v], 2)
        i = int(numbers[place])
        scores = q[:, :, i : i + 1] @ keys.mT * (q.shape[-1] ** -0.5 if scale is None else scale)
        out.append(scores.softmax(-1) @ values)
    return torch.cat(out, 2)


def axis_keys(i: int, side: int, kernel: int, stride: int, dilation: int, causal: bool):
    """NATTEN's window of token i: around the middle of its tile, moved inside at the borders."""
    group = list(range(i % dilation, side, dilation))
    at = i // dilation
    if causal:
        leader = min(at // stride * stride + stride - 1, len(group) - 1)
        return group[max(leader - kernel + 1, 0) : at + 1]
    leader = min(at // stride * stride + stride // 2, len(group) - 1)
    start = min(max(leader - kernel // 2, 0), len(group) - kernel)
    return group[start : start + kernel]


def masked_routed_attention(q, k, v, mask, block, causal=False) -> Tensor:
    """Query by query: softmax over the keys of the blocks that its own sees."""
    (b, h, n, d), m = q.shape, k.shape[2]
    rows = []
    for i, j, t in product(range(b), range(h), range(n)):
        row = (mask if mask.ndim == 3 else mask[:, j])[i, t // block]
        seen = [u for u in range(m) if row[u // block] and (u <= t or not causal)]
        own = j * k.shape[1] // h
        scores = q[i, j, t] @ k[i, own, seen].T * d**-0.5
        rows.append(scores.softmax(-1) @ v[i, own, seen])
    return torch.stack(rows).reshape(b, h, n, v.shape[-1])


def routed_attention(q, k, v, index=None, weight=None, window=None, block=None, **masked) -> Tensor:
    """Block by block: softmax over the keys of its chosen blocks, one after the other."""
    if index is None:
        return masked_routed_attention(q, k, v, block=block, **masked)
    (b, h, n, d), blocks = q.shape, index.shape[-2]
    queries = torch.arange(n).reshape(blocks, -1) if window is None else window.query_index()
    keys = torch.arange(k.shape[2]).reshape(blocks, -1) if len(k[0, 0]) != n else queries
    chosen, factor = (
        x if x is None or x.ndim == 4 else x[:, None].expand(-1, h, -1, -1) for x in (index, weight)
    )
    order = queries.flatten().argsort()
    rows = []
    for i, j, region in product(range(b), range(h), range(blocks)):
        named = [(t, int(r)) for t, r in enumerate(chosen[i, j, region]) if r >= 0]
        if not named:
            rows.append(q.new_zeros(queries.shape[1], v.shape[-1]))
            continue
        seen = torch.cat([keys[r] for _, r in named])
        times = q.new_ones(len(seen), 1)
        if factor is not None:
            each = [factor[i, j, region, t].expand(keys.shape[1]) for t, _ in named]
            times = torch.cat(each)[:, None]
        scores = q[i, j, queries[region]] @ (k[i, j, seen] * times).T * d**-0.5
        rows.append(scores.softmax(-1) @ (v[i, j, seen] * times))
    return torch.stack(rows).reshape(b, h, n, v.shape[-1])[:, :, order]


def gated_linear_attention(q, k, v, gate, *, scale=None, reverse=False) -> Tensor:
    """Token by token: the state decays, takes in the token, and is asked."""
    turn = [-2] if reverse else []
    q, k, v, gate = (x.flip(turn) for x in (q, k, v, gate))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    state, out = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1]), []
    for t in range(q.shape[-2]):
        state = gate[:, :, t].exp()[..., None] * state + k[:, :, t, :, None] * v[:, :, t, None]
        out.append((q[:, :, t, None] @ state)[:, :, 0] * scale)
    return torch.stack(out, 2).flip(turn)


def bidirectional_gla(*, gate, gate_back, **named) -> Tensor:
    ahead = gated_linear_attention(gate=gate, **named)
    return (ahead + gated_linear_attention(gate=gate_back, reverse=True, **named)) / 2


def outlook(v, weight, grid, kernel_size=3, stride=1, padding=1) -> Tensor:
    """Window by window: every place gathers from every source."""
    share = weight.softmax(-1)
    rows = [torch.zeros_like(v[:, :, 0]) for _ in range(v.shape[2])]
    for window, tokens in enumerate(window_tokens(grid, kernel_size, stride, padding).tolist()):
        for (place, i), (source, j) in product(enumerate(tokens), enumerate(tokens)):
            if i >= 0 and j >= 0:
                rows[i] = rows[i] + share[:, :, window, place, source, None] * v[:, :, j]
    return torch.stack(rows, 2)


def context_convolution(v, small, large=None, *, grid) -> Tensor:
    """Pixel by pixel, tap by tap: the window is moved until it lies in the picture."""
    halves = [(v, small)] if large is None else list(zip(v.chunk(2, 1), (small, large)))  # noqa: B905
    parts = []
    for values, weight in halves:
        size = round(weight.shape[3] ** 0.5)
        picture = values.unflatten(2, grid)
        rows = []
        for y, x in product(range(grid[0]), range(grid[1])):
            top, left = y - size // 2, x - size // 2
            top = 0 if top < 0 else min(top, grid[0] - size)
            left = 0 if left < 0 else min(left, grid[1] - size)
            own = weight[:, :, y * grid[1] + x]
            sees = picture[:, :, top : top + size, left : left + size].flatten(2, 3)
            rows.append((own[..., None] * sees).sum(2))
        parts.append(torch.stack(rows, 2))
    return torch.cat(parts, 1)


def gated_convolution(first, context, weight, bias=None, scale=1.0) -> Tensor:
    """Tap by tap: a shifted picture times its weight."""
    (height, width), (rows, columns) = context.shape[2:], weight.shape[2:]
    up, left = rows // 2, columns // 2
    padded = torch.nn.functional.pad(context, (left, left, up, up))
    gate = torch.zeros_like(context)
    for y, x in product(range(rows), range(columns)):
        shifted = padded[:, :, y : y + height, x : x + width]
        gate = gate + weight[:, 0, y, x][:, None, None] * shifted
    gate = gate if bias is None else gate + bias[:, None, None]
    return first * gate * scale


def global_filter(x, weight) -> Tensor:
    """Shift by shift: a circular convolution with a kernel of the whole grid."""
    height, width = x.shape[2:]
    kernels = torch.fft.irfft2(torch.view_as_complex(weight), s=(height, width))
    out = torch.zeros_like(x)
    for dy, dx in product(range(height), range(width)):
        out = out + kernels[:, dy, dx][:, None, None] * x.roll((dy, dx), (2, 3))
    return out


def long_convolution(
    v, filter, *, gate_in=None, gate_out=None, skip=None, circular=False
) -> Tensor:
    """Lag by lag; a spectrum is a circular filter over as many points as it has, v before zeros."""
    n, wraps = v.shape[2], circular or filter.is_complex()
    u = v if gate_in is None else v * gate_in[..., None]
    points = n if circular else 2 * n
    taps = torch.fft.irfft(filter, n=points) if filter.is_complex() else filter
    line = torch.nn.functional.pad(u, (0, 0, 0, points - n))
    out = 0 if skip is None else skip[:, None, None] * u
    for lag in range(taps.shape[-1]):
        if lag < points:
            moved = line.roll(lag, 2)[:, :, :n]
            if not wraps:
                moved = moved * (torch.arange(n) >= lag)[:, None]
            out = out + taps[..., lag, None, None] * moved
    return out if gate_out is None else out * gate_out[..., None]


def learned_sums(rows, a, b, scale_base, scale_sp, basis, base) -> Tensor:
    """Function by function, all of them at once: `b h n q` -> `b h n p`."""
    x = rows[:, :, :, None, :, None]  # b h n p q g
    if basis == "fourier":
        each = sum(
            a[:, None, ..., g : g + 1] * (x * (g + 1)).cos()
            + b[:, None, ..., g : g + 1] * (x * (g + 1)).sin()
            for g in range(a.shape[-1])
        )
    elif basis == "rational":
        above = sum(a[:, None, ..., n : n + 1] * x**n for n in range(6))
        each = above / (1 + sum(b[:, None, ..., n : n + 1] * x ** (n + 1) for n in range(4)).abs())
    else:
        at = (x - b[:, None, ..., :1]) / b[:, None, ..., 1:]
        bell = (-at * at / 2).exp()
        aux = 35 - 84 * (2 * at.abs() - 1) + 70 * (2 * at.abs() - 1) ** 2
        aux = (2 * at.abs() - 1) ** 4 * (aux - 20 * (2 * at.abs() - 1) ** 3)
        falling = torch.where(at.abs() < 0.5, 1.0, (torch.pi / 2 * aux).cos())
        shape = {
            "mexican_hat": 2 / (3**0.5 * torch.pi**0.25) * (1 - at * at) * bell,
            "morlet": (5 * at).cos() * bell,
            "dog": -at * bell,
            "meyer": torch.where(at.abs() < 1, (torch.pi * at.abs()).sin() * falling, 0.0),
            "shannon": at.sin() / at,
        }[basis]
        each = a[:, None, ..., :1] * shape
    each = each[..., 0]
    each = each if scale_sp is None else each * scale_sp[:, None]
    own = torch.nn.functional
    fixed = {"zero": torch.zeros_like, "identity": lambda y: y, "silu": own.silu, "gelu": own.gelu}
    beside = fixed[base](x[..., 0])
    each = each + (beside if scale_base is None else beside * scale_base[:, None])
    return each.sum(-1)


def kan_attention(q, k, v, a, b, W=None, scale_base=None, scale_sp=None, a2=None, b2=None,  # noqa: N803
                  scale_base2=None, scale_sp2=None, basis="fourier", base="zero", order="w_phi",
                  simplex=False, softmax_heads=(), scale=None) -> Tensor:  # fmt: skip
    """Head by head: the map is made whole, then meets the values."""
    scores, out = q @ k.mT * (q.shape[-1] ** -0.5 if scale is None else scale), []
    learned = iter(range(q.shape[1]))
    for head in range(q.shape[1]):
        if head in softmax_heads:
            out.append(scores[:, head].softmax(-1) @ v[:, head])
            continue
        i = next(learned)
        of = [x if x is None else x[i : i + 1] for x in (a, b, scale_base, scale_sp)]
        rows = scores[:, head : head + 1]
        if order == "phi_w":
            rows = rows @ W[i].T
        rows = learned_sums(rows, *of, basis, base)
        if order == "phi_phi":
            of = [x if x is None else x[i : i + 1] for x in (a2, b2, scale_base2, scale_sp2)]
            rows = learned_sums(rows, *of, basis, base)
        share = rows[:, 0] @ W[i].T if order == "w_phi" else rows[:, 0]
        out.append((nearest_on_simplex(share) if simplex else share) @ v[:, head])
    return torch.stack(out, 1)


def nearest_on_simplex(share: Tensor) -> Tensor:
    """By bisection for the number that, taken away, leaves a row that adds up to one."""
    low, high = share.detach().amin(-1, keepdim=True) - 1, share.detach().amax(-1, keepdim=True)
    for _ in range(80):
        middle = (low + high) / 2
        more = (share.detach() - middle).clamp(min=0).sum(-1, keepdim=True) > 1
        low, high = torch.where(more, middle, low), torch.where(more, high, middle)
    held = (share.detach() > high).to(share)
    off = ((share * held).sum(-1, keepdim=True) - 1) / held.sum(-1, keepdim=True)
    return (share - off) * held


def aggregated_attention(q, k, v, grid, pool, kernel_size=3, embedding=None, scale=None,
                         local_bias=None, pool_bias=None, table=None) -> Tensor:  # fmt: skip
    """Query by query: the cells of its window that lie on the grid, then all pooled keys."""
    (height, width), reach = grid, kernel_size // 2
    q, k = (x / x.norm(dim=-1, keepdim=True) for x in (q, k))
    n = height * width
    rows = []
    for y, x in product(range(height), range(width)):
        i, seen, cells = y * width + x, [], []
        for cell, (dy, dx) in enumerate(product(range(-reach, reach + 1), repeat=2)):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                seen.append((y + dy) * width + x + dx)
                cells.append(cell)
        query = q[:, :, i] if embedding is None else q[:, :, i] + embedding
        query = query if scale is None else query * scale[:, i, None]
        near = (query[:, :, None] @ k[:, :, seen].mT)[:, :, 0]
        near = near if local_bias is None else near + local_bias[:, cells]
        far = (query[:, :, None] @ k[:, :, n:].mT)[:, :, 0]
        far = far if pool_bias is None else far + pool_bias[:, i]
        share = torch.cat([near, far], -1).softmax(-1)
        if table is not None:
            share = torch.cat([share[..., : len(seen)] + table[:, :, i, cells],
                               share[..., len(seen) :]], -1)  # fmt: skip
        values = torch.cat([v[:, :, seen], v[:, :, n:]], 2)
        rows.append((share[:, :, None] @ values)[:, :, 0])
    return torch.stack(rows, 2)


def taylor_attention(q, k, v, *, scale=None, eps=1e-12) -> Tensor:
    """Token by token: weights from the series of exp, then their mean."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out = []
    for t in range(q.shape[2]):
        scores = scale * (q[:, :, t : t + 1] @ k[:, :, : t + 1].mT)
        weights = 1 + scores + scores**2 / 2
        out.append(weights @ v[:, :, : t + 1] / (weights.sum(-1, keepdim=True) + eps))
    return torch.cat(out, 2)


def wkv(k, v, decay, bonus) -> Tensor:
    """Token by token: the sums of before and the token, then the sums decay and take it in."""
    above = below = 0 * decay
    out = []
    for t in range(k.shape[2]):
        k_t, v_t = k[:, :, t, 0], v[:, :, t, 0]
        own = (bonus + k_t).exp()
        out.append((above + own * v_t) / (below + own))
        above = decay.exp() * above + k_t.exp() * v_t
        below = decay.exp() * below + k_t.exp()
    return torch.stack(out, 2)[..., None]
