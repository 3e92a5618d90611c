"""Every method through `limelight.maps`: shapes, independence of the batch, an untouched model."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.probe.attribution.registry import list_methods

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


def prepared(*, attends: bool = False) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    if attends:
        small = {"img_size": (16, 24), "patch": 4, "dim": 24, "depth": 2, "heads": 2}
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
