"""Traces: values by address, parts of them, and values that went stale."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import limelight as ll
from limelight.probe.errors import ProbeError, SiteError


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))


X = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def test_lookup_wildcards_and_order():
    trace = ll.trace(net(), X, ["3", "*", "input"], target=1)
    assert [str(s) for s in trace] == ["input", "0", "1", "2", "3"]
    assert len(trace) == 5
    assert "1" in trace
    assert "7" not in trace
    assert [str(s) for s in trace.where("?")] == ["0", "1", "2", "3"]
    assert trace[ll.Site("1")] is trace["1"]
    with pytest.raises(SiteError, match="'seven' matched nothing in this model"):
        trace["seven"]
    with pytest.raises(SiteError, match=r"'seven.[*]' matched nothing in this model"):
        trace.where("seven.*")
    text = str(trace)
    assert "0  b c y x  (2, 3, 2, 2)" in text


def test_one_channel_of_a_value():
    trace = ll.trace(net(), X, ["0", "2"], target=1)
    part = trace["0:out[2]"]
    assert torch.equal(part.act, trace["0"].act[:, 2])
    assert torch.equal(part.grad, trace["0"].grad[:, 2])
    assert str(part.site) == "0:out[2]"
    assert torch.equal(trace.where("0[1]")[ll.Site("0", index=1)].act, trace["0"].act[:, 1])
    with pytest.raises(SiteError, match=r"0:out\[9\] was asked, but 0 has 3 of them"):
        trace["0[9]"]


def test_gradients_are_none_before_a_backward():
    trace = ll.trace(net(), X, "0")
    assert trace["0"].grad is None
    assert trace["0[1]"].grad is None


def test_captures_are_detached_and_kept_on_the_cpu_when_asked():
    trace = ll.trace(net(), X, "0", target=1, keep="cpu")
    assert not trace["0"].act.requires_grad
    assert not trace["0"].grad.requires_grad
    assert trace["0"].act.device.type == "cpu"


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_a_value_overwritten_unseen_is_refused():
    def write(x: torch.Tensor) -> torch.Tensor:
        return x.mul_(2)

    script = torch.jit.script(write)
    model = net()
    model[1].forward = lambda x: script(x)
    trace = ll.trace(model, X, "0")
    with pytest.raises(ProbeError) as error:
        _ = trace["0"].act
    assert str(error.value) == (
        "the value at 0 was overwritten where the probe cannot see (a script or another thread); "
        "watch an earlier site, or rewrite that in-place operation"
    )


def test_a_trace_keeps_what_a_wildcard_leaves_out():
    trace = ll.trace(net(), X, "*", edits={"1": ll.zero})
    part = trace.where("0")
    assert len(part) == 1
    assert part.edits is trace.edits
    assert [(str(s), n) for s, n in part.edits] == [("1", "zero")]


def test_a_part_of_what_a_word_means_need_not_run() -> None:
    """Layers of a branch that a forward does not take; a site by name must be there."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.taken, self.spare = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.taken(x).mean((2, 3))

    net, x = Branches(), torch.randn(1, 3, 4, 4)
    hidden = ll.Adapter("branches", hidden=("taken", "spare"), heads=(), final=(), labels=())
    with ll.Probe(net, adapter=hidden) as probe:
        probe.watch("hidden")(x)
        assert [str(site) for site in probe.trace] == ["taken"]
    with pytest.raises(SiteError, match="site 'spare' matched nothing"):
        ll.trace(net, x, ["taken", "spare"])
    nothing = ll.Adapter("branches", hidden=("spare",), heads=(), final=(), labels=())
    with pytest.raises(SiteError, match="matched nothing"), ll.Probe(net, adapter=nothing) as probe:
        probe.watch("hidden")(x)
