"""The blocks of a LITv2: convolutional MLPs with attention before them or without, `b y x c`."""

from __future__ import annotations

from torch import Tensor, nn

from ...layers import dropped
from .hilo import HiLo


class DepthwiseConv(nn.Module):
    """A 3 x 3 convolution of each channel of `b y x c`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ConvMlp(nn.Module):
    """fc2(GELU(depthwise 3 x 3(fc1 x))) on `b y x c`: what tells positions apart."""

    def __init__(self, dim: int, hidden: int, drop: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = DepthwiseConv(hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.dwconv(self.fc1(x)))
        return self.drop(self.fc2(self.drop(x)))


class Block(nn.Module):
    """x + HiLo(norm1 x) where there is attention, then x + MLP(norm2 x); `b y x c`."""

    def __init__(self, dim: int, attn: HiLo | None, mlp: ConvMlp, drop: float, eps: float) -> None:
        super().__init__()
        self.drop = drop
        if attn is not None:
            self.norm1 = nn.LayerNorm(dim, eps)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps)
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        if self.attn is not None:
            x = x + dropped(self.attn(self.norm1(x)), self.drop, self.training)
        return x + dropped(self.mlp(self.norm2(x)), self.drop, self.training)


class Stage(nn.Module):
    """Blocks of one size, then the step to the next."""

    def __init__(self, blocks: list[Block], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    @property
    def attention(self) -> HiLo | None:
        """The attention of its first block, which all of them share the form of."""
        first = next(iter(self.blocks), None)
        return first.attn if isinstance(first, Block) else None


class PatchMap(nn.Module):
    """Non-overlapping patches as a map `b y x c`, with a norm or without."""

    def __init__(self, patch_size: int, in_channels: int, dim: int, norm: nn.Module | None) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, patch_size, patch_size)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x).permute(0, 2, 3, 1)
        return x if self.norm is None else self.norm(x)
