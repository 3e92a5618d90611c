"""RISE: random masks, each weighted by the score that the masked input gets."""

from __future__ import annotations

from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ...probe.attribution import pass_method
from ...probe.errors import OptionError
from .occlusion import want_pictures


@pass_method("rise")
def rise(
    runner: Any,
    x: Tensor,
    target: Any,
    *,
    n: int = 1000,
    cells: int = 7,
    p: float = 0.5,
    batch: int = 64,
) -> Tensor:
    """sum_k score(x * m_k) m_k / (n p) over n masks, `cells` x `cells` squares kept with chance p.

    The paper reads probabilities: `target=label(..., of="probability")`. `batch` masks are held
    at a time. Source: Petsiuk, Das, Saenko, arXiv 1806.07421.
    """
    if n < 1 or cells < 1 or batch < 1 or not 0 < p <= 1:
        raise OptionError(
            f"rise takes n, cells and batch of 1 or more and 0 < p <= 1, not n={n}, cells={cells}, "
            f"batch={batch}, p={p}"
        )
    want_pictures("rise", x)
    rise_maps = []
    for i, generator in enumerate(runner.generators(x)):
        total = torch.zeros(x.shape[-2:])
        for start in range(0, n, batch):
            size = min(batch, n - start)
            masks = torch.stack([mask(x.shape[-2:], cells, p, generator) for _ in range(size)])
            masked = x[i] * masks[:, None].to(x)
            scores = runner.scores(masked, target.take([i] * size))
            total += torch.einsum("k,kyx->yx", scores.float().cpu(), masks)
        rise_maps.append(total / (n * p))
    return torch.stack(rise_maps).to(x.device)


def mask(size: torch.Size | tuple[int, int], cells: int, p: float, generator: Generator) -> Tensor:
    """One soft mask `y x`: a coarse random grid, enlarged bilinearly, at a random shift."""
    high, wide = (ceil(side / cells) for side in size)
    grid = (torch.rand(cells, cells, generator=generator) < p).float()
    top = int(torch.randint(high, (1,), generator=generator))
    left = int(torch.randint(wide, (1,), generator=generator))
    large = F.interpolate(
        grid[None, None],
        ((cells + 1) * high, (cells + 1) * wide),
        mode="bilinear",
        align_corners=False,
    )
    return large[0, 0, top : top + size[0], left : left + size[1]]
