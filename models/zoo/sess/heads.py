"""FFNet's heads: scales from coarse to fine, and what is read from all of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...layers import shortcut

BASES = {"A": (64, 128, 256, 512), "B": (64, 128, 128, 256), "C": (128, 128, 128, 128)}
OUTS = {"A": (128, 128, 128, 128), "B": (96, 96, 64, 32), "C": (128, 16, 16, 16)}
READ = {"A": (512, 1), "B": (256, 3), "C": (128, 1)}  # hidden channels, last kernel
CLASSES = (128, 256, 512, 1024)  # channels of the classification head, scale by scale


class ConvBNReLU(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, dim: int, out: int, kernel: int, eps: float) -> None:
        super().__init__()
        conv = nn.Conv2d(dim, out, kernel, 1, kernel // 2, bias=False)
        self.layers = nn.Sequential(conv, nn.BatchNorm2d(out, eps), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Resize(nn.Module):
    """To the size of another: the `nearest` value, or bilinear with corners on corners."""

    def __init__(self, nearest: bool) -> None:
        super().__init__()
        self.nearest = nearest

    def forward(self, x: Tensor, like: Tensor) -> Tensor:
        size = like.shape[2:]
        if self.nearest:
            return F.interpolate(x, size, mode="nearest")
        return F.interpolate(x, size, mode="bilinear", align_corners=True)


class AdapterConv(nn.Module):
    """Each scale to the channels of the head."""

    def __init__(self, dims: Sequence[int], outs: Sequence[int], eps: float) -> None:
        super().__init__()
        pairs = zip(dims, outs, strict=True)
        self.adapter_conv = nn.ModuleList(ConvBNReLU(dim, out, 1, eps) for dim, out in pairs)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [conv(x) for conv, x in zip(self.adapter_conv, features, strict=True)]


class UpBranch(nn.Module):
    """Coarse features are widened, resized and added to finer ones; each scale is smoothed."""

    def __init__(self, dims: Sequence[int], outs: Sequence[int], resize: Resize, eps: float):
        super().__init__()
        self.fam_32_sm = ConvBNReLU(dims[3], outs[3], 3, eps)
        self.fam_32_up = ConvBNReLU(dims[3], dims[2], 1, eps)
        self.fam_16_sm = ConvBNReLU(dims[2], outs[2], 3, eps)
        self.fam_16_up = ConvBNReLU(dims[2], dims[1], 1, eps)
        self.fam_8_sm = ConvBNReLU(dims[1], outs[1], 3, eps)
        self.fam_8_up = ConvBNReLU(dims[1], dims[0], 1, eps)
        self.fam_4 = ConvBNReLU(dims[0], outs[0], 3, eps)
        self.resize = resize

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        f4, f8, f16, x = features
        made = [self.fam_32_sm(x)]
        x = self.resize(self.fam_32_up(x), f16) + f16
        made.append(self.fam_16_sm(x))
        x = self.resize(self.fam_16_up(x), f8) + f8
        made.append(self.fam_8_sm(x))
        made.append(self.fam_4(self.resize(self.fam_8_up(x), f4) + f4))
        return made[::-1]


class UpsampleCat(nn.Module):
    """All scales at the finest, side by side."""

    def __init__(self, resize: Resize) -> None:
        super().__init__()
        self.resize = resize

    def forward(self, scales: Sequence[Tensor]) -> Tensor:
        finest, *others = scales
        return torch.cat([finest, *(self.resize(x, finest) for x in others)], 1)


class SegmentationHead(nn.Module):
    """3 x 3 with its norm, ReLU, and a last convolution to the classes."""

    def __init__(self, dim: int, hidden: int, kernel: int, num_classes: int, eps: float) -> None:
        super().__init__()
        self.last_layer = nn.Sequential(
            nn.Conv2d(dim, hidden, 3, 1, 1),
            nn.BatchNorm2d(hidden, eps),
            nn.ReLU(),
            nn.Conv2d(hidden, num_classes, kernel, 1, kernel // 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.last_layer(x)


class SimpleBottleneckBlock(nn.Module):
    """1 x 1 to a quarter, 3 x 3, 1 x 1 beside a shortcut."""

    def __init__(self, dim: int, out: int, eps: float) -> None:
        super().__init__()
        inner = out // 4
        self.downsample = shortcut(dim, out, 1, eps)
        self.conv1 = nn.Conv2d(dim, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner, eps)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(inner, inner, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner, eps)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(inner, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out, eps)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(self.relu2(self.bn2(self.conv2(y)))))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ClassificationHead(nn.Module):
    """Each scale is widened, and summed from fine to coarse; the mean of places is classified."""

    def __init__(self, dims: Sequence[int], num_classes: int, eps: float) -> None:
        super().__init__()
        pairs = zip(dims, CLASSES, strict=True)
        self.expansion_layers = nn.ModuleList(SimpleBottleneckBlock(*pair, eps) for pair in pairs)
        self.downsampling_layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(dim, 2 * dim, 3, 2, 1), nn.BatchNorm2d(2 * dim, eps), nn.ReLU())
            for dim in CLASSES[:-1]
        )
        last = 2 * CLASSES[-1]
        self.final_layer = nn.Sequential(
            nn.Conv2d(CLASSES[-1], last, 1), nn.BatchNorm2d(last, eps), nn.ReLU()
        )
        self.classifier = nn.Linear(last, num_classes)

    def forward(self, scales: Sequence[Tensor]) -> Tensor:
        wide = [block(x) for block, x in zip(self.expansion_layers, scales, strict=True)]
        x = wide[0]
        for down, more in zip(self.downsampling_layers, wide[1:], strict=True):
            x = more + down(x)
        return self.classifier(self.final_layer(x).mean((2, 3)))


class Head(nn.Module):
    """`layers`: adapters, the branch from coarse to fine, and what reads all scales."""

    def __init__(
        self, dims: Sequence[int], code: str, nearest: bool, task: str, num_classes: int, eps: float
    ) -> None:
        super().__init__()
        bases, outs = BASES[code], OUTS[code]
        resize = Resize(nearest)
        first = AdapterConv(dims, bases, eps), UpBranch(bases, outs, resize, eps)
        if task == "X":
            self.layers = nn.Sequential(*first, ClassificationHead(outs, num_classes, eps))
        else:
            read = SegmentationHead(sum(outs), *READ[task], num_classes, eps)
            self.layers = nn.Sequential(*first, UpsampleCat(resize), read)

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.layers(features)
