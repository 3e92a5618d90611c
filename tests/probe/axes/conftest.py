"""Reading the axes of values as a probe does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor, nn

import limelight as ll
from limelight.probe.axes import Layout


class Function(nn.Module):
    """A function of one tensor as a model."""

    def __init__(self, function: Callable[[Tensor], Any], *parts: nn.Module) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


@pytest.fixture
def axes_of() -> Callable[..., dict[str, str]]:
    """(model or function, input) -> the axes of `input`, `output` and of every module."""

    def read(model: Any, x: Tensor, **options: Any) -> dict[str, str]:
        net = model if isinstance(model, nn.Module) else Function(model)
        with ll.Probe(net, **options) as probe:
            probe.watch("input", "**", "output")(x)
            return {str(site): value.axes for site, value in probe.trace.items()}

    return read


@pytest.fixture
def layout_of() -> Callable[..., tuple[Layout, Tensor]]:
    """(function, input, axes of the input) -> how its result is read, and the result."""

    def read(function: Any, x: Tensor, axes: str) -> tuple[Layout, Tensor]:
        net = function if isinstance(function, nn.Module) else Function(function)
        with ll.Probe(net, axes={"input": axes}) as probe:
            probe.watch("output")(x)
            value = probe.trace["output"]
            return probe.layout(value), value.act

    return read
