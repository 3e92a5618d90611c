"""Object-contextual representations (arXiv 1909.11065): pixels attend to classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ....kernels.attention import attention


def norm_relu(dim: int, eps: float) -> nn.Sequential:
    """A batch norm and a ReLU."""
    return nn.Sequential(nn.BatchNorm2d(dim, eps), nn.ReLU())


def mapped(dim: int, *widths: int, eps: float) -> nn.Sequential:
    """1 x 1 maps without bias, each with batch norm and ReLU."""
    layers: list[nn.Module] = []
    for out in widths:
        layers += [nn.Conv2d(dim, out, 1, bias=False), norm_relu(out, eps)]
        dim = out
    return nn.Sequential(*layers)


class SpatialGather(nn.Module):
    """The mean of features over each class's places: softmax_n(scores_kn) features_n.

    As attention each class asks for its own of the scores: q is the identity.
    """

    def forward(self, features: Tensor, scores: Tensor) -> Tensor:
        """`b c y x` and scores `b k y x` -> `b c k 1`."""
        keys, values = (t.flatten(2).transpose(1, 2)[:, None] for t in (scores, features))
        own = torch.eye(scores.shape[1], dtype=keys.dtype, device=keys.device)
        q = own.expand(len(keys), 1, -1, -1)
        return attention(q, keys, values, scale=1.0)[:, 0].transpose(1, 2)[..., None]


class ObjectAttention(nn.Module):
    """Attention of every place to the classes' features, one head."""

    def __init__(self, dim: int, inner: int, eps: float) -> None:
        super().__init__()
        self.f_pixel = mapped(dim, inner, inner, eps=eps)
        self.f_object = mapped(dim, inner, inner, eps=eps)
        self.f_down = mapped(dim, inner, eps=eps)
        self.f_up = mapped(inner, dim, eps=eps)

    def forward(self, x: Tensor, objects: Tensor) -> Tensor:
        asked = self.f_pixel(x), self.f_object(objects), self.f_down(objects)
        q, k, v = (t.flatten(2).transpose(1, 2)[:, None] for t in asked)
        mixed = attention(q, k, v)[:, 0].transpose(1, 2)
        return self.f_up(mixed.unflatten(2, x.shape[2:]))


class SpatialOcr(nn.Module):
    """The context of each place from its classes, joined with its features."""

    def __init__(self, dim: int, inner: int, dropout: float, eps: float) -> None:
        super().__init__()
        self.object_context_block = ObjectAttention(dim, inner, eps)
        joined = mapped(2 * dim, dim, eps=eps)
        self.conv_bn_dropout = nn.Sequential(*joined, nn.Dropout2d(dropout))

    def forward(self, x: Tensor, objects: Tensor) -> Tensor:
        return self.conv_bn_dropout(torch.cat([self.object_context_block(x, objects), x], 1))


class OcrBlock(nn.Module):
    """Scores of classes, a first guess of them, and what the guess gathers and hands out."""

    def __init__(
        self, dim: int, mid: int, inner: int, classes: int, *, dropout: float, eps: float
    ) -> None:
        super().__init__()
        self.conv3x3_ocr = nn.Sequential(nn.Conv2d(dim, mid, 3, 1, 1), norm_relu(mid, eps))
        self.ocr_gather_head = SpatialGather()
        self.ocr_distri_head = SpatialOcr(mid, inner, dropout, eps)
        self.cls_head = nn.Conv2d(mid, classes, 1)
        self.aux_head = nn.Sequential(
            nn.Conv2d(dim, dim, 1), norm_relu(dim, eps), nn.Conv2d(dim, classes, 1)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features `b c y x` -> scores of classes and of the guess, `b k y x` both."""
        guess = self.aux_head(x)
        features = self.conv3x3_ocr(x)
        context = self.ocr_gather_head(features, guess)
        return self.cls_head(self.ocr_distri_head(features, context)), guess
