"""Relevance rules of linear maps against explicit sums, and their geometry."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import limelight as ll
from limelight.probe.errors import OptionError
from limelight.probe.ops.functions import Op
from limelight.probe.ops.record import OpCall
from limelight.probe.relevance.linear_map import LinearMap, linear_map
from limelight.probe.relevance.linear_rules import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    LinearRule,
    PositiveGamma,
    PositiveWeights,
    WSquare,
    ZBox,
    ZPlus,
    stabilised,
)

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")
RULES: list[LinearRule] = [
    Epsilon(),
    Epsilon(signed=False, eps=1e-9),
    ZPlus(),
    AlphaBeta(),
    AlphaBeta(1.0, 0.0),
    Gamma(),
    Gamma(10.0),
    PositiveGamma(),
    PositiveWeights(),
    ZBox(-4, 4),
    Flat(),
    WSquare(),
]


def dense(x: Tensor, w: Tensor, b: Tensor | None) -> LinearMap:
    return LinearMap(x, w, b, F.linear, lambda s, v: s @ v)


def relevance(rule: LinearRule, a: LinearMap, r: Tensor) -> Tensor:
    back = rule(a, r)
    return a.x * back if rule.gradient else back


def drawn(seed: int, outputs: int = 3, inputs: int = 4) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return normal(2, inputs), normal(outputs, inputs), normal(outputs), normal(2, outputs)


def shares(rule: LinearRule, x: float, w: float, y: float) -> tuple[float, ...]:
    """What one input adds to each of a rule's numerators."""
    up, down = max(w, 0.0), min(w, 0.0)
    same = max(x, 0) * up + min(x, 0) * down
    match rule:
        case Epsilon():
            return (x * w,)
        case ZPlus():
            return (same,)
        case AlphaBeta():
            return (same, max(x, 0) * down + min(x, 0) * up)
        case Gamma(gamma=g):
            kept = x * w > 0 if y > 0 else x * w < 0
            return (x * w * (1 + g * kept) if y else 0.0,)
        case PositiveGamma(gamma=g):
            return (x * (w + g * up),)
        case PositiveWeights():
            return (x * up,)
        case ZBox(low=low, high=high):
            return (x * w - low * up - high * down,)
        case Flat():
            return (1.0,)
        case WSquare():
            return (w * w,)
    raise TypeError(rule)


def bias_shares(rule: LinearRule, b: float, y: float) -> tuple[float, ...]:
    """What the bias adds to the same sums."""
    up, down = max(b, 0.0), min(b, 0.0)
    match rule:
        case ZPlus():
            return (up,)
        case AlphaBeta():
            return (up, down)
        case Gamma(gamma=g):
            return (b + g * (up if y > 0 else down),)
        case ZBox():
            return (0.0,)
        case Flat() | PositiveWeights():
            return (0.0,)
        case WSquare():
            return (b * b,)
    return (b,)


def by_hand(rule: LinearRule, x: Tensor, w: Tensor, b: Tensor, r: Tensor) -> Tensor:
    """R_i = sum_j R_j sum_k c_k share_ijk / stab(sum_i share_ijk), one number at a time."""
    out = torch.zeros_like(x)
    weights = (rule.alpha, -rule.beta) if isinstance(rule, AlphaBeta) else (1.0,)
    for n in range(len(x)):
        for j in range(len(w)):
            y = float(x[n] @ w[j] + b[j])
            each = [shares(rule, float(x[n, i]), float(w[j, i]), y) for i in range(x.shape[1])]
            for k, weight in enumerate(weights):
                z = sum(e[k] for e in each) + bias_shares(rule, float(b[j]), y)[k]
                signed = -rule.eps if z < 0 and getattr(rule, "signed", True) else rule.eps
                for i, e in enumerate(each):
                    out[n, i] += weight * e[k] * float(r[n, j]) / (z + signed)
    return out


@pytest.mark.parametrize("rule", RULES, ids=str)
@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 10_000))
def test_rule_equals_its_sum(rule: LinearRule, seed: int) -> None:
    x, w, b, r = drawn(seed)
    want = by_hand(rule, x, w, b, r)
    found = relevance(rule, dense(x, w, b), r)
    assert torch.allclose(found, want, rtol=1e-6, atol=1e-9 * float(want.abs().max()))


@pytest.mark.parametrize("rule", RULES, ids=str)
@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 10_000))
def test_without_bias_all_is_kept(rule: LinearRule, seed: int) -> None:
    x, w, _, r = drawn(seed, inputs=12)
    if isinstance(rule, PositiveGamma | PositiveWeights):
        x = x.abs()
    a = dense(x, w, None)
    z = a.forward(x, w, None).abs().min()
    found = relevance(rule, a, r)
    loss = 1e-4 if z > 0.05 else 1.0
    assert (found.sum(-1) - r.sum(-1)).abs().max() <= loss * r.abs().sum()
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("kind", [Epsilon, ZPlus, AlphaBeta, Gamma, PositiveGamma, WSquare])
def test_bias_switch_equals_a_layer_without_bias(kind: Any) -> None:
    x, w, b, r = drawn(3)
    found = relevance(kind(bias=False), dense(x, w, b), r)
    if kind is Gamma:  # which sign an output has, its bias decides
        b = torch.zeros_like(b)
        found = relevance(kind(bias=False), dense(x, w, b), r)
    assert torch.allclose(found, relevance(kind(), dense(x, w, None), r))


def test_stabiliser_takes_the_sign_of_the_denominator() -> None:
    z = torch.tensor([2.0, -2.0, 0.0])
    assert torch.equal(stabilised(z, 0.5), torch.tensor([2.5, -2.5, 0.5]))
    x, w = torch.tensor([[1.0]]), torch.tensor([[-1.0]])
    r = torch.ones(1, 1)
    signed = relevance(Epsilon(0.5), dense(x, w, None), r)
    unsigned = relevance(Epsilon(0.5, signed=False), dense(x, w, None), r)
    assert float(signed) == pytest.approx(1 / 1.5)
    assert float(unsigned) == pytest.approx(1 / 0.5)


def test_zero_over_zero_is_zero() -> None:
    a = dense(torch.zeros(1, 2), torch.ones(1, 2), None)
    assert torch.equal(Epsilon(0.0)(a, torch.zeros(1, 1)), torch.zeros(1, 2))


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 2.0), (-1.0, -2.0), (0.5, -0.5)])
def test_alpha_and_beta_must_go_together(alpha: float, beta: float) -> None:
    with pytest.raises(OptionError, match="alpha - beta is 1"):
        AlphaBeta(alpha, beta)


GEOMETRIES: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("conv1d", (1, 4, 9), (6, 4, 3), {"padding": 1, "stride": 2}),
    ("conv2d", (2, 4, 7, 6), (6, 2, 3, 3), {"padding": (1, 2), "groups": 2}),
    ("conv2d", (2, 4, 9, 8), (4, 1, 3, 3), {"dilation": 2, "groups": 4, "stride": 2, "padding": 2}),
    ("conv2d", (1, 2, 6, 7), (3, 2, 4, 2), {"padding": "same"}),
    ("conv2d", (1, 2, 7, 7), (3, 2, 3, 5), {"padding": "same", "dilation": 2}),
    ("conv2d", (1, 2, 6, 6), (3, 2, 3, 3), {"padding": "valid", "stride": (2, 1)}),
    ("conv2d", (2, 6, 6), (3, 2, 3, 3), {"padding": 1}),
    ("conv3d", (1, 2, 4, 5, 6), (3, 2, 3, 3, 3), {"padding": 1, "stride": (1, 2, 2)}),
    ("conv_transpose1d", (1, 4, 5), (4, 3, 3), {"stride": 2, "output_padding": 1}),
    ("conv_transpose2d", (1, 4, 5, 4), (4, 3, 3, 3), {"stride": 2, "padding": 1, "groups": 2}),
    ("conv_transpose3d", (1, 2, 3, 3, 3), (2, 2, 3, 3, 3), {"padding": 1, "dilation": 2}),
]


def layer(name: str, xs: Any, ws: Any, how: dict[str, Any]) -> tuple[LinearMap, Tensor, Tensor]:
    """A convolution as the engine sees it, its dense matrix, and relevance for its output."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(xs, generator=generator, dtype=torch.float64)
    w = torch.randn(ws, generator=generator, dtype=torch.float64)
    a = linear_map(name, OpCall.of(Op(name), (x, w), how))

    def function(flat: Tensor) -> Tensor:
        return getattr(F, name)(flat.reshape(xs), w, **how).flatten()

    matrix = torch.autograd.functional.jacobian(function, x.flatten())
    y = a.forward(x, w, None)
    return a, matrix, torch.randn(y.shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("rule", [Epsilon(), ZPlus(), AlphaBeta(), Gamma(), ZBox(-3, 3)], ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_convolution_equals_its_matrix(geometry: Any, rule: LinearRule) -> None:
    a, matrix, r = layer(*geometry)
    found = relevance(rule, a, r).flatten()
    want = relevance(rule, dense(a.x.flatten()[None], matrix, None), r.flatten()[None])[0]
    assert torch.allclose(found, want, rtol=1e-6, atol=1e-9 * float(want.abs().max()))


@pytest.mark.parametrize("rule", [Flat(), WSquare(), ZBox(-3, 3)], ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_padding_receives_nothing(geometry: Any, rule: LinearRule) -> None:
    a, _, r = layer(*geometry)
    r = r.abs()
    whole = a.forward(torch.ones_like(a.x), torch.ones_like(a.weight), None) > 0
    assert relevance(rule, a, r).sum() == pytest.approx(float(r[whole].sum()), rel=1e-4)


def test_flat_is_even_at_the_border() -> None:
    x, w = torch.randn(1, 1, 4), torch.randn(1, 1, 3)
    a = linear_map("conv1d", OpCall.of(Op("conv1d"), (x, w), {"padding": 1}))
    found = Flat(0.0)(a, torch.tensor([[[1.0, 0.0, 0.0, 0.0]]]))
    assert torch.allclose(found, torch.tensor([[[0.5, 0.5, 0.0, 0.0]]]))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
def test_batch_norm_scales_output_channels(groups: int, transposed: bool) -> None:
    torch.manual_seed(0)
    name = "conv_transpose2d" if transposed else "conv2d"
    w = torch.randn(4, 4 // groups, 3, 3)
    x, b = torch.randn(1, 4, 5, 5), torch.randn(4)
    a = linear_map(name, OpCall.of(Op(name), (x, w, b), {"groups": groups}))
    scale, shift, mean = torch.randn(3, 4)
    joined = a.scaled(scale, shift, mean)
    y = (a.forward(x, w, b) - mean[:, None, None]) * scale[:, None, None] + shift[:, None, None]
    assert torch.allclose(joined.forward(x, joined.weight, joined.bias), y, atol=1e-5)


def test_rules_are_data() -> None:
    assert Gamma(0.25) == Gamma() != Gamma(0.3)
    assert hash(ZBox(-1, 1)) == hash(ZBox(-1, 1))
    assert "low=-1" in str(ZBox(-1, 1))


def test_options_reach_the_rules() -> None:
    regime = ll.use("lrp:epsilon_gamma_box,gamma=2,low=-1,high=1,epsilon=0.5,bias=false").regime
    assert regime.conv == Gamma(2.0, bias=False)
    assert regime.first == ZBox(-1.0, 1.0, bias=False)
    assert regime.linear == Epsilon(0.5, bias=False)
    regime = ll.use("lrp:epsilon_gamma_wsquare,gamma=2,bias=false").regime
    assert regime.conv == PositiveGamma(2.0, bias=False)
    assert regime.first == WSquare(bias=False)
    for preset in ("epsilon_plus", "epsilon_plus_flat", "epsilon_gamma_wsquare"):
        with pytest.raises(OptionError, match="box rule"):
            _ = ll.use(f"lrp:{preset},low=-1").regime


@pytest.mark.parametrize("eps", [1e-9, 1e-6, 0.25])
def test_a_known_gradient_saves_the_quotient(eps: float) -> None:
    x, w, b, g = drawn(4)
    kept: dict[str, float] = {}
    a = replace(dense(x, w, b), record=lambda what, n: kept.update({what: float(n.sum())}))
    y = a.forward(x, w, b)
    assert y.abs().min() > 0.01
    want = Epsilon(eps)(a, y * g)
    quotient = dict(kept)
    found = Epsilon(eps)(replace(a, y=y, grad=g), y * g)
    torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-9)
    assert kept == pytest.approx(quotient, rel=1e-3)
    assert float((x * found).sum()) + sum(kept.values()) == pytest.approx(float((y * g).sum()))
