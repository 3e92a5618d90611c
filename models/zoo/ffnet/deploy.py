"""FFNet as it is deployed: norms and second kernels merged into the convolutions."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .blocks import ConvNorm, NormedSkip, TokenMixer, TwoKernels
from .model import FFNet


@dataclass(frozen=True, eq=False)
class TokenKernels:
    """What a token mixer compares its queries with and what it adds up, `c y x` each."""

    key: Tensor
    value: Tensor


def token_kernels(mixer: TokenMixer) -> TokenKernels:
    """The keys and the values of a token mixer, its norms and second kernels merged into them."""
    key, value = (_merged(conv).weight.detach()[:, 0] for conv in (mixer.conv1, mixer.conv2))
    return TokenKernels(key, value)


@torch.no_grad()
def deployed(model: FFNet) -> FFNet:
    """A copy in eval mode that computes the same with single biased convolutions.

    Batch norms become part of the convolution beside them, and of two kernels the smaller is
    padded and added to the larger. The model itself stays as it is.
    """
    model = copy.deepcopy(model).eval()
    _merge_within(model)
    return model


def _merge_within(part: nn.Module) -> None:
    """Put one convolution in the place of each part that is as good as one."""
    for name, child in part.named_children():
        if isinstance(child, ConvNorm | TwoKernels | NormedSkip):
            setattr(part, name, _merged(child))
        else:
            _merge_within(child)


@torch.no_grad()
def _merged(part: nn.Module) -> nn.Conv2d:
    """One biased convolution for two kernels, a skip over one, or a convolution and its norm."""
    if isinstance(part, TwoKernels):
        large, small = _merged(part.conv), _merged(part.conv1)
        rest = (large.kernel_size[0] - small.kernel_size[0]) // 2
        large.weight += F.pad(small.weight, [rest] * 4)
        large.get_parameter("bias").add_(small.get_parameter("bias"))
        return large
    if isinstance(part, NormedSkip):
        return _with_skip(part.conv.bn, part.conv.c)
    if isinstance(part, ConvNorm):
        pair = copy.deepcopy(part).eval()
        return fuse_conv_bn_eval(pair.c, pair.bn)
    if isinstance(part, nn.Conv2d):
        return part
    raise TypeError(f"a {type(part).__name__} is not as good as one convolution")


def _with_skip(norm: nn.BatchNorm2d, conv: nn.Conv2d) -> nn.Conv2d:
    """x + W (s x + t) as (1 + W s) x + W t, s x + t being the norm."""
    mean, var = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
    scale = norm.weight / (var + norm.eps).sqrt()
    shift = norm.bias - mean * scale
    weight, own = conv.weight[:, :, 0, 0], torch.eye(len(scale)).to(scale)
    merged = nn.Conv2d(len(scale), len(scale), 1).to(scale)
    merged.weight.copy_((own + weight * scale)[:, :, None, None])
    merged.get_parameter("bias").copy_(weight @ shift)
    return merged
