"""Bases of learned functions of one number, and the fixed functions that may stand beside them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

OneNumber = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Basis:
    """Functions phi(x; a, b), a and b of `sizes` numbers each; None: as many as there are terms.

    phi     of x, a and b that broadcast but for the last axis of a and b
    linear  phi is the sum over terms m of a_m even(m x) + b_m odd(m x), so that sums over many
            functions are matrix products
    """

    sizes: tuple[int | None, int | None]
    phi: Callable[[Tensor, Tensor, Tensor], Tensor]
    linear: bool = False


def fourier(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """sum over m = 1 .. G of a_m cos(m x) + b_m sin(m x), without a constant (equation 2)."""
    m = torch.arange(1, a.shape[-1] + 1, device=x.device, dtype=x.dtype)
    turned = x[..., None] * m
    return (a * turned.cos() + b * turned.sin()).sum(-1)


def rational(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(a_0 + .. + a_5 x^5) / (1 + |b_1 x + .. + b_4 x^4|), which has no poles."""
    above = _polynomial(x, a)
    return above / (1 + (x * _polynomial(x, b)).abs())


def _polynomial(x: Tensor, c: Tensor) -> Tensor:
    total: Tensor = c[..., -1]
    for n in range(c.shape[-1] - 2, -1, -1):
        total = total * x + c[..., n]
    return total


def wavelet(mother: OneNumber) -> Basis:
    """a_0 mother((x - tau) / s) with tau, s = b."""

    def phi(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return a[..., 0] * mother((x - b[..., 0]) / b[..., 1])

    return Basis((1, 2), phi)


def mexican_hat(x: Tensor) -> Tensor:
    """2 / (sqrt(3) pi^(1/4)) (1 - x^2) exp(-x^2 / 2)."""
    peak = 2 / math.sqrt(3 * math.sqrt(math.pi))
    return peak * (1 - x.square()) * (-x.square() / 2).exp()


def morlet(x: Tensor) -> Tensor:
    """cos(5 x) exp(-x^2 / 2)."""
    return (5 * x).cos() * (-x.square() / 2).exp()


def derivative_of_gaussian(x: Tensor) -> Tensor:
    """-x exp(-x^2 / 2)."""
    return -x * (-x.square() / 2).exp()


def meyer(x: Tensor) -> Tensor:
    """sin(pi |x|) m(|x|): m is 1 up to 1/2, 0 from 1, between them cos(pi/2 nu(2 |x| - 1))."""
    far = x.abs()
    t = (2 * far - 1).clamp(0, 1)
    nu = t**4 * (35 - 84 * t + 70 * t**2 - 20 * t**3)
    return (math.pi * far).sin() * (math.pi / 2 * nu).cos()


def shannon(x: Tensor) -> Tensor:
    """sin(x) / x, and 1 at 0."""
    return torch.sinc(x / math.pi)


BASES: dict[str, Basis] = {
    "fourier": Basis((None, None), fourier, linear=True),
    "rational": Basis((6, 4), rational),
    "mexican_hat": wavelet(mexican_hat),
    "morlet": wavelet(morlet),
    "dog": wavelet(derivative_of_gaussian),
    "meyer": wavelet(meyer),
    "shannon": wavelet(shannon),
}
BASE_FUNCTIONS: dict[str, OneNumber | None] = {
    "zero": None,
    "identity": lambda x: x,
    "silu": F.silu,
    "gelu": F.gelu,
}


def curves(
    x: Tensor,
    a: Tensor,
    b: Tensor,
    scale_base: Tensor | None = None,
    scale_sp: Tensor | None = None,
    *,
    basis: str = "fourier",
    base: str = "zero",
) -> Tensor:
    """phi_pq at the numbers x, `x` -> `h p q x`: scale_base base(x) + scale_sp basis(x; a, b)."""
    function = BASE_FUNCTIONS[base]
    learned = BASES[basis].phi(x, a[..., None, :], b[..., None, :])
    learned = learned if scale_sp is None else learned * scale_sp[..., None]
    if function is None:
        return learned
    fixed = function(x)
    return learned + (fixed if scale_base is None else fixed * scale_base[..., None])
