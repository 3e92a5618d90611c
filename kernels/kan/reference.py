"""Kolmogorov-Arnold attention (arXiv 2503.10632): learned functions of scores for softmax."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..kernel import kernel
from ..shared import by_rows, fused, normal
from .arguments import KanArguments, Order, check
from .bases import BASES
from .rows import mixed, reduced_rows, scores_of, sigma

LEARNED = ("a", "b", "W", "scale_base", "scale_sp", "a2", "b2", "scale_base2", "scale_sp2")
BLOCK_NUMBERS = 1 << 21  # what a block of rows may hold of each of its parts


def kan_map(
    span: slice,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    W: Tensor | None = None,  # noqa: N803  (the paper's name)
    scale_base: Tensor | None = None,
    scale_sp: Tensor | None = None,
    a2: Tensor | None = None,
    b2: Tensor | None = None,
    scale_base2: Tensor | None = None,
    scale_sp2: Tensor | None = None,
    basis: str = "fourier",
    base: str = "zero",
    order: Order = "w_phi",
    simplex: bool = False,
    softmax_heads: tuple[int, ...] = (),
    scale: float | None = None,
) -> Tensor:
    """Some rows of the map, `b h r m`, in float32 or float64; signed unless on the simplex."""
    learned = a, b, W, scale_base, scale_sp, a2, b2, scale_base2, scale_sp2
    how = basis, base, order, simplex, softmax_heads, scale
    x = KanArguments(q[:, :, span], k, v, *learned, *how)
    rows = _in_blocks(x.learned(), sigma)
    return x.joined(rows, normal(scores_of(x.softmax()))) if x.softmax_heads else rows


@kernel(
    "kan_attention",
    share=("v",),
    hold=("q", "k", *LEARNED),
    mixing=kan_map,
    entrywise=False,  # every weight of a row is a function of all its scores
    fast="triton_op",
)
def kan_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    W: Tensor | None = None,  # noqa: N803  (the paper's name)
    scale_base: Tensor | None = None,
    scale_sp: Tensor | None = None,
    a2: Tensor | None = None,
    b2: Tensor | None = None,
    scale_base2: Tensor | None = None,
    scale_sp2: Tensor | None = None,
    *,
    basis: str = "fourier",
    base: str = "zero",
    order: Order = "w_phi",
    simplex: bool = False,
    softmax_heads: tuple[int, ...] = (),
    scale: float | None = None,
) -> Tensor:
    """sigma(A) v with A = scale q k' and each row sigma(A_i) = W Phi(A_i), not normalised.

    q: b h n d, k: b h m d, v: b h m e -> b h n e. Phi(x)_p = sum over q of phi_pq(x_q), where
    phi_pq(x) = scale_base_pq base(x) + scale_sp_pq basis(x; a_pq, b_pq).
    a, b     `h p q g`, what the basis takes; of Fourier a_m cos(m x) + b_m sin(m x), m = 1 .. g
    scale_*  `h p q`, one where they are not given
    basis    fourier, rational, or a wavelet: mexican_hat, morlet, dog, meyer, shannon
    base     zero, identity, silu or gelu
    order    w_phi  W Phi(A), p = r functions of q = m scores, W `h m r` (algorithm 2)
             phi_w  Phi(W A), p = m functions of q = r numbers, W `h r m`
             phi_phi  Phi2(Phi1(A)), r functions of m scores, then m (a2, b2, ...) of r
             phi  Phi(A), m functions of m scores, no W (equation 1)
    simplex  project each row on the probability simplex (algorithm 1); else weights have a sign
    softmax_heads  heads whose map is softmax(A); a, b, W are then of the others, in their order
    scale    d^-0.5 unless given
    Nothing of size b h n m r is ever held. Raises KernelError for arguments that do not fit, as
    for another number of keys than the weights are made for.
    """
    learned = a, b, W, scale_base, scale_sp, a2, b2, scale_base2, scale_sp2
    x = KanArguments(q, k, v, *learned, basis, base, order, simplex, softmax_heads, scale)
    check(x)
    out = _in_blocks(x.learned(), mixed).to(v.dtype)
    if not softmax_heads:
        return out
    rest = x.softmax()
    return x.joined(out, fused(rest.q, rest.k, rest.v, scale=rest.scale))


def _in_blocks(x: KanArguments, last: Callable[[KanArguments, Tensor], Tensor]) -> Tensor:
    """The last step on the reduced rows, block by block of queries."""
    names = ("q", "k", "v", *LEARNED)

    def run(*tensors: Tensor | None) -> Tensor:
        given: dict[str, Any] = dict(zip(names, tensors, strict=True))
        part = replace(x, **given)
        return last(part, reduced_rows(part))

    return by_rows(run, *(getattr(x, name) for name in names), block=rows_at_once(x))


def rows_at_once(x: KanArguments) -> int:
    """Queries of a block: what it holds for each, b h m numbers or b h p q, stays within bounds."""
    b, h, _, _ = x.q.shape
    each = x.k.shape[2]
    if not BASES[x.basis].linear:
        each = max(each, *(f.shape[1] * f.shape[2] for f in (x.a, x.a2) if f is not None))
    return max(1, BLOCK_NUMBERS // max(1, b * h * each))
