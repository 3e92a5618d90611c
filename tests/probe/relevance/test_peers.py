"""Relevance and gradients beside zennit and captum, run here, both in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import pytest
import torch
from foreign import import_foreign, import_torchvision
from golden_maps import captum_maps
from methods_golden import case, difference, inputs, model
from relevance_peers import CAPTUM, ZENNIT, ZENNIT_COMPOSITES, relevance, zennit_regime
from torch import Tensor, nn

import limelight as ll


def agree(ours: Tensor, theirs: Tensor) -> None:
    """Within 1e-6 of the largest value."""
    assert ours.shape == theirs.shape
    assert ours.dtype == torch.float64  # captum's occlusion adds in float32
    largest = theirs.abs().max().item()
    assert largest > 0
    assert difference(ours, theirs) <= 1e-6 * largest


@lru_cache(maxsize=1)
def wide(name: str) -> nn.Module:
    """torchvision's network with a case's weights; zennit knows residual blocks by class."""
    about = case(name).about
    build = getattr(import_torchvision().models, about["constructor"]["name"].rsplit(".", 1)[-1])
    net = build(weights=None)
    net.load_state_dict(model(name).state_dict())
    for module in net.modules():
        if getattr(module, "inplace", False):
            module.inplace = False
    return net.eval().double().requires_grad_(False)


def zennit_composite(key: str, about: dict[str, Any], canonizers: list[Any]) -> Any:
    """zennit's composite of that name, with sums and mean pools that absorb next to nothing."""
    composites, kinds = import_foreign("zennit.composites"), import_foreign("zennit.types")
    exact = import_foreign("zennit.rules").Norm(stabilizer=1e-15)
    layers = [(import_foreign("zennit.layer").Sum, exact), (kinds.AvgPool, exact)]
    name, _, change = key.partition(".")
    gradients = name in ("guided_backprop", "deconvnet")
    options = {"canonizers": canonizers, "layer_map": [] if gradients else layers}
    options |= {"": {}, "eps0.25": {"epsilon": 0.25}, "zero_bias": {"zero_params": "bias"}}[change]
    if "box" in name:
        options |= {"low": about["zbox_low"], "high": about["zbox_high"]}
    return composites.COMPOSITES[name](**options)


@contextmanager
def merged_whole(net: nn.Module) -> Iterator[None]:
    """Batch norms that zennit 0.5.1 merged still divide by sqrt(1 + eps); here they do not."""
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    kept = [m.eps for m in norms]
    for norm in norms:
        norm.eps = 0.0
    try:
        yield
    finally:
        for norm, eps in zip(norms, kept, strict=True):
            norm.eps = eps


@pytest.mark.parametrize("composite", ZENNIT_COMPOSITES)
@pytest.mark.parametrize("name", ZENNIT)
def test_composites_equal_zennit(name: str, composite: str) -> None:
    attribution = import_foreign("zennit.attribution")
    kinds = import_foreign("zennit.torchvision")
    key = f"method_lrp_zennit_{name}"
    about, net, x = case(key).about, wide(key), inputs(key).double()
    canonizers = [getattr(kinds, kind)() for kind in about["canonizers"]]
    start = torch.zeros(1, 1000, dtype=torch.float64)
    start[0, about["target"]] = 1
    zennit = zennit_composite(composite, about, canonizers)
    with attribution.Gradient(net, zennit) as attributor, merged_whole(net):
        _, theirs = attributor(x, start)
    regime = zennit_regime(composite, about["zbox_low"], about["zbox_high"])
    ours = relevance(net, x, ll.label(about["target"]), regime, "input")["input"]
    agree(ours, theirs)


def captum_rules(net: nn.Module, key: str) -> None:
    """Give every layer the rule that a captum case names; captum takes them away when it ends.

    Its pools absorb 1e-9, which is much where values are small; here they absorb next to nothing.
    """
    rules = pytest.importorskip("captum.attr._utils.lrp_rules")
    conv, linear = {
        "default": (lambda: rules.EpsilonRule(1e-9), lambda: rules.EpsilonRule(1e-9)),
        "eps0.1": (lambda: rules.EpsilonRule(0.1), lambda: rules.EpsilonRule(0.1)),
        "composite": (lambda: rules.GammaRule(0.25), lambda: rules.EpsilonRule(1e-6)),
        "alpha1beta0": (
            lambda: rules.Alpha1_Beta0_Rule(set_bias_to_zero=True),
            lambda: rules.EpsilonRule(1e-9),
        ),
    }[key]
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.rule = (conv if isinstance(module, nn.Conv2d) else linear)()
        elif isinstance(module, (nn.MaxPool2d, nn.AdaptiveAvgPool2d)):
            module.rule = rules.EpsilonRule(1e-15)


@pytest.mark.parametrize("key", CAPTUM)
@pytest.mark.parametrize("name", ["alexnet", "vgg16"])
def test_rules_equal_captum(name: str, key: str) -> None:
    attr = pytest.importorskip("captum.attr")
    about, net, x = (
        case(f"method_lrp_captum_{name}").about,
        wide(f"method_lrp_captum_{name}"),
        inputs(f"method_lrp_captum_{name}").double(),
    )
    captum_rules(net, key)
    theirs = attr.LRP(net).attribute(x.clone().requires_grad_(), target=about["target"]).detach()
    ours = relevance(net, x, ll.label(about["target"]), CAPTUM[key], "input")["input"]
    agree(ours, theirs)


@pytest.mark.parametrize(
    ("key", "attribute"),
    [
        ("captum.Saliency", lambda a, n, x, t: a.Saliency(n).attribute(x, t).amax(1)),
        ("captum.InputXGradient", lambda a, n, x, t: a.InputXGradient(n).attribute(x, t).sum(1)),
        (
            "captum.IntegratedGradients",
            lambda a, n, x, t: a.IntegratedGradients(n).attribute(x, target=t, n_steps=16).sum(1),
        ),
        (
            "captum.Occlusion",
            lambda a, n, x, t: (
                a.Occlusion(n).attribute(x, (3, 16, 16), strides=(3, 16, 16), target=t).sum(1)
            ),
        ),
    ],
)
def test_gradients_equal_captum(key: str, attribute: Callable[..., Tensor]) -> None:
    attr, name = pytest.importorskip("captum.attr"), "method_cam_resnet18"
    golden, net, x = case(name), wide(name), inputs(name).double()
    theirs = attribute(attr, net, x.clone().requires_grad_(), golden.about["target"]).detach()
    agree(captum_maps(golden, net, x)[key], theirs)
