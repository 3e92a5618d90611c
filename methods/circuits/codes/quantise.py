"""Discrete codes of heads: k-means and product quantisation, all heads at once.

Points are compared by what they do to the residual stream: the distance of two outputs z is that of
z W_O. With W_O W_O' = L L', y = z L is as short a vector with the same distances.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ....probe.errors import OptionError

Kind = Literal["kmeans", "product"]
ROUNDS = 15
MAX_BLOCK = 1 << 26  # numbers in a block of distances


def residual_coordinates(weight: Tensor) -> Tensor:
    """L, `h d d`, with L L' = W_O W_O': distances of z L are distances in the residual stream."""
    values, vectors = torch.linalg.eigh((weight @ weight.mT).double())
    return (vectors * values.clamp(min=0).sqrt()[:, None]).to(weight.dtype)


def kmeans(y: Tensor, codes: int, *, seed: int = 0, rounds: int = ROUNDS) -> Tensor:
    """Centres `h k d` of points `h n d`, for every head its own.

    Seeded by distance squared (k-means++), then `rounds` of Lloyd's algorithm; a centre that loses
    its last point stays. With no fewer codes than points every point is its own centre.
    """
    if codes < 1:
        raise OptionError(f"k-means needs at least 1 code, not {codes}")
    if codes >= y.shape[1]:
        return y.clone()
    generator = torch.Generator().manual_seed(seed)
    centres = _spread_out(y, codes, generator)
    for _ in range(rounds):
        near = nearest(y, centres)
        total, count = _sums(y, near, codes)
        moved = torch.where(count[..., None] > 0, total / count.clamp(min=1)[..., None], centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres


def _spread_out(y: Tensor, codes: int, generator: torch.Generator) -> Tensor:
    """Points far from one another: each next one drawn by its squared distance to those taken."""
    heads, count, _ = y.shape
    rows = torch.arange(heads)
    place = torch.randint(count, (heads,), generator=generator)
    squares = y.square().sum(-1)
    taken = [y[rows, place]]
    far = torch.full((heads, count), torch.inf)
    for _ in range(codes - 1):
        centre = taken[-1]
        apart = (
            squares - 2 * (y @ centre[..., None])[..., 0] + centre.square().sum(-1, keepdim=True)
        )
        far = torch.minimum(far, apart.clamp(min=0))
        chance = far.double().cumsum(1)
        draw = torch.rand(heads, 1, generator=generator, dtype=torch.float64) * chance[:, -1:]
        place = torch.searchsorted(chance, draw, right=True)[:, 0].clamp(max=count - 1)
        taken.append(y[rows, place])
    return torch.stack(taken, 1)


def nearest(y: Tensor, centres: Tensor) -> Tensor:
    """The nearest centre of each point, `h n`."""
    half = centres.square().sum(-1)[:, None] / 2
    step = max(1, MAX_BLOCK // (y.shape[1] * centres.shape[1]))
    return torch.cat(
        [
            torch.baddbmm(
                half[i : i + step], y[i : i + step], centres[i : i + step].mT, alpha=-1
            ).argmin(-1)
            for i in range(0, len(y), step)
        ]
    )


def _sums(y: Tensor, near: Tensor, codes: int) -> tuple[Tensor, Tensor]:
    """The sum and the number of the points at each centre, `h k d` and `h k`."""
    heads, _, dim = y.shape
    flat = (near + codes * torch.arange(heads)[:, None]).flatten()
    total = y.new_zeros(heads * codes, dim).index_add_(0, flat, y.flatten(0, 1))
    count = torch.bincount(flat, minlength=heads * codes)
    return total.unflatten(0, (heads, codes)), count.unflatten(0, (heads, codes))


def coder(
    y: Tensor, codes: int, kind: Kind = "kmeans", *, parts: int = 4, seed: int = 0
) -> Callable[[Tensor], Tensor]:
    """A function from points `h n d` to codes `h n`, fitted to the points `y`.

    product   the coordinates in `parts` runs, `codes` centres in each: codes ** parts codes
    """
    if kind == "kmeans":
        centres = kmeans(y, codes, seed=seed)
        return lambda points: nearest(points, centres)
    fitted = [
        kmeans(part, codes, seed=seed + i) for i, part in enumerate(y.tensor_split(parts, -1))
    ]

    def encode(points: Tensor) -> Tensor:
        code = torch.zeros(points.shape[:2], dtype=torch.long)
        for part, centres in zip(points.tensor_split(parts, -1), fitted, strict=True):
            code = code * centres.shape[1] + nearest(part.contiguous(), centres)
        return code

    return encode


def centroids(z: Tensor, near: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean z of each code, `h k d`, and which codes have points, from `h n d` and codes `h n`."""
    total, number = _sums(z, near, count)
    return total / number.clamp(min=1)[..., None], number > 0


def compact(codes: Tensor) -> Tensor:
    """Codes `h n` numbered from 0 in each head without gaps."""
    order = codes.argsort(dim=1, stable=True)
    sorted_codes = codes.gather(1, order)
    steps = torch.zeros_like(codes)
    steps[:, 1:] = (sorted_codes[:, 1:] != sorted_codes[:, :-1]).long()
    return torch.empty_like(codes).scatter(1, order, steps.cumsum(1))
