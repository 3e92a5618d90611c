"""GaRNet's discriminators: how real patches of a photo are, and how much of each is text box."""

from __future__ import annotations

from torch import Tensor, nn

from ....probe.errors import ModelError, OptionError
from ....probe.mark import mark
from ...card import Card
from ...registry import Variant, register
from .model import PAPER


class Discriminator(nn.Module):
    """How real each patch is, from 0 to 1: strided 4 x 4 convolutions, `b c y x` to `b 1 y x`.

    Port `score` holds what the sigmoid reads. Raises ModelError for other channels or too small a
    picture.
    """

    def __init__(self, in_channels: int, ndf: int, num_blocks: int, norm_eps: float) -> None:
        super().__init__()
        self.in_channels, self.least = in_channels, 3 << num_blocks
        self.initialblock = nn.Sequential(nn.Conv2d(in_channels, ndf, 4, 2, 1), nn.LeakyReLU(0.2))
        dims = [ndf << n for n in range(num_blocks)]
        self.blocks = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(dim, 2 * dim, 4, 2, 1),
                    nn.BatchNorm2d(2 * dim, norm_eps),
                    nn.LeakyReLU(0.2),
                )
                for dim in dims[:-1]
            )
        )
        self.outblock = nn.Sequential(
            nn.Conv2d(dims[-1], dims[-1], 4, 1, 1),
            nn.BatchNorm2d(dims[-1], norm_eps),
            nn.LeakyReLU(0.2),
            nn.Conv2d(dims[-1], 1, 4, 1, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        check(x, self.in_channels, self.least, "this discriminator")
        return mark("score", self.outblock(self.blocks(self.initialblock(x)))).sigmoid()


class LabelDiscriminator(nn.Module):
    """The share of text box in each patch that the discriminator judges, `b 1 y x` of a mask.

    One convolution with the field of view of the discriminator, 70 x 70 at stride 8 for three
    blocks; its weights start as those of a mean.
    """

    def __init__(self, num_blocks: int) -> None:
        super().__init__()
        self.least = 3 << num_blocks
        stride = 1 << num_blocks
        padding = 3 * stride - 1
        self.conv = nn.Conv2d(1, 1, 3 * padding + 1, stride, padding, bias=False)
        nn.init.constant_(self.conv.weight, 1 / self.conv.weight.numel())

    def forward(self, x: Tensor) -> Tensor:
        check(x, 1, self.least, "the label discriminator")
        return self.conv(x)


def check(x: Tensor, channels: int, least: int, who: str) -> None:
    """Raise ModelError for a tensor of other channels, or with a side below the least."""
    if x.ndim != 4 or x.shape[1] != channels or min(x.shape[2:]) < least:
        raise ModelError(
            f"{who} takes b {channels} y x with sides of at least {least}, but the tensor is "
            f"{tuple(x.shape)}: give it such a one"
        )


def check_blocks(num_blocks: int) -> None:
    """Raise OptionError for no blocks."""
    if num_blocks < 1:
        raise OptionError(f"num_blocks={num_blocks} leaves the discriminator none: give at least 1")


def garnet_discriminator(
    *, in_channels: int = 6, ndf: int = 64, num_blocks: int = 3, norm_eps: float = 1e-5
) -> Discriminator:
    """A patch discriminator.

    in_channels  of photo and restored photo together
    ndf          channels of the first block; each of the others doubles them
    num_blocks   convolutions of stride 2
    """
    check_blocks(num_blocks)
    return Discriminator(in_channels, ndf, num_blocks, norm_eps)


def garnet_label_discriminator(*, num_blocks: int = 3) -> LabelDiscriminator:
    """The weights of patches for a discriminator of so many blocks."""
    check_blocks(num_blocks)
    return LabelDiscriminator(num_blocks)


HOW: dict[str, object] = {"size": 512, "resize": 512, "labels": ("real",)}
register(
    garnet_discriminator,
    Card(
        "GaRNet discriminator",
        PAPER,
        hidden=("initialblock", "blocks.*", "outblock.2"),
        classifier="outblock.3",
        mean=(0.5,),
        std=(0.5,),
    ),
    (Variant("garnet_discriminator", card=HOW, about="no weights are published"),),
)
register(
    garnet_label_discriminator,
    Card(
        "GaRNet label discriminator",
        PAPER,
        hidden=("conv",),
        classifier="conv",
        mean=(0.0,),
        std=(1.0,),
    ),
    (
        Variant(
            "garnet_label_discriminator",
            card=HOW | {"labels": ("text box",)},
            about="no weights are published: those of a mean, under a name of our own",
        ),
    ),
)
