"""Power spectra against waves of known frequency, and the maps and shares read off them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.methods.metrics import power_spectrum, radial_spectrum, use_metric
from limelight.methods.metrics.spectrum import frequencies, high_frequency
from limelight.probe.errors import OptionError


def wave(ky: int, kx: int, side: int = 16, phase: float = 0.3) -> Tensor:
    """cos of ky cycles down and kx across a square."""
    at = torch.arange(side, dtype=torch.float64) / side
    return torch.cos(2 * math.pi * (ky * at[:, None] + kx * at) + phase)


def test_a_wave_has_two_frequencies_that_hold_its_power():
    power = power_spectrum(wave(3, -2)[None, None])[0]
    assert power.shape == (16, 16)
    each = 16 * 16 / 4
    want = torch.zeros(16, 16, dtype=torch.float64)
    want[8 + 3, 8 - 2] = want[8 - 3, 8 + 2] = each
    torch.testing.assert_close(power, want, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("shape", [(2, 3, 9), (2, 3, 6, 7), (1, 2, 3, 4, 5)])
def test_power_is_that_of_the_places(shape):
    x = torch.randn(shape, dtype=torch.float64)
    power = power_spectrum(x)
    assert power.shape == (shape[0], *shape[2:])
    want = x.square().flatten(2).sum(2).mean(1)
    torch.testing.assert_close(power.flatten(1).sum(1), want)
    middle = tuple(side // 2 for side in shape[2:])
    count = math.prod(shape[2:])
    mean = (x.flatten(2).sum(2).square() / count).mean(1)
    torch.testing.assert_close(power[(slice(None), *middle)], mean)


def test_rings_hold_the_mean_power_of_their_frequencies():
    x = torch.stack([wave(4, 0), 2 * wave(0, 7)])[None]  # 4/16 and 7/16 cycles a place
    middles, power = radial_spectrum(x, bins=4)
    assert middles.tolist() == [1 / 16, 3 / 16, 5 / 16, 7 / 16]
    at = frequencies((16, 16), x).flatten()
    counts = [int(((at >= n / 8) & (at < (n + 1) / 8 + (n == 3) * 1e-9)).sum()) for n in range(4)]
    want = [0, 0, 128 / 2 / counts[2], 4 * 128 / 2 / counts[3]]
    torch.testing.assert_close(power[0], torch.tensor(want, dtype=x.dtype), atol=1e-9, rtol=1e-9)
    with pytest.raises(OptionError, match="bins=0"):
        radial_spectrum(x, bins=0)


def test_a_ring_without_frequencies_is_not_zero():
    _, power = radial_spectrum(torch.randn(1, 1, 2, 2), bins=3)  # 0, 1/2 and the corner
    assert power[0].isfinite().tolist() == [True, False, True]


def test_the_share_above_a_cutoff():
    coarse, fine = wave(1, 1), wave(6, 0)
    maps = torch.stack([coarse, fine, 5 + 3 * coarse + fine, torch.ones(16, 16)])
    found = high_frequency(maps)
    torch.testing.assert_close(found[:3], torch.tensor([0, 1, 0.1], dtype=found.dtype))
    assert found[3].isnan()
    assert float(high_frequency(maps, cutoff=0.4)[1]) == pytest.approx(0)
    assert float(use_metric("high_frequency:0.05")(maps)[0]) == pytest.approx(1)
    with pytest.raises(OptionError, match="cutoff=-1"):
        high_frequency(maps, cutoff=-1)


class Given(nn.Module):
    """Hands its input on through a pool of one place, and scores its sum."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.AvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).flatten(1).sum(1, keepdim=True)


def test_energy_of_a_band_at_each_place():
    coarse, fine = wave(1, 2), wave(0, 7)
    x = torch.stack([coarse + fine, fine - 2 * coarse + 3])[None]
    specs = ["band_energy", "band_energy:0.01,high=0.25", "band_energy:0", "activation:norm"]
    maps = ll.maps(Given(), x, specs, sites="features", target=0)
    high, low, whole, size = (m.values for m in maps)
    torch.testing.assert_close(high, 2 * fine.square())
    torch.testing.assert_close(low, 5 * coarse.square())
    torch.testing.assert_close(whole, x[0].square().sum(0))
    torch.testing.assert_close(size, whole.sqrt())
    with pytest.raises(OptionError, match="is empty"):
        ll.maps(Given(), x, "band_energy:0.3,high=0.2", sites="features", target=0)
