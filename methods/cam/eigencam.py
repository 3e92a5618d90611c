"""Eigen-CAM: activations projected on their first principal direction (Muhammad, Yeasin, 2020)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ...probe.attribution import method


def principal(values: Tensor, orient: bool) -> Tensor:
    """Centred values, positions x channels, projected on their first right singular vector.

    The decomposition leaves the sign open. `orient` makes the map grow with the sum over the
    channels; else it is the sign that numpy's decomposition of the sample alone gives, which is
    pytorch-grad-cam's, has no meaning and depends on no other sample. float64, on the CPU, so that
    the network's rounding turns none around.
    """
    flat = values.detach().flatten(2).mT.cpu().double()
    lost = ~flat.flatten(1).isfinite().all(1)
    flat = flat.masked_fill(lost[:, None, None], 0)  # such a sample takes no other with it
    centred = flat - flat.mean(1, keepdim=True)
    rows = torch.from_numpy(np.linalg.svd(centred.numpy(), full_matrices=False)[2])
    projection = (centred @ rows[:, 0, :, None])[..., 0]
    if orient:
        turn = (projection * centred.sum(2)).sum(1, keepdim=True) < 0
        projection = torch.where(turn, -projection, projection)
    projection[lost] = torch.nan
    return projection.to(values).reshape(values.shape[0], *values.shape[2:])


@method("eigencam", sites="last", places="several")
def eigencam(act: Tensor, *, relu: bool = True, orient: bool = False) -> Tensor:
    """max(P v, 0): P the centred activations, v their first right singular vector.

    Knows no class. The sign of v is numpy's, as in pytorch-grad-cam, unless `orient` makes the map
    grow with the sum over the channels. Source: arXiv 2008.00299.
    """
    saliency = principal(act, orient)
    return saliency.clamp(min=0) if relu else saliency
