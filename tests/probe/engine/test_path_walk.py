"""Paths as they are walked: the same draws however points pass together, one probe, one adapter."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Generator, Tensor, nn

import limelight as ll
from limelight.probe import probe as probe_file
from limelight.probe.attribution import Path, ScoredTarget, path_method
from limelight.probe.engine import Runner
from limelight.probe.engine.batch import Batch


class Sees(nn.Module):
    """A small classifier that keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 5)
        self.given: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.given.append(x.detach().clone())
        return self.head(self.conv(x).tanh().mean((2, 3)))

    @property
    def sizes(self) -> list[int]:
        return [len(x) for x in self.given]


X = torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(1))
NAMES = ["smoothgrad,n=10", "vargrad,n=10", "integrated_gradients,n=10"]


def points_of(net: Sees, sample: int, samples: int) -> Tensor:
    """The points of one sample in their order, from passes of whole rounds over the samples."""
    return torch.cat([x[sample::samples] for x in net.given[1:]])


def test_draws_are_the_same_however_points_pass_together() -> None:
    visited = []
    for batch in (3, 6, 8, 100, "auto"):
        net = Sees().eval()
        ll.maps(net, X, "smoothgrad,n=10", target=1, batch=batch)
        visited.append([points_of(net, i, 3) for i in range(3)])
    alone = []
    for i in range(3):
        net = Sees().eval()
        runner = Runner(net, Batch.of(X).take([i]), limit=1)
        runner.path_maps([ll.use("smoothgrad,n=10")], fixed(net, i), ["x"])
        alone.append(torch.cat(net.given[2:]))  # after the picked class, and how the input lies
    for points in visited:
        assert all(torch.equal(a, b) for a, b in zip(points, alone, strict=True))


def fixed(net: nn.Module, i: int) -> ScoredTarget:
    return ScoredTarget.of(ll.label(1), net(X[i : i + 1]), ())


@pytest.mark.parametrize("name", NAMES)
def test_points_that_pass_together_give_the_same_maps(name: str) -> None:
    net = Sees().double().eval()
    one, many, auto = (
        ll.maps(net, X.double(), name, target=[1, 2], batch=batch) for batch in (1, 40, "auto")
    )
    for other in (many, auto):
        assert [m.sample for m in one] == [m.sample for m in other]
        torch.testing.assert_close(one.stack(), other.stack())


def test_how_many_pass_together() -> None:
    sizes = {}
    for batch in (1, 2, 5, "auto"):
        net = Sees().eval()
        ll.maps(net, X[:2], "smoothgrad,n=6", target=1, batch=batch)
        sizes[batch] = net.sizes
    assert sizes[1] == [1] * 14
    assert sizes[2] == [2] * 7
    assert sizes[5] == [2, 4, 4, 4]
    assert sizes["auto"] == [2, 8, 4]


def test_a_plan_counts_the_passes_of_paths() -> None:
    net = Sees().eval()
    plan = ll.plan(net, X[:2], ["smoothgrad,n=6", "vargrad,n=6"], target=[1, 2])
    net.given.clear()
    ll.maps(net, X[:2], ["smoothgrad,n=6", "vargrad,n=6"], target=[1, 2])
    assert plan.forwards == len(net.given) == 5
    assert plan.backwards == 4


def test_one_probe_a_path_and_one_adapter_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[nn.Module] = []
    entered: list[object] = []
    enter = probe_file.Probe.__enter__

    def counted(probe: probe_file.Probe) -> probe_file.Probe:
        entered.append(probe)
        return enter(probe)

    adapters = sys.modules["limelight.probe.sites.adapter"]
    monkeypatch.setattr(adapters, "_readers", [lambda model: read.append(model)])
    monkeypatch.setattr(probe_file.Probe, "__enter__", counted)
    names = ["gradcam", *NAMES, "meta:gradcam", "rise,n=4"]
    ll.maps(Sees().eval(), X, names, sites="conv", target=[1, 2])
    assert len(read) == 1
    walks = 2 * (1 + 2)  # of two targets: noise; a line at a layer, whose ends are looked at first
    assert len({id(p) for p in entered}) == 1 + walks + 2  # one site pass, one of meta a target


def test_samples_of_neighbouring_seeds_draw_differently() -> None:
    net = Sees()
    seeds = [
        generator.initial_seed()
        for seed in range(4)
        for generator in Runner(net, Batch.of(X), seed=seed).generators(X)
    ]
    assert len(set(seeds)) == len(seeds) == 12
    same = torch.stack([X[0], X[0]])
    second = ll.maps(net, same, "smoothgrad,n=2", target=1, seed=0)[1]
    first = ll.maps(net, same[:1], "smoothgrad,n=2", target=1, seed=1)[0]
    assert not torch.equal(first.values, second.values)


@dataclass(frozen=True)
class Ramp:
    """Points that a plug-in might have: the input, ever brighter."""

    count: int = 5

    def __call__(self, x: Tensor, k: int, generator: Generator) -> Tensor:
        return x * (k + 1)


def ramp(turns: list[tuple[int, torch.Size]]) -> Callable[[], Path]:
    """A path method that notes in which order it is asked, and of what."""

    def path() -> Path:
        def fold(state: Tensor | None, reading: Tensor, k: int) -> Tensor:
            turns.append((k, reading.shape))
            return reading if state is None else state - (k + 1) * reading

        return Path(Ramp(), "gradient", fold, lambda state, count, x: state / count)

    return path


def test_a_path_of_a_plug_in_folds_point_after_point() -> None:
    turns: list[tuple[int, torch.Size]] = []
    method = path_method("test-ramp")(ramp(turns))
    net = Sees().eval()
    together = ll.maps(net, X, method, target=1, batch=100)
    assert turns == [(k, torch.Size([3, 6, 6])) for k in range(5)]
    one_by_one = ll.maps(net, X, method, target=1, batch=1)
    torch.testing.assert_close(together.stack(), one_by_one.stack())
