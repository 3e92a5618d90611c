"""The adapter for captum: right values, seeds that do not leak, errors that help."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from methods_golden import run
from torch import Tensor, nn

from limelight.methods.captum import ALGORITHMS, shuffle
from limelight.methods.perturbation import grid
from limelight.probe.attribution.registry import use
from limelight.probe.errors import MethodError, OptionError
from limelight.probe.targets.target import label

attr = pytest.importorskip("captum.attr")


def prepared() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)
    )
    with torch.no_grad():
        net[5].weight.mul_(50)  # beside small scores the penalty of Lime leaves nothing
    return net.eval(), torch.randn(2, 3, 8, 8)


def options(name: str) -> dict[str, int]:
    return {"n": 12, "cells": 2 if name == "shapley_values" else 4, "window": 3, "stride": 2}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_runs_and_repeats(name: str) -> None:
    if name in ("lime", "kernel_shap"):
        pytest.importorskip("sklearn")
    net, x = prepared()
    bound = use(f"captum:{name}", **options(name))
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    found = run(bound, net, x, label([1, 2]))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert found.shape == (2, 8, 8)
    assert torch.isfinite(found).all()
    assert found.abs().max() > 0
    assert not found.requires_grad
    assert torch.equal(found, run(bound, net, x, label([1, 2])))
    assert torch.equal(found[:1], run(bound, net, x[:1], label(1)))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_values_are_captums() -> None:
    net, x = prepared()
    target = label([1, 2])
    found = run(use("captum:deep_lift"), net, x, target)
    assert torch.equal(found, run(use("captum:deeplift"), net, x, target))
    with pytest.warns(UserWarning, match="Setting forward, backward hooks"):
        expected = attr.DeepLift(net).attribute(
            x.clone().requires_grad_(), target=torch.tensor([1, 2])
        )
    torch.testing.assert_close(found, expected.detach().sum(1))
    gained = (net(x) - net(torch.zeros_like(x))).gather(1, torch.tensor([[1], [2]]))[:, 0]
    torch.testing.assert_close(found.sum((1, 2)), gained.detach(), rtol=1e-3, atol=1e-4)
    mask = grid(x, 4)
    expected = attr.FeatureAblation(net).attribute(
        x, target=torch.tensor([1, 2]), feature_mask=mask
    )
    found = run(use("captum:feature_ablation", cells=4), net, x, target)
    torch.testing.assert_close(found, expected.sum(1))
    expected = attr.Occlusion(net).attribute(
        x, (3, 3, 3), strides=(3, 2, 2), target=torch.tensor([1, 2])
    )
    found = run(use("captum:occlusion", window=3, stride=2), net, x, target)
    torch.testing.assert_close(found, expected.sum(1), rtol=1e-4, atol=1e-5)
    ours = run(use("occlusion", window=3, stride=2), net, x, target)
    torch.testing.assert_close(found, 3 * ours, rtol=1e-4, atol=1e-5)


def test_shapley_values_of_cells_sum_to_what_was_gained() -> None:
    net, x = prepared()
    found = run(use("captum:shapley_value", cells=2), net, x, label(1))
    gained = (net(x) - net(torch.zeros_like(x)))[:, 1].detach()
    corners = found[:, ::4, ::4].sum((1, 2)) / 3
    torch.testing.assert_close(corners, gained, rtol=1e-3, atol=1e-4)


def test_cells() -> None:
    mask = grid(torch.zeros(1, 3, 9, 6), 3)
    assert mask.shape == (1, 1, 9, 6)
    assert mask.unique().tolist() == list(range(9))
    assert torch.bincount(mask.flatten()).tolist() == [6] * 9
    assert grid(torch.zeros(1, 3, 2, 2), 7).unique().tolist() == [0, 1, 2, 3]
    assert grid(torch.zeros(1, 3, 6), 3).tolist() == [[[0, 0, 1, 1, 2, 2]]]
    cube = grid(torch.zeros(1, 3, 4, 6, 2), 2)
    assert cube[0, 0, :, 0, 0].tolist() == [0, 0, 4, 4]
    assert torch.bincount(cube.flatten()).tolist() == [6] * 8


def test_shuffle_moves_pixels_within_the_feature() -> None:
    x = torch.arange(32.0).reshape(1, 2, 4, 4)
    mask = grid(x, 2) == 3
    found = shuffle(x, mask)
    inside = mask.expand_as(x)
    assert torch.equal(found[~inside], x[~inside])
    assert torch.equal(found[inside].sort().values, x[inside].sort().values)
    assert torch.equal(found[:, 1] - found[:, 0], x[:, 1] - x[:, 0])


def test_in_place_activations_are_refused_by_name() -> None:
    net, x = prepared()
    net[1] = nn.ReLU(inplace=True)
    with pytest.raises(
        MethodError, match=r"DeepLift hooks activations, but '1' \(ReLU\) works in place"
    ):
        run(use("captum:deep_lift"), net, x, label(1))
    assert run(use("captum:integrated_gradients", n=2), net, x, label(1)).shape == (2, 8, 8)


def test_what_captum_cannot_do_is_said() -> None:
    class Reused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.conv(self.relu(self.conv(x)))).mean((2, 3))

    with pytest.raises(MethodError, match="captum's DeepLift cannot explain this model"):
        run("captum:deep_lift", Reused(), torch.randn(1, 3, 4, 4), label(1))


def test_unknown_algorithm_and_impossible_options() -> None:
    net, x = prepared()
    with pytest.raises(MethodError, match="did you mean 'kernel_shap'"):
        run(use("captum:kernelshop"), net, x, label(1))
    with pytest.raises(MethodError, match="write captum: and one of saliency"):
        run(use("captum"), net, x, label(1))
    with pytest.raises(OptionError, match="and there are 16 of them; take fewer cells a side"):
        run(use("captum:shapley_values", cells=4), net, x, label(1))
    with pytest.raises(OptionError, match="stride <= window"):
        run(use("captum:occlusion", window=2, stride=4), net, x, label(1))


def test_captum_is_imported_when_used() -> None:
    code = "import sys, limelight.methods; print({'captum', 'sklearn', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
