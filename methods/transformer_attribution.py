"""Attribution through attention maps (Chefer et al., arXiv 2012.09838 and 2103.15679)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..probe.errors import MethodError
from ..probe.layout import find_grid
from ..probe.presets import preset
from ..probe.probe import Probe
from ..probe.registry import pass_method
from ..probe.rules import ratio


@pass_method("generic_attention")
def generic_attention(runner: Any, x: Tensor, target: Any) -> Tensor:
    """R <- R + mean over heads of max(0, A dz/dA) R, from the first block to the last.

    The row of the class token, else the mean row; of a language model, the last token's.
    """
    with _probing(runner, relevance=False) as (probe, paths):
        probe.backward(target, sites=[f"{p}:{port}" for p in paths for port in _PORTS])
        maps = [probe.trace[f"{path}:map"] for path in paths]
        parts = [(m.act * _gradient(m)).clamp(min=0).mean(1) for m in maps]
        return _explained(probe, _joined(parts))


@pass_method("transformer_attribution")
def transformer_attribution(
    runner: Any, x: Tensor, target: Any, *, start: int = 0
) -> Tensor:
    """(I + C_L) ... (I + C_start), C = mean over heads of max(0, dz/dA R_A), R_A by relevance.

    start  the first block that takes part
    """
    with _probing(runner, relevance=True) as (probe, paths):
        parts = []
        probe.backward(target, sites=[f"{p}:{port}" for p in paths for port in _PORTS])
        gradients = [_gradient(probe.trace[f"{path}:map"]) for path in paths]
        for path, gradient, own in zip(paths, gradients, _relevances(probe, paths, target), strict=True):
            parts.append((gradient * own).clamp(min=0).mean(1))
        return _explained(probe, _joined(parts[start:]))
