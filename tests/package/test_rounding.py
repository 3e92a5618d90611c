"""The bar of golden maps: it widens by float32's own error, never by a mistake in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from methods_golden import Case
from torch import Tensor, nn


def recorded_sums(mean: float) -> tuple[nn.Module, Tensor, Case]:
    """Sums of 4096 products as a case records them, in float32 of another order.

    The mean weight is small beside the weights where most of the sum cancels.
    """
    draw = torch.Generator().manual_seed(0)
    net, x = nn.Linear(4096, 5, bias=False), torch.rand(1, 4096, generator=draw)
    with torch.no_grad():
        net.weight.copy_(torch.randn(5, 4096, generator=draw))
        lift = mean - net.weight.double() @ x[0].double() / x.double().sum()
        net.weight.add_(lift.float()[:, None])
        recorded = sum(net.weight[:, i] * x[0, i] for i in range(4096))[None]
    low, high = recorded.min().item(), recorded.max().item()
    about = {"key": "y", "shape": [1, 5], "store": "full", "min": low, "max": high}
    return net, x, Case({"outputs": [about]}, {"y": recorded.numpy()})


def sums(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    return {"y": net(x)}


def test_noise_of_float32_is_allowed() -> None:
    net, x, golden = recorded_sums(1e-6)
    exact = sums(copy.deepcopy(net).double(), x.double())["y"]
    assert golden.off("y", exact) > 1e-4 * golden.largest("y")
    assert golden.check(sums, net, x, relative=1e-4) == {"y"}


def test_a_mistake_in_float64_fails() -> None:
    net, x, golden = recorded_sums(1.0)
    with pytest.raises(AssertionError, match="y: off by"):
        golden.check(lambda net, x: {"y": 1.001 * net(x)}, net, x, relative=1e-4)


def test_a_float32_that_leaves_no_digit_fails() -> None:
    net, x, golden = recorded_sums(1.0)

    def careless(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
        return {"y": net(x) * (1 + 0.2 * (x.dtype == torch.float32))}

    with pytest.raises(AssertionError, match="our float32 is off by"):
        golden.check(careless, net, x, relative=1e-4)
