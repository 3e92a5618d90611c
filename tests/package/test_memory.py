"""Memory over many runs with the garbage collector off; what an output and a trace hold."""

from __future__ import annotations

import gc
import weakref
from contextlib import suppress

import psutil
import torch
from torch import nn

import limelight as ll


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True)
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.act(self.conv(x)).flatten(2).transpose(1, 2)
        return self.head((x + self.attn(x, x, x, need_weights=False)[0]).mean(1))


def live_tensors() -> int:
    return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())


def step(net: nn.Module, x: torch.Tensor) -> None:
    with ll.Probe(net) as p:
        p.watch("**", "attn:*", "input").edit({"conv": ll.scale(1.0), "attn:heads.1": ll.zero})
        out = p(x)
        p.backward(1, regime="guided")
        p.maps(["gradcam", "normgrad"], target=2, sites="conv")
        assert p.trace["attn:map"].act.shape == (2, 2, 36, 36)
        del out
    ll.trace(net, x, ["conv@0"])
    ll.maps(net, x, ["gradcam"], sites="conv", target=1)
    with suppress(ZeroDivisionError):
        ll.trace(net, x, "attn", edits={"conv": lambda v, s: 1 / 0})


def test_two_hundred_runs_leave_nothing_behind():
    net, x = Attends().eval(), torch.randn(2, 3, 8, 8)
    process = psutil.Process()
    for _ in range(20):
        step(net, x)
    gc.collect()
    gc.disable()
    try:
        tensors, memory = live_tensors(), process.memory_info().rss
        for _ in range(200):
            step(net, x)
        grown = process.memory_info().rss - memory
        assert live_tensors() == tensors
        assert grown < 12 << 20, f"{grown >> 20} MiB"
    finally:
        gc.enable()


class Watched(torch.autograd.Function):
    """An op that saves an object whose life can be followed."""

    @staticmethod
    def forward(ctx, x, saved):
        ctx.saved = saved
        return x * 1

    @staticmethod
    def backward(ctx, grad):
        return grad, None


class Saved:
    pass


def test_the_graph_is_dropped_on_leaving_and_on_the_next_run():
    seen: list[weakref.ref] = []

    def forward(x):
        saved = Saved()
        seen.append(weakref.ref(saved))
        return Watched.apply(x, saved).sum((2, 3))

    net, x = nn.Module(), torch.randn(2, 3, 8, 8)
    net.forward = forward
    gc.disable()
    try:
        with ll.Probe(net) as p:
            p.watch("output", "input")
            p(x)
            assert seen[0]() is not None
            p.backward(1)
            p(x)
            assert seen[0]() is None
            assert seen[1]() is not None
        assert seen[1]() is None
        assert p.trace.output.grad_fn is None
        assert p.trace["output"].act.shape == (2, 3)
    finally:
        gc.enable()


def test_an_output_holds_no_captures_and_a_trace_holds_no_graph():
    net, x = Attends().eval(), torch.randn(2, 3, 8, 8)
    gc.disable()
    try:
        with ll.Probe(net) as p:
            p.watch("conv", "attn:*")
            out = p(x)
            seen = weakref.ref(p.trace["conv"]._act)
            trace = weakref.ref(p.trace)
        assert seen() is not None
        del p
        assert seen() is None
        assert trace() is None
        assert out.shape == (2, 4)
    finally:
        gc.enable()
