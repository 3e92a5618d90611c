"""Gates that a preset holds: in a product they take no relevance, and the rest takes it all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.kernels.gated_linear.reference import gated_linear_attention
from limelight.probe.errors import ProbeError, SiteError
from limelight.probe.mark import mark


class Gated(nn.Module):
    """sum of W x times V x, both without biases; one gate of several is marked."""

    def __init__(self, how: str = "layers") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.value, self.gate = (nn.Linear(5, 4, bias=False).double() for _ in range(2))
        self.both = nn.Linear(5, 8, bias=False).double()
        self.how = how
        with torch.no_grad():
            self.both.weight.copy_(torch.cat([self.value.weight, self.gate.weight]))

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.value(x), self.gate(x)
        if self.how == "chunk":  # two results of one node of the graph
            value, gate = self.both(x).chunk(2, -1)
        gate = mark("marked", gate)
        if self.how == "moved":
            gate = gate.reshape(-1, 2, 2).flatten(1) * 1.0
        return (value * gate).sum(-1, keepdim=True)


def found(net: Gated, x: Tensor, **options: object) -> Tensor:
    """Relevance of each channel of the input, through the public function."""
    spec = ll.use("lrp", preset="lrp0", channels=True, **options)
    maps = ll.maps(net, x, spec, target=ll.label(0), axes={"input": "b c"})
    return torch.stack([m.values for m in maps])


X = torch.randn(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("how", ["layers", "chunk", "moved"])
def test_the_other_factor_takes_all(how: str) -> None:
    net = Gated(how)
    with torch.no_grad():
        by_value = X * (net.gate(X) @ net.value.weight)
        by_gate = X * (net.value(X) @ net.gate.weight)
    torch.testing.assert_close(found(net, X), (by_value + by_gate) / 2)
    torch.testing.assert_close(found(net, X, hold=":marked"), by_value)


def test_a_module_that_makes_a_factor_is_named_as_well() -> None:
    net = Gated()
    with torch.no_grad():
        by_gate = X * (net.value(X) @ net.gate.weight)
    torch.testing.assert_close(found(net, X, hold=("gate",)), found(net, X, hold=":marked"))
    torch.testing.assert_close(found(net, X, hold="value"), by_gate)


class Scan(nn.Module):
    """Linear attention over a series, q, k and v made by layers without biases."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.k, self.v = (nn.Linear(3, 2, bias=False).double() for _ in range(3))

    def forward(self, x: Tensor, v: Tensor | None = None) -> Tensor:
        q, k = self.q(x)[:, None], self.k(x)[:, None]
        v = self.v(x)[:, None] if v is None else v
        return gated_linear_attention(q, k, v, torch.zeros_like(q)).sum((1, 2, 3))[:, None]


def test_arguments_of_a_kernel_are_held_as_factors_are() -> None:
    net, x = Scan(), torch.randn(1, 4, 3, dtype=torch.float64)
    v = net.v(x)[:, None].detach().requires_grad_()
    (slope,) = torch.autograd.grad(net(x, v).sum(), v)
    spec = ll.use("lrp", preset="lrp0", channels=True, hold=(":q", ":k"))
    (found_map,) = ll.maps(net, x, spec, target=ll.label(0), axes={"input": "b t c"})
    want = (x * (slope[:, 0] @ net.v.weight)).detach()
    torch.testing.assert_close(found_map.values.T, want[0])


def test_where_every_factor_is_held_they_share_alike() -> None:
    net = Gated()
    torch.testing.assert_close(found(net, X, hold=("gate", "value")), found(net, X))


def test_books_stay_closed_with_a_held_gate() -> None:
    books = ll.ledger(Gated(), X, ll.use("lrp", preset="lrp0", hold=":marked"), target=ll.label(0))
    assert books.kept == pytest.approx(1, abs=1e-9)
    assert books.leaks() == ()


def test_what_cannot_be_held_is_told() -> None:
    with pytest.raises(ProbeError, match="holds whole values"):
        found(Gated(), X, hold="gate[2]")
    with pytest.raises(SiteError, match="matched nothing"):
        found(Gated(), X, hold="gates")
