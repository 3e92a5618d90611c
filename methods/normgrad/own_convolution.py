"""NormGrad of a convolution's own weights, in place of a virtual layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ...probe.attribution import method
from ...probe.errors import MethodError


@method("normgrad_proper", sites="last")
def normgrad_proper(module: nn.Module, inputs: Tensor, grad: Tensor) -> Tensor:
    """|g_u| |window_u(x)| with the layer's kernel, stride, padding, dilation and groups.

    x enters the convolution, g is the gradient at its output; the map lives on the output grid.
    With groups: sqrt(sum over groups of |g|^2 |window|^2). A subclass with a forward of its own,
    such as one that pads by the input's size, runs it. Raises MethodError where the site is no
    nn.Conv2d, or one whose forward changes its weights. Source: arXiv 2004.02866.
    """
    if not isinstance(module, nn.Conv2d):
        raise MethodError(
            f"normgrad_proper was asked at a {type(module).__name__}, but it speaks of the weights "
            "of an nn.Conv2d; name convolutions as sites, or use normgrad"
        )
    plain = type(module).forward is nn.Conv2d.forward
    window = (_window_energy if plain else _own_window_energy)(module, inputs)
    out = grad.square().unflatten(1, (module.groups, -1)).sum(2)
    return (window * out).sum(1).sqrt()


def _window_energy(conv: nn.Conv2d, inputs: Tensor) -> Tensor:
    """Squared norm of what the kernel sees, per group: `b c y x` -> `b groups y x`."""
    energy = inputs.square()
    padding: str | tuple[int, ...] = conv.padding
    if conv.padding_mode != "zeros":
        energy = F.pad(energy, conv._reversed_padding_repeated_twice, mode=conv.padding_mode)
        padding = (0, 0)
    energy = energy.unflatten(1, (conv.groups, -1)).sum(2)
    ones = torch.ones(conv.groups, 1, *conv.kernel_size, dtype=energy.dtype, device=energy.device)
    return F.conv2d(
        energy,
        ones,
        stride=conv.stride,
        padding=padding,
        dilation=conv.dilation,
        groups=conv.groups,
    )


def _own_window_energy(conv: nn.Conv2d, inputs: Tensor) -> Tensor:
    """The same by the module's own forward, whatever it pads, with a kernel of ones and no bias."""
    kernel = {"weight": torch.ones_like(conv.weight, dtype=inputs.dtype)}
    if conv.bias is not None:
        kernel["bias"] = torch.zeros_like(conv.bias, dtype=inputs.dtype)
    try:
        most = float(functional_call(conv, kernel, (torch.ones_like(inputs[:1]),)).max())
    except TypeError:  # it takes more than the values: offsets, say
        most = 0.0
    if most != conv.weight[0].numel():
        raise MethodError(
            f"normgrad_proper was asked at a {type(conv).__name__}, whose forward changes its "
            "weights: what its kernel sees is unknown; use normgrad"
        )
    energy = functional_call(conv, kernel, (inputs.square(),))
    return energy.unflatten(1, (conv.groups, -1))[:, :, 0]
