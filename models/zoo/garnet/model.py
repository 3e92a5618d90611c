"""GaRNet (ECCV 2022, Lee and Choi): gated attention takes the text out of boxes of a photo."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ....probe.errors import ModelError, OptionError
from ....probe.mark import mark
from ...card import Card, Figure, Source
from ...registry import Variant, register
from .blocks import Gated, GatedBlock, MaskBranch, Over, lateral

UNIT = 32  # pixels a side of the smallest features' places
WIDTHS = (1, 1, 2, 4, 8)  # of layer1 to layer5, over that of the first
MASKS = ("frozen", "trained")


class GaRNet(nn.Module):
    """Photo and box mask to the photo without the text that lies in the boxes.

    Takes `b 4 y x`, RGB from -1 to 1 and the mask, 1 in the boxes; or photo and mask apart,
    `b 3 y x` and `b 1 y x`. Sides are multiples of 32. Returns by name:

        up1, up2       features of the decoder at 1/16 and 1/8
        up3_o, up4_o   the photo at 1/4 and 1/2
        up5            the photo: raw, also outside the boxes
        masks          of the eight blocks, in their order, from the pyramid
        attentions     (stroke, surround) of each
        gates          of each
        composite      (1 - mask) photo + mask up5; pixels are 127.5 clamp(composite + 1, 0, 2)

    With `published_outputs`, all but the last as a tuple of eight. Ports `:photo`, `:raw` and
    `:composite`. Raises ModelError for other channels or sides, a mask of another size, and an
    empty mask.
    """

    def __init__(
        self,
        ndf: int,
        in_channels: int,
        *,
        mask_max: Over,
        train_masks: bool,
        allow_empty_masks: bool,
        published_outputs: bool,
    ) -> None:
        super().__init__()
        self.in_channels, self.published_outputs = in_channels, published_outputs
        self.allow_empty_masks = allow_empty_masks
        self.mask_branch = MaskBranch(mask_max).requires_grad_(train_masks)
        dims = [ndf * factor for factor in WIDTHS]
        self.layer1 = nn.Conv2d(in_channels + 1, ndf, 4, 2, 1)
        self.layer1_lc = lateral(ndf)
        self.pool = nn.MaxPool2d(2)
        self.layer1_block = GatedBlock(dims[0], dims[1])
        for n in (2, 3, 4):
            self.add_module(f"layer{n}", GatedBlock(dims[n - 1], dims[n - 1]))
            self.add_module(f"layer{n}_lc", lateral(dims[n - 1]))
            self.add_module(f"layer{n}_block", GatedBlock(dims[n - 1], dims[n], 2))
        self.layer5 = GatedBlock(dims[4], dims[4])
        self.layer6 = nn.Conv2d(dims[4], 2, 1)
        self._add_decoder([2, dims[3], dims[2], dims[1], dims[0], in_channels])

    def _add_decoder(self, dims: list[int]) -> None:
        for n, (dim, out) in enumerate(pairwise(dims), 1):
            up = nn.Sequential(nn.ConvTranspose2d(dim, out, 4, 2, 1), nn.ELU())
            self.add_module(f"uplayer{n}", up)
            if n == 3:
                self.convs_1 = nn.Conv2d(out, dims[-1], 1, bias=False)
            if n == 4:
                self.convs_2 = nn.Conv2d(out, dims[-1], 1, bias=False)
        self.elus = nn.ModuleList(nn.ELU() for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> dict[str, Any] | tuple[Any, ...]:
        photo, box = self._given(x, mask)
        masks = self.mask_branch(box)
        code, laterals, gated = self.encoded(torch.cat([photo, box], 1), masks)
        found = self.decoded(code, laterals)
        found["up5"] = mark("raw", found["up5"])
        found["masks"] = masks
        found["attentions"] = [(one.stroke, one.surround) for one in gated]
        found["gates"] = [one.gate for one in gated]
        composite = mark("composite", (1 - box) * photo + box * found["up5"])
        return tuple(found.values()) if self.published_outputs else found | {"composite": composite}

    def encoded(self, x: Tensor, masks: list[Tensor]) -> tuple[Tensor, list[Tensor], list[Gated]]:
        """Two channels at 1/32, the lateral connections, coarse first, and the gates."""
        left, gates = iter(masks), []
        x = self.layer1(x)
        laterals = [self.layer1_lc(x)]
        x, gated = self.layer1_block(self.pool(x), next(left))
        gates.append(gated)
        for n in (2, 3, 4):
            x, gated = self.get_submodule(f"layer{n}")(x, next(left))
            laterals.insert(0, self.get_submodule(f"layer{n}_lc")(x))
            x, strided = self.get_submodule(f"layer{n}_block")(x, next(left))
            gates += [gated, strided]
        x, gated = self.layer5(x, next(left))
        return self.layer6(x), laterals, [*gates, gated]

    def decoded(self, x: Tensor, laterals: list[Tensor]) -> dict[str, Any]:
        """The photo at three sizes, with the features before it."""
        ups = []
        for n, (elu, beside) in enumerate(zip(self.elus, laterals, strict=True), 1):
            ups.append(x := elu(beside + self.get_submodule(f"uplayer{n}")(x)))
        return {
            "up1": ups[0],
            "up2": ups[1],
            "up3_o": self.convs_1(ups[2]),
            "up4_o": self.convs_2(ups[3]),
            "up5": self.get_submodule("uplayer5")(x),
        }

    def _given(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Photo and mask, checked."""
        wanted = self.in_channels + (mask is None)
        if x.ndim != 4 or x.shape[1] != wanted:
            raise ModelError(
                f"GaRNet takes a photo of {self.in_channels} channels and its mask, apart or as "
                f"one tensor of {self.in_channels + 1}, but {'no' if mask is None else 'a'} mask "
                f"and a tensor {tuple(x.shape)} were given: give b {wanted} y x"
            )
        if x.shape[2] % UNIT or x.shape[3] % UNIT:
            raise ModelError(
                f"GaRNet takes sides that are multiples of {UNIT}, but the photo is "
                f"{x.shape[2]} x {x.shape[3]}: pad or resize photo and mask"
            )
        photo, box = (x[:, :-1], x[:, -1:]) if mask is None else (x, mask.to(x))
        if box.shape != (len(x), 1, *x.shape[2:]):
            raise ModelError(
                f"the mask of photos {tuple(x.shape)} is {tuple(box.shape)}, but it has one "
                f"channel and their size: give {(len(x), 1, *x.shape[2:])}"
            )
        if not (self.allow_empty_masks or box.is_meta or torch.compiler.is_compiling()):
            _check_boxes(box)
        return mark("photo", photo), box


def _check_boxes(box: Tensor) -> None:
    empty = (box == 0).flatten(1).all(1)
    if bool(empty.any()):
        number = int(empty.nonzero()[0])
        raise ModelError(
            f"the mask of sample {number} is empty, so that GaRNet has no box to take text out of: "
            "give a mask with 1 in the boxes, or build the model with allow_empty_masks=True"
        )


def garnet(
    *,
    ndf: int = 64,
    in_channels: int = 3,
    mask_branch: str = "frozen",
    mask_max: Over = "sample",
    allow_empty_masks: bool = False,
    published_outputs: bool = False,
) -> GaRNet:
    """A GaRNet.

    ndf                channels of the first layer; an even number
    in_channels        of the photo, and of what is made of it; the mask comes on top
    mask_branch        whether the means that make the pyramid of masks stay as published,
                       "frozen", or are "trained" from there
    mask_max           whether masks are divided by the largest value of each "sample" or, as
                       published, of the whole "batch"
    allow_empty_masks  take masks without a box, as a baseline of zeros has
    published_outputs  return the tuple of the published code
    Raises OptionError for odd widths and unknown words.
    """
    if ndf < 2 or ndf % 2:
        raise OptionError(f"ndf={ndf} has no half for lateral connections: give an even number")
    words = [word for word in MASKS if word in mask_branch]
    if len(words) != 1:
        raise OptionError(f"mask_branch={mask_branch!r} is unknown: write 'frozen' or 'trained'")
    return GaRNet(
        ndf,
        in_channels,
        mask_max=mask_max,
        train_masks=words[0] == "trained",
        allow_empty_masks=allow_empty_masks,
        published_outputs=published_outputs,
    )


PAPER = (
    "The surprisingly straightforward scene text removal method with gated attention and region "
    "of interest generation, ECCV 2022"
)
BLOCKS = ("layer1_block", "layer2", "layer2_block", "layer3", "layer3_block", "layer4",
          "layer4_block", "layer5")  # fmt: skip
GATES = tuple(f"{block}.att_layer" for block in BLOCKS)
SHOWS = (
    Figure(
        "Gates",
        "mean",
        sites=tuple(f"{path}:gate" for path in GATES),
        about="What the features of each block are multiplied by; 1 lets all through.",
    ),
    Figure(
        "Strokes",
        "mean",
        sites=tuple(f"{path}:stroke" for path in GATES),
        about="The map that training draws towards the strokes of letters.",
    ),
    Figure(
        "What surrounds them",
        "mean",
        sites=tuple(f"{path}:surround" for path in GATES),
        about="The map that training draws towards the box around the strokes.",
    ),
    Figure(
        "Masks",
        "mean",
        sites=tuple(f"{path}:mask" for path in GATES),
        about="The box, as each block is given it.",
    ),
    Figure(
        "Before, raw and composite",
        "pictures",
        sites=(":photo", ":raw", ":composite"),
        about="The photo, what the network makes of all of it, and what is kept: only the boxes.",
    ),
)
WEIGHTS = {
    "scut_enstext": Source(
        hub="naverpapago/garnet",
        file="saved_model.pth",
    )
}
register(
    garnet,
    Card(
        "GaRNet",
        PAPER,
        hidden=("layer1", *BLOCKS, "layer6", *(f"uplayer{n}" for n in range(1, 6))),
        size=512,
        resize=512,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        labels=("red", "green", "blue"),
        shows=SHOWS,
    ),
    (
        Variant(
            "garnet",
            weights=WEIGHTS,
            about="trained on SCUT-EnsText, for non-commercial use, and synthetic data",
        ),
    ),
)
