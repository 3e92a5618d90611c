"""Large kernels trained beside dilated small ones, and merged into one (UniRepLKNet's layer)."""

from __future__ import annotations

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....probe.errors import ModelError, OptionError

BN_EPS = 1e-5
BRANCHES: dict[int, tuple[tuple[int, int], ...]] = {  # by kernel: sides and dilations beside it
    17: ((5, 1), (7, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
    15: ((5, 1), (7, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    13: ((5, 1), (7, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    11: ((5, 1), (7, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    9: ((5, 1), (7, 1), (5, 2), (3, 3), (3, 4)),
    7: ((5, 1), (3, 1), (3, 2), (3, 3)),
    5: ((3, 1), (3, 2)),
}


class DilatedReparam(nn.Module):
    """BN(depthwise K x K) plus, for each small side and dilation, BN(depthwise); `b c y x`.

    deploy   one depthwise K x K with a bias instead, which is all of them merged
    """

    def __init__(self, dim: int, kernel: int, deploy: bool = False) -> None:
        super().__init__()
        if kernel not in BRANCHES:
            raise OptionError(
                f"kernel_size={kernel} has no dilated branches: give one of {sorted(BRANCHES)}"
            )
        self.branches = () if deploy else BRANCHES[kernel]
        self.lk_origin = _depthwise(dim, kernel, 1, bias=deploy)
        if not deploy:
            self.origin_bn = nn.BatchNorm2d(dim, BN_EPS)
        for side, dilation in self.branches:
            name = f"k{side}_{dilation}"
            self.add_module(f"dil_conv_{name}", _depthwise(dim, side, dilation))
            self.add_module(f"dil_bn_{name}", nn.BatchNorm2d(dim, BN_EPS))

    def forward(self, x: Tensor) -> Tensor:
        out = self.lk_origin(x)
        for conv, norm in self._pairs():
            out = norm(out) if conv is self.lk_origin else out + norm(conv(x))
        return out

    def _pairs(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        """The convolutions with their norms, the large one first; none where they are merged."""
        if not hasattr(self, "origin_bn"):
            return []
        pairs = [("lk_origin", "origin_bn")]
        pairs += [(f"dil_conv_k{k}_{r}", f"dil_bn_k{k}_{r}") for k, r in self.branches]
        return [(getattr(self, conv), getattr(self, norm)) for conv, norm in pairs]

    @torch.no_grad()
    def merged(self) -> DilatedReparam:
        """The same function as one convolution: norms folded in, dilated kernels zero-stuffed."""
        pairs = self._pairs()
        if not pairs:
            return self
        kernel = self.lk_origin.kernel_size[0]
        one = DilatedReparam(self.lk_origin.out_channels, kernel, deploy=True)
        one = one.to(self.lk_origin.weight).train(self.training)
        folded = [(*_folded(conv, norm), conv.dilation[0]) for conv, norm in pairs]
        weight = torch.stack([_stuffed(weight, r, kernel) for weight, _, r in folded]).sum(0)
        bias = torch.stack([bias for _, bias, _ in folded]).sum(0)
        one.lk_origin.load_state_dict({"weight": weight, "bias": bias})
        return one


def _depthwise(dim: int, kernel: int, dilation: int, *, bias: bool = False) -> nn.Conv2d:
    padding = dilation * (kernel - 1) // 2
    return nn.Conv2d(dim, dim, kernel, padding=padding, dilation=dilation, groups=dim, bias=bias)


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution with the norm's stored statistics in them."""
    if norm.running_mean is None or norm.running_var is None:
        raise ModelError("a norm without running statistics cannot be merged: train it with them")
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale


def _stuffed(weight: Tensor, dilation: int, kernel: int) -> Tensor:
    """A dilated kernel with its zeros written out, in the middle of a kernel x kernel one."""
    side = dilation * (weight.shape[-1] - 1) + 1
    whole = weight.new_zeros(*weight.shape[:2], side, side)
    whole[..., ::dilation, ::dilation] = weight
    return F.pad(whole, [(kernel - side) // 2] * 4)


def reparameterised(model: nn.Module) -> nn.Module:
    """A copy in which every dilated layer is one convolution: the published `_reparam` names.

    In evaluation it computes the same; the statistics of its norms can no longer be trained.
    Raises ModelError where there is nothing to merge.
    """
    merged = deepcopy(model)
    places = [
        name
        for name, part in merged.named_modules()
        if isinstance(part, DilatedReparam) and part.branches
    ]
    if not places:
        raise ModelError(
            f"{type(model).__name__} has no dilated branches to merge: it is merged already, or "
            "no OverLoCK"
        )
    for name in places:
        parent, _, leaf = name.rpartition(".")
        part = merged.get_submodule(name)
        assert isinstance(part, DilatedReparam)
        setattr(merged.get_submodule(parent), leaf, part.merged())
    return merged
