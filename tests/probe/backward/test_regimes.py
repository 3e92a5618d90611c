"""Guided backpropagation and deconvolution against their closed forms, op by op."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.probe.errors import ProbeError

RELUS = {
    "module": lambda: nn.ReLU(),
    "module in place": lambda: nn.ReLU(inplace=True),
    "relu6": lambda: nn.ReLU6(),
    "hardtanh": lambda: nn.Hardtanh(0, 6),
    "function": lambda: F.relu,
    "function in place": lambda: lambda x: F.relu(x, inplace=True),
    "relu_": lambda: lambda x: x.relu_(),
    "torch.relu": lambda: torch.relu,
    "clamp": lambda: lambda x: x.clamp(min=0),
    "clamp_": lambda: lambda x: x.clamp_(0),
    "clamp_min": lambda: lambda x: torch.clamp_min(x, 0),
    "view in place": lambda: lambda x: F.relu(x[:], inplace=True),
    "gelu": lambda: F.gelu,
    "silu": lambda: nn.SiLU(inplace=True),
    "leaky": lambda: lambda x: F.leaky_relu(x, 0.1),
    "prelu": lambda: nn.PReLU(),
}
X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Net(nn.Module):
    def __init__(self, act) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.act, self.b = nn.Linear(6, 8), act, nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.act(self.a(x)))


def closed_form(net: Net, rule) -> tuple[Tensor, Tensor]:
    """Gradients at the output of `a` and at the input."""
    y = net.a(X).detach().requires_grad_()
    slope = torch.autograd.grad(net.act(y.clone()).sum(), y)[0]
    after = net.b.weight[1].detach().expand(4, 8)
    at_a = rule(after, slope)
    return at_a, at_a @ net.a.weight.detach()


@pytest.mark.parametrize("kind", RELUS)
@pytest.mark.parametrize(
    ("regime", "rule"),
    [
        ("plain", lambda after, slope: after * slope),
        ("guided", lambda after, slope: after.clamp(min=0) * slope),
        ("deconv", lambda after, slope: after.clamp(min=0)),
    ],
)
@pytest.mark.parametrize("sites", [["a", "input"], ["input"], ["act:in", "input", "b:in"]])
def test_closed_forms(kind, regime, rule, sites):
    act = RELUS[kind]()
    net = Net(act).double().eval()
    if sites[0] == "act:in" and not isinstance(act, nn.Module):
        sites = ["a", "b:in", "input"]
    expected = net(X)
    with ll.Probe(net) as p:
        p.watch(*sites)
        assert torch.equal(p(X), expected)
        trace = p.backward(1, regime=regime)
        at_a, at_input = closed_form(net, rule)
        torch.testing.assert_close(trace["input"].grad, at_input)
        if sites[0] != "input":
            torch.testing.assert_close(trace[sites[0]].grad, at_a)
        if "b:in" in sites:
            torch.testing.assert_close(trace["b:in"].grad, net.b.weight[1].expand(4, 8))


@pytest.mark.parametrize("regime", ["guided", "deconv"])
def test_a_rectified_part_leaves_the_rest_alone(regime):
    net = nn.Module()
    net.a = nn.Linear(6, 6)

    def forward(x):
        y = net.a(x)
        y[:, :3].relu_()
        return y * torch.tensor([-1.0, 1, 1, -1, 1, 1])

    net.forward = forward
    with ll.Probe(net) as p:
        p.watch("a")
        p(X.float())
        grad = p.backward(lambda out: out.sum(1), regime=regime)["a"].grad
        slope = (p.trace["a"].act[:, :3] > 0).float() if regime == "guided" else torch.ones(4, 3)
        expected = torch.cat(
            [torch.tensor([0.0, 1, 1]) * slope, torch.tensor([[-1.0, 1, 1]] * 4)], 1
        )
        assert torch.equal(grad, expected)


def test_regimes_share_one_forward_and_leave_no_trace():
    net = Net(nn.ReLU()).double()
    with ll.Probe(net) as p:
        p.watch("a")
        p(X)
        plain = p.backward(1)["a"].grad
        guided = p.backward(1, regime="guided")["a"].grad
        deconv = p.backward(1, regime="deconv")["a"].grad
        assert torch.equal(p.backward(1)["a"].grad, plain)
        assert torch.equal(p.backward(1, regime="guided")["a"].grad, guided)
        assert not torch.equal(plain, guided)
        assert not torch.equal(deconv, guided)


def test_a_network_without_relus_says_so():
    with ll.Probe(Net(nn.Tanh()).double()) as p:
        p.watch("a")
        p(X)
        plain = p.backward(1)["a"].grad
        with pytest.warns(
            UserWarning, match="regime 'guided' changes ReLU-like ops, but this netw"
        ):
            guided = p.backward(1, regime="guided")["a"].grad
        assert torch.equal(plain, guided)


def test_unknown_regime():
    with ll.Probe(Net(nn.ReLU()).double()) as p:
        p(X)
        with pytest.raises(ProbeError) as error:
            p.backward(1, regime="guidd")
    assert str(error.value) == (
        "regime 'guidd' is unknown (there are: plain, guided, deconv); did you mean 'guided'?"
    )
