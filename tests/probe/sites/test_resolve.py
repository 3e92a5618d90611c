"""Addresses as people write them: modules of the model beside text."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.probe.errors import SiteError
from limelight.probe.sites import addresses, named


class Net(nn.Module):
    """Two stages, a list of blocks, and one module under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.stage = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
        self.blocks = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(2))
        self.again = self.stem
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage(self.again(x))
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def same(a: ll.Maps, b: ll.Maps) -> None:
    assert [str(m.site) for m in a] == [str(m.site) for m in b]
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one.values, other.values)


@pytest.mark.parametrize(
    ("module", "path"),
    [
        (lambda net: net.stage, "stage"),
        (lambda net: net.stage[-1], "stage.1"),
        (lambda net: [net.stage[-1], "stem"], ["stage.1", "stem"]),
        (lambda net: (net.blocks[1],), ("blocks.1",)),
        (lambda net: net.blocks, ["blocks.0", "blocks.1"]),
        (lambda net: net.again, "stem"),
    ],
)
def test_a_module_stands_for_its_first_path(net, x, module, path) -> None:
    same(
        ll.maps(net, x, "gradcam", target=3, sites=module(net)),
        ll.maps(net, x, "gradcam", target=3, sites=path),
    )


def test_wherever_a_site_is_taken(net, x) -> None:
    act = net.stage[-1]
    with ll.Probe(net) as p:
        p.watch(act, net.stem)
        p(x)
        p.backward(3, sites=[act])
        assert p.trace["stage.1"].grad is not None
        same(
            p.maps("gradcam", target=3, sites=act), ll.maps(net, x, "gradcam", target=3, sites=act)
        )
    assert [str(s) for s in ll.trace(net, x, act)] == ["stage.1"]
    assert [str(s) for s in ll.trace(net, x, [act, "stem"], target=1)] == ["stem", "stage.1"]
    assert torch.equal(ll.patch(net, x, {act: ll.zero}), ll.patch(net, x, {"stage.1": ll.zero}))
    bound = ll.use("gradcam", sites=act)
    same(ll.maps(net, x, bound, target=3), ll.maps(net, x, "gradcam", target=3, sites="stage.1"))
    several = ll.use("gradcam", sites=[act, net.stem])
    assert len(ll.maps(net, x, several, target=3)) == 4
    smooth = ll.maps(net, x, "smoothgrad:gradcam,n=2", target=3, sites=act)
    same(smooth, ll.maps(net, x, "smoothgrad:gradcam,n=2", target=3, sites="stage.1"))


@pytest.mark.filterwarnings("ignore")
def test_compiled_modules_are_seen_through(x) -> None:
    net = Net().eval()
    inner = net.stage
    net.stage = torch.compile(inner)  # type: ignore[assignment]
    for module in (net.stage, inner):
        assert {str(m.site) for m in ll.maps(net, x, "gradcam", sites=module)} == {"stage"}


def test_a_module_of_another_model_is_refused(net, x) -> None:
    stranger = Net().stage[-1]
    for call in (
        lambda: ll.maps(net, x, "gradcam", sites=stranger),
        lambda: ll.trace(net, x, [stranger]),
        lambda: ll.patch(net, x, {stranger: ll.zero}),
        lambda: named(net, stranger),
    ):
        with pytest.raises(SiteError, match="a ReLU was given as a site, but it is no part of"):
            call()


def test_words_without_a_meaning_say_what_there_is(x) -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.AdaptiveAvgPool2d(1)

        def forward(self, x: Tensor) -> Tensor:
            return self.pool(x).flatten(1)

    with pytest.raises(SiteError, match="site 'last' means nothing in this model, whose layers"):
        ll.maps(Bare(), x, "gradcam")
    with pytest.raises(SiteError, match="such as 'pool'"):
        ll.trace(Bare(), x, "hidden")


def test_addresses(net) -> None:
    assert addresses("a") == ["a"]
    assert addresses(net.stage) == [net.stage]
    assert addresses(("a", net.stem)) == ["a", net.stem]
    assert addresses(["a", net.blocks]) == ["a", *net.blocks]
    assert [named(net, a) for a in (net.stage[0], net.again, net, "last")] == [
        *("stage.0", "stem", "output", "last")
    ]
