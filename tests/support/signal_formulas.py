"""What the methods must give, from plain autograd: formulas over `b c` and the places.

By the names of the methods as they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Formula = Callable[[Tensor, Tensor], Tensor]


def weighed(x: Tensor, weights: Tensor) -> Tensor:
    return torch.einsum("bc...,bc->b...", x, weights).clamp(min=0)


def gradcam_plus_plus(x: Tensor, g: Tensor) -> Tensor:
    """Of exp(score), whose derivatives are powers of g: alpha = g^2 / (2 g^2 + sum(x) g^3)."""
    total = x.flatten(2).sum(2).reshape(*x.shape[:2], *(1,) * (x.ndim - 2))
    alpha = torch.where(g == 0, 0.0, g**2 / (2 * g**2 + total * g**3 + 1e-6))
    return weighed(x, (alpha * g.clamp(min=0)).flatten(2).sum(2))


def xgradcam(x: Tensor, g: Tensor) -> Tensor:
    return weighed(x, (g * x).flatten(2).sum(2) / (x.flatten(2).sum(2) + 1e-7))


def first_direction(values: Tensor) -> Tensor:
    """The centred values on their first principal direction; its sign is open."""
    found = []
    for sample in values.flatten(2).transpose(1, 2):
        centred = sample - sample.mean(0)
        _, vectors = torch.linalg.eigh(centred.T @ centred)
        found.append(centred @ vectors[:, -1])
    return torch.stack(found).reshape(values.shape[0], *values.shape[2:])


AT_THE_INPUT: dict[str, Formula] = {
    "gradient": lambda x, g: g.abs().amax(1),
    "gradient,reduce=norm": lambda x, g: (g * g).sum(1).sqrt(),
    "gradient_sum": lambda x, g: g.sum(1),
    "input_x_gradient": lambda x, g: (x * g).sum(1),
}
HIDDEN: dict[str, Formula] = {
    "activation": lambda x, g: x.sum(1),
    "activation,reduce=norm": lambda x, g: (x * x).sum(1).sqrt(),
    "linear_approx": lambda x, g: (x * g).sum(1),
    "hirescam": lambda x, g: (x * g).sum(1).clamp(min=0),
    "gradcam_elementwise": lambda x, g: (x * g).clamp(min=0).sum(1),
    "layercam": lambda x, g: (x * g.clamp(min=0)).sum(1).clamp(min=0),
    "normgrad": lambda x, g: torch.einsum("bi...,bj...->bij...", g, x).flatten(1, 2).norm(dim=1),
    "normgrad,phase=bias": lambda x, g: g.norm(dim=1),
    "normgrad,phase=scaling": lambda x, g: (x * g).norm(dim=1),
    "normgrad_selective": lambda x, g: (x * g).clamp(min=0).norm(dim=1),
}
OVER_PLACES: dict[str, Formula] = {
    "gradcam": lambda x, g: weighed(x, g.flatten(2).mean(2)),
    "gradcam_plus_plus": gradcam_plus_plus,
    "xgradcam": xgradcam,
}
UP_TO_SIGN: dict[str, Formula] = {
    "eigencam,relu=false": lambda x, g: first_direction(x),
    "eigengradcam,relu=false": lambda x, g: first_direction(x * g),
}
