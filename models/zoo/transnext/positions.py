"""Continuous positions: log-spaced distances of queries to keys, and how many keys they see."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[int, int]
CPU = torch.device("cpu")  # also while a model is built on "meta"
REACH, BASE = 8.0, 8.0  # distances across the grid of pretraining, and the base of their logarithm


def axis_distances(queries: int, keys: int, pretrained: int) -> tuple[Tensor, Tensor]:
    """The different distances along an axis, in order, and which one a query has to a key, `q k`.

    Keys lie in the middle of what they pool. With d the distance in parts of the grid of
    pretraining, from -8 to 8, an entry is sign(d) log(1 + |d|) / log 8.
    """
    places = torch.arange(queries, dtype=torch.float64, device=CPU)
    middles = F.adaptive_avg_pool1d(places[None, None], keys)[0, 0]
    far = (places[:, None] - middles) / (pretrained - 1) * REACH
    different, index = torch.unique(far, return_inverse=True)
    logarithm = torch.log1p(different.abs()) / torch.log(torch.tensor(BASE, device=CPU))
    return different.sign() * logarithm, index


def coordinate_table(grid: Pair, pool: Pair, pretrained: Pair) -> tuple[Tensor, Tensor, Tensor]:
    """Every pair of distances, `rows 2` with the vertical one first, and its place by axis.

    The pair of query (y, x) and key (i, j) is row `vertical[y, i] * count + horizontal[x, j]`,
    where `vertical` comes multiplied by that count.
    """
    (rows, vertical), (columns, horizontal) = (
        axis_distances(*axis) for axis in zip(grid, pool, pretrained, strict=True)
    )
    return torch.cartesian_prod(rows, columns).float(), vertical * len(columns), horizontal


def window_sizes(grid: Pair, side: int) -> Tensor:
    """How many cells of a window lie on the grid, by token in raster order."""
    reach = side // 2
    along = []
    for length in grid:
        at = torch.arange(length, device=CPU)
        along.append((at + reach).clamp(max=length - 1) - (at - reach).clamp(min=0) + 1)
    return (along[0][:, None] * along[1]).flatten()


class PositionBias(nn.Module):
    """A bias of every head for every query and key, by an MLP over their distances.

    Its two layers, `cpb_fc1` and `cpb_fc2`, are those of the attention that it is a base of. Each
    different pair of distances runs through them once.
    """

    coordinates: Tensor
    vertical: Tensor
    horizontal: Tensor

    def __init__(self, num_heads: int, grid: Pair, pool: Pair, pretrained: Pair) -> None:
        super().__init__()
        names = "coordinates", "vertical", "horizontal"
        for name, x in zip(names, coordinate_table(grid, pool, pretrained), strict=True):
            self.register_buffer(name, x, persistent=False)
        self.cpb_fc1 = nn.Linear(2, 512)
        self.cpb_act = nn.ReLU()
        self.cpb_fc2 = nn.Linear(512, num_heads)

    def position_bias(self) -> Tensor:
        """`h n p`, queries and keys in raster order."""
        table = self.cpb_fc2(self.cpb_act(self.cpb_fc1(self.coordinates)))
        index = self.vertical[:, None, :, None] + self.horizontal[None, :, None, :]
        return table.T[:, index.flatten(2).flatten(0, 1)]
