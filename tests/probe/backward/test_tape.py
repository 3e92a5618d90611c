"""One backward for many sites: equal to autograd, whatever lies upstream of what."""

from __future__ import annotations

import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.probe.errors import ProbeError


class Branches(nn.Module):
    """A stem, two branches, a dead branch, a residual, two outputs of one node."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        for name in ("stem", "left", "right", "dead", "mix", "head"):
            setattr(self, name, nn.Linear(6, 6))
        self.same = nn.Identity()

    def parts(self, x: Tensor) -> dict[str, Tensor]:
        v = {"input": x}
        v["stem"] = v["same"] = self.stem(x)
        v["left"], v["right"] = self.left(v["same"].tanh()), self.right(v["stem"].sigmoid())
        v["dead"] = self.dead(v["left"])
        one, two = (v["left"] + v["stem"]).chunk(2, 1)
        v["mix"] = self.mix(torch.cat([two, one], 1) * v["right"])
        v["output"] = v["head"] = self.head(F.relu(v["mix"]))
        return v

    def forward(self, x: Tensor) -> Tensor:
        stem = self.same(self.stem(x))
        left, right = self.left(stem.tanh()), self.right(stem.sigmoid())
        self.dead(left)
        one, two = (left + stem).chunk(2, 1)
        return self.head(F.relu(self.mix(torch.cat([two, one], 1) * right)))


X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SITES = ["input", "stem", "same", "left", "right", "dead", "mix", "head", "output"]


@pytest.mark.parametrize(
    "sites",
    [
        SITES, SITES[::-1], ["left", "right"], ["stem", "mix"], ["dead"], ["dead", "input"],
        ["output"], ["left"], ["mix", "right", "input"],
    ],
)  # fmt: skip
def test_gradients_equal_autograd(sites):
    net = Branches().double()
    values = net.parts(X.clone().requires_grad_())
    expected = torch.autograd.grad(
        values["head"][:, 2].sum(), [values[s] for s in sites], allow_unused=True
    )
    with ll.Probe(net) as p:
        p.watch(*sites)
        p(X)
        trace = p.backward(2)
        for site, value in zip(sites, expected, strict=True):
            want = torch.zeros_like(trace[site].act) if value is None else value
            torch.testing.assert_close(trace[site].grad, want)
        part = p.backward(2, sites=sites[:1])
        torch.testing.assert_close(part[sites[0]].grad, trace[sites[0]].grad)


def test_one_backward_is_run_for_all_sites():
    net, runs = Branches().double(), []
    with ll.Probe(net) as p:
        p.watch("**")
        p(X)
        p.trace["mix"].edge[0].register_hook(lambda *a: runs.append(1))
        p.backward(1)
        assert len(runs) == 1
        assert sum(op.name == "linear" for op in p._last.tape.ops) == 6


def test_the_last_backward_frees_the_graph_and_others_keep_it():
    with ll.Probe(Branches().double()) as p:
        p.watch("stem")
        p(X)
        first = p.backward(0)["stem"].grad
        assert torch.equal(p.backward(0, retain=False)["stem"].grad, first)
        with pytest.raises(RuntimeError, match="second time"):
            p.backward(0)


def test_what_has_no_gradient():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x):
            with torch.no_grad():
                gate = self.b(x)
            return self.a(x) * gate

    net = Net().double()
    with ll.Probe(net) as p:
        p.watch("a", "b")
        p(X)
        trace = p.backward(0)
        assert trace["b"].grad is None
        torch.testing.assert_close(trace["a"].grad[:, 0], net.b(X)[:, 0])
        with pytest.raises(ProbeError) as error:
            p.backward(0, sites=["b"])
        assert str(error.value) == (
            "no gradient reaches b: its value does not depend on the input, or the model computes "
            "it under no_grad or behind detach()"
        )
        with pytest.raises(ProbeError, match="the target does not depend on anything differentia"):
            p.backward(lambda out: out.detach().sum(1))
    with ll.Probe(net, grad=False) as p:
        p.watch("a")
        p(X)
        with pytest.raises(ProbeError, match="there is no graph to differentiate: probe with grad"):
            p.backward(0)


def test_a_whole_tuple_of_outputs_of_one_op():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.split = Split()

        def forward(self, x):
            one, two = self.split(x * 1)
            return one * 2 + two * 3

    class Split(nn.Module):
        def forward(self, x):
            return x.chunk(2, 1)

    with ll.Probe(Net()) as p:
        p.watch("split:out.0", "split:out.1")
        p(X)
        trace = p.backward(lambda out: out.sum(1))
        assert (trace["split:out.0"].grad == 2).all()
        assert (trace["split:out.1"].grad == 3).all()


def test_a_gradient_is_dropped_once_it_has_been_received():
    blocks = [nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Identity()) for _ in range(6)]
    net = nn.Sequential(*blocks).double()
    seen: list[weakref.ref] = []
    alive: list[int] = []

    def receive(value, grad):
        alive.append(sum(reference() is not None for reference in seen))
        seen.append(weakref.ref(grad))

    with ll.Probe(net) as p:
        p.watch("*.0", "input")
        p(X)
        p.differentiate(ll.label(1), p.values(), receive)
    assert len(seen) == 7
    assert max(alive) <= 1
