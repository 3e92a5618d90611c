"""Relevance rules of linear maps: what a convolution or a linear layer hands back.

y = W x + b receives relevance R; stab(z) = z + eps sign(z), sign(0) = +1. W+ and W- are the
positive and the negative part. Sources: Bach et al. 2015, Montavon et al. 2017 and 2019,
Andeol et al. 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import OptionError
from .linear_map import LinearMap


class LinearRule(Protocol):
    """From a linear map and the relevance of its output to the relevance of its input.

    gradient  True: the result is multiplied by x to give relevance; False: it is relevance
    """

    @property
    def gradient(self) -> bool: ...

    def __call__(self, a: LinearMap, r: Tensor) -> Tensor: ...


def stabilised(z: Tensor, eps: float) -> Tensor:
    """z + eps sign(z), with sign(0) = +1; eps 0 leaves exact zeros to be divided as 0."""
    shift = torch.where(z < 0, -eps, eps)  # of torch's default type, whatever the model's
    return z + shift.to(torch.promote_types(z.dtype, torch.float32))


def ratio(r: Tensor, z: Tensor, eps: float) -> Tensor:
    """r / stab(z), and 0 where that is 0 / 0, which takes an eps of 0."""
    s = r / stabilised(z, eps)
    return s if eps else s.masked_fill_(r == 0, 0)


def as_gradient(r: Tensor, z: Tensor) -> Tensor:
    """The gradient g with z g = r, for the relevance r of a value z; zeros of z are stabilised."""
    return ratio(r, z, 1e-10)


def divided(
    a: LinearMap, r: Tensor, z: Tensor, eps: float, bias: Tensor | None, times: float = 1.0
) -> Tensor:
    """s = r / stab(z) for a z that holds `bias`; what these absorb is recorded."""
    s = ratio(r, z, eps)
    if a.record is not None:
        a.absorb(s, z, stabilised(z, eps), bias, times)
    return s


@dataclass(frozen=True)
class Epsilon:
    """x W'(R / stab(W x + b)). Keeps all but the bias share and what eps absorbs.

    Where R = y g is known, R / stab(y) is g |y| / (|y| + eps): no quotient of two small sums, which
    rounding would decide.
    """

    eps: float = 1e-6
    bias: bool = True
    signed: bool = True
    gradient: bool = True

    def __call__(self, a: LinearMap, r: Tensor) -> Tensor:
        bias = a.bias if self.bias else None
        if self.signed and a.y is not None and a.grad is not None and bias is a.bias:
            return a.transpose(self._known(a, a.y, a.grad), a.weight)
        z = a.forward(a.x, a.weight, bias)
        if self.signed:
            return a.transpose(divided(a, r, z, self.eps, bias), a.weight)
        s = r / (z + self.eps)
        a.absorb(s, z, z + self.eps, bias, 1.0)
        return a.transpose(s, a.weight)

    def _known(self, a: LinearMap, y: Tensor, g: Tensor) -> Tensor:
        """R / stab(y) of R = y g."""
        if not self.eps:
            a.absorb(g, y, y, a.bias, 1.0)
            return g
        size = y.abs()
        s = g * (size / (size + self.eps))
        if a.record is not None:
            a.absorb(s, y, y + self.eps * y.sign(), a.bias, 1.0)
        return s


@dataclass(frozen=True)
class ZPlus:
    """x+ W+ and x- W- against their sum. Keeps all but the bias share."""

    eps: float = 1e-6
    bias: bool = True
    gradient: bool = True

    def __call__(self, a: LinearMap, r: Tensor) -> Tensor:
        bias = a.bias.clamp(min=0) if a.bias is not None and self.bias else None
        return _pair(a, r, a.weight.clamp(min=0), a.weight.clamp(max=0), bias, self.eps)


@dataclass(frozen=True)
class AlphaBeta:
    """alpha of the activating share less beta of the inhibiting one; alpha - beta = 1."""

    alpha: float = 2.0
    beta: float = 1.0
    eps: float = 1e-6
    bias: bool = True
    gradient: bool = True

    def __post_init__(self) -> None:
        if self.alpha < 0 or self.beta < 0 or abs(self.alpha - self.beta - 1) > 1e-9:
            raise OptionError(
                f"alpha {self.alpha} and beta {self.beta} do not go together: both are at least 0 "
                "and alpha - beta is 1"
            )

    def __call__(self, a: LinearMap, r: Tensor) -> Tensor:
        up, down = a.weight.clamp(min=0), a.weight.clamp(max=0)
        bias = a.bias if self.bias else None
        high, low = (None, None) if bias is None else (bias.clamp(min=0), bias.clamp(max=0))
        out = self.alpha * _pair(a, r, up, down, high, self.eps, self.alpha)
        if self.beta:
            out = out - self.beta * _pair(a, r, down, up, low, self.eps, -self.beta)
        return out


@dataclass(frozen=True)
class Gamma:
    """Positive contributions to positive outputs (negative to negative) weigh 1 + gamma."""

    gamma: float = 0.25
    eps: float = 1e-6
    bias: bool = True
    gradient: bool = True

    def __call__(self, a: LinearMap, r: Tensor) -> Tensor:
        bias = a.bias if self.bias else None
        y = a.forward(a.x, a.weight, a.bias)
        up = a.weight + self.gamma * a.weight.clamp(min=0)
        down = a.weight + self.gamma * a.weight.clamp(max=0)
        high = None if bias is None else bias + self.gamma * bias.clamp(min=0)
        low = None if bias is None else bias + self.gamma * bias.clamp(max=0)
        out = _pair(a, r.masked_fill(y <= 0, 0), up, down, high, self.eps)
        if bool((y < 0).any()) and bool((r[y < 0] != 0).any()):
            out = out + _pair(a, r.masked_fill(y >= 0, 0), down, up, low, self.eps)
        return out


@dataclass(frozen=True)
class PositiveGamma:
    """W -> W + gamma W+ for inputs that are never negative; with weights only, as captum has it.

    The preset `epsilon_gamma_wsquare` takes it behind ReLUs. Source: Montavon et al. 2019.
    """

    gamma: float = 0.25
    eps: float = 1e-9
    bias: bool = True
    gradient: bool = True

    def __call__(self, a: LinearMap, r: Tensor) -> Tensor:
        weight = a.weight + self.gamma * a.weight.clamp(min=0)
        bias = a.bias if self.bias else None
        z = a.forward(a.x, weight, bias)
        return a.transpose(divided(a, r, z, self.eps, bias), weight)


@dataclass(frozen=True)
class PositiveWeights:
    """x W+ against itself, whatever the sign of x, as captum's alpha-1-beta-0 rule has it."""

    eps: float = 1e-9
    bias: bool = False
    gradient: bool = True

    def __call__(self, a: LinearMap, r: Tensor) -> Tensor:
        weight = a.weight.clamp(min=0)
        bias = a.bias if self.bias else None
        z = a.forward(a.x, weight, bias)
        return a.transpose(divided(a, r, z, self.eps, bias), weight)


@dataclass(frozen=True)
class ZBox:
    """x W - l W+ - h W-, for inputs within [l, h]: the first layer of pixels."""

    low: float
    high: float
    eps: float = 1e-6
    bias: bool = True
    gradient: bool = False

    def __call__(self, a: LinearMap, r: Tensor) -> Tensor:
        up, down = a.weight.clamp(min=0), a.weight.clamp(max=0)
        low, high = self.low * a.ones, self.high * a.ones
        b = a.bias if self.bias else None
        high_b, low_b = (None, None) if b is None else (b.clamp(min=0), b.clamp(max=0))
        z = a.forward(a.x, a.weight, b) - a.forward(low, up, high_b) - a.forward(high, down, low_b)
        s = divided(a, r, z, self.eps, None)  # b - b+ - b- is 0
        return (
            a.x * a.transpose(s, a.weight) - low * a.transpose(s, up) - high * a.transpose(s, down)
        )


@dataclass(frozen=True)
class Flat:
    """Spread R evenly over the receptive field; padding receives nothing."""

    eps: float = 1e-6
    gradient: bool = False

    def __call__(self, a: LinearMap, r: Tensor) -> Tensor:
        ones = torch.ones_like(a.weight)
        z = a.forward(a.ones, ones, None)
        return a.ones * a.transpose(divided(a, r, z, self.eps, None), ones)


@dataclass(frozen=True)
class WSquare:
    """Spread R by the squared weights: a first layer whose inputs have no bounds.

    The preset `epsilon_gamma_wsquare` starts with it. Source: Montavon et al. 2017.
    """

    eps: float = 1e-6
    bias: bool = True
    gradient: bool = False

    def __call__(self, a: LinearMap, r: Tensor) -> Tensor:
        square = a.weight.square()
        bias = a.bias.square() if a.bias is not None and self.bias else None
        z = a.forward(a.ones, square, bias)
        return a.ones * a.transpose(divided(a, r, z, self.eps, bias), square)


def _pair(
    a: LinearMap,
    r: Tensor,
    over: Tensor,
    under: Tensor,
    bias: Tensor | None,
    eps: float,
    times: float = 1.0,
) -> Tensor:
    """x+ with one set of weights and x- with another, against their common sum."""
    if not bool((a.x < 0).any()):
        return a.transpose(divided(a, r, a.forward(a.x, over, bias), eps, bias, times), over)
    plus, minus = a.x.clamp(min=0), a.x.clamp(max=0)
    z = a.forward(plus, over, bias) + a.forward(minus, under, None)
    s = divided(a, r, z, eps, bias, times)
    return torch.where(a.x < 0, a.transpose(s, under), a.transpose(s, over))
