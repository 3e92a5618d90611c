"""Results that mean little say so: random weights, uniform outputs, scores that are not finite."""

from __future__ import annotations

import copy
from math import isnan

import pytest
import torch
from torch import nn

import limelight as ll
from limelight.probe.attribution.scored_target import UNIFORM
from limelight.probe.sites import RANDOM, has_initial_weights

METHODS = ["gradcam", "eigencam", "integrated_gradients", "occlusion:4", "smoothgrad", "normgrad"]


def small() -> nn.Module:
    torch.manual_seed(0)
    return ll.load("resnet18", weights=None, layers=(1, 1), width=8, num_classes=6)


def pictures(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def own() -> nn.Module:
    """A net whose logits lie far apart."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    head = nn.Linear(4, 6)
    with torch.no_grad():
        head.weight.mul_(40)
    return nn.Sequential(*net, head).eval()


def test_random_weights_are_named_until_they_change():
    net = small()
    assert RANDOM in ll.maps(net, pictures(1), "gradcam")[0].about.cautions
    assert has_initial_weights(copy.deepcopy(net))
    assert has_initial_weights(copy.deepcopy(net).bfloat16())
    trained = copy.deepcopy(net)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    trained(pictures()).square().sum().backward()
    optimizer.step()
    assert not has_initial_weights(trained)
    net.load_state_dict(trained.state_dict())
    assert RANDOM not in ll.maps(net, pictures(1), "gradcam")[0].about.cautions
    assert not has_initial_weights(own())


def test_maps_say_it_in_words():
    found = ll.maps(small(), pictures(1), "gradcam")
    assert f"caution: {RANDOM}" in repr(found)
    assert f"caution: {RANDOM}" in str(found)
    loaded = found[0].about.notes
    assert f"caution: {RANDOM}" in loaded


def test_nearly_equal_probabilities_are_named():
    net, x = own(), pictures(2)
    assert ll.maps(net, x, "gradcam", sites="0")[0].about.cautions == ()
    with torch.no_grad():
        net[-1].weight.mul_(1e-4)
        net[-1].bias.zero_()
    assert ll.maps(net, x, "gradcam", sites="0")[0].about.cautions == (UNIFORM,)
    ending = nn.Sequential(net, nn.Softmax(1))
    assert ll.maps(ending, x, "gradient")[0].about.cautions == (UNIFORM,)
    several = nn.Sequential(net, nn.Sigmoid())  # .5 for each of many labels tells nothing wrong
    assert ll.maps(several, x, "gradient")[0].about.cautions == ()


def test_a_sample_whose_score_is_nan_loses_its_maps_and_no_other():
    net, x = own(), pictures()
    clean = ll.maps(net, x, METHODS, sites="0")
    x[1, 0, 5, 5] = torch.nan
    found = ll.maps(net, x, METHODS, sites="0")
    for one, other in zip(clean, found, strict=True):
        if other.sample == "1":
            assert other.values.isnan().all()
            assert isnan(other.about.score)
            assert other.about.of_class is None
            assert other.target == "top 1"
            assert "its input '0' holds nan" in other.about.cautions[-1]
        else:
            assert other.about.cautions == ()
            torch.testing.assert_close(one.values, other.values, rtol=1e-4, atol=1e-6)


def test_eigen_methods_do_not_touch_double_activations():
    net, x = own().double(), pictures(2).double()
    found = ll.maps(net, x, "eigencam", sites="0")
    assert found[0].values.dtype == torch.float64
    assert found[0].values.isfinite().all()


@pytest.mark.parametrize(("value", "word"), [(torch.nan, "nan"), (torch.inf, "infinity")])
def test_a_weight_that_is_not_finite_is_named(value, word):
    net = own()
    with torch.no_grad():
        net[0].weight[0, 0, 0, 0] = value
    (m,) = ll.maps(net, pictures(1), "gradcam", sites="0", target=2)
    assert f"the weight '0.weight' holds {word}" in m.about.cautions[-1]


def test_the_first_site_that_is_not_finite_is_named():
    class Log(nn.Module):
        def forward(self, x):
            return (x - 2).log()

    net = nn.Sequential(own()[0], Log(), nn.Flatten(), nn.LazyLinear(3))
    net(pictures(1))
    (m,) = ll.maps(net.eval(), pictures(1), "gradient", target=1)
    assert "1 gives nan" in m.about.cautions[-1]


def test_torchs_default_type_changes_no_map():
    net, x, methods = own(), pictures(1), ["lrp", "rise,n=8", "gradcam", "normgrad"]
    before = ll.maps(net, x, methods, sites="0", target=1)
    torch.set_default_dtype(torch.float64)
    try:
        after = ll.maps(net, x, methods, sites="0", target=1)
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(before, after, strict=True):
        assert other.values.dtype == torch.float32
        torch.testing.assert_close(one.values, other.values)
