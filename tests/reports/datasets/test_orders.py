"""Orders of dimensions: by names where both sides have them, never by sizes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from limelight.probe.errors import LimelightError, OptionError, SiteError
from limelight.reports.datasets.orders import arranged, orders
from limelight.reports.datasets.signals import Signal


def pooled(module: nn.Module, width: int) -> nn.Module:
    pools = {nn.Conv1d: nn.AdaptiveAvgPool1d, nn.Conv2d: nn.AdaptiveAvgPool2d}
    pool = pools.get(type(module), nn.AdaptiveAvgPool3d)(1)
    return nn.Sequential(module, pool, nn.Flatten(), nn.Linear(width, 2)).eval()


class LastState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.GRU(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.cells(x)[0][:, -1]


# a series of three steps and three channels: no size could tell
SQUARE = Signal("series", torch.arange(9.0).view(3, 3), "t c")


@pytest.mark.parametrize(
    ("model", "signal", "axes"),
    [
        (pooled(nn.Conv1d(3, 4, 1), 4), SQUARE, "b c t"),
        (LastState(), SQUARE, "b t c"),
        (pooled(nn.Conv1d(1, 4, 3), 4), Signal("series", torch.rand(9), "t"), "b c t"),
        (pooled(nn.Conv1d(2, 4, 3), 4), Signal("series", torch.rand(2, 9), ""), "b c t"),
        (pooled(nn.Conv2d(1, 4, 3), 4), Signal("spectrogram", torch.rand(5, 9), "f t"), "b c f t"),
        (
            pooled(nn.Conv3d(1, 4, 1), 4),
            Signal("volume", torch.rand(2, 3, 4), "x y z"),
            "b c z y x",
        ),
        (pooled(nn.Conv3d(1, 4, 1), 4), Signal("film", torch.rand(2, 3, 4), "t y x"), "b c t y x"),
        (nn.Linear(5, 2), Signal("features", torch.rand(5), "c"), "b c"),
        (pooled(nn.Conv2d(3, 4, 3), 4), Signal("array", torch.rand(3, 5, 6), ""), "b c y x"),
    ],
)
def test_the_ops_tell_in_which_order_a_sample_is_taken(model, signal, axes):
    found = orders(model, {"0": signal}, {}, {})
    assert found == {"0": axes}
    model(arranged(signal, axes)[None])


def test_names_are_put_in_their_order():
    assert torch.equal(arranged(SQUARE, "b c t"), SQUARE.values.T)
    volume = Signal("volume", torch.rand(2, 3, 4), "x y z")
    assert torch.equal(arranged(volume, "b c z y x"), volume.values.permute(2, 1, 0)[None])
    assert torch.equal(arranged(volume, "b c x y z"), volume.values[None])
    assert torch.equal(arranged(volume, "b z y x"), volume.values.permute(2, 1, 0))
    single = Signal("series", torch.rand(5, 1), "t c")
    assert torch.equal(arranged(single, "b t"), single.values[:, 0])
    with pytest.raises(LimelightError, match="a series has 3 channels, but 'b t' has none"):
        arranged(SQUARE, "b t")


def test_what_no_op_tells_is_asked():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(9, 2))
    with pytest.raises(SiteError, match=r"no op of Sequential .* series \(3, 3\) \(t c\): say whi"):
        orders(flat, {"0": SQUARE}, {}, {})
    assert orders(flat, {"0": SQUARE}, {}, {"0": "b t c"}) == {"0": "b t c"}
    for model in (nn.Linear(3, 2), pooled(nn.Conv1d(7, 4, 1), 4), pooled(nn.Conv2d(1, 4, 1), 4)):
        steps = Signal("series", torch.rand(3), "t")  # a linear layer's last axis is no time
        with pytest.raises((OptionError, SiteError), match='--axes input="b c t"'):
            orders(model, {"0": steps}, {}, {})


@pytest.mark.parametrize(
    ("kind", "said"),
    [("series", "b c"), ("series", "c t"), ("features", "b t"), ("volume", "b c t")],
)
def test_axes_that_are_none_of_such_samples(kind, said):
    signal = Signal(kind, torch.rand(4), "c" if kind == "features" else "")
    with pytest.raises(OptionError, match=f"axes '{said}' were said for a {kind}"):
        orders(nn.Linear(4, 2), {"0": signal}, {}, {"0": said})


def test_several_inputs_are_told_apart():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wave, self.table = nn.Conv1d(3, 4, 1), nn.Linear(2, 4)

        def forward(self, table: Tensor, wave: Tensor) -> Tensor:
            return self.wave(wave).mean(2) + self.table(table)

    rows = {"table": Signal("features", torch.rand(2), "c"), "wave": SQUARE}
    assert orders(Both(), rows, {}, {}) == {"table": "b c", "wave": "b c t"}
