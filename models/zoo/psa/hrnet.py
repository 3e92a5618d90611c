"""HRNetV2 (arXiv 1908.07919) with polarized self-attention in every basic block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...layers import Bottleneck, PolarizedAttention
from ...layers.gates import Kind


class PolarizedBlock(nn.Module):
    """Two 3 x 3 convolutions with polarized attention between them, beside a shortcut."""

    def __init__(self, dim: int, psa: Kind | None, eps: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(dim, eps)
        self.relu1 = nn.ReLU()
        self.deattn = nn.Identity() if psa is None else PolarizedAttention(dim, kind=psa)
        self.conv2 = nn.Conv2d(dim, dim, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(dim, eps)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.deattn(self.relu1(self.bn1(self.conv1(x))))
        return self.relu(x + self.bn2(self.conv2(y)))


def conv_norm(
    dim: int, out: int, kernel: int = 3, stride: int = 1, *, relu: bool = True, eps: float
) -> nn.Sequential:
    """A convolution without bias, its batch norm and, unless told otherwise, a ReLU."""
    conv = nn.Conv2d(dim, out, kernel, stride, kernel // 2, bias=False)
    act = [nn.ReLU()] if relu else []
    return nn.Sequential(conv, nn.BatchNorm2d(out, eps), *act)


class Upsampling:
    """Bilinear resizing to a size."""

    align_corners = False

    def resized(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """The same map at another size `y x`."""
        if tuple(x.shape[-2:]) == tuple(size):
            return x
        return F.interpolate(x, tuple(size), mode="bilinear", align_corners=self.align_corners)


class HighResolutionModule(Upsampling, nn.Module):
    """Branches of halving size side by side, and sums of all of them at each size.

    relu.i(sum_j fuse_ij(branch_j)), fuse_ij a 1 x 1 and a resizing where j is the smaller picture,
    3 x 3 of stride 2 where it is the larger; for the first `outputs` sizes.
    """

    def __init__(
        self,
        widths: Sequence[int],
        blocks: int,
        outputs: int,
        *,
        psa: Kind | None,
        align_corners: bool,
        eps: float,
    ) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.branches = nn.ModuleList(
            nn.Sequential(*(PolarizedBlock(dim, psa, eps) for _ in range(blocks))) for dim in widths
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_fuse(widths, i, j, eps) for j in range(len(widths)))
            for i in range(outputs)
        )
        self.relu = nn.ModuleList(nn.ReLU() for _ in range(outputs))

    def forward(self, pictures: list[Tensor]) -> list[Tensor]:
        held = [branch(x) for branch, x in zip(self.branches, pictures, strict=True)]
        fused = []
        for layers, relu, own in zip(self.fuse_layers, self.relu, held, strict=False):
            parts = [
                self.resized(layer(x), own.shape[-2:])
                for layer, x in zip(layers, held, strict=True)  # type: ignore[call-overload]
            ]
            total = parts[0]
            for part in parts[1:]:
                total = total + part
            fused.append(relu(total))
        return fused


def _fuse(widths: Sequence[int], i: int, j: int, eps: float) -> nn.Module:
    """What leads from branch j to branch i."""
    if i == j:
        return nn.Identity()
    if j > i:
        return conv_norm(widths[j], widths[i], 1, relu=False, eps=eps)
    steps = [conv_norm(widths[j], widths[j], 3, 2, eps=eps) for _ in range(i - j - 1)]
    return nn.Sequential(*steps, conv_norm(widths[j], widths[i], 3, 2, relu=False, eps=eps))


class HighResolutionNet(Upsampling, nn.Module):
    """A stem at a quarter of the picture's size, a stage of bottlenecks, three of branches.

    Returns all four branches at the largest one's size, 15 `width` channels, or with `join`
    off the largest branch alone, `width` channels.
    """

    def __init__(
        self,
        *,
        psa: Kind | None,
        width: int,
        blocks_per_branch: Sequence[int],
        modules: Sequence[int],
        stage1_blocks: int,
        align_corners: bool,
        in_channels: int,
        eps: float,
        join: bool = True,
    ) -> None:
        super().__init__()
        self.align_corners, self.join = align_corners, join
        widths = [width << n for n in range(4)]
        self.conv1 = nn.Conv2d(in_channels, 64, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64, eps)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(64, 64, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(64, eps)
        self.relu2 = nn.ReLU()
        self.layer1 = nn.Sequential(
            Bottleneck(64, 256, 1, 64, 1, eps),
            *(Bottleneck(256, 256, 1, 64, 1, eps) for _ in range(stage1_blocks - 1)),
        )
        for n, (count, blocks) in enumerate(zip(modules, blocks_per_branch, strict=True), 2):
            self.add_module(f"transition{n - 1}", _transition(n, widths, eps))
            last = count - 1 if n == 4 and not join else count
            self.add_module(
                f"stage{n}",
                nn.Sequential(
                    *(
                        HighResolutionModule(
                            widths[:n],
                            blocks,
                            n if m < last else 1,
                            psa=psa,
                            align_corners=align_corners,
                            eps=eps,
                        )
                        for m in range(count)
                    )
                ),
            )
        self.out_channels = sum(widths) if join else width

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.layer1(self.relu2(self.bn2(self.conv2(x))))
        pictures = [x, x]
        for n in (2, 3, 4):
            ways = self.get_submodule(f"transition{n - 1}")
            pictures = [*pictures[: n - 1], pictures[-1]]
            entered = [way(y) for way, y in zip(ways, pictures, strict=True)]  # type: ignore[call-overload]
            pictures = self.get_submodule(f"stage{n}")(entered)
        size = pictures[0].shape[-2:]
        return torch.cat([self.resized(y, size) for y in pictures], 1) if self.join else pictures[0]


def _transition(stage: int, widths: Sequence[int], eps: float) -> nn.ModuleList:
    """What leads to the branches of a stage: a new one comes from the smallest picture."""
    if stage == 2:
        first = conv_norm(256, widths[0], eps=eps)
        return nn.ModuleList([first, nn.Sequential(conv_norm(256, widths[1], 3, 2, eps=eps))])
    new = conv_norm(widths[stage - 2], widths[stage - 1], 3, 2, eps=eps)
    kept = [nn.Identity() for _ in range(stage - 1)]
    return nn.ModuleList([*kept, nn.Sequential(new)])
