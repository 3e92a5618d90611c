"""The adapter for captum: right values, seeds that do not leak, errors that help."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from methods_golden import run
from torch import Tensor, nn

import limelight as ll
from limelight.methods.captum import ALGORITHMS, shuffle
from limelight.methods.perturbation import grid
from limelight.probe.attribution.registry import BoundMethod, use
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


class Hinges(nn.Module):
    """max(0, w a + 1 - max(0, v b)) of a series and a table: what one does depends on the other."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.series, self.table = nn.Conv1d(2, 3, 4), nn.Linear(4, 3)
        self.inner, self.outer = nn.ReLU(), nn.ReLU()

    def forward(self, a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
        return self.outer(self.series(a)[..., 0] * mask + 1 - self.inner(self.table(b)))


SERIES, TABLE = torch.tensor([[[3.0, 1, 2, 1], [1, 0, 1, 2]]] * 2), torch.ones(2, 4)
MASK = torch.tensor([[1.0, 1, 1], [1, 0, 1]])
CELLS = {"feature_mask": (torch.arange(4)[None, None], 4 + torch.arange(4)[None])}
WINDOWS = {"sliding_window_shapes": ((2, 1), (1,)), "strides": ((2, 1), (1,))}
JOINT = {
    "saliency": {},
    "input_x_gradient": {},
    "integrated_gradients": {"n_steps": 50, "internal_batch_size": 16},
    "deep_lift": {},
    "feature_ablation": CELLS,
    "occlusion": WINDOWS,
}


def both(spec: BoundMethod) -> tuple[Tensor, Tensor, set[str]]:
    """Maps by sample of both inputs, and the notes."""
    sites, given = ["input", "input.1"], ll.inputs(SERIES, TABLE, MASK, fixed="2")
    maps = ll.maps(Hinges().eval(), given, spec, target=1, sites=sites)
    a, b = (torch.stack([m.values for m in maps if str(m.site) == site]) for site in sites)
    return a, b, {note for m in maps for note in m.about.notes}


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
@pytest.mark.parametrize("name", JOINT)
def test_inputs_go_in_together(name: str) -> None:
    a, b, notes = both(use(f"captum:{name}", cells=4, channels=True))
    tool = getattr(attr, ALGORITHMS[name].name)(Hinges().eval())
    xs = (SERIES.clone().requires_grad_(), TABLE.clone().requires_grad_())
    wanted = tool.attribute(xs, target=1, additional_forward_args=(MASK,), **JOINT[name])
    torch.testing.assert_close(a, wanted[0].detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(b, wanted[1].detach(), rtol=1e-4, atol=1e-5)
    assert not notes


@pytest.mark.parametrize(
    ("name", "cells", "n"),
    [("integrated_gradients", 7, 400), ("deep_lift", 7, 1), ("shapley_values", 2, 1)],
)
def test_the_sum_over_inputs_is_the_gain(name: str, cells: int, n: int) -> None:
    net = Hinges().eval()
    a, b, _ = both(use(f"captum:{name}", cells=cells, n=n, channels="shapley" in name))
    if name == "shapley_values":  # every channel of a cell holds the number of the cell
        a = a[:, 0].unflatten(1, (2, 2))[..., 0]
    gap = net(SERIES, TABLE, MASK) - net(0 * SERIES, 0 * TABLE, MASK)
    torch.testing.assert_close(a.sum(1) + b.sum(1), gap[:, 1].detach(), rtol=1e-3, atol=1e-3)


def test_what_captum_leaves_where_it_is() -> None:
    maps = ll.maps(
        Hinges().eval(), (SERIES, TABLE, MASK), "captum:deep_lift", target=1, sites="input.1"
    )
    assert {str(m.site) for m in maps} == {"input.1"}
    assert all("input stood still" in " ".join(m.about.notes) for m in maps)
    net = Hinges().eval()
    gap = net(SERIES, TABLE, MASK) - net(SERIES, 0 * TABLE, MASK)
    torch.testing.assert_close(maps.stack().sum(1), gap[:, 1].detach())


def notes(net: nn.Module, name: str) -> list[str]:
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    maps = ll.maps(net.eval(), x, f"captum:{name}", target=1)
    assert len({m.about.notes for m in maps}) == 1
    return list(maps[0].about.notes)


class Branches(nn.Module):
    """Curves that captum hooks, curves that it does not, and maps that are linear all the same."""

    def __init__(self, act: nn.Module, curved: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.norm, self.act = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), act
        self.pool, self.head, self.curved = nn.MaxPool2d(2), nn.Linear(4, 3), curved

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv(x / 2 - 1)) * 0.5 + 0.1)
        if self.curved:
            x = torch.relu(x) * torch.sigmoid(x.mean((2, 3), keepdim=True)) + 1 / (1 + x * x)
        return self.head(self.pool(x).mean((2, 3)))


@pytest.mark.parametrize("name", ["deep_lift", "deep_lift_shap"])
def test_what_deep_lift_takes_for_linear_is_said(name: str) -> None:
    full = ALGORITHMS[name].name
    for hooked in (nn.ReLU(), nn.ELU(), nn.Tanh()):
        assert notes(Branches(hooked, curved=False), name) == []
    assert notes(Branches(nn.GELU(), curved=False), name) == [
        f"captum's {full} took for linear, as input x gradient does: gelu in act"
    ]
    (found,) = notes(Branches(nn.SiLU(), curved=True), name)
    told = found.partition("does: ")[2].split(", ")
    own = "the model's own forward"
    assert told == [
        "silu in act", f"relu in {own}", f"sigmoid in {own}", f"mul in {own} and 1 more",
        f"div in {own}",
    ]  # fmt: skip


def test_it_is_input_x_gradient_there() -> None:
    """With nothing hooked on the way the difference to the baseline is all that is left."""
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.GELU(), nn.Flatten(), nn.Linear(32, 2)).eval()
    x = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    lifted, plain = (
        ll.maps(net, x, m, target=1)[0].values for m in ("captum:deep_lift", "input_x_gradient")
    )
    torch.testing.assert_close(lifted, plain)


@pytest.mark.parametrize("name", ["guided_backprop", "deconvolution"])
def test_rectifiers_that_are_no_modules_are_said_to_be_passed_by(name: str) -> None:
    full = ALGORITHMS[name].name
    assert notes(Branches(nn.ReLU(), curved=False), name) == []
    (found,) = notes(Branches(nn.LeakyReLU(), curved=True), name)
    assert found == (
        f"captum's {full} left to their plain gradient: leaky_relu in act, "
        "relu in the model's own forward"
    )
    assert notes(Branches(nn.GELU(), curved=False), "saliency") == []


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
