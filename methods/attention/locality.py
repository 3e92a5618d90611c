"""Where heads look and how far: distances, entropy, mass nearby, gates (ConViT, arXiv 2103.10697).

Each gives one number a head and sample, from the true input of the layer. Class tokens are left
out, as queries and as keys, and rows renormalised, unless told otherwise.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ...kernels.shared import distances
from ...kernels.windows import Window
from ...probe.attribution import Count, Heads, Spread, head_method
from ...probe.errors import OptionError

Unit = Literal["patches", "pixels", "relative"]
_QUERIES = 256  # rows of a map that are held at once


@head_method("nonlocality")
def nonlocality(heads: Heads, *, unit: Unit = "patches", raw: bool = False) -> Tensor:
    """Mean distance of a query to what it attends to: mean_i sum_j A_ij |delta_ij|.

    unit  patches, as ConViT's D_loc; pixels, as ViT's mean attention distance; or relative to
          uniform attention, which gives 1
    raw   do not renormalise rows that lost a class token
    NaN where tokens lie on no grid.
    """
    if heads.grid is None:
        return heads.nothing()
    far = heads.statistics(raw=raw)["distance"].mean(-1)
    if unit == "pixels":
        return far * (heads.patch[0] * heads.patch[1]) ** 0.5
    if unit == "relative":
        even = distances(heads.grid, heads.stride, torch.device("cpu"), torch.float64).mean()
        return far / float(even)
    return far


@head_method("attention_entropy")
def attention_entropy(heads: Heads, *, normalised: bool = False) -> Tensor:
    """Mean entropy of a query's attention in nats; normalised by that of uniform attention.

    NaN beside pooled keys, where a table behind the softmax makes weights that are no shares, and
    where rows are none, as those of convolutions and unnormalised recurrences.
    """
    if heads.pooled is not None:
        return heads.nothing()
    entropy = heads.statistics()["entropy"].mean(-1)
    keys = heads.shape[3] - heads.prefix
    return entropy / torch.log(torch.tensor(float(keys))) if normalised else entropy


@head_method("uniform")
def uniform(heads: Heads) -> Tensor:
    """The share of queries that attend to all keys exactly alike; 1 for a map that says nothing.

    In ULSAM (arXiv 2006.15102) a ReLU before the softmax shuts all scores of some subspaces.
    """
    alike = []
    for start in range(0, heads.shape[2], _QUERIES):
        rows = heads.rows(slice(start, min(start + _QUERIES, heads.shape[2])))[..., heads.prefix :]
        alike.append(rows.amax(-1) == rows.amin(-1))
    return torch.cat(alike, -1)[..., heads.prefix :].double().mean(-1)


@head_method("attention_mass")
def attention_mass(
    heads: Heads, *, radius: Spread = 1.5, window: tuple[Count, ...] | None = None
) -> Tensor:
    """The share of attention within a radius, in patches, or within the query's own window.

    window  rows and columns of windows that tile the patches, instead of a radius. What is missing
            to 1 is the total variation between the map and the one that windows would leave of it.
    NaN where tokens lie on no grid, and where windows do not tile it.
    """
    if window is not None and (len(window) != 2 or min(window) < 1):
        raise OptionError(f"attention_mass: window={window} is no rows and columns, as in 7x7")
    if heads.grid is None:
        return heads.nothing()
    if window is not None:
        return _mass_in_windows(heads, heads.grid, (window[0], window[1]))
    return heads.statistics(radius)["mass"].mean(-1)


def _mass_in_windows(heads: Heads, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    if heads.stride != 1 or any(side % part for side, part in zip(grid, size, strict=True)):
        return heads.nothing()
    of_token, _ = Window("block", size, grid).place()
    found: list[Tensor] = []
    for of_queries in of_token.split(128):
        start = heads.prefix + 128 * len(found)
        part = heads.rows(slice(start, start + len(of_queries)))[..., heads.prefix :]
        part = part / part.sum(-1, keepdim=True) if heads.prefix else part
        same = of_queries[:, None] == of_token
        found.append(torch.linalg.vecdot(part, same.to(part)))
    return torch.cat(found, 2).mean(-1)


@head_method("gate")
def gate(heads: Heads) -> Tensor:
    """The share of attention that position decides: sigmoid of ConViT's gating parameter.

    0 is content alone (locality escaped), 1 position alone; NaN for heads without a gate.
    """
    if heads.gate is None:
        return heads.nothing()
    return heads.gate.expand(heads.shape[0], -1)


@head_method("centre_distance")
def centre_distance(heads: Heads) -> Tensor:
    """How far from the query a head's positional attention is centred, in patches.

    With p = pos_proj.weight (dx, dy, squared distance): centre = p_xy span / 2, span = -1 / p_d2.
    NaN without pos_proj, and where p_d2 is not negative: then there is no centre.
    """
    weight = getattr(getattr(heads.module, "pos_proj", None), "weight", None)
    if weight is None:
        return heads.nothing()
    p = weight.detach().double()
    span = torch.where(p[:, 2] < 0, -1 / p[:, 2], torch.nan)
    far = (p[:, :2] * span[:, None] / 2).norm(dim=1)
    return far.expand(heads.shape[0], -1)


def upstream_nonlocality(model: torch.nn.Module, images: Tensor) -> Tensor:
    """ConViT's own training-time figure, `layers heads`: every layer reads the patch embedding.

    Its log runs each layer's attention on the raw output of `patch_embed`, without positions,
    norms or earlier blocks; averaged over images. Layers do not see what they see in the model,
    so this is an approximation that is kept for comparison; `nonlocality` is the true figure.
    """
    from ...probe.attribution.heads import heads_of, watched
    from ...probe.probe import Probe

    embedded = model.patch_embed(images).detach()  # type: ignore[operator]
    side = round(embedded.shape[1] ** 0.5)
    far_shares = []
    for block in model.blocks:  # type: ignore[union-attr]
        with Probe(block.attn, grad=False) as probe:
            patterns = watched(probe, [""])
            probe(embedded)
            (heads,) = heads_of(probe, patterns, None)
            far_shares.append(_far(heads, side))
    return torch.stack(far_shares)


def _far(heads: Heads, side: int) -> Tensor:
    far = distances((side, side), 1, torch.device("cpu"), torch.float64)
    total = heads.rows(slice(None)).double() * far
    return total.sum(-1).mean((0, 2))
