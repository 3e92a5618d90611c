"""Polarized self-attention (arXiv 2107.00782): a gate of channels and a gate of places."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from ....probe.errors import OptionError
from ....probe.mark import mark
from ..init import init_weights

Kind = Literal["p", "s"]


class PolarizedAttention(nn.Module):
    """x g_channel + x g_place, or one gate behind the other.

    The channel gate is read where `map`, the softmax of one query over all places, looks:
    sigmoid(up(sum_p map_p V x_p)). The gate of places is sigmoid(`spatial_mask`), of the mean
    query of the picture and the keys of each place. `map` is `b 1 1 (y x)`, a head with one query.

    "p"  parallel: x g_channel + x g_place; `up` is one linear map
    "s"  sequential: y = x g_channel, then y g_place, read off y; `up` narrows by `ratio`, with a
         layer norm and a ReLU between its two maps

    There is no shortcut around it. Ports `map`, `channel_gate` `b c 1 1`, `spatial_gate` `b 1 y x`.
    inter_planes  channels of queries, keys and values, half of the channels unless given
    ratio         4 unless given; "p" has none
    ln_eps        of the layer norm of "s"
    kernel_size, stride  of the published constructor, which fits a picture with 1 alone
    Raises OptionError for widths that do not fit, and for what its kind has not.
    """

    def __init__(
        self,
        inplanes: int,
        planes: int | None = None,
        kernel_size: int = 1,
        stride: int = 1,
        *,
        kind: Kind = "s",
        inter_planes: int | None = None,
        ratio: int | None = None,
        ln_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        _check(inplanes, planes, kernel_size, stride, kind, ratio)
        self.kind = kind
        inner = inplanes // 2 if inter_planes is None else inter_planes
        by = 1 if kind == "p" else 4 if ratio is None else ratio
        _check_width(inplanes, inner, by)
        one = partial(nn.Conv2d, kernel_size=1, bias=False)
        self.conv_q_right = one(inplanes, 1)
        self.conv_v_right = one(inplanes, inner)
        narrow = partial(_narrow, inner, inner // by, inplanes, ln_eps)
        self.conv_up = one(inner, inplanes) if kind == "p" else narrow()
        self.conv_q_left = one(inplanes, inner)
        self.conv_v_left = one(inplanes, inner)
        draw = partial(nn.init.kaiming_normal_, mode="fan_in")
        for conv in (self.conv_q_right, self.conv_v_right, self.conv_q_left, self.conv_v_left):
            init_weights(conv, nn.Conv2d, draw=draw)

    def forward(self, x: Tensor) -> Tensor:
        y = x * self.channel_gate(x)
        if self.kind == "p":
            return x * self.spatial_gate(x) + y
        return y * self.spatial_gate(y)

    def channel_gate(self, x: Tensor) -> Tensor:
        """A factor for each channel, `b c 1 1`."""
        where = self.conv_q_right(x).flatten(2).softmax(-1)[:, None]
        where = mark("map", where)  # b 1 1 (y x)
        values = self.conv_v_right(x).flatten(2)
        pooled = torch.matmul(values, where[:, 0].transpose(1, 2))[..., None]
        return mark("channel_gate", self.conv_up(pooled).sigmoid())

    def spatial_gate(self, x: Tensor) -> Tensor:
        """A factor for each place, `b 1 y x`."""
        query = self.conv_q_left(x).mean((2, 3))
        mask = spatial_mask(query, self.conv_v_left(x).flatten(2), self.kind)
        return mark("spatial_gate", mask.unflatten(1, x.shape[2:])[:, None].sigmoid())


def spatial_mask(query: Tensor, keys: Tensor, kind: Kind) -> Tensor:
    """What the gate of places is the sigmoid of; query `b c`, keys `b c n` -> `b n`.

    "p"  softmax_n(sum_c q_c k_cn): it sums to 1, so that the gate is 0.5 to 0.731
    "s"  sum_c q_c softmax_n(k_cn): it sums to sum_c q_c and may fall below 0
    """
    row = query[:, None]
    if kind == "p":
        return torch.matmul(row, keys)[:, 0].softmax(-1)
    return torch.matmul(row, keys.softmax(-1))[:, 0]


def _narrow(dim: int, inner: int, out: int, eps: float) -> nn.Sequential:
    """Two maps over channels with a layer norm and a ReLU between them."""
    return nn.Sequential(
        nn.Conv2d(dim, inner, 1), nn.LayerNorm([inner, 1, 1], eps), nn.ReLU(),
        nn.Conv2d(inner, out, 1),
    )  # fmt: skip


def _check(
    inplanes: int, planes: int | None, kernel_size: int, stride: int, kind: str, ratio: int | None
) -> None:
    if kind not in ("p", "s"):
        raise OptionError(
            f"polarized attention of kind {kind!r} was asked for: write 'p' (parallel) or 's' "
            "(sequential)"
        )
    if planes not in (None, inplanes):
        raise OptionError(
            f"planes={planes} was given, but polarized attention of {inplanes} channels gates "
            "these: leave it out"
        )
    if (kernel_size, stride) != (1, 1):
        raise OptionError(
            f"kernel_size={kernel_size} and stride={stride} were given, but the gates of polarized "
            "attention fit their picture with 1 and 1 alone: leave them out"
        )
    if kind == "p" and ratio is not None:
        raise OptionError(
            f"ratio={ratio} was given, but polarized attention of kind 'p' has one map behind its "
            "pool and narrows nothing: leave it out"
        )


def _check_width(dim: int, inner: int, ratio: int) -> None:
    if inner < 1 or ratio < 1 or inner // ratio < 1:
        raise OptionError(
            f"polarized attention of {dim} channels with {inner} inside it and ratio={ratio} has "
            "no channel left: give more channels, or a smaller ratio"
        )
