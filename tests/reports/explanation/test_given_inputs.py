"""Tensors as samples: what their dimensions mean is said, or read off the model, never guessed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from limelight.probe.errors import OptionError, SiteError
from limelight.reports.explanation.given_inputs import given_inputs


def over(module: nn.Module, width: int) -> nn.Module:
    """A network that reads its input by one module and answers with two numbers."""
    pools = {nn.Conv1d: nn.AdaptiveAvgPool1d, nn.Conv2d: nn.AdaptiveAvgPool2d}
    pool = pools.get(type(module), nn.AdaptiveAvgPool3d)(1)
    return nn.Sequential(module, pool, nn.Flatten(), nn.Linear(width, 2)).eval()


class LastState(nn.Module):
    """A recurrent network over `b t c`."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.GRU(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.cells(x)[0][:, -1]


def flat(count: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(count, 2))


MODELS = {
    "b c t": (over(nn.Conv1d(2, 4, 3), 4), (2, 9), "series"),
    "b t c": (LastState(), (9, 3), "series"),
    "b c": (nn.Linear(5, 2), (5,), "table"),
    "b c t y x": (over(nn.Conv3d(1, 4, 3), 4), (1, 5, 6, 7), "volume"),
    "b c y x": (over(nn.Conv2d(3, 4, 3), 4), (3, 6, 7), ""),
}


@pytest.mark.parametrize("axes", MODELS)
def test_axes_are_read_off_the_model_with_and_without_a_batch(axes: str) -> None:
    model, shape, kind = MODELS[axes]
    x = torch.randn(4, *shape)
    for inputs, count in ((x, 4), (x.numpy(), 4), (x[0], 1), (list(x[:3]), 3)):
        found = given_inputs(model, inputs, None)
        assert found.axes == axes
        assert len(found.parts) == count
        assert torch.equal(found.parts[-1], x[count - 1])
        assert found.kind == kind
        assert found.is_picture == (axes == "b c y x")
        assert bool(found.notes) == (inputs.ndim == len(shape) if count == 1 else False)


def test_what_is_said_holds() -> None:
    x = torch.randn(3, 2, 8)
    found = given_inputs(flat(16), x, "b t c")
    assert (found.axes, found.places, len(found.parts)) == ("b t c", "t", 3)
    values, axes = found.channels_first(found.parts[1])
    assert axes == "c t"
    assert torch.equal(values, x[1].T)
    assert len(given_inputs(flat(16), x[0], "b t c").parts) == 1
    first = given_inputs(flat(16), x.movedim(0, 1), "t b c")
    assert torch.equal(torch.stack(first.parts), x)


def test_without_channels_there_is_one() -> None:
    found = given_inputs(flat(8), torch.randn(2, 8), "b t")
    values, axes = found.channels_first(found.parts[0])
    assert (tuple(values.shape), axes) == ((1, 8), "c t")


def test_a_spectrogram_is_a_picture_and_what_is_not_drawn_has_no_kind() -> None:
    assert given_inputs(flat(24), torch.randn(2, 4, 6), "b f t").is_picture
    found = given_inputs(flat(24), torch.randn(2, 4, 6), "b n c")
    assert not found.is_picture
    assert found.kind == ""


def test_a_network_that_tells_nothing_is_asked_about() -> None:
    with pytest.raises(SiteError, match=r"shape \(2, 2, 8\).* axes=\{'input': 'b c t'\}"):
        given_inputs(flat(16), torch.randn(3, 2, 8), None)
    with pytest.raises(SiteError, match=r"shape \(2, 2, 8\).* axes="):
        given_inputs(flat(16), torch.randn(2, 8), None)


@pytest.mark.parametrize(
    ("inputs", "said", "words"),
    [
        (torch.randn(3, 12), None, r"shape \(3, 12\) neither as a batch .* nor as one sample"),
        (torch.randn(3, 2, 8, 1, 1), "b c t", r"over 'b c t' cannot have shape \(3, 2, 8, 1, 1\)"),
        (torch.randn(3, 2, 8), "n c t", "the batch `b` among them"),
        (torch.zeros(0, 3), None, "holds no sample"),
        (torch.tensor(1.0), None, "holds no sample"),
        ([], None, "several in a list, not list"),
        ({"x": torch.zeros(2)}, None, "not dict: call limelight.maps"),
        ("x.png", None, "not str"),
        ([np.zeros((2, 8)), np.zeros(2)], None, r"one kind, but these have the shapes \(2, 8\), "),
        ([np.zeros((2, 8))], "b t", "a name for each dimension"),
    ],
)
def test_what_is_no_sample_is_refused(inputs: object, said: str | None, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        given_inputs(MODELS["b c y x"][0], inputs, said)
