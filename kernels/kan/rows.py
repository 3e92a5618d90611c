"""Rows of the learned map, from as many rows of scores: each row depends on its own query alone."""

from __future__ import annotations

import torch
from torch import Tensor

from ..shared import wide
from .arguments import Functions, KanArguments
from .bases import BASE_FUNCTIONS, BASES


def scores_of(x: KanArguments) -> Tensor:
    """A = scale q k', `b h n m`."""
    return wide(x.q) @ wide(x.k).mT * x.factor


def phi_of(rows: Tensor, f: Functions, basis: str, base: str) -> Tensor:
    """Phi(A)_p = sum over q of phi_pq(A_q), `b h n q` -> `b h n p`.

    phi_pq(x) = scale_base base(x) + scale_sp basis(x; a, b), scales of one where there are none.
    """
    kind, fixed = BASES[basis], BASE_FUNCTIONS[base]
    a, b = wide(f.a).to(rows.dtype), wide(f.b).to(rows.dtype)
    if kind.linear:
        out = _matrix_products(rows, *scaled(a, b, f.scale_sp))
    else:
        each = kind.phi(rows[..., None, :], a[:, None], b[:, None])  # b h n p q
        out = each.sum(-1) if f.scale_sp is None else (each * f.scale_sp[:, None]).sum(-1)
    if fixed is None:
        return out
    values = fixed(rows)
    if f.scale_base is None:
        return out + values.sum(-1, keepdim=True)
    return out + values @ f.scale_base.to(rows.dtype).mT


def scaled(a: Tensor, b: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """Coefficients with the scale of their functions in them."""
    if scale is None:
        return a, b
    return a * scale[..., None].to(a.dtype), b * scale[..., None].to(b.dtype)


def _matrix_products(rows: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Cosines and sines of multiples, each times the matrix of its coefficients."""
    parts = [
        (m * rows).cos() @ a[..., m - 1].mT + (m * rows).sin() @ b[..., m - 1].mT
        for m in range(1, a.shape[-1] + 1)
    ]
    return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]


def reduced_rows(x: KanArguments) -> Tensor:
    """What is left before the last step of the order: Phi(A), W A or Phi1(A), `b h n r`."""
    if x.order == "phi_w":
        assert x.W is not None
        return wide(x.q) @ (wide(x.W) @ wide(x.k)).mT * x.factor
    return phi_of(scores_of(x), x.first, x.basis, x.base)


def sigma(x: KanArguments, reduced: Tensor) -> Tensor:
    """The map from its reduced rows, `b h n m`."""
    whole = reduced
    if x.order == "w_phi":
        assert x.W is not None
        whole = reduced @ wide(x.W).to(reduced.dtype).mT
    elif x.order != "phi":
        last = x.first if x.order == "phi_w" else x.second
        whole = phi_of(reduced, last, x.basis, x.base)
    return on_simplex(whole) if x.simplex else whole


def mixed(x: KanArguments, reduced: Tensor) -> Tensor:
    """The map times the values, from its reduced rows.

    W Phi is never multiplied out: its rows times v are Phi(A) (W' v), and W' v is r tokens.
    """
    v = wide(x.v)
    if x.order == "w_phi" and not x.simplex:
        assert x.W is not None
        return reduced @ (wide(x.W).to(v.dtype).mT @ v).to(reduced.dtype)
    return sigma(x, reduced) @ v


def on_simplex(y: Tensor) -> Tensor:
    """Each row's nearest point of the probability simplex (algorithm 1).

    max(y - lambda, 0), lambda = (the sum of the rho largest - 1) / rho, rho the most for which the
    smallest of them still stands above lambda.
    """
    down = y.sort(-1, descending=True).values
    count = torch.arange(1, y.shape[-1] + 1, device=y.device, dtype=y.dtype)
    above = (down.cumsum(-1) - 1) / count
    rho = (down > above).sum(-1, keepdim=True)
    return (y - above.gather(-1, rho - 1)).clamp(min=0)
