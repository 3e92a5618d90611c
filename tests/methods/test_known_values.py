"""Values that people check explainers by: tiny networks whose maps are whole numbers.

Networks and numbers are those of captum's own tests; what differs by convention is said.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.probe.relevance import Gamma, Preset
from limelight.probe.relevance.linear_rules import AlphaBeta


class OneConv(nn.Module):
    """A convolution of ones with biases -50 and -75, and a linear layer of five 1 and three -1."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(1, 2, 3), nn.ReLU(inplace)
        self.fc, self.last = nn.Linear(8, 4), nn.ReLU(inplace)
        with torch.no_grad():
            self.conv.weight.fill_(1.0)
            self.conv.bias.copy_(torch.tensor([-50.0, -75.0]))  # type: ignore[union-attr]
            self.fc.weight.copy_(torch.tensor([1.0] * 5 + [-1.0] * 3))
            self.fc.bias.zero_()

    def forward(self, x: Tensor, more: Tensor | None = None) -> Tensor:
        x = self.relu(self.conv(x if more is None else x + more))
        return self.last(self.fc(x.flatten(1)))


class Layers(nn.Module):
    """The identity, a layer of ones with biases -10, 1, 1, 1, and another of ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(3, 3), nn.Linear(3, 4), nn.Linear(4, 2)
        self.relu = nn.ReLU()
        with torch.no_grad():
            self.first.weight.copy_(torch.eye(3))
            for layer, bias in (
                (self.first, [0.0] * 3),
                (self.second, [-10.0, 1.0, 1.0, 1.0]),
                (self.third, [-1.0, 1.0]),
            ):
                layer.bias.copy_(torch.tensor(bias))
            self.second.weight.fill_(1.0)
            self.third.weight.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(self.relu(self.second(self.first(x))))


class Chain(nn.Module):
    """3 -> 3 -> 1 without biases."""

    def __init__(self, a: float, b: float, act: nn.Module) -> None:
        super().__init__()
        self.linear, self.act = nn.Linear(3, 3, bias=False), act
        self.linear2 = nn.Linear(3, 1, bias=False)
        nn.init.constant_(self.linear.weight, a)
        nn.init.constant_(self.linear2.weight, b)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.act(self.linear(x)))


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2, bias=False)
        nn.init.constant_(self.linear.weight, 5.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + x


COUNT = torch.arange(16.0).view(1, 1, 4, 4)
ONES = torch.ones(1, 1, 4, 4)
X = torch.tensor([[1.0, 2.0, 3.0]])
GUIDED = [[0, 1, 1, 1], [1, 3, 3, 2], [1, 3, 3, 2], [1, 2, 2, 1]]
GUIDED_SUM = [[1, 2, 2, 1], [2, 4, 4, 2], [2, 4, 4, 2], [1, 2, 2, 1]]
DECONV = [[2, 3, 3, 1], [3, 5, 5, 2], [3, 5, 5, 2], [1, 2, 2, 1]]


def values(net: nn.Module, x: Any, method: Any, target: Any = 0, **how: Any) -> list[Tensor]:
    return [m.values for m in ll.maps(net.eval(), x, method, target=target, **how)]


def equal(found: list[Tensor], *wanted: Any, atol: float = 1e-3) -> None:
    assert len(found) == len(wanted)
    for one, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(
            one, torch.as_tensor(want, dtype=one.dtype), atol=atol, rtol=1e-4
        )


@pytest.mark.parametrize("inplace", [False, True])
def test_backward_of_rectifiers(inplace: bool) -> None:
    net, both = OneConv(inplace), ["input", "input.1"]
    equal(values(net, COUNT, "guided_backprop"), GUIDED)
    equal(values(net, (COUNT, ONES), "guided_backprop", sites=both), GUIDED_SUM, GUIDED_SUM)
    equal(values(net, COUNT, "deconvnet"), DECONV)
    equal(values(net, (COUNT, ONES), "deconvnet", sites=both), DECONV, DECONV)


def test_grad_cam() -> None:
    net, mixed = OneConv(), COUNT.clone()
    mixed[0, 0, 1, 1] = -4
    equal(values(net, COUNT, "gradcam,relu=false", sites="conv"), [[11.25, 13.5], [20.25, 22.5]])
    equal(values(net, COUNT, "gradcam,relu=false", sites="relu"), [[0, 4], [28, 32.5]])
    equal(values(net, (COUNT, ONES), "gradcam", sites="conv"), [[14.5, 19], [32.5, 37]])
    features = torch.tensor([[100.0, 0.0, 0.0], [0.0, -50.0, 80.0]])
    equal(values(Layers(), features, "gradcam", sites="first"), 400.0, 120.0)
    equal(values(Layers(), features, "meta:gradcam,lr=0", sites="first"), 400.0, 120.0)
    entering = 0.5625 * mixed[0, 0]
    equal(values(net, mixed, "gradcam,relu=false", sites="conv:in"), entering)
    equal(values(net, mixed, "gradcam", sites="conv:in"), entering.relu())


@pytest.mark.parametrize(
    ("site", "x", "want"),
    [
        ("first", [0.0, 100.0, 0.0], [0, 400, 0]),
        ("second", [0.0, 100.0, 0.0], [90, 101, 101, 101]),
        ("relu", [3.0, 4.0, 0.0], [0, 8, 8, 8]),
        ("third", [0.0, 100.0, 0.0], [392, 0]),
    ],
)
def test_gradient_times_activation_of_features(site: str, x: list[float], want: list[int]) -> None:
    equal(values(Layers(), torch.tensor([x]), "input_x_gradient", sites=site), want)


def test_occlusion_of_features() -> None:
    net, x = Layers(), torch.tensor([[20.0, 50.0, 30.0]])
    equal(values(net, x, "occlusion,window=1,stride=1"), [80, 200, 120])
    equal(values(net, x, "occlusion,window=2,stride=2"), [280, 280, 120])
    ten = ll.use("occlusion", window=2, stride=1, baseline=torch.full((3,), 10.0))
    equal(values(net, x, ten), [200, 220, 240])
    pair = torch.cat([torch.tensor([[2.0, 10.0, 3.0]]), x])
    equal(values(net, pair, "occlusion,window=1,stride=1"), [8, 35, 12], [80, 200, 120])
    equal(values(net, x, "captum:feature_ablation"), [80, 200, 120])


def test_occlusion_of_pictures() -> None:
    both = ["input", "input.1"]
    found = values(OneConv(), (COUNT, ONES), "occlusion,window=4,stride=4", sites=both)
    equal(found, torch.full((4, 4), 67.0), torch.full((4, 4), 13.0))


EPSILON = "lrp:epsilon"
FIRST_NEGATIVE = (("linear2", Gamma(0.25)),)


def turned() -> Chain:
    net = Chain(2.0, 3.0, nn.ReLU())
    with torch.no_grad():
        net.linear.weight[0, 0] = -2
    return net


def test_relevance_of_linear_layers() -> None:
    for inplace in (False, True):
        net = Chain(2.0, 3.0, nn.ReLU(inplace))
        equal(values(net, X, EPSILON), [18, 36, 54])
        equal(values(net, torch.cat([X, 3 * X]), EPSILON), [18, 36, 54], [54, 108, 162])
    equal(values(Skip(), torch.tensor([[2.0, 3.0]]), EPSILON, 1), [10, 18])
    smooth = Chain(0.1, 0.1, nn.Tanh())
    equal(values(smooth, X, EPSILON), [0.0269, 0.0537, 0.0806], atol=1e-4)
    equal(values(smooth, X, EPSILON, sites="linear"), [0.0537] * 3, atol=1e-4)


def test_relevance_by_rule() -> None:
    one = Preset("one", Gamma(1.0), Gamma(1.0), sites=FIRST_NEGATIVE)
    equal(values(turned(), X, ll.use("lrp", preset=one)), [28 / 3, 104 / 3, 52])
    equal(values(turned(), X, ll.use("lrp", preset=one), sites="linear"), [24, 36, 36])
    positive = Preset("positive", AlphaBeta(1.0, 0.0), AlphaBeta(1.0, 0.0))
    equal(values(turned(), X, ll.use("lrp", preset=positive)), [12, 33.6, 50.4])


def test_relevance_of_a_convolution() -> None:
    net = OneConv()
    best = int(net(COUNT).argmax())
    want = [[0, 1, 2, 3], [0, 5, 6, 7], [0, 9, 10, 11], [0, 0, 0, 0]]
    equal(values(net, COUNT, EPSILON, best), want)
    each = values(net, COUNT, "lrp:epsilon,channels=true", best, sites="conv")
    equal(each, [[[0, 4], [31, 40]], [[0, 0], [-6, -15]]])


@pytest.mark.parametrize(("dims", "most"), [(2, 6.0), (3, 8.0)])
def test_relevance_goes_to_the_largest(dims: int, most: float) -> None:
    x = torch.tensor([1.0, 2.0, 5.0, 6.0] if dims == 2 else [1.0, 2, 5, 6, 3, 4, 7, 8])
    x = x.reshape(1, 1, *[2] * dims)
    net = nn.Sequential((nn.MaxPool2d, nn.MaxPool3d)[dims - 2](2))
    (found,) = values(net, x, EPSILON, lambda out: out.flatten())
    assert found.flatten().tolist() == pytest.approx([0.0] * (x.numel() - 1) + [most], abs=1e-4)
