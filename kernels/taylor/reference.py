"""Taylor attention (Based, arXiv 2402.18668): weights 1 + s + s^2/2 in the place of exp(s)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import KernelError
from ..kernel import kernel
from ..shared import wide
from .scan import CHUNK, Scan, initial_state, scanned, taylor

EPS = 1e-12


def taylor_map(
    rows: slice,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None = None,
    eps: float = EPS,
) -> Tensor:
    """A[t, s] = a_ts / (sum_r a_tr + eps) for s <= t, with a = 1 + s + s^2/2; `b h r m`."""
    weights = _weights(rows, q, k, scale)
    return weights / (weights.sum(-1, keepdim=True) + eps)


def _weights(rows: slice, q: Tensor, k: Tensor, scale: float | None) -> Tensor:
    places = torch.arange(q.shape[-2], device=q.device)
    scores = _scaled(q[:, :, rows], scale) @ wide(k).mT
    return taylor(scores).masked_fill(places > places[rows, None], 0.0)


@kernel(
    "taylor_attention",
    share=("v",),
    hold=("q", "k"),
    mixing=taylor_map,
    fast="triton_op",
)
def taylor_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    eps: float = EPS,
) -> Tensor:
    """Causal attention with weights a_ts = 1 + s + s^2/2, s = scale q_t . k_s; never negative.

    q k: b h n d, v: b h n e -> b h n e, o_t = sum_{s<=t} a_ts v_s / (sum_{s<=t} a_ts + eps).
    a is a product of (d + 1)(d + 2)/2 features of q and of k: tokens meet those of their chunk by
    scores, earlier ones through a sum over features, which are formed for one chunk at a time.
    scale d^-0.5 unless given; sums in float32. Raises KernelError for shapes that do not fit.
    """
    _check(q, k, v)
    scan = Scan(eps, from_state=q.shape[2] > CHUNK)
    return scanned(scan, _scaled(q, scale), wide(k), wide(v)).to(v.dtype)


def taylor_denominator(q: Tensor, k: Tensor, *, scale: float | None = None) -> Tensor:
    """sum_{s<=t} 1 + s + s^2/2, `b h n`: at least half the number of tokens seen."""
    _check(q, k, k)
    q, k = _scaled(q, scale), wide(k)
    state = initial_state(k, k[..., :0])
    parts = []
    for q_c, k_c in zip(q.split(CHUNK, 2), k.split(CHUNK, 2), strict=True):
        sums, state = Scan(0.0).sums(q_c, k_c, k_c[..., :0], state)
        parts.append(sums[..., 0])
    return torch.cat(parts, 2)


def taylor_state(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor | None = None,
    *,
    scale: float | None = None,
    eps: float = EPS,
) -> tuple[Tensor, Tensor]:
    """The causal scan that starts from a state and returns the next one, `b h f e+1` in float32.

    f = (d + 1)(d + 2)/2 features; the last column sums the weights alone. For decoding: one token
    costs f (e + 1) products a head.
    """
    _check(q, k, v)
    want = (*k.shape[:2], (k.shape[3] + 1) * (k.shape[3] + 2) // 2, v.shape[3] + 1)
    if state is not None and state.shape != want:
        raise KernelError(
            f"a state of {tuple(state.shape)} does not fit q and v: give the one of an earlier "
            f"call, {want}, or none"
        )
    state = initial_state(wide(k), wide(v)) if state is None else state
    scan, parts = Scan(eps), []
    for part in zip(*(x.split(CHUNK, 2) for x in (q, k, v)), strict=True):
        q_c, k_c, v_c = _scaled(part[0], scale), wide(part[1]), wide(part[2])
        out, state = scan.step(q_c, k_c, v_c, state.to(v_c))
        parts.append(out)
    return torch.cat(parts, 2).to(v.dtype), state


def _scaled(q: Tensor, scale: float | None) -> Tensor:
    return wide(q) * (q.shape[-1] ** -0.5 if scale is None else scale)


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    if not (q.ndim == v.ndim == 4 and q.shape == k.shape and q.shape[:3] == v.shape[:3]):
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        raise KernelError(f"taylor attention takes q and k b h n d and v b h n e, not {shapes}")
