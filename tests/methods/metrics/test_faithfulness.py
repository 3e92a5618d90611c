"""Perturbation metrics: closed forms on linear models, Quantus' figures, sanity checks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from fill import fill, image
from shared import golden
from torch import Tensor, nn

import limelight as ll
from limelight.methods.metrics import faithfulness as faith
from limelight.methods.metrics.perturbed_scores import BASELINES, Scorer, blurred
from limelight.methods.metrics.randomisation import (
    cascade,
    class_sensitivity,
    completeness,
    random_logit,
    randomised,
)
from limelight.methods.metrics.registry import list_metrics
from limelight.models.weights.load import no_init
from limelight.probe.errors import OptionError


class Linear(nn.Module):
    """Two classes; the first weighs each pixel."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        logit = (x * self.weight).sum((1, 2, 3))
        return torch.stack([logit, torch.zeros_like(logit)], 1)


@pytest.fixture
def linear():
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(3, 6, 8, generator=draw)
    weight = torch.randn(3, 6, 8, generator=draw)
    return Linear(weight), x, (x * weight).sum(0).detach()


def test_deletion_and_insertion_by_hand(linear):
    model, x, exact = linear
    scorer = Scorer(model, x, 0, batch=5)
    curve = faith.deletion_curve(exact, scorer, steps=48)
    order = exact.flatten().argsort(descending=True)
    left, want = exact.sum(), [exact.sum()]
    for place in order:
        left = left - exact.flatten()[place]
        want.append(left)
    torch.testing.assert_close(curve, torch.stack(want).double().sigmoid(), rtol=1e-4, atol=1e-5)
    assert faith.deletion(exact, scorer) == pytest.approx(float(torch.trapezoid(curve) / 48))
    back = faith.insertion_curve(exact, scorer, steps=48, baseline="zero")
    torch.testing.assert_close(back[0], torch.tensor(0.5).double())
    assert faith.insertion(exact, scorer, baseline="zero") > faith.insertion(
        -exact, scorer, baseline="zero"
    )
    assert faith.deletion(exact, scorer) < faith.deletion(-exact, scorer)


def test_steps_and_batches_change_no_point(linear):
    model, x, exact = linear
    curves = [
        faith.deletion_curve(exact, Scorer(model, x, 0, batch=b), steps=12) for b in (1, 7, 50)
    ]
    assert len(curves[0]) == 13
    for other in curves[1:]:
        torch.testing.assert_close(curves[0], other)


class Share(nn.Module):
    """One number that is read as a probability: the mean of the picture."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2, 3))


def shares(side: int) -> tuple[Tensor, Scorer]:
    """A map of equal steps, and a scorer whose score falls evenly as ones become zeros."""
    read = ll.Target("share", lambda out, rows: out)
    x = torch.ones(1, side, side, dtype=torch.float64)
    ramp = torch.arange(side * side, dtype=torch.float64).reshape(side, side)
    return ramp, Scorer(Share(), x, read)


@pytest.mark.parametrize("steps", [7, 224, 400, 1000])
def test_every_point_of_a_curve_is_there_once(steps):
    ramp, scorer = shares(20)
    curve = faith.deletion_curve(ramp, scorer, steps=steps, baseline="zero")
    assert (curve.diff() < 0).all()
    assert curve[0] == 1
    assert abs(float(curve[-1])) < 1e-12
    assert faith.deletion(ramp, scorer, steps=steps, baseline="zero") == pytest.approx(0.5)
    assert faith.insertion(ramp, scorer, steps=steps, baseline="zero") == pytest.approx(0.5)


def test_the_step_asked_for_is_the_step_taken():
    ramp, scorer = shares(10)
    left = torch.tensor([0.6, 0.2, 0.0])  # 40, 80, 100 of 100 pixels are gone
    held = torch.tensor([0.4, 0.4, 0.2])
    found = faith.pixel_flipping(ramp, scorer, step=40, baseline="zero")
    assert found == pytest.approx(float(left @ held))
    with pytest.raises(OptionError, match="flips nothing"):
        faith.pixel_flipping(ramp, scorer, step=0)


def test_a_probability_that_only_falls_is_never_monotonic():
    ramp, scorer = shares(20)
    brighter = replace(scorer, x=torch.zeros_like(scorer.x))
    ones = torch.ones_like(scorer.x)
    assert faith.monotonicity(ramp, brighter, steps=32, baseline=ones) == 0
    assert faith.monotonicity(ramp, scorer, steps=32, baseline="zero") == 1


def test_a_constant_map_scores_nan(linear):
    model, x, exact = linear
    scorer = Scorer(model, x, 0, explain=lambda x: x.sum(1))
    flat = torch.ones_like(exact)
    for one in list_metrics():
        if one.group == "Faithfulness" and one.name not in ("infidelity", "max_sensitivity"):
            options = {"n": 5} if one.name == "sensitivity_n" else {}
            assert one.function(flat, scorer, **options) != one.function(flat, scorer, **options)


def test_exact_maps_of_a_linear_model_are_faithful(linear):
    model, x, exact = linear
    scorer = Scorer(model, x, 0)
    assert faith.sensitivity_n(exact, scorer, n=10) == pytest.approx(1.0, abs=1e-4)
    noise = torch.randn(exact.shape, generator=torch.Generator().manual_seed(1))
    assert faith.sensitivity_n(noise, scorer, n=10) < 0.9
    assert faith.monotonicity(exact, scorer, baseline="zero") < 1  # negative parts come first
    assert completeness(exact, float(exact.sum()), 0.0) == pytest.approx(0, abs=1e-6)
    assert completeness(2 * exact, float(exact.sum()), 0.0) == pytest.approx(1, abs=1e-5)
    with pytest.raises(OptionError, match="between 1 and the 48"):
        faith.sensitivity_n(exact, scorer, n=99)


def test_infidelity_is_zero_for_the_gradient_of_a_linear_model():
    weight = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(0))
    model, x = Linear(weight), torch.rand(1, 6, 8)
    scorer = Scorer(model, x, 0)
    assert faith.infidelity(weight[0], scorer, normalise=False) == pytest.approx(0, abs=1e-5)
    assert faith.infidelity(-weight[0], scorer, normalise=False) > 0.1


def test_max_sensitivity_of_a_map_that_never_moves(linear):
    model, x, exact = linear
    still = Scorer(model, x, 0, explain=lambda x: torch.ones(len(x), 6, 8))
    assert faith.max_sensitivity(exact, still) == pytest.approx(0, abs=1e-6)
    moving = Scorer(model, x, 0, explain=lambda x: x.sum(1))
    assert faith.max_sensitivity(exact, moving) > 0
    with pytest.raises(OptionError, match="explain="):
        faith.max_sensitivity(exact, Scorer(model, x, 0))


def test_weighting_by_the_map(linear):
    model, x, exact = linear
    scorer = Scorer(model, x, 0)
    scaled = (exact - exact.min()) / (exact.max() - exact.min())
    before, after = (float(scorer(c[None])) for c in (x, x * scaled))
    want = max(0, before - after) / before
    assert faith.average_drop(exact, scorer) == pytest.approx(want, rel=1e-5)
    assert faith.increase_in_confidence(exact, scorer) == float(after > before)


def test_imputing_a_linear_ramp_leaves_it():
    ramp = torch.arange(12.0).expand(1, 9, 12)
    gone = torch.zeros(9, 12, dtype=torch.bool)
    gone[3:6, 4:8] = True
    torch.testing.assert_close(faith.impute(ramp, gone, close=1e-6), ramp, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", BASELINES)
def test_baselines(name):
    x = torch.randn(3, 12, 12, generator=torch.Generator().manual_seed(0))
    scorer = Scorer(nn.Identity(), x, 0)
    found = scorer.baseline(name)
    assert found.shape == x.shape
    assert torch.equal(found, scorer.baseline(name))
    assert x.min() - 1e-6 <= found.min()
    assert found.max() <= x.max() + 1e-6
    with pytest.raises(OptionError, match="write one of zero"):
        scorer.baseline("grey")


def test_blurring_keeps_what_is_even():
    inner = blurred(torch.ones(2, 21, 21))[:, 5:-5, 5:-5]
    torch.testing.assert_close(inner, torch.ones_like(inner))


@pytest.mark.golden
def test_region_perturbation_equals_quantus_and_flipping_comes_near():
    case = golden("method_metrics")
    seed = case.case["seed"]
    maps = image((6, 1, 64, 64), seed).astype(np.float64)
    y, x = np.mgrid[:64, :64]
    for n, (cy, cx) in enumerate(case.case["centres"]):
        maps[n, 0] += 6 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 80)
    maps = torch.from_numpy(maps.astype(np.float32))[:, 0]
    pictures = torch.from_numpy(image((6, 3, 64, 64), seed + 1))
    with no_init():
        model = ll.load("resnet18", weights=None)
    fill(model, case.case["salt"])
    drops = torch.from_numpy(case.arrays["RegionPerturbation"]).reshape(6, 8).double()
    flips = torch.from_numpy(case.arrays["PixelFlipping"]).reshape(6, 48)
    for n, of_class in enumerate(case.case["targets"]):
        scorer = Scorer(model, pictures[n], of_class)
        found = faith.region_drops(maps[n], scorer, patch=8, regions=8, baseline="black")
        torch.testing.assert_close(found, drops[n], rtol=1e-5, atol=1e-5)
        mean = faith.pixel_flipping(maps[n], scorer, step=86)
        assert mean == pytest.approx(float(flips[n].mean()), abs=0.01)  # channels one by one there


@pytest.fixture
def small():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 5),
    )  # fmt: skip
    return net.eval(), torch.randn(3, 3, 16, 16)


def test_cascading_randomisation_starts_at_the_classifier(small):
    net, x = small
    before = {n: p.clone() for n, p in net.state_dict().items()}
    found = cascade(net, x, "gradient")
    assert [c.layer for c in found] == ["6", "2", "0"]
    assert all(-1 <= c.spearman < 0.9 for c in found[1:])
    assert [c.layer for c in cascade(net, x, "gradient", order="bottom_up")] == ["0", "2", "6"]
    assert all(torch.equal(before[n], p) for n, p in net.state_dict().items())
    again = cascade(net, x, "gradient")
    assert [c.spearman for c in again] == [c.spearman for c in found]
    assert cascade(net, x, "gradient", target="recompute") != found


def test_an_edge_detector_passes_no_sanity_check(small):
    net, x = small

    @ll.method("test_edges", sites="input")
    def edges(act):
        return act.abs().sum(1)

    found = cascade(net, x, edges)
    assert all(c.spearman == pytest.approx(1) and c.ssim == pytest.approx(1) for c in found)
    assert random_logit(net, x, edges).spearman == pytest.approx(1)
    torch.testing.assert_close(class_sensitivity(net, x, edges), torch.ones(3).double())


def test_another_class_has_another_map(small):
    net, x = small
    assert random_logit(net, x, "gradient").spearman < 0.9
    values = class_sensitivity(net, x, "gradcam", sites="3")
    assert values.shape == (3,)
    with pytest.raises(OptionError, match="one method at one site"):
        class_sensitivity(net, x, "gradcam", sites=["0", "3"])


def test_every_layer_is_reset_in_turn(small):
    net, _ = small
    before = [p.clone() for p in net.parameters()]
    seen = []
    for name in randomised(net, "bottom_up"):
        changed = [not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True)]
        seen.append((name, sum(changed)))
    assert seen == [("0", 2), ("2", 4), ("6", 6)]
    with pytest.raises(OptionError, match="'keep' or 'recompute'"):
        cascade(*small, "gradient", target="other")
