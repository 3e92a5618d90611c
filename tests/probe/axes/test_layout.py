"""How methods see values: `b c` and the places, in whatever order a model keeps them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.probe.axes.axis import dimensions
from limelight.probe.axes.layout import Grid, find_grid, layout
from limelight.probe.errors import SiteError
from limelight.probe.sites import adapt


def counted(*shape: int) -> Tensor:
    """A tensor whose values all differ."""
    return torch.arange(torch.Size(shape).numel(), dtype=torch.float64).reshape(shape)


X = counted(2, 3, 4, 6)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x,
        lambda x: x.permute(0, 2, 3, 1),
        lambda x: x.permute(3, 0, 1, 2),
        lambda x: x.flatten(2).transpose(1, 2),
        lambda x: x.flatten(2).permute(2, 0, 1),
        lambda x: x.reshape(2, 3, 2, 2, 3, 2).permute(0, 2, 4, 3, 5, 1).reshape(12, 4, 3),
        lambda x: x.reshape(2, 3, 2, 2, 3, 2).permute(0, 1, 2, 4, 3, 5).flatten(2),
        lambda x: torch.cat([torch.zeros(2, 1, 3), x.flatten(2).transpose(1, 2)], 1),
        lambda x: torch.cat([x.flatten(2).transpose(1, 2), torch.zeros(2, 4, 3)], 1) + 0.0,
        lambda x: torch.cat([torch.zeros(2, 1, 3), x.flatten(2).mT], 1)[:, 1:],
    ],
    ids=[
        "picture", "channels last", "batch last", "tokens", "tokens first", "windows",
        "windows in a row", "class token", "late tokens", "class token cut off",
    ],
)  # fmt: skip
def test_every_order_is_read_as_the_picture_it_was(layout_of, function) -> None:
    plan, value = layout_of(function, X, "b c y x")
    assert plan.axes == "y x"
    assert torch.equal(plan.canonical(value), X)


def test_features_alone_are_places_of_one_channel(layout_of) -> None:
    table = counted(4, 5)
    plan, value = layout_of(lambda x: x + 0, table, "b c")
    assert plan.axes == "c"
    assert torch.equal(plan.canonical(value), table[:, None])
    assert torch.equal(plan.restore(table[:, None], table.shape), table)


def test_heads_are_channels(layout_of) -> None:
    tokens = counted(2, 5, 6)
    plan, value = layout_of(lambda x: x.unflatten(2, (3, 2)).transpose(1, 2), tokens, "b n c")
    assert plan.axes == "n"
    assert torch.equal(plan.canonical(value), tokens.transpose(1, 2))


@pytest.mark.parametrize("tokens", ["first", "last"])
def test_a_class_token_is_cut_off_though_its_rest_is_written_in_place(layout_of, tokens) -> None:
    def net(x: Tensor) -> Tensor:
        parts = [torch.zeros(2, 1, 3), x.flatten(2).mT]
        row = torch.cat(parts if tokens == "first" else parts[::-1], 1)
        part = row[:, 1:] if tokens == "first" else row[:, :-1]
        part.mul_(2)
        return part

    plan, value = layout_of(net, X, "b c y x")
    assert plan.axes == "y x"
    assert torch.equal(plan.canonical(value), 2 * X)


def test_precision_is_kept_where_methods_have_it() -> None:
    plan = layout(dimensions((2, 3, 4), ("b", "c", "t")))
    assert plan is not None
    for given, read in ((torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
        assert plan.canonical(torch.zeros(2, 3, 4, dtype=given)).dtype == read


def test_complex_values_keep_both_parts() -> None:
    """Sums over channels are Re(conj(g) z), norms are |g|."""
    plan = layout(dimensions((2, 5, 3), ("b", "t", "c")))
    assert plan is not None
    z, g = (torch.randn(2, 5, 3, dtype=torch.complex64) for _ in range(2))
    read, slope = plan.canonical(z), plan.canonical(g)
    assert read.shape == (2, 6, 5)
    torch.testing.assert_close((read * slope).sum(1), (g.conj() * z).real.sum(2))
    torch.testing.assert_close(slope.norm(dim=1), g.norm(dim=2))


@pytest.mark.parametrize("axes", ["b c y x", "b y x c", "y b c x", "y x c b"])
def test_what_is_read_can_be_put_back_in_any_number(axes) -> None:
    x = counted(2, 3, 4, 5)
    plan = layout(dimensions(x.shape, axes.split()))
    assert plan is not None
    assert plan.samples(x.shape) == x.shape[axes.split().index("b")]
    assert torch.equal(plan.restore(plan.canonical(x), x.shape), x)
    one = plan.canonical(x)[:1]
    many = plan.restore(one.expand(7, *one.shape[1:]), x.shape)
    at = axes.split().index("b")
    assert many.shape[at] == 7
    assert torch.equal(many.select(at, 6), x.select(at, 0))


def test_what_lost_its_class_token_cannot_be_put_back(layout_of) -> None:
    plan, value = layout_of(
        lambda x: torch.cat([torch.zeros(2, 1, 3), x.flatten(2).mT], 1), X, "b c y x"
    )
    with pytest.raises(SiteError, match="without its class tokens"):
        plan.restore(plan.canonical(value), value.shape)


@pytest.mark.parametrize(
    "names", [("b", "", ""), ("", "c", "t"), ("b", "c", "", ""), ("b", ""), ("b", "y", "")]
)
def test_nothing_is_read_that_is_not_known(names) -> None:
    assert layout(dimensions((2, 3, 4, 5)[: len(names)], names)) is None


def test_the_one_dimension_left_holds_the_places() -> None:
    plan = layout(dimensions((2, 5, 3), ("b", "", "c")))
    assert plan is not None
    assert plan.axes == "n"


def test_grids_have_the_pictures_proportions() -> None:
    assert find_grid(196, (224, 224), 0) == Grid(14, 14, 0)
    assert find_grid(197, (224, 224), 1) == Grid(14, 14, 1)
    assert find_grid(8, (32, 64), 0) == Grid(2, 4, 0)
    assert find_grid(196, (224, 224), 1) == Grid(14, 14, 0)
    assert find_grid(7, (32, 32), 0) is None
    assert find_grid(7, (), 0) is None


def test_tokens_of_a_known_family_whose_graph_is_cut() -> None:
    """A function of one's own has no rule; the class token and the proportions still tell."""

    class Cut(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx, g: Tensor) -> Tensor:
            return g

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.last = nn.Conv2d(3, 8, 2, 2), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            tokens = Cut.apply(self.patches(x).flatten(2).mT)
            return self.last(tokens + 0)[:, 0]

    net = Net()
    x = torch.randn(2, 3, 8, 8)
    with pytest.raises(ll.LimelightError, match=r"axes=\{'last': 'b c t'\}"):
        ll.maps(net, x, "gradcam", sites="last", target=1)
    (one, _) = ll.maps(net, x, "gradcam", sites="last", target=1, axes={"last": "b n c"})
    assert one.axes == "n"

    with ll.Probe(net, adapter=replace(adapt(net), prefix=0), axes={"last": "b n c"}) as probe:
        probe.watch("last")(x)
        (one, _) = probe.maps("gradcam", target=1)
    assert (one.axes, tuple(one.values.shape)) == ("y x", (4, 4))
    assert any("by the picture's proportions" in note for note in one.about.notes)
