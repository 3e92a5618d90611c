"""The layers of VOLO: outlook, self and class attention, their blocks, stem and downsampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ....kernels.attention import attention
from ....kernels.outlook import outlook
from ....probe.errors import OptionError
from ...card import sides
from ...layers import Block


class OutlookAttention(nn.Module):
    """Each place on a coarse grid predicts how its k x k neighbours mix; `b y x c`.

    Port `weight` holds the scores `b h l k2 k2` before the softmax, `map` the mixing of tokens.
    """

    def __init__(
        self, dim: int, num_heads: int, kernel: int, stride: int, padding: int, qkv_bias: bool
    ) -> None:
        super().__init__()
        self.num_heads, self.scale = num_heads, (dim // num_heads) ** -0.5
        self.how = {"kernel_size": kernel, "stride": stride, "padding": padding}
        self.v = nn.Linear(dim, dim, bias=qkv_bias)
        self.attn = nn.Linear(dim, kernel**4 * num_heads)
        self.proj = nn.Linear(dim, dim)
        self.pool = nn.AvgPool2d(stride, stride, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        v = self.v(x).flatten(1, 2).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        centres = self.pool(x.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        places = self.how["kernel_size"] ** 2
        weight = self.attn(centres).unflatten(2, (self.num_heads, places, places)).transpose(1, 2)
        out = outlook(v, weight * self.scale, grid=(height, width), **self.how)
        return self.proj(out.transpose(1, 2).flatten(2).unflatten(1, (height, width)))


class SelfAttention(nn.Module):
    """Softmax attention over all places of `b y x c`."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        grid = (x.shape[1], x.shape[2])
        qkv = self.qkv(x).flatten(1, 2).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        out = attention(*qkv.unbind(0))
        return self.proj(out.transpose(1, 2).flatten(2).unflatten(1, grid))


class ClassAttention(nn.Module):
    """The class token asks all tokens; `b n c` -> `b 1 c`."""

    def __init__(self, dim: int, num_heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.kv = nn.Linear(dim, 2 * dim, bias=qkv_bias)
        self.q = nn.Linear(dim, dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        k, v = self.kv(x).unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        q = self.q(x[:, :1]).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        return self.proj(attention(q, k, v).transpose(1, 2).flatten(2))


class ClassBlock(Block):
    """A block that changes the class token only."""

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        token = x[:, :1] + self.attn(self.norm1(x), *context)
        token = token + self.mlp(self.norm2(token))
        return torch.cat([token, x[:, 1:]], 1)


class Stem(nn.Module):
    """Three convolutions at half size, then patches of 4 x 4 of them."""

    def __init__(self, in_channels: int, hidden: int, dim: int, patch_size: int, eps: float):
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, kernel, stride in ((in_channels, 7, 2), (hidden, 3, 1), (hidden, 3, 1)):
            conv = nn.Conv2d(inputs, hidden, kernel, stride, kernel // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(hidden, eps), nn.ReLU()]
        self.conv = nn.Sequential(*layers)
        self.proj = nn.Conv2d(hidden, dim, patch_size // 2, patch_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.conv(x))


class Downsample(nn.Module):
    """`b y x c` at half the rows and columns."""

    def __init__(self, dim: int, out: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(dim, out, patch_size, patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def check_options(
    layers: Sequence[int],
    dims: Sequence[int],
    heads: Sequence[int],
    ratios: Sequence[float],
    post: Sequence[str] | None,
) -> None:
    """Raise OptionError for stages that do not fit each other or unknown last layers."""
    if len({len(layers), len(dims), len(heads), len(ratios)}) != 1 or len(layers) < 2:
        raise OptionError(
            f"layers={list(layers)}, embed_dims={list(dims)}, num_heads={list(heads)} and "
            f"mlp_ratio={list(ratios)} name different numbers of stages: give one of each a stage, "
            "at least two"
        )
    bad = [f"{d} by {h}" for d, h in zip(dims, heads, strict=True) if h < 1 or d % h]
    if bad:
        raise OptionError(f"a width does not divide into its heads ({bad[0]}): change num_heads")
    if len(set(dims[1:])) != 1:
        raise OptionError(
            f"embed_dims={list(dims)} change after the second stage: give all stages after the "
            "first one width"
        )
    if any(word != "ca" for word in post or ()):
        raise OptionError(
            f"post_layers={list(post or ())} names a layer that is not 'ca', class attention: "
            "write 'ca' for each, or None"
        )


def check_grid(img_size: int | tuple[int, int], patch_size: int, pooling_scale: int) -> None:
    """Raise OptionError for a patch size, picture or pooling that cannot work."""
    if patch_size < 2 or patch_size % 2:
        raise OptionError(
            f"patch_size={patch_size} leaves no whole patch behind a stem at half size: "
            "give an even number"
        )
    step = patch_size * max(pooling_scale, 1)
    if pooling_scale < 1 or min(sides(img_size)) < step:
        raise OptionError(
            f"img_size={img_size} holds no token at pooling_scale={pooling_scale} and "
            f"patch_size={patch_size}: give sides of at least {step}"
        )
