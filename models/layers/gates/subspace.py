"""ULSAM (arXiv 2006.15102): one attention map over the picture for each group of channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ....probe.errors import OptionError
from ....probe.mark import mark


class Subspace(nn.Module):
    """The attention of one group of channels over all positions, `b 1 y x`; it sums to 1.

    softmax(relu(norm(P pool(relu(norm(D x)))))): D scales each channel, the pool takes the
    largest of 3 x 3, P mixes all channels into one score. Where the last ReLU shuts every score,
    attention is uniform. Port `score`, `b 1 y x`: what the softmax reads.
    """

    def __init__(self, dim: int, eps: float, momentum: float) -> None:
        super().__init__()
        self.conv_dws = nn.Conv2d(dim, dim, 1, groups=dim)
        self.bn_dws = nn.BatchNorm2d(dim, eps, momentum)
        self.relu_dws = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 1, 1)
        self.conv_point = nn.Conv2d(dim, 1, 1)
        self.bn_point = nn.BatchNorm2d(1, eps, momentum)
        self.relu_point = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        a = self.maxpool(self.relu_dws(self.bn_dws(self.conv_dws(x))))
        score = mark("score", self.relu_point(self.bn_point(self.conv_point(a))))
        return score.flatten(2).softmax(-1).unflatten(2, x.shape[2:])


class ULSAM(nn.Module):
    """F A + F for each of `num_splits` groups F of neighbouring channels, A its attention.

    Port `map`, `b g 1 (y x)`: the attention of all groups, each as a head with one query.

    nin         channels
    group_size  channels of a group, where they are given instead of left to num_splits
    nout, h, w  of the published constructor: as many channels leave, and any picture fits
    Raises OptionError where groups do not divide the channels, and for another nout.
    """

    def __init__(
        self,
        nin: int,
        nout: int | None = None,
        h: int | None = None,
        w: int | None = None,
        num_splits: int = 4,
        *,
        group_size: int | None = None,
        bn_eps: float = 1e-5,
        bn_momentum: float = 0.9,
    ) -> None:
        super().__init__()
        _check(nin, nout, num_splits, group_size)
        dim = nin // num_splits
        self.subspaces = nn.ModuleList(
            Subspace(dim, bn_eps, bn_momentum) for _ in range(num_splits)
        )

    def forward(self, x: Tensor) -> Tensor:
        groups = x.chunk(len(self.subspaces), 1)
        maps = [own(group) for own, group in zip(self.subspaces, groups, strict=True)]
        attention = mark("map", torch.cat(maps, 1).flatten(2).unsqueeze(2))
        held = attention.unflatten(3, x.shape[2:])  # b g 1 y x
        features = x.unflatten(1, (len(maps), -1))
        return (features * held + features).flatten(1, 2)


def _check(nin: int, nout: int | None, num_splits: int, group_size: int | None) -> None:
    if num_splits < 1 or nin % num_splits:
        raise OptionError(
            f"{nin} channels do not divide into num_splits={num_splits} groups: give a divisor"
        )
    if group_size not in (None, nin // num_splits):
        raise OptionError(
            f"group_size={group_size} was given, but {nin} channels in {num_splits} groups are "
            f"{nin // num_splits} each: leave it out or correct num_splits"
        )
    if nout not in (None, nin):
        raise OptionError(
            f"nout={nout} was given, but a ULSAM of {nin} channels returns as many: leave it out"
        )
