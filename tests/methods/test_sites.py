"""Site methods on small tensors: shapes, signs, options, and their errors."""

from __future__ import annotations

import pytest
import torch
from methods_golden import rectified
from torch import Tensor, nn

from limelight.methods.metrics import smooth
from limelight.probe.attribution.registry import find, use
from limelight.probe.errors import MethodError, OptionError

SITE_METHODS = (
    "gradient",
    "gradient_sum",
    "input_x_gradient",
    "linear_approx",
    "guided_backprop",
    "deconvnet",
    "gradcam",
    "gradcam_plus_plus",
    "xgradcam",
    "hirescam",
    "gradcam_elementwise",
    "layercam",
    "eigencam",
    "eigengradcam",
    "normgrad",
    "normgrad_selective",
)


def call(spec: str, act: Tensor, grad: Tensor, **options: object) -> Tensor:
    bound = use(spec, **options)
    given = {"act": act, "grad": grad}
    return bound(*(given[need] for need in bound.method.needs))


@pytest.mark.parametrize("name", SITE_METHODS)
@pytest.mark.parametrize("positions", [(3, 4), (5,), (2, 3, 4)])
def test_shapes_and_independence_of_the_batch(name: str, positions: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    act, grad = torch.randn(2, 3, 6, *positions)
    found = call(name, act, grad)
    assert found.shape == (3, *positions)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[1:2], call(name, act[1:2], grad[1:2]))


@pytest.mark.parametrize("name", SITE_METHODS)
def test_zero_gradient_gives_finite_maps(name: str) -> None:
    act = torch.randn(1, 3, 4, 4)
    assert torch.isfinite(call(name, act, torch.zeros_like(act))).all()


def test_reductions_of_the_gradient() -> None:
    grad = torch.tensor([3.0, -4.0]).reshape(1, 2, 1, 1)
    values = {
        how: use("gradient", reduce=how)(grad).item() for how in ("max", "sum", "norm", "mean")
    }
    assert values == {"max": 4.0, "sum": -1.0, "norm": 5.0, "mean": 3.5}
    with pytest.raises(OptionError, match="reduce is one of max, sum, norm, mean"):
        use("gradient:median")


def test_relu_is_an_option() -> None:
    torch.manual_seed(1)
    act, grad = torch.randn(2, 1, 3, 5, 5)
    for name in ("gradcam", "gradcam_plus_plus", "xgradcam", "hirescam", "layercam", "eigencam"):
        signed = call(name, act, grad, relu=False)
        assert signed.min() < 0 or signed.max() == 0
        torch.testing.assert_close(call(name, act, grad), signed.clamp(min=0))


def test_gradcam_equals_its_formula() -> None:
    act, grad = torch.rand(2, 1, 2, 2, 2).double()
    weights = grad.mean((2, 3))
    expected = weights[:, 0, None, None] * act[:, 0] + weights[:, 1, None, None] * act[:, 1]
    torch.testing.assert_close(call("gradcam", act, grad), expected)


def test_eigencam_is_the_first_principal_component() -> None:
    torch.manual_seed(2)
    act = torch.randn(1, 5, 4, 3)
    flat = act.flatten(2)[0].T
    centred = flat - flat.mean(0)
    found = call("eigencam", act, act, relu=False, orient=True).flatten()
    assert found.norm().item() == pytest.approx(
        torch.linalg.matrix_norm(centred, 2).item(), rel=1e-5
    )
    assert (found * centred.sum(1)).sum() > 0
    other = call("eigencam", act, act, relu=False).flatten()
    assert min((found - other).norm(), (found + other).norm()) < 1e-4


@pytest.mark.parametrize("orient", [True, False])
@pytest.mark.parametrize("seed", range(10))
def test_neither_rounding_nor_other_samples_turn_an_eigencam_around(
    seed: int, orient: bool
) -> None:
    draw = torch.Generator().manual_seed(seed)
    act = torch.randn(1, 6, 4, 3, generator=draw)
    act = act.relu() if seed % 2 else act
    whole = call("eigencam", act, act, relu=False, orient=orient)
    for _ in range(10):
        rounded = act * (1 + 1e-7 * torch.randn(act.shape, generator=draw))
        again = call("eigencam", rounded, rounded, relu=False, orient=orient)
        torch.testing.assert_close(again, whole, rtol=1e-5, atol=1e-5)
    beside = torch.cat([-act, act, 2 * act])
    found = call("eigencam", beside, beside, relu=False, orient=orient)
    torch.testing.assert_close(found[1:2], whole)


def test_cam_refuses_a_gradient_that_varies() -> None:
    act, grad = torch.randn(2, 1, 3, 4, 4)
    with pytest.raises(MethodError, match="gradient differs between positions"):
        use("cam")(act, grad)
    weights = torch.tensor([1.0, -2.0, 3.0])
    constant = (weights / 16).reshape(1, 3, 1, 1).expand(1, 3, 4, 4)
    torch.testing.assert_close(use("cam")(act, constant), torch.einsum("c,bcyx->byx", weights, act))


def test_regimes() -> None:
    assert find("guided_backprop").regime == "guided"
    assert find("deconvnet").regime == "deconv"
    assert find("gradient").regime == "plain"


def test_captum_agrees_on_guided_backprop_and_deconvnet() -> None:
    attr = pytest.importorskip("captum.attr")
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten())
    x = torch.randn(1, 3, 7, 7)
    for regime, kind in (("guided", attr.GuidedBackprop), ("deconv", attr.Deconvolution)):
        with pytest.warns(UserWarning, match="Setting backward hooks on ReLU"):
            expected = kind(net).attribute(x.clone().requires_grad_(), target=7)
        leaf = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(rectified(net, regime)(leaf)[:, 7].sum(), leaf)
        name = "guided_backprop" if regime == "guided" else "deconvnet"
        torch.testing.assert_close(use(name)(grad), expected.detach().abs().amax(1))


def test_smoothing_keeps_constants_and_sums_kernels_to_one() -> None:
    flat = torch.full((2, 3, 9, 12), 2.5, dtype=torch.float64)
    torch.testing.assert_close(smooth(flat, 0.3), flat)
    spot = torch.zeros(101, 101, dtype=torch.float64)
    spot[50, 50] = 1
    blurred = smooth(spot, 0.02)
    sigma = 0.02 * 101
    assert blurred.sum().item() == pytest.approx(1)
    assert (blurred[50, 52] / blurred[50, 50]).item() == pytest.approx(
        torch.exp(torch.tensor(-2 / sigma**2)).item(), rel=1e-6
    )
    assert blurred[50, 50 + 9] > 0
    assert blurred[50, 50 + 10] == 0
    assert smooth(spot, 0) is spot
    with pytest.raises(OptionError, match="0 or more"):
        smooth(spot, -1)
