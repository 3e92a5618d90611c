"""NormGrad and the extract-aggregate grid: what each position adds to a virtual layer's gradient.

Rebuffi, Fong, Ji, Vedaldi, "There and Back Again", CVPR 2020, arXiv 2004.02866. An identity layer
is imagined at the site; position u adds a vector v_u to the gradient of its weights (phase 1,
extract), and v_u becomes one number (phase 2, aggregate). With x the activation and g the gradient:

    bias            v_u = g_u
    scaling         v_u = x_u * g_u
    conv NxN        v_u = g_u (x) x_N(u),       N(u) the zero-padded window around u
    depthwise NxN   v_u[c] = g_u[c] x_N(u)[c]

    norm |v|   sum   max   filter_norm |max(v, 0)|   filter max(sum of v with g averaged first, 0)

All cells have closed forms that never build v.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ...probe.attribution import method
from ...probe.errors import OptionError

Aggregate = Literal["norm", "sum", "max", "filter_norm", "filter"]


@method("normgrad", sites="hidden")
def normgrad(
    act: Tensor, grad: Tensor, *, phase: str = "conv1x1", aggregate: Aggregate = "norm"
) -> Tensor:
    """NormGrad: by default |g_u| |x_u|, the norm of a virtual 1x1 convolution's gradient at u.

    phase: bias, scaling, convNxN or depthwiseNxN with any odd N (along every axis of positions);
    aggregate: norm, sum, max, filter_norm (selective) or filter (Grad-CAM's way).
    """
    kind, size = _parse(phase)
    if aggregate == "filter":
        grad = grad.mean(tuple(range(2, grad.ndim)), keepdim=True).expand_as(grad)
    if kind == "bias":
        act = torch.ones_like(act[:, :1])
    table = _DEPTHWISE if kind == "depthwise" else _DENSE
    return table[aggregate](act, grad, size)


@method("normgrad_selective", sites="hidden")
def normgrad_selective(act: Tensor, grad: Tensor, *, phase: str = "scaling") -> Tensor:
    """Selective NormGrad: |max(x_u * g_u, 0)|, only the part that speaks for the target."""
    return normgrad(act, grad, phase=phase, aggregate="filter_norm")


def _parse(phase: str) -> tuple[str, int]:
    """`conv3x3` -> (conv, 3); scaling is depthwise 1x1, bias a dense layer on a constant 1."""
    plain = {"bias": ("bias", 1), "scaling": ("depthwise", 1)}
    if phase in plain:
        return plain[phase]
    match = re.fullmatch(r"(conv|depthwise)(\d+)x\2", phase)
    if match is None or int(match[2]) % 2 == 0:
        raise OptionError(
            f"normgrad: phase is bias, scaling, convNxN or depthwiseNxN with odd N, not {phase!r}"
        )
    return match[1], int(match[2])


def box(values: Tensor, size: int) -> Tensor:
    """Sum over the zero-padded window of `size` along every axis of positions."""
    if size == 1:
        return values
    axes = values.ndim - 2
    pool: Callable = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[axes - 1]
    return pool(F.pad(values, (size // 2,) * (2 * axes)), size, stride=1) * size**axes


def top(values: Tensor, size: int) -> Tensor:
    """Largest value of the zero-padded window."""
    if size == 1:
        return values
    axes = values.ndim - 2
    pool: Callable = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[axes - 1]
    return pool(F.pad(values, (size // 2,) * (2 * axes)), size, stride=1)


def _energy(values: Tensor) -> Tensor:
    """Squared norm over the channels, kept as one channel."""
    return values.square().sum(1, keepdim=True)


_BLOCK = 1 << 18


def _norm(values: Tensor) -> Tensor:
    """Norm over the channels; of large values in blocks that fit a cache, ten times as fast."""
    if values[:1].numel() < 2 * _BLOCK:
        return torch.linalg.vector_norm(values, dim=1)
    first, *others = values.split(max(1, _BLOCK * values.shape[1] // values.numel()), 1)
    total = first.square().sum(1)
    for part in others:
        total += part.square().sum(1)
    return total.sqrt()


def _dense_norm(x: Tensor, g: Tensor, size: int) -> Tensor:
    if size == 1:
        return _norm(g) * _norm(x)
    return _norm(g) * box(_energy(x), size).sqrt()[:, 0]


def _dense_sum(x: Tensor, g: Tensor, size: int) -> Tensor:
    return g.sum(1) * box(x.sum(1, keepdim=True), size)[:, 0]


def _dense_max(x: Tensor, g: Tensor, size: int) -> Tensor:
    high = top(x.amax(1, keepdim=True), size)[:, 0]
    low = -top(-x.amin(1, keepdim=True), size)[:, 0]
    up, down = g.amax(1), g.amin(1)
    return torch.stack([high * up, high * down, low * up, low * down]).amax(0)


def _dense_positive(x: Tensor, g: Tensor, size: int) -> Tensor:
    plus = box(_energy(x.clamp(min=0)), size) * _energy(g.clamp(min=0))
    minus = box(_energy(x.clamp(max=0)), size) * _energy(g.clamp(max=0))
    return (plus + minus).sqrt()[:, 0]


def _wise_norm(x: Tensor, g: Tensor, size: int) -> Tensor:
    if size == 1:
        return _norm(g * x)
    return (g.square() * box(x.square(), size)).sum(1).sqrt()


def _wise_sum(x: Tensor, g: Tensor, size: int) -> Tensor:
    return (g * box(x, size)).sum(1)


def _wise_max(x: Tensor, g: Tensor, size: int) -> Tensor:
    return torch.maximum(g * top(x, size), g * -top(-x, size)).amax(1)


def _wise_positive(x: Tensor, g: Tensor, size: int) -> Tensor:
    if size == 1:
        return _norm((g * x).clamp(min=0))
    plus = g.clamp(min=0).square() * box(x.clamp(min=0).square(), size)
    minus = g.clamp(max=0).square() * box(x.clamp(max=0).square(), size)
    return (plus + minus).sum(1).sqrt()


_DENSE: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "norm": _dense_norm,
    "sum": _dense_sum,
    "max": _dense_max,
    "filter_norm": _dense_positive,
    "filter": lambda x, g, size: _dense_sum(x, g, size).clamp(min=0),
}
_DEPTHWISE: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "norm": _wise_norm,
    "sum": _wise_sum,
    "max": _wise_max,
    "filter_norm": _wise_positive,
    "filter": lambda x, g, size: _wise_sum(x, g, size).clamp(min=0),
}
