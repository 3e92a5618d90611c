"""What guided attention is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def guided_losses(output: Mapping[str, Any], labels: Tensor) -> dict[str, Tensor]:
    """The loss of a training output, and its parts.

    labels  `b y x`, the class of each pixel

    loss = sum of 8 cross entropies + .25 sum of 4 gaps of codes + .1 sum of 8 reconstructions
    """
    semantic = semantic_losses(output)
    reconstruction = reconstruction_losses(output)
    entropies = torch.stack([F.cross_entropy(logits, labels) for logits in output["predictions"]])
    total = entropies.sum() + 0.25 * semantic.sum() + 0.1 * reconstruction.sum()
    parts = {"segmentation": entropies, "semantic": semantic, "reconstruction": reconstruction}
    return {"loss": total, **parts}


def semantic_losses(output: Mapping[str, Any]) -> Tensor:
    """The mean squared gap of both stages' codes, scale by scale, the coarsest first."""
    pairs = zip(output["codes_1"], output["codes_2"], strict=True)
    return torch.stack([F.mse_loss(a, b) for a, b in pairs])


def reconstruction_losses(output: Mapping[str, Any]) -> Tensor:
    """The mean squared gap of what enters each autoencoder and what leaves it."""
    pairs = zip(output["encoded"], output["decoded"], strict=True)
    return torch.stack([F.mse_loss(a, b) for a, b in pairs])
