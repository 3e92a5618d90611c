"""The autoencoder whose code guides attention, and how scales are fused."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def _twice(dim: int, inner: int, out: int, eps: float) -> list[nn.Module]:
    """Two 3 x 3 convolutions, each with batch norm and ReLU."""
    return [
        nn.Conv2d(dim, inner, 3, padding=1),
        nn.BatchNorm2d(inner, eps),
        nn.ReLU(),
        nn.Conv2d(inner, out, 3, padding=1),
        nn.BatchNorm2d(out, eps),
        nn.ReLU(),
    ]


class EncoderBlock(nn.Module):
    """Two convolutions, then half the size."""

    def __init__(self, dim: int, out: int, eps: float) -> None:
        super().__init__()
        self.encode = nn.Sequential(*_twice(dim, out, out, eps), nn.MaxPool2d(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.encode(x)


class DecoderBlock(nn.Module):
    """Two convolutions, then twice the size."""

    def __init__(self, dim: int, middle: int, out: int, eps: float) -> None:
        super().__init__()
        self.decode = nn.Sequential(
            *_twice(dim, middle, middle, eps), nn.ConvTranspose2d(middle, out, 2, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(x)


class SemanticModule(nn.Module):
    """Features `b c y x` to a code a sample and features again: two levels down and up."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.enc1 = EncoderBlock(dim, 2 * dim, eps)
        self.enc2 = EncoderBlock(2 * dim, 4 * dim, eps)
        self.dec2 = DecoderBlock(4 * dim, 2 * dim, 2 * dim, eps)
        self.dec1 = DecoderBlock(2 * dim, dim, dim, eps)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        half = self.enc1(x)
        code = self.enc2(half)
        return code.flatten(1), self.dec1(resized(self.dec2(code), half))


class MultiConv(nn.Module):
    """3 x 3, 3 x 3, 1 x 1 convolutions, each with batch norm and PReLU, or a softmax at the end."""

    def __init__(self, dim: int, out: int, eps: float, *, attn: bool = False) -> None:
        super().__init__()
        self.fuse_attn = nn.Sequential(
            nn.Conv2d(dim, out, 3, padding=1),
            nn.BatchNorm2d(out, eps),
            nn.PReLU(),
            nn.Conv2d(out, out, 3, padding=1),
            nn.BatchNorm2d(out, eps),
            nn.PReLU(),
            nn.Conv2d(out, out, 1),
            nn.BatchNorm2d(out, eps),
            nn.Softmax2d() if attn else nn.PReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.fuse_attn(x)


def resized(x: Tensor, like: Tensor) -> Tensor:
    """A map at the size of another, bilinear."""
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)
