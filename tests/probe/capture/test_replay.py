"""A forward that starts in the middle gives what the whole one gives, and leaves nothing behind."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.probe.errors import ProbeError, SiteError


class Block(nn.Module):
    """Counts its runs; returns a tensor, or a tuple with something beside it."""

    def __init__(self, packed: bool) -> None:
        super().__init__()
        self.a, self.packed, self.runs = nn.Linear(3, 3), packed, 0

    def forward(self, x: Tensor, *, gain: float = 1.0) -> Any:
        self.runs += 1
        x = torch.tanh(self.a(x)) * gain + x
        return (x, {"twice": x * 2}) if self.packed else x


class Net(nn.Module):
    def __init__(self, packed: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Linear(4, 3)
        self.blocks = nn.ModuleList([Block(packed) for _ in range(4)])
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, gain=0.5)
            x = x[0] + x[1]["twice"] if isinstance(x, tuple) else x
        return self.head(x)

    def runs(self) -> list[int]:
        counts = [block.runs for block in self.blocks]
        for block in self.blocks:
            block.runs = 0
        return counts


X = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_a_run_from_a_block_equals_the_whole_run(packed, grad):
    net = Net(packed)
    with ll.Probe(net, grad=False) as p:
        p.watch("blocks.*", keep="call" if packed else "device")
        p(X)
        clean = p.trace
    expected = ll.patch(net, X, {"blocks.2": ll.scale(2.0)})
    net.runs()
    with ll.Probe(net, grad=grad, whole=True) as p:
        p.replay(clean, start="blocks.2").edit({"blocks.2": ll.scale(2.0)}).watch("blocks.*")
        assert torch.equal(p(X), expected)
        assert net.runs() == [0, 0, 1, 1]
        assert torch.equal(p.trace["blocks.1"].act, clean["blocks.1"].act)
        p.replay(None)
        assert torch.equal(p(X), expected)
        assert net.runs() == [1, 1, 1, 1]
    assert not any("forward" in vars(m) for m in net.modules())


def test_gradients_start_at_what_is_replayed():
    net = Net()
    clean = ll.trace(net, X, "blocks.*", target=1)
    with ll.Probe(net) as p:
        p.replay(clean, start="blocks.2").watch("blocks.*")
        p(X)
        trace = p.backward(1)
        assert trace.holes == []
        for site in ("blocks.1", "blocks.2", "blocks.3"):
            torch.testing.assert_close(trace[site].grad, clean[site].grad, rtol=0, atol=0)
        assert not trace["blocks.0"].grad.any()  # the score no longer depends on it


def test_answers_by_path_and_without_a_start():
    net, other = Net(), torch.ones(2, 3)
    with ll.Probe(net, grad=False) as p:
        assert torch.equal(p.replay({"blocks.3": other})(X), net.head(other))
        assert net.runs() == [1, 1, 1, 0]
        again = p.replay({"blocks.3": other}, start="head")(X)
        assert torch.equal(again, net.head(other))


def test_only_what_lies_before_the_start_answers():
    """Values of what contains the start, of the start and of later modules are left alone."""
    net = Net()
    clean = ll.trace(net, X, ["**"])
    whole = net(X)
    net.runs()
    with ll.Probe(net, grad=False) as p:
        p.replay(clean, start="blocks.2.a")
        assert torch.equal(p(X * 3), whole)
        assert net.runs() == [0, 0, 1, 1]


def test_calls_of_a_reused_module_answer_in_turn():
    class Reused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.head = Block(False), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(3):
                x = self.block(x)
            return self.head(x)

    net, x = Reused(), torch.randn(2, 3)
    with ll.Probe(net, grad=False, whole=True) as p:
        p.watch("block", keep="call")
        whole = p(x)
        clean = p.trace
        assert [n for _, n in clean.calls] == [0, 1, 2]
        net.block.runs = 0
        assert torch.equal(p.replay(clean, start="block@2")(x), whole)
        assert net.block.runs == 1
        given = clean.calls["block", 2].given
        assert torch.equal(given[0][0], clean.calls["block", 1].output)
        assert given[1] == {}


def test_held_calls_survive_ops_in_place():
    class Writes(Net):
        def forward(self, x: Tensor) -> Tensor:
            x = self.blocks[0](self.stem(x))
            x.add_(1)
            return self.head(self.blocks[1](x, gain=2.0).mul_(3))

    net = Writes()
    first = net.blocks[0](net.stem(X))
    with ll.Probe(net, grad=False) as p:
        p.watch("blocks.0", "blocks.1", keep="call")
        whole = p(X)
        clean = p.trace
        for _ in range(2):
            assert torch.equal(clean.calls["blocks.0", 0].output, first)
            assert torch.equal(clean.calls["blocks.1", 0].given[0][0], first + 1)
            assert clean.calls["blocks.1", 0].given[1] == {"gain": 2.0}
            assert torch.equal(p.replay(clean, start="blocks.1")(X), whole)


def test_what_cannot_be_replayed_is_said():
    net = Net(packed=True)
    clean = ll.trace(net, X, "blocks.*")
    with ll.Probe(net, grad=False) as p:
        with pytest.raises(ProbeError) as error:
            p.replay(clean, start="blocks.2")
        assert str(error.value) == (
            "'blocks.0' returned more than the one tensor that this trace holds of it; watch it "
            "with keep='call' to replay it"
        )
        with pytest.raises(SiteError, match=r"no module is called 'block.2'; did you mean"):
            p.replay({}, start="block.2")
        with pytest.raises(SiteError, match=r"'blocks\.2:in' is a part of one"):
            p.replay({}, start="blocks.2:in")
        with pytest.raises(SiteError, match="keep='call' holds whole calls of modules, and"):
            p.watch("blocks.2:in", keep="call")
        p.replay({"blocks.0": torch.ones(2, 3)}, start="blocks.1@1")
        with pytest.raises(ProbeError) as error:
            p(X)
        assert str(error.value) == (
            "this forward was to start at 'blocks.1' (call 1), but it never came there"
        )
    assert not any("forward" in vars(m) for m in net.modules())


def test_an_error_inside_a_replay_restores_and_keeps_a_forward_of_its_own():
    net = Net()
    net.blocks[0].forward = mine = copy.copy(net.blocks[0].forward)

    def fails(value: Tensor, site: ll.Site) -> Tensor:
        raise ValueError("no luck")

    with ll.Probe(net, grad=False) as p:
        p.replay({"blocks.0": torch.ones(2, 3)}, start="blocks.2").edit({"head": fails})
        with pytest.raises(ValueError, match="no luck"):
            p(X)
        assert vars(net.blocks[0])["forward"] is mine
        assert "forward" not in vars(net.blocks[2])


def test_another_thread_computes_as_ever():
    class Asks(Net):
        def forward(self, x: Tensor) -> Tensor:
            plain: list[Tensor] = []
            thread = threading.Thread(target=lambda: plain.append(self.blocks[0](self.stem(x))))
            thread.start()
            thread.join()
            return self.blocks[0](self.stem(x)) - plain[0]

    net, answer = Asks(), torch.ones(2, 3)
    with ll.Probe(net, grad=False) as p:
        difference = p.replay({"blocks.0": answer})(X)
    assert torch.equal(difference, answer - net.blocks[0](net.stem(X)))


def test_a_replay_outlives_a_change_of_modules():
    net = Net()
    p = ll.Probe(net, grad=False).replay({"blocks.3": torch.ones(2, 3)})
    net.extra = nn.Identity()
    with p:
        assert torch.equal(p(X), net.head(torch.ones(2, 3)))
