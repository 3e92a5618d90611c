"""The extract-aggregate grid against the outer products it never builds."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import limelight as ll
from limelight.methods.normgrad.normgrad import Aggregate
from limelight.models.layers.convolutions import SameConv2d
from limelight.probe.attribution.registry import use
from limelight.probe.errors import MethodError, OptionError

PHASES = ("bias", "scaling", "conv1x1", "conv3x3", "conv5x5", "depthwise1x1", "depthwise3x3")


def window(x: Tensor, n: int) -> Tensor:
    """`b c` + positions -> `b c w` + positions: the zero-padded windows, by shifting."""
    axes, half = x.ndim - 2, n // 2
    padded = nn.functional.pad(x, (half,) * (2 * axes))
    shifts = product(range(n), repeat=axes)
    parts = [
        padded[(..., *(slice(s, s + side) for s, side in zip(shift, x.shape[2:], strict=True)))]
        for shift in shifts
    ]
    return torch.stack(parts, 2)


def contribution(x: Tensor, g: Tensor, phase: str) -> Tensor:
    """The vector v_u of each position, built in full: `b v` + positions."""
    if phase == "bias":
        return g
    size = 1 if phase == "scaling" else int(phase[-1])
    around = window(x, size)
    if phase.startswith("conv"):
        return (g[:, :, None, None] * around[:, None]).flatten(1, 3)
    return (g[:, :, None] * around).flatten(1, 2)


def naive(x: Tensor, g: Tensor, phase: str, aggregate: str) -> Tensor:
    if aggregate == "filter":
        g = torch.zeros_like(g) + g.flatten(2).mean(2).reshape(*g.shape[:2], *(1,) * (g.ndim - 2))
    v = contribution(x, g, phase)
    return {
        "norm": lambda: v.square().sum(1).sqrt(),
        "sum": lambda: v.sum(1),
        "max": lambda: v.amax(1),
        "filter_norm": lambda: v.clamp(min=0).square().sum(1).sqrt(),
        "filter": lambda: v.sum(1).clamp(min=0),
    }[aggregate]()


@settings(max_examples=120, deadline=None)
@given(
    phase=st.sampled_from(PHASES),
    aggregate=st.sampled_from(get_args(Aggregate)),
    channels=st.integers(1, 4),
    positions=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    shift=st.sampled_from((-2.0, 0.0, 2.0)),
    seed=st.integers(0, 999),
)
def test_closed_forms(
    phase: str, aggregate: str, channels: int, positions: list[int], shift: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shape = (2, channels, *positions)
    x, g = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    x = x + shift
    found = use("normgrad", phase=phase, aggregate=aggregate)(x, g)
    torch.testing.assert_close(found, naive(x, g, phase, aggregate), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("phase", "aggregate"), list(product(PHASES, get_args(Aggregate))))
@pytest.mark.parametrize("shape", [(2, 5, 4, 6), (2, 5, 7)], ids=["map", "tokens"])
def test_every_cell_of_the_grid(shape: tuple[int, ...], phase: str, aggregate: str) -> None:
    torch.manual_seed(0)
    x, g = torch.randn(2, *shape, dtype=torch.float64)
    found = use("normgrad", phase=phase, aggregate=aggregate)(x, g)
    expected = naive(x, g, phase, aggregate)
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_classical_methods_are_cells() -> None:
    torch.manual_seed(1)
    x, g = torch.randn(2, 2, 3, 4, 4)
    cells = {
        "gradient_sum": ("bias", "sum", (g,)),
        "linear_approx": ("scaling", "sum", (x, g)),
        "gradcam": ("scaling", "filter", (x, g)),
        "normgrad": ("conv1x1", "norm", (x, g)),
        "normgrad_selective": ("scaling", "filter_norm", (x, g)),
        "gradient:norm": ("bias", "norm", (g,)),
    }
    for name, (phase, aggregate, values) in cells.items():
        cell = use("normgrad", phase=phase, aggregate=aggregate)(x, g)
        torch.testing.assert_close(use(name)(*values), cell)


@pytest.mark.parametrize("phase", ["conv2x2", "conv3x5", "conv", "depthwise", "identity", ""])
def test_unknown_phase(phase: str) -> None:
    with pytest.raises(OptionError, match="phase is bias, scaling, convNxN or depthwiseNxN"):
        use("normgrad", phase=phase)(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))


CONVOLUTIONS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
    {"kernel_size": (3, 2), "stride": (2, 1), "padding": (0, 1), "dilation": (1, 2)},
    {"kernel_size": 3, "padding": "same", "dilation": 2},
    {"kernel_size": 3, "padding": 1, "groups": 2},
    {"kernel_size": 3, "padding": 1, "groups": 4, "padding_mode": "reflect"},
    {"kernel_size": 3, "padding": 2, "padding_mode": "circular", "stride": 2},
    {"kernel_size": 3, "padding": "same", "padding_mode": "replicate"},
]


@pytest.mark.parametrize("how", CONVOLUTIONS)
def test_proper_is_the_norm_of_the_weight_gradient_of_one_position(how: dict) -> None:
    torch.manual_seed(2)
    conv = nn.Conv2d(4, 8, **how).double()
    x = torch.randn(1, 4, 6, 7, dtype=torch.float64)
    out = conv(x)
    g = torch.randn_like(out)
    expected = torch.zeros_like(out[:, 0])
    for y, column in product(range(out.shape[2]), range(out.shape[3])):
        alone = torch.zeros_like(g)
        alone[:, :, y, column] = g[:, :, y, column]
        (slope,) = torch.autograd.grad(out, conv.weight, alone, retain_graph=True)
        expected[0, y, column] = slope.norm()
    found = use("normgrad_proper")(conv, x, g)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-10, atol=1e-12)


def test_proper_wants_a_convolution() -> None:
    with pytest.raises(MethodError, match=r"asked at a Linear.*nn\.Conv2d"):
        use("normgrad_proper")(nn.Linear(2, 2), torch.zeros(1, 2, 2), torch.zeros(1, 2, 2))


class Standardised(nn.Conv2d):
    """A convolution whose kernel has a mean of zero."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, weight, self.bias, self.stride, self.padding)


def test_a_convolution_that_pads_by_itself_is_seen_as_it_is():
    torch.manual_seed(0)
    own = SameConv2d(4, 6, 3, stride=2, groups=2)
    plain = nn.Conv2d(4, 6, 3, stride=2, groups=2)
    plain.load_state_dict(own.state_dict())
    head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    x = torch.randn(2, 4, 10, 10)
    padded = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), plain, *head)  # as "same" pads an even size
    found = ll.maps(nn.Sequential(own, *head), x, "normgrad_proper", sites="0", target=1)
    want = ll.maps(padded, x, "normgrad_proper", sites="1", target=1)
    for ours, theirs in zip(found, want, strict=True):
        torch.testing.assert_close(ours.values, theirs.values)


def test_a_convolution_that_changes_its_weights_is_refused():
    net = nn.Sequential(Standardised(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(MethodError, match="Standardised, whose forward changes its weights"):
        ll.maps(net, torch.randn(1, 3, 8, 8), "normgrad_proper", sites="0", target=1)
