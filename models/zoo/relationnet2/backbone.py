"""The stages of a residual network and the pyramid of levels on top of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ....probe.errors import OptionError
from .convolutions import ConvModule, Norm
from .deformable import DeformableConv2d


class Stages(nn.Module):
    """A residual network without its classifier: the outputs of its stages, the finest first."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        for name, part in network.named_children():
            if name not in ("avgpool", "fc"):
                self.add_module(name, part)
        self.stages = [name for name, _ in self.named_children() if name.startswith("layer")]

    @property
    def widths(self) -> list[int]:
        """The channels of each stage."""
        last = (list(self.get_submodule(name).children())[-1] for name in self.stages)
        norms = ([p for p in block.modules() if isinstance(p, nn.BatchNorm2d)] for block in last)
        return [own[-1].num_features for own in norms]

    def deform(self, stages: Sequence[bool]) -> None:
        """Deformable 3 x 3 convolutions in the stages that say so; none where nothing is said."""
        if stages and len(stages) != len(self.stages):
            raise OptionError(
                f"stage_with_dcn={tuple(stages)} is for {len(stages)} stages, but the network has "
                f"{len(self.stages)}: give one value each"
            )
        for name, deformed in zip(self.stages, stages, strict=False):
            for block in self.get_submodule(name).children() if deformed else ():
                block.conv2 = DeformableConv2d(block.conv2)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> list[Tensor]:
        for name in ("conv1", "bn1", "relu", "maxpool"):
            x = self.get_submodule(name)(x)
        found = []
        for name in self.stages:
            x = self.get_submodule(name)(x)
            found.append(x)
        return found


class FPN(nn.Module):
    """A feature pyramid (arXiv 1612.03144) of `levels` maps of one width.

    Each stage by 1 x 1 and what is coarser added to it, then 3 x 3; levels beyond the stages are
    convolutions of stride 2, the first of them on the last stage.
    """

    def __init__(
        self, widths: Sequence[int], channels: int, levels: int, norm: Norm | None
    ) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(
            ConvModule(width, channels, 1, norm=norm, act=False) for width in widths
        )
        self.fpn_convs = nn.ModuleList(
            ConvModule(channels, channels, 3, norm=norm, act=False) for _ in widths
        )
        for n in range(levels - len(widths)):
            inputs = channels if n else widths[-1]
            self.fpn_convs.append(ConvModule(inputs, channels, 3, 2, norm=norm, act=False))

    def forward(self, stages: Sequence[Tensor]) -> list[Tensor]:
        maps = [own(x) for own, x in zip(self.lateral_convs, stages, strict=True)]
        for i in range(len(maps) - 1, 0, -1):
            maps[i - 1] = maps[i - 1] + F.interpolate(maps[i], size=maps[i - 1].shape[2:])
        found = [own(x) for own, x in zip(self.fpn_convs, maps, strict=False)]
        x = stages[-1]
        for own in self.fpn_convs[len(maps) :]:
            x = own(x)
            found.append(x)
        return found
