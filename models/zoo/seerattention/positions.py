"""Rotary positions with a Llama 3.1's stretching of slow frequencies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ....probe.errors import OptionError


@dataclass(frozen=True)
class Rotation:
    """Turns each pair (i, i + d/2) of `b h n d` by its place times a frequency, theta^(-2 i / d).

    scaling   as config.json's rope_scaling of type llama3: with wavelength w in tokens and the
              original length L, frequencies with w > L / low_freq_factor are divided by factor,
              those with w < L / high_freq_factor kept, those between mixed linearly in L / w
    """

    theta: float
    scaling: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.scaling is None:
            return
        kind = self.scaling.get("rope_type", self.scaling.get("type"))
        words = (
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_position_embeddings",
        )
        if kind != "llama3" or any(word not in self.scaling for word in words):
            raise OptionError(
                f"rope_scaling {dict(self.scaling)} is not known: give rope_type 'llama3' with "
                f"{', '.join(words)}, or None"
            )

    def __call__(self, x: Tensor, places: Tensor) -> Tensor:
        """x: b h n d, places: b n or 1 n."""
        half = x.shape[-1] // 2
        angle = places[:, None, :, None].float() * self._frequencies(half, x.device)
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        a, b = x.split(half, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def _frequencies(self, half: int, device: torch.device) -> Tensor:
        plain = self.theta ** -(torch.arange(half, device=device, dtype=torch.float32) / half)
        if self.scaling is None:
            return plain
        low, high = self.scaling["low_freq_factor"], self.scaling["high_freq_factor"]
        turns = self.scaling["original_max_position_embeddings"] * plain / (2 * math.pi)
        share = ((turns - low) / (high - low)).clamp(0, 1)
        return share * plain + (1 - share) * plain / self.scaling["factor"]
