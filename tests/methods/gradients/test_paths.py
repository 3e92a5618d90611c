"""Path methods: noise statistics and integrated gradients, by hand and against captum."""

from __future__ import annotations

import pytest
import torch
from methods_golden import generators, read, walk
from torch import Tensor, nn

from limelight.methods.gradients.integrated_gradients import StraightPath, quadrature
from limelight.methods.gradients.smoothgrad import Noise
from limelight.probe.attribution.registry import use
from limelight.probe.errors import OptionError
from limelight.probe.targets.target import label

RULES = ("gausslegendre", "trapezoid", "midpoint", "left", "right")


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.Softplus(),
        nn.Conv2d(4, 4, 3),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(36, 5),
    ).eval()


def photo(seed: int = 1) -> Tensor:
    return torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(seed))


def noisy(net: nn.Module, x: Tensor, n: int, sigma: float) -> Tensor:
    """The gradient maps at every noisy point, `k b y x`, one sample after the other."""
    rows = []
    for i, generator in enumerate(generators(len(x))):
        reach = sigma * (x[i].max() - x[i].min())
        points = torch.stack(
            [x[i] + reach * torch.randn(x[i].shape, generator=generator) for _ in range(n)]
        )
        rows.append(read(net, points, label(2), [])["input"].grad.abs().amax(1))
    return torch.stack(rows, 1)


def test_statistics_over_noise() -> None:
    net, x = small(), photo()
    maps = noisy(net, x, 6, 0.2)
    found = {
        name: walk(use(name, n=6, sigma=0.2)(), net, x, label(2))
        for name in ("smoothgrad", "squaregrad", "vargrad")
    }
    torch.testing.assert_close(found["smoothgrad"], maps.mean(0))
    torch.testing.assert_close(found["squaregrad"], maps.square().mean(0))
    torch.testing.assert_close(found["vargrad"], maps.var(0, unbiased=False), rtol=1e-4, atol=1e-9)


def test_raw_base_averages_before_the_maximum() -> None:
    net, x = small(), photo()
    without = walk(use("smoothgrad", base="raw", n=3, sigma=0.0)(), net, x, label(1))
    plain = read(net, x, label(1), [])["input"].grad.abs().amax(1)
    torch.testing.assert_close(without, plain)


def test_other_bases() -> None:
    net, x = small(), photo()
    found = walk(use("smoothgrad:input_x_gradient,n=1,sigma=0")(), net, x, label(1))
    reading = read(net, x, label(1), [])["input"]
    torch.testing.assert_close(found, reading(use("input_x_gradient")))


def test_equal_points_are_shared() -> None:
    paths = [use(name, n=8, sigma=0.3)() for name in ("smoothgrad", "squaregrad", "vargrad")]
    assert {path.points for path in paths} == {Noise(8, 0.3)}
    assert use("smoothgrad", base="gradcam", n=8, sigma=0.3)().points == Noise(8, 0.3)
    assert use("integrated_gradients")().points == StraightPath(50, "zero", "gausslegendre")


def test_impossible_points() -> None:
    with pytest.raises(OptionError, match="n of 1 or more"):
        use("smoothgrad", n=0)()
    with pytest.raises(OptionError, match="n of 2 or more"):
        use("integrated_gradients", n=1, rule="trapezoid")()
    with pytest.raises(OptionError, match="n of 1 or more"):
        use("integrated_gradients", n=0)()
    with pytest.raises(OptionError, match="baseline is one of zero, mean"):
        use("integrated_gradients", baseline="blur")


@pytest.mark.parametrize("rule", RULES)
def test_quadrature_integrates(rule: str) -> None:
    nodes, weights = (torch.tensor(v, dtype=torch.float64) for v in quadrature(200, rule))  # type: ignore[arg-type]
    assert weights.sum().item() == pytest.approx(1)
    assert (weights * nodes.square()).sum().item() == pytest.approx(1 / 3, abs=3e-3)


@pytest.mark.parametrize("baseline", ["zero", "mean"])
@pytest.mark.parametrize("rule", ["gausslegendre", "trapezoid", "midpoint"])
def test_completeness(baseline: str, rule: str) -> None:
    net, x = small().double(), photo().double()
    found = walk(
        use("integrated_gradients", n=60, baseline=baseline, rule=rule)(), net, x, label(3)
    )
    start = x.mean((2, 3), keepdim=True).expand_as(x) if baseline == "mean" else torch.zeros_like(x)
    gained = (net(x) - net(start))[:, 3].detach()
    assert gained.abs().min() > 1e-2
    torch.testing.assert_close(found.sum((1, 2)), gained, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("rule", "theirs"),
    [("gausslegendre", "gausslegendre"), ("midpoint", "riemann_middle"), ("left", "riemann_left")],
)
def test_captum_agrees(rule: str, theirs: str) -> None:
    attr = pytest.importorskip("captum.attr")
    net, x = small().double(), photo().double()
    ours = walk(use("integrated_gradients", n=12, rule=rule)(), net, x, label(3))
    expected = attr.IntegratedGradients(net).attribute(x, target=3, n_steps=12, method=theirs)
    torch.testing.assert_close(ours, expected.sum(1), rtol=1e-6, atol=1e-9)
