"""Several inputs: those that `sites=` names move together, and of the others a note says so."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import limelight as ll


class Hinges(nn.Module):
    """max(0, max(0, a) - 1 - max(0, b)): along a line every hinge opens at a point of its own."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a.relu() - 1 - b.relu()).relu().sum(1)


class Readings(nn.Module):
    """A linear score of a series `b c t` and of a table `b f`, with a mask that stays."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.series, self.table = nn.Conv1d(2, 1, 4), nn.Linear(3, 1)

    def forward(self, x: Tensor, table: Tensor, mask: Tensor) -> Tensor:
        return self.series(x).flatten(1) * mask + self.table(table)


A, B = torch.tensor([[3.0], [2.0]]), torch.tensor([[1.0], [0.5]])
BOTH = ["input", "input.1"]


def whole(out: Tensor) -> Tensor:
    return out


def by_site(maps: ll.Maps, site: str) -> Tensor:
    return torch.stack([m.values for m in maps if str(m.site) == site])


def notes(maps: ll.Maps) -> str:
    return " ".join(note for m in maps for note in m.about.notes)


def test_integrated_gradients_move_all_that_is_named() -> None:
    maps = ll.maps(Hinges(), (A, B), "integrated_gradients,n=500", target=whole, sites=BOTH)
    a, b = by_site(maps, "input"), by_site(maps, "input.1")
    torch.testing.assert_close(a[0], torch.tensor([1.5]), atol=5e-3, rtol=0)
    torch.testing.assert_close(b[0], torch.tensor([-0.5]), atol=5e-3, rtol=0)
    torch.testing.assert_close((a + b).sum(1), Hinges()(A, B), atol=5e-3, rtol=0)
    assert "stood still" not in notes(maps)


@pytest.mark.parametrize(("site", "still"), [("input", "input.1"), ("input.1", "input")])
def test_what_stood_still_is_said(site: str, still: str) -> None:
    maps = ll.maps(Hinges(), (A, B), "integrated_gradients,n=500", target=whole, sites=site)
    assert {str(m.site) for m in maps} == {site}
    assert notes(maps).count(f"{still} stood still") == len(maps)
    start = (0 * A, B) if site == "input" else (A, 0 * B)
    gap = Hinges()(A, B) - Hinges()(*start)
    torch.testing.assert_close(by_site(maps, site).sum(1), gap, atol=5e-3, rtol=0)


def test_perturbations_take_one_input_after_the_other() -> None:
    maps = ll.maps(Hinges(), (A, B), "occlusion,window=1,stride=1", target=whole, sites=BOTH)
    for site, still, without in (
        ("input", "input.1", (0 * A, B)),
        ("input.1", "input", (A, 0 * B)),
    ):
        drop = Hinges()(A, B) - Hinges()(*without)
        torch.testing.assert_close(by_site(maps, site).sum(1), drop)
        notes_here = [m.about.notes for m in maps if str(m.site) == site]
        assert notes_here == [(f"{still} stood still",)] * 2


def test_fixed_and_shared_inputs_are_not_missed() -> None:
    for inputs in (ll.inputs(A, B, fixed="1"), ll.inputs(A, B[:1], shared="1"), (A, B[:1])):
        maps = ll.maps(Hinges(), inputs, "integrated_gradients,n=4", target=whole)
        assert "stood still" not in notes(maps)


@pytest.mark.parametrize(
    "method", ["integrated_gradients,n=3", "occlusion,window=1,stride=1", "smoothgrad,n=2,sigma=0"]
)
def test_inputs_of_different_kinds(method: str) -> None:
    net, x = Readings().eval(), torch.randn(2, 2, 4)
    table, mask = torch.randn(2, 3), torch.ones(2, 1)
    given = ll.inputs(x, table, mask, fixed="2")
    maps = ll.maps(net, given, method, target=lambda out: out[:, 0], sites=BOTH)
    slopes = net.series.weight[0], net.table.weight[0]
    if method.startswith("smoothgrad"):
        want = slopes[0].abs().amax(0).expand(2, -1), slopes[1].abs().expand(2, -1)
    else:
        want = (slopes[0] * x).sum(1), slopes[1] * table
    torch.testing.assert_close(by_site(maps, "input"), want[0].detach())
    torch.testing.assert_close(by_site(maps, "input.1"), want[1].detach())


@pytest.mark.parametrize("method", ["integrated_gradients,n=2", "occlusion,window=1,stride=1"])
def test_the_explained_input_has_one_map_by_either_name(method: str) -> None:
    sites = ["input", "input.0", "input.*"]
    maps = ll.maps(Hinges(), (A, B), method, target=whole, sites=sites)
    assert [str(m.site) for m in maps if m.sample == "0"] == BOTH


class Sequences(nn.Module):
    """A linear score of two sequences, the second with its steps in front of the samples."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 1), nn.Linear(4, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.first(a)[..., 0].sum(1) + self.second(b)[..., 0].sum(0)


@pytest.mark.parametrize("method", ["integrated_gradients,n=2", "occlusion,window=1,stride=1"])
@pytest.mark.parametrize("way", ["inputs", "call"])
def test_what_was_said_of_an_input_holds_when_it_is_the_one_that_moves(
    method: str, way: str
) -> None:
    net, a, b = Sequences().eval(), torch.randn(2, 2, 3), torch.randn(2, 2, 4)
    given = (a, b) if way == "call" else ll.inputs(a, b, axes={"0": "b n c", "1": "n b c"})
    axes = {"input": "b n c", "input.1": "n b c"} if way == "call" else None
    maps = ll.maps(net, given, method, target=whole, sites=BOTH, axes=axes)
    want = (net.first.weight[0] * a).sum(2), (net.second.weight[0] * b).sum(2).T
    torch.testing.assert_close(by_site(maps, "input"), want[0].detach())
    torch.testing.assert_close(by_site(maps, "input.1"), want[1].detach())


class Counts(nn.Module):
    """A linear score of features and of whole numbers, to which nothing is an id."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.of_features, self.of_counts = nn.Linear(2, 1), nn.Linear(3, 1)

    def forward(self, x: Tensor, counts: Tensor) -> Tensor:
        return self.of_features(x) + self.of_counts(counts.float())


@pytest.mark.parametrize("method", ["integrated_gradients,n=2", "occlusion,window=1,stride=1"])
def test_whole_numbers_beside_features_are_values(method: str) -> None:
    net, x, counts = Counts().eval(), torch.randn(2, 2), torch.tensor([[1, 2, 3], [4, 5, 6]])
    maps = ll.maps(net, (x, counts), method, target=lambda out: out[:, 0], sites=BOTH)
    want = (net.of_features.weight * x).detach(), (net.of_counts.weight * counts).detach()
    torch.testing.assert_close(by_site(maps, "input"), want[0])
    torch.testing.assert_close(by_site(maps, "input.1"), want[1])


def test_axes_are_known_by_the_address_that_an_input_has_now() -> None:
    batch = ll.inputs(A, B, axes={"0": "b n", "1": "b t"})
    assert batch.axes == {"input": "b n", "input.1": "b t"}
    other = batch.explaining("1")
    assert other.axes == {"input.0": "b n", "input": "b t"}
    assert other.explaining("0").axes == batch.axes


def test_a_shared_input_is_not_perturbed() -> None:
    given = ll.inputs(A, B[:1], shared="1")
    with pytest.raises(ll.LimelightError, match="serves all samples"):
        ll.maps(Hinges(), given, "integrated_gradients,n=2", target=whole, sites=BOTH)
