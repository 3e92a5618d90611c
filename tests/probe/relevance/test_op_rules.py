"""Rules of single ops against closed forms: reading at places that the network chooses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.probe.relevance import preset

MODES = [
    (mode, padding, corners)
    for mode in ("bilinear", "nearest", "bicubic")
    for padding in ("zeros", "border", "reflection")
    for corners in (False, True)
]


class Reader(nn.Module):
    """A picture read where a convolution of it says, weighed and summed; or a constant one."""

    def __init__(self, dims: int = 2, constant: bool = False, **how: Any) -> None:
        super().__init__()
        self.how, self.constant = how, constant
        self.places = (nn.Conv2d if dims == 2 else nn.Conv3d)(2, dims, 3, padding=1).double()
        draw = torch.Generator().manual_seed(2)
        self.register_buffer("weigh", torch.randn(2, *[4, 5, 3][:dims], generator=draw).double())

    def grid(self, x: Tensor) -> Tensor:
        return 1.2 * self.places(x).movedim(1, -1).tanh()  # some lie outside

    def forward(self, x: Tensor) -> Tensor:
        read = torch.ones_like(x) if self.constant else x
        y = F.grid_sample(read, self.grid(x), **self.how)
        return (y * self.weigh).flatten(1).sum(1, keepdim=True)


def picture(dims: int = 2) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(1, 2, *[4, 5, 3][:dims], generator=draw).double()


def reading(net: Reader, x: Tensor) -> Tensor:
    """What each pixel weighs in the score while the places stay: by pictures of one pixel."""
    with torch.no_grad():
        grid, count = net.grid(x), x[0].numel()
        ones = torch.eye(count, dtype=x.dtype).reshape(count, *x.shape[1:])
        read = F.grid_sample(ones, grid.expand(count, *grid.shape[1:]), **net.how)
        return (read * net.weigh).flatten(1).sum(1).reshape(x.shape)


@pytest.mark.parametrize(("mode", "padding", "corners"), MODES)
def test_what_is_read_takes_all_and_the_places_are_held(
    mode: str, padding: str, corners: bool
) -> None:
    net, x = Reader(mode=mode, padding_mode=padding, align_corners=corners).eval(), picture()
    books = ll.ledger(net, x, "lrp:epsilon", target=0)
    assert books.kept == pytest.approx(1, abs=1e-10)
    assert books.leaks(1e-10) == ()
    (found,) = ll.maps(net, x, "lrp:epsilon", target=0, sites="input")
    want = (x * reading(net, x)).sum(1)[0]
    torch.testing.assert_close(found.values.double(), want, rtol=1e-6, atol=1e-7)


def test_volumes_are_read_alike() -> None:
    net = Reader(3, mode="bilinear", padding_mode="zeros", align_corners=False).eval()
    x = picture(3)
    want = (x * reading(net, x)).sum()
    books = ll.ledger(net, x, "lrp:epsilon", target=0)
    assert books.kept == pytest.approx(1, abs=1e-10)
    assert books.arrived == pytest.approx(float(want))


def test_a_constant_picture_keeps_its_relevance() -> None:
    net, x = Reader(constant=True, align_corners=False).eval(), picture()
    books = ll.ledger(net, x, "lrp:epsilon", target=0)
    (entry,) = [e for e in books if e.op.startswith("grid_sample")]
    assert books.kept == 0
    assert entry.bias == pytest.approx(books.start)
    assert books.leaks(1e-10) == ()


def test_the_op_by_its_other_name() -> None:
    class Low(Reader):
        def forward(self, x: Tensor) -> Tensor:
            y = torch.grid_sampler(x, self.grid(x), 0, 0, False)
            return (y * self.weigh).flatten(1).sum(1, keepdim=True)

    books = ll.ledger(Low().eval(), picture(), "lrp:epsilon", target=0)
    assert books.kept == pytest.approx(1, abs=1e-10)


SUMS = {
    "x + c": lambda x, c: x + c,
    "c + x": lambda x, c: c + x,
    "alpha": lambda x, c: torch.add(x, c / 2, alpha=2),
    "alpha of x": lambda x, c: torch.add(c, x / 2, alpha=2),
    "in place": lambda x, c: x.clone().add_(c),
    "x - (-c)": lambda x, c: x - (-c),
    "c - (-x)": lambda x, c: c - (-x),
    "rsub": lambda x, c: torch.rsub(-c, x),
}


class Sum(nn.Module):
    """A weighed sum of an input and a constant of another sign."""

    def __init__(self, spelling: str, constant: Tensor | float) -> None:
        super().__init__()
        self.add = SUMS[spelling]
        self.constant = constant
        self.weigh = torch.tensor([1.0, -2, 0.5]).double()

    def forward(self, x: Tensor) -> Tensor:
        return (self.add(x, self.constant) * self.weigh).sum(1, keepdim=True)


TAKE_NO_NUMBER = ("alpha of x", "rsub")
WRITTEN = [(name, False) for name in SUMS] + [(n, True) for n in SUMS if n not in TAKE_NO_NUMBER]


@pytest.mark.parametrize(("spelling", "number"), WRITTEN)
def test_a_constant_summand_has_its_share_however_a_sum_is_written(
    spelling: str, number: bool
) -> None:
    constant = -3.0 if number else torch.tensor([[-1.0, 0.5, 2.0]]).double()
    x = torch.tensor([[2.0, -1, 1], [0.5, 0, -4]]).double()
    net = Sum(spelling, constant).eval()
    residual = replace(preset("lrp0"), residual="renormalised")
    one = (x * net.weigh).sum(1)
    other = (constant * net.weigh).sum()
    want = (one + other) * one.abs() / (one.abs() + other.abs())
    places = {"input": "b n"}
    lrp = ll.use("lrp", preset=residual, channels=True)
    found = ll.maps(net, x, lrp, target=0, sites="input", axes=places)
    totals = torch.stack([m.values.sum() for m in found])
    torch.testing.assert_close(totals.double(), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", ["b", "", "1 c"])
def test_summands_of_any_shape_are_shared_by_their_totals(shape: str) -> None:
    class Odd(Sum):
        def forward(self, x: Tensor) -> Tensor:
            y = (x * self.weigh).sum(1)
            if shape == "b":
                return (y + 0.5)[:, None]
            return y[:, None] + (y.mean() if shape == "" else y.mean()[None, None])

    x = torch.tensor([[2.0, -1, 1], [0.5, 1, 4]]).double()
    residual = ll.use("lrp", preset=replace(preset("lrp0"), residual="renormalised"), channels=True)
    found = ll.maps(
        Odd("x + c", 0.0).eval(), x, residual, target=0, sites="input", axes={"input": "b n"}
    )
    y = (x * torch.tensor([1.0, -2, 0.5]).double()).sum(1)
    beside = (y + 0.5) * y.abs() / (y.abs() + 0.5)  # the constant has a share of its own
    want = beside.sum() if shape == "b" else 2 * y.sum()
    assert sum(float(m.values.sum()) for m in found) == pytest.approx(float(want), rel=1e-6)
