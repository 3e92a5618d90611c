"""A model as perturbation methods see it: inputs are `b c` and the places, copies of one sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ...probe.axes import Layout
from ...probe.engine import Batch, MovedInput


def own_layout(copies: Tensor, layout: Layout, x: Tensor) -> Tensor:
    """Copies `b c` and the places in the order, shape and type of the model's input x."""
    return layout.restore(copies, x.shape, x.dtype)


class OnCopies(nn.Module):
    """A model asked for perturbed copies of the one sample of a batch, in the methods' layout.

    What else the model takes is that of the sample.
    """

    def __init__(self, model: nn.Module, batch: Batch, layout: Layout) -> None:
        super().__init__()
        self.model = model
        self.batch, self.layout = batch, layout

    def forward(self, copies: Tensor) -> Any:
        """The model's output for copies `b c` and the places."""
        batch = self.given(copies)
        return self.model(*batch.args, **batch.kwargs)

    def given(self, copies: Tensor) -> Batch:
        """Copies as the model takes them."""
        return self.batch.with_x(own_layout(copies, self.layout, self.batch.x))


class OnJointCopies(nn.Module):
    """A model asked for copies of several inputs of one sample that change together.

    Each comes as `b c` and the places, in the order of `moving`; what else the model takes is that
    of the sample.
    """

    def __init__(self, model: nn.Module, batch: Batch, moving: Sequence[MovedInput]) -> None:
        super().__init__()
        self.model = model
        self.batch, self.moving = batch, moving

    def forward(self, *copies: Tensor) -> Any:
        """The model's output for as many copies of every input."""
        values = {
            one.name: own_layout(x, one.layout, one.x)
            for one, x in zip(self.moving, copies, strict=True)
        }
        batch = self.batch.with_inputs(values)
        return self.model(*batch.args, **batch.kwargs)
