"""Eigen-CAM: activations projected on their first principal direction (Muhammad, Yeasin, 2020)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...probe.attribution import method


def principal(values: Tensor, orient: bool) -> Tensor:
    """Centred values, positions x channels, projected on their first right singular vector.

    The decomposition leaves the sign open. `orient` makes the map grow with the sum over the
    channels; else it is the sign that numpy's decomposition gives, which is pytorch-grad-cam's and
    has no meaning. float64, on the CPU.
    """
    flat = values.detach().flatten(2).mT.cpu().double()
    lost = ~flat.flatten(1).isfinite().all(1)
    flat = flat.masked_fill(lost[:, None, None], 0)  # such a sample takes no other with it
    centred = flat - flat.mean(1, keepdim=True)
    direction = _first(centred)
    projection = (centred @ direction[..., None])[..., 0]
    along = (projection * centred.sum(2)).sum(1) if orient else _votes(centred, direction)
    projection = torch.where(along[:, None] < 0, -projection, projection)
    projection[lost] = torch.nan
    return projection.to(values).reshape(values.shape[0], *values.shape[2:])


def _first(centred: Tensor) -> Tensor:
    """The first right singular vector of each sample, `b c`."""
    return torch.from_numpy(np.linalg.svd(centred.numpy(), full_matrices=False)[2])[:, 0]


def _votes(centred: Tensor, direction: Tensor) -> Tensor:
    """Whether most decompositions of nearly the same values point the same way, `b`.

    numpy's sign is decided by rounding here and there: two forwards of one picture, alone and in a
    batch, could turn its map around. Values moved by a little more than a forward's rounding vote.
    """
    draw = torch.Generator().manual_seed(0)
    moved = 2**-18 * torch.randn(3, *centred.shape[1:], generator=draw, dtype=centred.dtype)
    return sum(
        ((_first(centred * (1 + m)) * direction).sum(1).sign() for m in moved), 0 * direction[:, 0]
    )


@method("eigencam", sites="last", places="several")
def eigencam(act: Tensor, *, relu: bool = True, orient: bool = False) -> Tensor:
    """max(P v, 0): P the centred activations, v their first right singular vector.

    Knows no class. The sign of v is numpy's, as in pytorch-grad-cam, unless `orient` makes the map
    grow with the sum over the channels. Source: arXiv 2008.00299.
    """
    saliency = principal(act, orient)
    return saliency.clamp(min=0) if relu else saliency
