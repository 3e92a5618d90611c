"""What OverLoCK does at one pixel: its kernels, and which regions of the context wrote them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ....probe.engine import trace
from ....probe.errors import ModelError, OptionError
from ....probe.trace import Trace
from .context_mixing import REGIONS, DynamicConvBlock


@dataclass(frozen=True, eq=False)
class PixelKernels:
    """The kernels of one pixel in one block; g are the heads, tensors are of the first sample.

    block      the module
    grid       rows and columns at which the block mixes
    pixel      row and column there
    small      `g k k`, the weights of its small window; they add up to one. So does `large`
    corners    row and column at which each window starts
    affinity   `g 7 7`, to the regions of the context, before it is made a kernel
    written    `g 7 7`, by how much each region changed the large kernel: the total variation
               distance, 0 to 1, to the kernel had this region's affinity been zero
    """

    block: str
    grid: tuple[int, int]
    pixel: tuple[int, int]
    small: Tensor
    large: Tensor
    corners: tuple[tuple[int, int], tuple[int, int]]
    affinity: Tensor
    written: Tensor


def pixel_kernels(
    model: nn.Module, x: Tensor, pixel: tuple[float, float], blocks: Sequence[str] = ()
) -> tuple[PixelKernels, ...]:
    """The kernels of the pixel of each block that an input's pixel falls into, in order.

    x       `b c y x`, of which the first picture is read
    pixel   row and column of the input
    blocks  paths of the blocks; all dynamic ones if none is named
    Raises OptionError for a pixel outside, ModelError where a block is no dynamic one.
    """
    height, width = x.shape[2:]
    if not (0 <= pixel[0] < height and 0 <= pixel[1] < width):
        raise OptionError(
            f"pixel {pixel} lies outside an input of {height} x {width}: give a row and a column"
        )
    found = {n: m for n, m in model.named_modules() if isinstance(m, DynamicConvBlock)}
    paths = list(blocks or found)
    if not found or not found.keys() >= set(paths):
        asked = next((path for path in paths if path not in found), "any")
        raise ModelError(
            f"{asked!r} was asked for kernels of its pixels, but the model has dynamic kernels in "
            f"{', '.join(found) or 'no block'}: name some of these"
        )
    ports = ("context", "affinity", "small", "large")
    seen = trace(model, x[:1], [f"{path}:{port}" for path in paths for port in ports])
    at = pixel[0] / height, pixel[1] / width
    return tuple(_look(path, found[path], seen, at) for path in paths)


def _look(path: str, block: DynamicConvBlock, seen: Trace, at: tuple[float, float]) -> PixelKernels:
    context, affinity, small, large = (
        seen[f"{path}:{port}"].act for port in ("context", "affinity", "small", "large")
    )
    grid = block.mixed_at((context.shape[2], context.shape[3]))
    y, x = int(at[0] * grid[0]), int(at[1] * grid[1])
    place = y * grid[1] + x
    one, wide = (
        t[0, :, place].unflatten(1, (-1, round(t.shape[3] ** 0.5))) for t in (small, large)
    )
    affine = affinity[0, :, place]
    return PixelKernels(
        path,
        grid,
        (y, x),
        one,
        wide,
        (_corner(grid, (y, x), block.small), _corner(grid, (y, x), block.kernel)),
        affine.unflatten(1, (REGIONS, REGIONS)),
        _written(block, affine, large[0, :, place]).unflatten(1, (REGIONS, REGIONS)),
    )


def _corner(grid: tuple[int, int], pixel: tuple[int, int], size: int) -> tuple[int, int]:
    y, x = (min(max(p - size // 2, 0), n - size) for p, n in zip(pixel, grid, strict=True))
    return y, x


@torch.no_grad()
def _written(block: DynamicConvBlock, affinity: Tensor, large: Tensor) -> Tensor:
    """Half of sum |K - K without a region|, `g 49`; a region adds affinity x weight to log K."""
    weight = block.weight_proj.weight[block.small**2 :, :, 0, 0].to(affinity)  # k2 49
    without = large.log()[:, None] - affinity[:, :, None] * weight.T
    return (without.softmax(2) - large[:, None]).abs().sum(2) / 2
