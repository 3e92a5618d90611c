"""Every method through `limelight.maps`: shapes, independence of the batch, an untouched model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.probe.attribution.registry import list_methods, use
from limelight.probe.relevance.presets import PRESETS

SPECS = {
    "captum": "captum:gradient_shap,n=4",
    "integrated_gradients": "integrated_gradients:6",
    "occlusion": "occlusion:5,stride=3",
    "rise": "rise:10,cells=3",
    "smoothgrad": "smoothgrad:gradcam,n=3",
    "squaregrad": "squaregrad:gradient,n=3",
    "vargrad": "vargrad:gradient,n=3",
}
SITES = {"integrated_gradients": "input", "cam": "4", "normgrad_proper": "3", "vargrad": "2"}
SITES |= dict.fromkeys(("captum", "occlusion", "rise", "salient_relevance"), "input")


READS_ATTENTION = (
    "attention_gradcam",
    "generic_attention",
    "place_attention",
    "raw_attention",
    "rollout",
    "transformer_attribution",
)


def prepared(*, attends: bool = False, depth: int = 2) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    if attends:
        small = {"img_size": (16, 24), "patch": 4, "dim": 24, "depth": depth, "heads": 2}
        return ll.load("deit_tiny", weights=None, num_classes=10, **small).train(), torch.randn(
            3, 3, 16, 24
        )
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        *(nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 10)),
    )
    return net.train(), torch.randn(3, 3, 13, 15)


OWN = [
    m
    for m in list_methods()
    if m.function.__module__.startswith("limelight.methods.") and m.kind != "circuit"
]
OURS = [m for m in OWN if m.kind != "heads"]  # metrics of heads have tests of their own
NAMES = [m.name for m in OURS]


def test_the_list() -> None:
    assert len(NAMES) >= 26
    assert all(method.summary for method in OURS)


@pytest.mark.parametrize("name", NAMES)
def test_method(name: str) -> None:
    attends = name in READS_ATTENTION
    net, x = prepared(attends=attends)
    spec, sites = SPECS.get(name, name), None if attends else SITES.get(name, "4")
    before = copy.deepcopy(net.state_dict())
    found = ll.maps(net, x, spec, target=ll.label([1, 2, 3]), sites=sites)
    assert len(found) == 3
    values = found.stack()
    assert torch.isfinite(values).all()
    assert values.abs().max() > 0
    again = ll.maps(net, x, spec, target=ll.label([1, 2, 3]), sites=sites, batch=1)
    torch.testing.assert_close(again.stack(), values, rtol=1e-4, atol=1e-6)
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(m.training for m in net.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


PRESET_SPECS = [f"lrp:{name}" for name in PRESETS] + ["salient_relevance:upstream"]
VARIANTS = [
    "eigencam,relu=false",
    "eigengradcam,relu=false,orient=false",
    "captum:kernel_shap,cells=3",
]
ON_CHANNELS = ("cam", "normgrad_proper")  # of convolutions
ON_IDS = ("duplicate_token", "induction", "previous_token")


# Relevance without a gradient becomes one by dividing by values, which in attention are sums that
# cancel: float32 knows them to three digits.
QUOTIENTS = (
    "excitation_backprop",
    "contrastive_excitation_backprop",
    "transformer_attribution",
    "lrp:chefer",
)


def everywhere() -> list[tuple[str, bool]]:
    """Each method, with its variants, on each of the two networks that it speaks of."""
    heads = [m.name for m in OWN if m.kind == "heads" and m.name not in ON_IDS]
    maps = [SPECS.get(name, name) for name in NAMES if name not in READS_ATTENTION]
    maps += PRESET_SPECS + VARIANTS
    on_both = [(spec, attends) for spec in maps for attends in (False, True)]
    on_both = [(s, attends) for s, attends in on_both if not (attends and s in ON_CHANNELS)]
    return on_both + [(spec, True) for spec in (*READS_ATTENTION, *heads)]


def still(attends: bool) -> tuple[nn.Module, Tensor]:
    """A network with weights large enough that no sum cancels down to rounding, four samples."""
    net, x = prepared(attends=attends, depth=3)
    with torch.no_grad():
        for p in net.parameters() if attends else ():
            p.normal_(std=0.2) if p.ndim > 1 else p.add_(0.1 * torch.randn(p.shape))
    return net.eval(), torch.randn(4, *x.shape[1:])


def one_site(spec: str, attends: bool) -> str | None:
    """Where a method is asked: at one layer, unless it is about the input or about all heads."""
    method = use(spec).method
    if method.sites in ("input", "heads"):
        return None
    return "blocks.0" if attends else SITES.get(method.name, "4")


def alike(found: Tensor, whole: Tensor, relative: float) -> bool:
    """Whether maps of each sample differ by no more than a share of their largest value."""
    return all(
        torch.equal(a.isnan(), b.isnan())
        and (a - b).nan_to_num().abs().max() <= relative * b.nan_to_num().abs().max()
        for a, b in zip(found.double(), whole.double(), strict=True)
    )


@pytest.mark.parametrize(("spec", "attends"), everywhere())
def test_nothing_around_a_sample_changes_its_map(spec: str, attends: bool) -> None:
    net, x = still(attends)
    asked = {"target": ll.label([1, 2, 3, 4]), "sites": one_site(spec, attends), "seed": 3}
    maps = ll.maps(net, x, spec, batch=4, **asked)
    whole = maps.stack()
    beside = [other for other in ("gradient_sum", "lrp:epsilon_plus") if other != spec]
    among = ll.maps(net, x, [beside[0], spec, *beside[1:]], batch=4, **asked)
    assert alike(torch.stack([m.values for m in among if m.method == maps[0].method]), whole, 1e-5)
    torch.manual_seed(99)
    apart = x.mT.contiguous().mT
    assert alike(ll.maps(net, apart, spec, batch=1, **asked).stack(), whole, 1e-5)
    turned = x.to(memory_format=torch.channels_last).requires_grad_()
    assert alike(ll.maps(net, turned, spec, batch=3, **asked).stack(), whole, 1e-5)
    assert turned.grad is None


@pytest.mark.parametrize(("spec", "attends"), everywhere())
def test_a_map_has_the_precision_of_its_run(spec: str, attends: bool) -> None:
    net, x = still(attends)
    asked = {"target": ll.label([1, 2, 3, 4]), "sites": one_site(spec, attends), "seed": 3}
    whole = ll.maps(net, x, spec, **asked).stack()
    torch.set_default_dtype(torch.float64)
    try:
        other = ll.maps(net, x, spec, **asked).stack()
    finally:
        torch.set_default_dtype(torch.float32)
    assert other.dtype == whole.dtype
    heads = use(spec).method.kind == "heads"
    assert whole.dtype == (torch.float64 if heads else torch.float32)
    assert alike(other, whole, 1e-6)
    wide = ll.maps(net.double(), x.double(), spec, **asked).stack()
    assert wide.dtype == torch.float64
    cancels = attends and spec.startswith(QUOTIENTS)
    assert alike(wide, whole, 1e-2 if cancels else 1e-4)


def test_cam_is_the_weight_row_of_the_head() -> None:
    net, x = prepared()
    found = ll.maps(net, x, "cam", target=ll.label(7), sites="4").stack()
    act = net.eval()[:5](x)
    expected = torch.einsum("c,bcyx->byx", net[8].weight[7], act).detach()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_combining_what_maps_returned() -> None:
    net, x = prepared()
    maps = ll.maps(net, x, ["normgrad", "gradcam"], target=ll.top(), sites=["2", "4"])
    found = ll.combine(maps, "sum", "linear")
    assert len(found) == 6
    assert {str(m.site) for m in found} == {"2+4"}
    assert all(m.values.shape == (13, 15) for m in found)
    assert all(m.values.min() >= 0 and m.values.max() <= 1 for m in found)
