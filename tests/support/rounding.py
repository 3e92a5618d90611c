"""What float32 can do to a result: float64 in which every operation is off as float32's may be."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

UNIT = 2.0**-24  # the largest relative error of one rounding to float32
ROUNDED = {
    *("add", "sub", "rsub", "mul", "div", "addcmul", "sum", "mean", "sqrt", "pow", "exp", "log"),
    *("linalg_vector_norm", "native_batch_norm", "_native_batch_norm_legit_no_training"),
    *("avg_pool2d", "avg_pool2d_backward", "_adaptive_avg_pool2d", "upsample_bilinear2d"),
    *("_adaptive_avg_pool2d_backward", "_softmax", "_log_softmax", "sigmoid", "silu"),
}
# Where the two operands of an operation that sums products stand among its arguments.
PRODUCTS = {
    **{"mm": (0, 1), "bmm": (0, 1), "addmm": (1, 2), "baddbmm": (1, 2)},
    **{"convolution": (0, 1), "convolution_backward": (0, 2)},
}


class Rounding(TorchDispatchMode):
    """Monte Carlo arithmetic (Parker 1997): random errors of float32's size in float64.

    Every result is off by a normal factor of one unit of float32; sums of n products, and one of
    their operands, by sqrt(n) units, which is what n roundings one after the other come to.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, scale = func.overloadpacket.__name__.rstrip("_"), UNIT
        if name in PRODUCTS:
            left, right = PRODUCTS[name]
            scale *= math.sqrt(_terms(name, args[right], args))
            smaller = min((left, right), key=lambda i: args[i].numel())
            args = [self._off(a.clone(), scale) if i == smaller else a for i, a in enumerate(args)]
        results = func(*args, **(kwargs or {}))
        if name in PRODUCTS or name in ROUNDED:
            for result in results if isinstance(results, (tuple, list)) else (results,):
                if isinstance(result, Tensor) and result.dtype == torch.float64:
                    self._off(result, scale)
        return results

    def _off(self, x: Tensor, scale: float) -> Tensor:
        return x.mul_(1 + scale * torch.randn(x.shape, generator=self.generator, dtype=x.dtype))


def _terms(name: str, right: Tensor, args: Any) -> int:
    """How many products one sum has."""
    if not name.startswith("convolution"):
        return right.shape[-2]
    backwards = name == "convolution_backward" or args[6]  # a transposed convolution is one too
    return right[:, 0].numel() if backwards else right[0].numel()
