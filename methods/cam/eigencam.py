"""Eigen-CAM: activations projected on their first principal direction (Muhammad, Yeasin, 2020)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...kernels.shared import wide
from ...probe.attribution import method


def principal(values: Tensor, orient: bool) -> Tensor:
    """Centred values, positions x channels, projected on their first right singular vector.

    A decomposition leaves the sign open; here each sample's own values decide it. `orient` makes
    the map grow with the sum over the channels, and where it does neither that nor the opposite,
    with the channel that weighs most; else the value that is farthest from 0 is positive.
    float64, on the CPU.
    """
    flat = values.detach().flatten(2).mT.cpu().double()
    lost = ~flat.flatten(1).isfinite().all(1)
    flat = flat.masked_fill(lost[:, None, None], 0)  # such a sample takes no other with it
    centred = flat - flat.mean(1, keepdim=True)
    near = 64 * torch.finfo(wide(values).dtype).eps  # what the network's rounding may move
    projection = (centred @ _direction(centred, near)[..., None])[..., 0]
    if not orient:
        high, low = projection.amax(1, keepdim=True), projection.amin(1, keepdim=True)
        turn = -low > high * (1 + near)
        projection = torch.where(turn, -projection, projection)
    projection[lost] = torch.nan
    return projection.to(values).reshape(values.shape[0], *values.shape[2:])


def _direction(centred: Tensor, near: float) -> Tensor:
    """The first right singular vector of `b n c`, on the side of (1, ..., 1), `b c`.

    Of several that are equally long it is the part of (1, ..., 1) that they hold; where they hold
    none of it, the part of the channel that they hold most of.
    """
    _, lengths, rows = map(torch.from_numpy, np.linalg.svd(centred.numpy(), full_matrices=False))
    rows = rows * (lengths >= (1 - near) * lengths[:, :1])[..., None]
    sums, weights = rows.sum(2), rows.square().sum(1)
    heaviest = (weights >= (1 - near) * weights.amax(1, keepdim=True)).int().argmax(1)
    across = sums.norm(dim=1) <= near * rows.shape[2] ** 0.5
    parts = torch.where(across[:, None], rows[torch.arange(len(rows)), :, heaviest], sums)
    direction = (parts[:, None] @ rows)[:, 0]
    return direction / direction.norm(dim=1, keepdim=True)


@method("eigencam", sites="last", places="several")
def eigencam(act: Tensor, *, relu: bool = True, orient: bool = True) -> Tensor:
    """max(P v, 0): P the centred activations, v their first right singular vector.

    Knows no class. The sign of v: with `orient` the map grows with the sum over the channels,
    else its largest deviation is positive. Source: arXiv 2008.00299.
    """
    saliency = principal(act, orient)
    return saliency.clamp(min=0) if relu else saliency
