"""The audit names every part of the graph that the probe could not see, and nothing else."""

from __future__ import annotations

import threading
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.probe.errors import SiteError


class Doubles(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


class Views(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view(-1)

    @staticmethod
    def backward(ctx, grad):
        return grad.view(2, 3)


def twice_the_sine(x: Tensor) -> Tensor:
    return x.sin() * 2


with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    scripted = torch.jit.script(twice_the_sine)
    scripted_module = torch.jit.script(nn.Sequential(nn.Tanh()))


class Net(nn.Module):
    def __init__(self, part) -> None:
        super().__init__()
        self.a, self.part, self.b = nn.Linear(3, 3), part, nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.part(self.a(x)))


def threaded(x: Tensor) -> Tensor:
    found: list[Tensor] = []
    thread = threading.Thread(target=lambda: found.append(x.sin()))
    thread.start()
    thread.join()
    return found[0]


def island(x: Tensor) -> Tensor:
    with torch.no_grad():
        scale = x.abs().amax()
    return x / scale


@pytest.mark.parametrize(
    ("part", "name", "near"),
    [
        (scripted, None, "linear.0 in b"),
        (scripted_module, None, "linear.0 in b"),
        (Doubles.apply, "DoublesBackward", "linear.0 in b"),
        (lambda x: Views.apply(x).view(2, 3), "ViewsBackward", "view.1 in the model's own forward"),
        (threaded, "SinBackward0", "linear.0 in b"),
        (island, "no_grad around abs", "the model's own forward"),
        (lambda x: torch.vmap(torch.sin)(x), "SinBackward0", "linear.0 in b"),
    ],
)
def test_what_cannot_be_seen_is_named(part, name, near):
    net, x = Net(part), torch.randn(2, 3)
    expected = net(x)
    with ll.Probe(net) as p:
        p.watch("a", "b:in")
        assert torch.equal(p(x), expected)
        holes = p.trace.holes
        found = [hole for hole in holes if hole.near == near and name in (None, hole.node)]
        assert found
        a = net.a(x).detach().requires_grad_()
        want = torch.autograd.grad(net.b(part(a))[:, 1].sum(), a)[0]
        assert torch.equal(p.backward(1)["a"].grad, want)
        assert f"unseen: {found[0].node} feeding {near}" in str(p.trace)


def test_a_hole_at_the_output_and_a_cached_graph():
    net = nn.Module()
    net.forward = lambda x: Doubles.apply(x)
    with ll.Probe(net) as p:
        p(torch.randn(2, 3))
        assert str(p.trace.holes[-1]) == "DoublesBackward feeding the output"
    weight = torch.randn(3, requires_grad=True)
    cached = weight.exp()
    net.forward = lambda x: x * cached
    with ll.Probe(net) as p:
        p(torch.randn(2, 3))
        assert [h.node for h in p.trace.holes] == ["ExpBackward0"]


def test_a_result_names_the_holes_of_its_pass():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    net[1].forward = lambda x: Doubles.apply(x).flatten(1)
    found = ll.maps(net, torch.randn(1, 1, 4, 4), "gradcam", sites="0", target=1)
    assert "unseen by the probe: DoublesBackward feeding flatten.0 in 1" in found[0].about.notes


@pytest.mark.parametrize(
    "method",
    [
        "integrated_gradients,n=2", "smoothgrad,n=2", "smoothgrad:gradcam,n=2", "meta:gradcam",
        "captum:saliency", "captum:deep_lift", "salient_relevance,base=gradcam",
    ],
)  # fmt: skip
def test_so_do_results_of_passes_of_their_own(method):
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, 2)).eval()
    net[1].forward = lambda x: Doubles.apply(x).flatten(1)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = "captum" in method or "salient" in method
    for m in ll.maps(net, x, method, sites=None if whole else "0", target=1):
        named = [n for n in m.about.notes if "DoublesBackward feeding flatten.0 in 1" in n]
        assert len(named) == 1, m.about.notes


@pytest.mark.parametrize("method", ["attention_gradcam", "generic_attention"])
def test_so_do_results_of_attention_with_gradients(method):
    class SelfAttention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qk = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            q = self.qk(x)[:, None]
            return ((q @ x[:, None].mT).softmax(-1) @ x[:, None])[:, 0]

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.head = SelfAttention(), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(Doubles.apply(self.attention(x)).mean(1))

    (m,) = ll.maps(Tokens().eval(), torch.randn(1, 4, 3), method, target=1, axes={"input": "b n c"})
    assert "DoublesBackward" in " ".join(m.about.notes)


def test_what_makes_no_gradient_has_no_hole():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)).eval()
    net[1].forward = lambda x: Doubles.apply(x).flatten(1)
    (m,) = ll.maps(net, torch.randn(1, 1, 4, 4), "occlusion,window=2,stride=2", target=1)
    assert m.about.notes == ()


def test_axes_behind_a_hole_are_refused_by_name():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Identity(), nn.Flatten(), nn.Linear(8, 2)).eval()
    net[1].forward = Doubles.apply
    x = torch.randn(1, 1, 4, 4)
    with pytest.raises(SiteError, match="what the dimensions of 1 mean is not known"):
        ll.maps(net, x, "gradcam", sites="1", target=1)
    (m,) = ll.maps(net, x, "gradcam", sites="1", target=1, axes={"1": "b c y x"})
    assert m.axes == "y x"


class Worker(nn.Module):
    """A thread runs `b` and is inside it while the model goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.b, self.inside, self.go_on = nn.Linear(3, 3), threading.Event(), threading.Event()
        self.b.forward = self.wait

    def wait(self, x: Tensor) -> Tensor:
        self.inside.set()
        self.go_on.wait(10)
        return x.sin()

    def forward(self, x: Tensor) -> Tensor:
        found: list[Tensor] = []
        thread = threading.Thread(target=lambda: found.append(self.b(x)))
        thread.start()
        self.inside.wait(10)
        y = x + 1
        self.go_on.set()
        thread.join()
        return y * found[0]


def test_another_thread_disturbs_no_name():
    net, x = Worker(), torch.randn(2, 3)
    with ll.Probe(net) as p:
        p.watch(":add.0", ":mul.0")
        p(x)
        assert [str(s) for s in p.trace] == [":add.0", ":mul.0"]
        assert torch.equal(p.trace[":add.0"].act, x + 1)
        assert [h.node for h in p.trace.holes] == ["SinBackward0"]


@pytest.mark.parametrize(
    "part",
    [
        lambda x: x.unbind(0)[0] + x.chunk(2)[1].squeeze(0),
        lambda x: torch.einsum("bc,dc->bd", x, x),
        lambda x: F.layer_norm(x, (3,)).T @ x,
        lambda x: nn.LSTM(3, 3, batch_first=True).requires_grad_(False)(x[None])[0][0],
        lambda x: F.interpolate(x[None, None], scale_factor=2)[0, 0, :, :3],
        lambda x: F.normalize(x).cumsum(1).sort(1).values,
        lambda x: torch.complex(x, x).abs(),
        lambda x: x.real.where(x > 0, 0.0),
        lambda x: torch.stack([x, x]).split([1, 1])[0][0],
    ],
)
def test_ordinary_code_has_no_holes(part):
    torch.manual_seed(0)
    net, x = nn.Module(), torch.randn(2, 3)
    net.forward = lambda x: part(x.mul(1))
    with ll.Probe(net) as p:
        p(x)
        assert p.trace.holes == []


def test_views_made_anew_after_writing_in_place_are_no_holes():
    def forward(x):
        x = x * 2
        first, rest = x[:, 0], x[:, 1:]
        x.add_(1)
        rest.mul_(3)
        return (first + rest.sum(1))[:, None] + x, rest

    net, x = nn.Module(), torch.randn(2, 3)
    net.forward = forward
    with ll.Probe(net) as p:
        p.watch(":mul.0")
        p(x)
        assert p.trace.holes == []
