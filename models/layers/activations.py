"""Activations by name, each as a function and as a module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...probe.errors import OptionError, near


@dataclass(frozen=True)
class Activation:
    """One activation: as a function, and as a module, which is a site of its own."""

    function: Callable[[Tensor], Tensor]
    module: Callable[[], nn.Module]


def squared_relu(x: Tensor) -> Tensor:
    """relu(x)^2 (arXiv 2109.08668)."""
    return F.relu(x).square()


class SquaredReLU(nn.Module):
    """relu(x)^2 (arXiv 2109.08668)."""

    def forward(self, x: Tensor) -> Tensor:
        return squared_relu(x)


_GELU = Activation(F.gelu, nn.GELU)
_GELU_TANH = Activation(partial(F.gelu, approximate="tanh"), partial(nn.GELU, approximate="tanh"))
_SILU = Activation(F.silu, nn.SiLU)

ACTIVATIONS: dict[str, Activation] = {
    "gelu": _GELU,
    "gelu exact": _GELU,
    "gelu (erf)": _GELU,
    "gelu_tanh": _GELU_TANH,
    "gelu_new": _GELU_TANH,
    "relu": Activation(F.relu, nn.ReLU),
    "relu6": Activation(F.relu6, nn.ReLU6),
    "silu": _SILU,
    "swish": _SILU,
    "sigmoid": Activation(torch.sigmoid, nn.Sigmoid),
    "logsigmoid": Activation(F.logsigmoid, nn.LogSigmoid),
    "sqrelu": Activation(squared_relu, SquaredReLU),
}


def activation(name: str) -> Activation:
    """An activation by name. Raises OptionError for an unknown one."""
    if name not in ACTIVATIONS:
        hint = near(name, ACTIVATIONS) or "; there are " + ", ".join(ACTIVATIONS)
        raise OptionError(f"there is no activation {name!r}{hint}")
    return ACTIVATIONS[name]
