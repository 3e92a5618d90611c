"""What a probe sees of ordinary and of awkward models, and that it changes none of them."""

from __future__ import annotations

import subprocess
import sys
from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.probe.errors import ProbeError, SiteError


class Reused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.act = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.a(self.act(self.a(self.act(x)))))


def conv_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(144, 5),
    ).eval()


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_the_calls_of_a_reused_module_are_told_apart():
    net, x = Reused(), torch.randn(2, 3, requires_grad=True)
    first = torch.tanh(x)
    second = torch.tanh(net.a(first))
    third = torch.tanh(net.a(second))
    with ll.Probe(net) as p:
        p.watch("act", "a@1")
        p(x)
        trace = p.backward(0)
        for call, value in enumerate((first, second, third)):
            assert torch.equal(trace[f"act@{call}"].act, value)
        assert torch.equal(trace["a@1"].act, net.a(second))
        expected = torch.autograd.grad(third[:, 0].sum(), (first, second))
        torch.testing.assert_close(trace["act@0"].grad, expected[0])
        torch.testing.assert_close(trace["act@1"].grad, expected[1])
        with pytest.raises(SiteError, match=r"'act' means 3 sites \(act, act@1, act@2\); name one"):
            trace["act"]
        assert len(trace.where("act")) == 3
        assert "a@0" not in trace


def test_one_module_with_two_names_answers_to_both():
    net = nn.ModuleDict({"first": nn.Sequential(nn.Linear(3, 3))})
    net["second"] = net["first"]
    net.forward = lambda x: net["second"](net["first"](x))
    with ll.Probe(net) as p:
        p.watch("second", "second.0", "sec*")
        p(torch.randn(2, 3))
        assert [str(s) for s in p.trace] == ["first.0", "first", "first.0@1", "first@1"]
        assert p.trace["second@1"] is p.trace["first@1"]
        assert p.trace["second.0@1"] is p.trace["first.0@1"]
        assert len(p.trace.where("second")) == 2
        assert "second" in p.trace


def test_shared_weights_stay_two_sites():
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    net[1].weight = net[0].weight
    x = torch.randn(2, 3)
    trace = ll.trace(net, x, "*", target=1)
    assert torch.equal(trace["1"].act, net[0](net[0](x)))
    assert torch.equal(trace["0"].grad, net[0].weight[1].detach().expand(2, 3))


def test_marks_are_sites_counted_per_use():
    class Net(nn.Module):
        def forward(self, x):
            for _ in range(2):
                x = ll.mark("state", x * 2)
            return helper(x)

    def helper(x):
        return ll.mark("end", F.relu(x))

    x = torch.randn(2, 3)
    with ll.Probe(Net()) as p:
        p.watch(":state", ":end", ":relu.0")
        p.edit({":state@0": ll.add(1.0)})
        out = p(x)
        p.backward(0)
        assert torch.equal(p.trace[":state@0"].act, x * 2 + 1)
        assert torch.equal(p.trace[":state@1"].act, x * 4 + 2)
        assert torch.equal(p.trace[":end"].act, p.trace[":relu.0"].act)
        assert torch.equal(out, F.relu(x * 4 + 2))
        assert p.trace[":state@1"].grad is not None
        assert p.trace.holes == []
    assert torch.equal(Net()(x), F.relu(x * 4))


Pair = namedtuple("Pair", "logits hidden")


@dataclass
class Packed:
    loss: Tensor | None
    logits: Tensor
    states: tuple[Tensor, ...]


class Packs(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.a, self.b = kind, nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor, *, gain: Tensor) -> object:
        hidden = self.a(x) * gain
        logits = self.b(hidden)
        if self.kind == "dict":
            return {"hidden": hidden, "logits": logits}
        if self.kind == "tuple":
            return (logits, {"more": [hidden]})
        if self.kind == "namedtuple":
            return Pair(logits, hidden)
        return Packed(None, logits, (hidden,))


@pytest.mark.parametrize(
    ("kind", "logits", "hidden"),
    [
        ("dict", "out.logits", "out.hidden"),
        ("tuple", "out.0", "out.1.more.0"),
        ("namedtuple", "out.0", "out.1"),
        ("dataclass", "out.logits", "out.states.0"),
    ],
)
def test_packed_outputs_and_keyword_inputs(kind, logits, hidden):
    net, x, gain = Packs(kind), torch.randn(2, 3), torch.rand(2, 1)
    expected = net.b(net.a(x) * gain)
    with ll.Probe(net) as p:
        p.watch("output", f":{logits}", f":{hidden}", ":in.gain", "input", "b:in")
        out = p(x, gain=gain)
        p.backward(ll.label(1, at="0") if kind == "tuple" else 1)
        assert type(out) is type(net(x, gain=gain))
        assert torch.equal(p.trace["output"].act, expected)
        assert torch.equal(p.trace[f":{logits}"].act, expected)
        assert torch.equal(p.trace[f":{hidden}"].act, net.a(x) * gain)
        assert torch.equal(p.trace[":in.gain"].act, gain)
        assert p.trace["input"].grad.shape == x.shape
        assert torch.equal(p.trace["b:in"].grad, net.b.weight[1].expand(2, 4))
        assert not p.trace["output"].act.requires_grad
    with ll.Probe(net) as p:
        p.edit({f":{logits}": ll.zero, ":in.gain": ll.zero})
        p.watch(f":{logits}", f":{hidden}")
        out = p(x, gain=gain)
        assert type(out) is type(net(x, gain=gain))
        assert not p.trace[f":{logits}"].act.any()
        assert not p.trace[f":{hidden}"].act.any()


def test_bfloat16_and_channels_last():
    net = conv_net().to(torch.bfloat16)
    x = IMAGES.to(torch.bfloat16)
    with ll.Probe(net) as p:
        p.watch("*")
        assert torch.equal(p(x), net(x))
        p.backward(1)
        assert p.trace["0"].act.dtype == p.trace["0"].grad.dtype == torch.bfloat16
    net, x = conv_net(), IMAGES.contiguous(memory_format=torch.channels_last)
    with ll.Probe(net) as p:
        p.watch("0", "input")
        out = p(x)
        p.backward(1)
        assert p.trace["0"].act.is_contiguous(memory_format=torch.channels_last)
        assert p.trace["0"].axes == "b c y x"
    assert torch.equal(out, net(x))


def test_autocast():
    net = conv_net()
    with torch.autocast("cpu", torch.bfloat16):
        plain = net(IMAGES)
        with ll.Probe(net) as p:
            p.watch("0", "4:in")
            assert torch.equal(p(IMAGES), plain)
            p.backward(1)
            assert p.trace["0"].act.dtype == torch.bfloat16
            assert p.trace["0"].grad.abs().sum() > 0
            assert p.trace.holes == []


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return ll.mark("m", F.relu(self.a(x))) + 1


def _compiled(kind: str) -> tuple[nn.Module, list[int]]:
    torch._dynamo.reset()
    runs: list[int] = []

    def backend(graph, _inputs):
        def call(*args):
            runs.append(1)
            return graph.forward(*args)

        return call

    torch.manual_seed(0)
    net: nn.Module = nn.Sequential(nn.Linear(3, 4), Inner(), nn.Linear(4, 2)).eval()
    if kind == "whole":
        return torch.compile(net, backend=backend), runs  # type: ignore[return-value]
    if kind == "part":
        net[1] = torch.compile(net[1], backend=backend)
    else:
        net.compile(backend=backend)
    return net, runs


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["whole", "part", "method"])
@pytest.mark.parametrize("warm", [True, False])
def test_compiled_models_are_seen_and_stay_compiled(kind, warm):
    (net, runs), x = _compiled(kind), torch.randn(2, 3)
    plain = net(x) if warm else None
    before = len(runs)
    with ll.Probe(net) as p:
        p.watch("0", "1.a", "1:m", "1:relu.0", "1:add.0", "output")
        p.edit({"1:add.0": ll.scale(1.0)})
        out = p(x)
        p.backward(0)
        assert len(p.trace) == 6
        assert all(v.grad is not None for v in p.trace.values())
        assert p.trace.holes == []
    assert len(runs) == before
    again = net(x)
    assert len(runs) > before
    torch.testing.assert_close(out, again if plain is None else plain)
    torch.testing.assert_close(out, again)
    assert ll.trace(net, x, "1.a")["1.a"].act.shape == (2, 4)


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool, switch: bool = True) -> None:
        super().__init__()
        self.a, self.reentrant, self.grad_checkpointing = nn.Linear(3, 3), reentrant, switch

    def forward(self, x: Tensor) -> Tensor:
        if not self.grad_checkpointing:
            return self.a(x)
        run = torch.utils.checkpoint.checkpoint
        return run(self.a, x * 1, use_reentrant=self.reentrant)


class Stubborn(Checkpointed):
    def __init__(self, reentrant: bool) -> None:
        super().__init__(reentrant)
        del self.grad_checkpointing

    grad_checkpointing = property(lambda self: True, lambda self, value: None, lambda self: None)


def test_a_checkpoint_switch_is_off_inside_and_back_after():
    net = Checkpointed(False)
    with ll.Probe(net) as p:
        assert net.grad_checkpointing is False
        p.watch("a")
        p(torch.randn(2, 3))
        assert p.backward(0)["a"].grad is not None
    assert net.grad_checkpointing is True


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_that_cannot_be_switched_off_is_refused(reentrant):
    net, x = Stubborn(reentrant), torch.randn(2, 3)
    with ll.Probe(net) as p, pytest.raises(ProbeError) as error:
        p(x)
    assert str(error.value) == (
        "a runs under saved-tensor hooks (torch.utils.checkpoint or offloading), whose "
        "recomputation the probe cannot follow; switch checkpointing off in the model, or probe "
        "with grad=False"
    )
    with ll.Probe(net, grad=False) as p:
        p.watch("a")
        assert torch.equal(p(x), net.a(x))
        assert torch.equal(p.trace["a"].act, net.a(x))


@pytest.mark.parametrize("transform", ["vmap", "grad"])
def test_functional_transforms_inside_a_forward(transform):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3)

        def forward(self, x):
            x = x * 1
            if transform == "vmap":
                return torch.vmap(lambda row: self.a(row).relu_())(x) + 1
            return torch.func.grad(lambda y: self.a(y).pow(3).sum())(x) + 1

    net, x = Net().double(), torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    plain = net(x)
    expected = torch.autograd.grad(plain[:, 0].sum(), x)[0]
    for grad in (True, False):
        with ll.Probe(net, grad=grad) as p:
            p.watch("**", ":mul.0", "input")
            assert torch.equal(p(x), plain)
            assert [str(s) for s in p.trace] == ["input", ":mul.0", "output"]
            if grad:
                torch.testing.assert_close(p.backward(0)[":mul.0"].grad, expected)


class Fails(nn.Module):
    def __init__(self, swallow: bool) -> None:
        super().__init__()
        self.swallow, self.broken, self.last = swallow, Broken(), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 1
        try:
            x = self.broken(x)
        except ValueError:
            if not self.swallow:
                raise
        return F.relu(self.last(x) + 2)


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x) + 5
        raise ValueError("no luck")


def test_an_exception_passes_through_and_all_is_restored():
    net = Fails(False).train()
    with ll.Probe(net) as p:
        p.watch("last")
        with pytest.raises(ValueError, match="no luck"):
            p(torch.randn(2, 3))
        assert p.running is None
        net.broken.forward = lambda x: x
        p(torch.randn(2, 3))
        assert "last" in p.trace
    assert net.training
    assert not net.last._forward_hooks
    assert not net.last._forward_pre_hooks


@pytest.mark.parametrize("grad", [True, False])
def test_a_swallowed_exception_shifts_no_later_name(grad):
    net, x = Fails(True), torch.randn(2, 3)
    with ll.Probe(net, grad=grad) as p:
        p.watch(":add.0", ":add.1", "broken:add.0", ":relu.0", "last")
        p(x)
        assert torch.equal(p.trace[":add.0"].act, x + 1)
        assert torch.equal(p.trace["broken:add.0"].act, x + 1 + 5)
        assert torch.equal(p.trace[":add.1"].act, net.last(x + 1) + 2)
        assert str(p.trace[":relu.0"].site) == ":relu.0"


def test_nested_probes_and_two_at_once():
    net = conv_net()
    with ll.Probe(net) as outer:
        outer.watch("0")
        outer(IMAGES)
        with ll.Probe(net) as inner:
            inner.watch("1")
            inner(IMAGES * 2)
            assert torch.equal(inner.backward(0)["1"].act, net[1](net[0](IMAGES * 2)))
            assert list(map(str, inner.trace)) == ["1"]
            outer(IMAGES * 3)
        outer.backward(1)
        assert list(map(str, outer.trace)) == ["0"]
        assert torch.equal(outer.trace["0"].act, net[0](IMAGES * 3))
        assert outer.trace["0"].grad.abs().sum() > 0


def test_a_probe_inside_a_forward():
    inner_net = conv_net()

    class Net(nn.Module):
        def forward(self, x):
            inside = ll.trace(inner_net, x.detach(), "0", target=0)["0"].grad
            return x.flatten(1)[:, :2] * inside.sum()

    with ll.Probe(Net()) as p:
        p.watch("output")
        p(IMAGES)
        assert torch.equal(p.trace["output"].act, Net()(IMAGES))


def test_leaving_out_of_order_is_an_error_and_still_restores():
    net = conv_net().train()
    first, second = ll.Probe(net), ll.Probe(net)
    first.__enter__()
    second.__enter__()
    with pytest.raises(ProbeError, match="left out of order: leave the one entered last first"):
        first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert all(m.training for m in net.modules())
    assert all(p.requires_grad for p in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    with ll.Probe(net) as p:
        p(IMAGES)


def test_entering_twice_and_using_it_outside():
    net = conv_net()
    p = ll.Probe(net)
    with pytest.raises(ProbeError, match=r"runs only inside its `with`: `with Probe\(model\) as p"):
        p(IMAGES)
    with pytest.raises(ProbeError, match="nothing has run under this probe yet; call it on an"):
        _ = p.trace
    with p:
        with pytest.raises(ProbeError, match="this probe is already open; leave its `with`"):
            p.__enter__()
        p.watch("0")
        p(IMAGES)
    with pytest.raises(ProbeError, match=r"there is no graph to differentiate: probe with grad=T"):
        p.backward(0)
    assert p.trace["0"].act.shape == (2, 4, 6, 6)
    with p:
        p(IMAGES)
        assert p.backward(0)["0"].grad is not None
    with pytest.raises(ProbeError, match=r"needs a torch.nn.Module, not function"):
        ll.Probe(lambda x: x)


def test_a_probe_does_not_run_itself():
    class Net(nn.Module):
        def forward(self, x):
            return self.probe[0](x)

    net = Net()
    with ll.Probe(net) as p:
        net.probe = [p]
        with pytest.raises(ProbeError, match="already running; it cannot run itself from inside"):
            p(IMAGES)


def test_an_address_that_matches_nothing_names_the_nearest():
    with ll.Probe(Fails(True)) as p:
        with pytest.raises(SiteError, match=r"'lasst' matched nothing in this model; did you mean"):
            p.watch("lasst")
        p.watch("last:add.7")
        with pytest.raises(SiteError, match=r"'last:add.7' matched nothing in this model"):
            p(torch.randn(2, 3))


def test_words():
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.Sequential(nn.Conv2d(4, 4, 3)))
    with ll.Probe(net) as p:
        p.watch("hidden", "input").edit({"last": ll.zero})
        p(IMAGES)
        assert [str(s) for s in p.trace] == ["input", "0", "1"]
        assert not p.trace["1"].act.any()


def test_tokens_start_at_the_embedding():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.places = nn.Embedding(9, 4), nn.Embedding(5, 4)
            self.head = nn.Linear(4, 9)

        def forward(self, ids, attention_mask=None):
            x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
            return self.head(x if attention_mask is None else x * attention_mask[..., None])

    net, ids = Net(), torch.tensor([[1, 2, 3], [4, 5, 6]])
    for kwargs in ({}, {"attention_mask": torch.ones(2, 3)}):
        with ll.Probe(net) as p:
            p.watch("input")
            p(ids, **kwargs)
            trace = p.backward(ll.token(3))
            assert torch.equal(trace["input"].act, net.words(ids))
            assert torch.equal(trace["input"].grad[:, -1], net.head.weight[3].expand(2, 4))
            assert not trace["input"].grad[:, 0].any()
        assert torch.equal(ll.trace(net, (ids,), "input")["input"].act, net.words(ids))


def test_embeddings_inside_a_picture_model_are_no_input():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.places = nn.Embedding(3, 8)

        def forward(self, x):
            return (x + self.places(torch.arange(3))[None, :, :, None]).flatten(1)

    net = Net()
    for target in (None, 0):
        trace = ll.trace(net, IMAGES, ["input", "places"], target=target)
        assert torch.equal(trace["input"].act, IMAGES)


def test_a_wildcard_for_the_port_takes_both_borders():
    trace = ll.trace(Counts(), torch.randn(2, 3), "b:*", target=0)
    assert [str(s) for s in trace] == ["b:in", "b"]


def test_run_follows_any_function_that_uses_the_model():
    net = Reused()
    with ll.Probe(net, grad=False) as p:
        p.watch("a")
        p.run(lambda x: net(net(x)), torch.randn(2, 3))
        assert [s.call for s in p.trace] == [0, 1, 2, 3]


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)
        self.ran: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        for name in "abc":
            x = getattr(self, name)(x)
            self.ran.append(name)
        return x


def test_early_stop_on_the_first_run_for_concrete_sites_only():
    net, x = Counts(), torch.randn(2, 3)
    ll.trace(net, x, ll.Site("b"))
    assert net.ran == ["a"]
    net.ran.clear()
    ll.trace(net, x, ["a@0", "b@0"])
    assert net.ran == ["a"]
    net.ran.clear()
    ll.trace(net, x, "b")
    assert net.ran == ["a", "b", "c"]
    net.ran.clear()
    ll.trace(net, x, "b@0", target=0)
    assert net.ran == ["a", "b", "c"]


def test_early_stop_from_the_second_run_on():
    net, x = Counts(), torch.randn(2, 3)
    with ll.Probe(net, grad=False) as p:
        p.watch("a", "b")
        assert p(x) is not None
        net.ran.clear()
        assert p(x + 1) is None
        assert net.ran == ["a"]
        assert torch.equal(p.trace["b"].act, net.b(net.a(x + 1)))
        p.watch("c")
        net.ran.clear()
        assert p(x) is not None
        assert net.ran == ["a", "b", "c"]


def test_the_stop_is_sticky():
    class Swallows(Counts):
        def forward(self, x):
            for name in "abc":
                try:
                    x = getattr(self, name)(x)
                    self.ran.append(name)
                except BaseException:
                    pass
            return x

    net, x = Swallows(), torch.randn(2, 3)
    with ll.Probe(net, grad=False) as p:
        p.watch("a@0")
        assert p(x) is None
        assert net.ran == []
        assert torch.equal(p.trace["a"].act, net.a(x))


def test_no_compiler_is_loaded_for_an_eager_model():
    lines = (
        "import sys, torch, limelight as ll",
        "ll.trace(torch.nn.Linear(3, 3), torch.ones(2, 3), 'input', target=1)",
        "assert 'torch._dynamo' not in sys.modules",
    )
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


@pytest.mark.parametrize("change", ["in place", "shape"])
def test_a_forward_that_was_spared_the_mode_still_says_what_is_wrong(change):
    """From the third run on no mode looks at ops; what then happens anew is not missed."""

    class Net(Counts):
        trouble = False

        def forward(self, x: Tensor) -> Tensor:
            a = self.a(x)
            first = a.clone()
            if self.trouble and change == "in place":
                a.mul_(2)
            return self.b(a), first

    net, x = Net(), torch.randn(2, 3)
    with ll.Probe(net, grad=False, whole=True) as p:
        p.watch("a", "b")
        for _ in range(3):
            p(x)
        net.trouble = True
        if change == "shape":
            x = torch.randn(4, 5, 3)
            p(x)
            assert p.trace["a"].act.shape == (4, 5, 3)
            assert p.trace["a"].axes == "b n c"
            return
        p(x)
        with pytest.raises(ProbeError, match="the value at a was overwritten where the probe"):
            _ = p.trace["a"].act
        _, first = p(x)
        assert torch.equal(p.trace["a"].act, first)


def test_calls_of_a_reused_module_are_told_apart_on_every_run():
    net, x = Reused(), torch.randn(2, 3)
    first = torch.tanh(x)
    second = torch.tanh(net.a(first))
    third = torch.tanh(net.a(second))
    with ll.Probe(net, grad=False, whole=True) as p:
        p.watch("act", "a")
        for _ in range(4):
            p(x)
            assert [str(s) for s in p.trace] == ["act", "a", "act@1", "a@1", "act@2"]
            for call, value in enumerate((first, second, third)):
                assert torch.equal(p.trace[f"act@{call}"].act, value)
