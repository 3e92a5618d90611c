"""Gated linear attention (arXiv 2312.06635): S <- diag(exp g) S + k v', o = scale q' S."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import KernelError
from ..kernel import kernel
from ..shared import wide

CHUNK, PART = 64, 16


def gla_map(
    rows: slice,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    scale: float | None = None,
    reverse: bool = False,
) -> Tensor:
    """A[t, s] = scale sum_c q_tc k_sc exp(b_tc - b_sc), b the running sum of gate; `b h r m`.

    Rows are made PART at a time, each part against its first decay: no exponent is positive.
    """
    places = range(q.shape[-2])[rows]
    flip = [-2] if reverse else []
    q, k, gate = (wide(x).flip(flip) for x in (q, k, gate))
    decay = gate.to(_sums(gate)).cumsum(-2)
    at = [len(decay[0, 0]) - 1 - p for p in places] if reverse else list(places)
    scores = q.new_zeros(*q.shape[:2], len(at), k.shape[-2])
    for start in range(0, len(at), PART):
        tokens = torch.tensor(at[start : start + PART], device=q.device)
        scores[:, :, start : start + PART] = _rows(q, k, decay, tokens)
    scores = scores * (q.shape[-1] ** -0.5 if scale is None else scale)
    return scores.flip([-1]) if reverse else scores


def _rows(q: Tensor, k: Tensor, decay: Tensor, tokens: Tensor) -> Tensor:
    """Some rows of the forward map: keys before all of them by a product, the rest by name."""
    first = int(tokens.min())
    b_t = decay[:, :, tokens]
    scores = q.new_zeros(*q.shape[:2], len(tokens), k.shape[-2])
    if first:
        base = decay[:, :, first - 1 : first]
        past = k[:, :, :first] * (base - decay[:, :, :first]).exp().to(k)
        scores[..., :first] = (q[:, :, tokens] * (b_t - base).exp().to(q)) @ past.mT
    last = int(tokens.max()) + 1
    near = slice(first, last)
    far = (b_t[:, :, :, None] - decay[:, :, None, near]).clamp(max=0).exp().to(q)
    near_scores = torch.einsum("bhtc,bhsc,bhtsc->bhts", q[:, :, tokens], k[:, :, near], far)
    seen = torch.arange(first, last, device=q.device) <= tokens[:, None]
    scores[..., near] = near_scores * seen
    return scores


@kernel(
    "gated_linear_attention",
    share=("q", "k", "v"),
    hold=("gate",),
    mixing=gla_map,
    fast="triton_op",
)
def gated_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    *,
    scale: float | None = None,
    reverse: bool = False,
) -> Tensor:
    """Causal linear attention with a decay for each token, head and key channel.

    q k: b h n d, v: b h n e, gate: b h n d, the logarithm of the decay, <= 0 -> b h n e.
    S_t = diag(exp(gate_t)) S_{t-1} + k_t v_t', o_t = scale q_t' S_t; scale d^-0.5 unless given.
    The old state decays before the token is added, and the token counts in its own result.
    reverse   from the last token to the first, with the gate of the same position
    Chunked; sums in float32. Raises KernelError for shapes that do not fit.
    """
    _check(q, k, v, gate)
    if reverse:
        q, k, v, gate = (x.flip([-2]) for x in (q, k, v, gate))
    out, _ = _scan(q, k, v, gate, None, scale)
    return out.flip([-2]) if reverse else out


def both_map(
    rows: slice,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    gate_back: Tensor,
    scale: float | None = None,
) -> Tensor:
    """Half of the forward map and half of the backward one; a token meets itself in both."""
    ahead = gla_map(rows, q, k, v, gate, scale)
    return (ahead + gla_map(rows, q, k, v, gate_back, scale, reverse=True)) / 2


@kernel(
    "bidirectional_gla",
    share=("q", "k", "v"),
    hold=("gate", "gate_back"),
    mixing=both_map,
    fast="triton_op",
)
def bidirectional_gla(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    gate_back: Tensor,
    *,
    scale: float | None = None,
) -> Tensor:
    """The mean of a scan from each end (ViG, arXiv 2405.18425); shapes as in the causal one."""
    _check(q, k, v, gate)
    _check(q, k, v, gate_back)
    ahead = gated_linear_attention.reference(q, k, v, gate, scale=scale)
    back = gated_linear_attention.reference(q, k, v, gate_back, scale=scale, reverse=True)
    return (ahead + back) / 2


def gla_state(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gate: Tensor,
    state: Tensor | None = None,
    *,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """The causal scan that starts from a state `b h d e` and returns the next one, in float32.

    For decoding: one token costs d x e products a head.
    """
    _check(q, k, v, gate)
    if q.shape[-2] > 1:
        return _scan(q, k, v, gate, state, scale)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    new = wide(k).mT @ wide(v)
    state = new if state is None else state * wide(gate).exp().mT + new
    return (scale * wide(q) @ state).to(v.dtype), state


def _check(q: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> None:
    if not (q.ndim == 4 and q.shape == k.shape == gate.shape and q.shape[:3] == v.shape[:3]):
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, gate, v))
        raise KernelError(
            f"gated linear attention takes q, k and gate b h n d and v b h n e, not {shapes}"
        )


def _scan(
    q: Tensor, k: Tensor, v: Tensor, gate: Tensor, state: Tensor | None, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Chunk by chunk: what the state brings, and what tokens of one chunk bring each other."""
    n, dtype = q.shape[-2], v.dtype
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    size = CHUNK if n > PART else PART
    q, k, v, gate = (_chunks(wide(x), size) for x in (q, k, v, gate))
    q = q * scale
    decay = gate.to(_sums(gate)).cumsum(-2)  # its differences, not itself, are rounded
    end = decay[..., -1:, :]
    news = (k * (end - decay).to(k).exp()).mT @ v  # b h c d e
    states = []
    state = torch.zeros_like(news[:, :, 0]) if state is None else state.to(news)
    fade = end.to(k).exp().mT
    for c in range(news.shape[2]):
        states.append(state)
        state = state * fade[:, :, c] + news[:, :, c]
    out = (q * decay.to(q).exp()) @ torch.stack(states, 2) + _within(q, k, decay) @ v
    return out.flatten(2, 3)[:, :, :n].to(dtype), state


def _sums(x: Tensor) -> torch.dtype:
    """The precision of running sums: float64 where the device has it."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def _chunks(x: Tensor, size: int) -> Tensor:
    """`b h n d` -> `b h c s d`, zeros at the end: they decay nothing and add nothing."""
    x = F.pad(x, (0, 0, 0, -x.shape[-2] % size))
    return torch.unflatten(x, -2, (-1, size))


def _within(q: Tensor, k: Tensor, decay: Tensor) -> Tensor:
    """The map inside each chunk, `b h c s s`, part by part against the decay before the part."""
    size = q.shape[-2]
    rows = []
    seen = torch.ones(PART, PART, dtype=torch.bool, device=q.device).tril()
    for start in range(0, size, PART):
        part = slice(start, start + PART)
        base = decay[..., start - 1 : start, :] if start else 0.0
        late = (decay[..., part, :] - base).to(q)
        d_t, d_s = late[..., :, None, :], late[..., None, :, :]
        near = (d_t - d_s).masked_fill(~seen[..., None], -torch.inf).exp()
        blocks = [torch.einsum("...tc,...sc,...tsc->...ts", q[..., part, :], k[..., part, :], near)]
        if start:
            past = k[..., :start, :] * (base - decay[..., :start, :]).to(k).exp()
            blocks.insert(0, (q[..., part, :] * late.exp()) @ past.mT)
        rows.append(F.pad(torch.cat(blocks, -1), (0, size - start - PART)))
    return torch.cat(rows, -2)
