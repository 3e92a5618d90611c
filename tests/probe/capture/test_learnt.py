"""A forward like one that was seen is believed to go the same way, and checked for it."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.probe.capture import forward
from limelight.probe.errors import ProbeError
from limelight.probe.sites.module_tree import ModuleTree, tree_of


class Turning(nn.Module):
    """A network that may go several ways."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.body = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 5)
        self.inplace = False
        self.long = False
        self.by_data = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = x.relu_() if self.inplace else x.relu()
        if self.long or (self.by_data and float(y.detach().sum()) > 0):
            y = self.body(y).sigmoid()
        return self.head(y.mean((2, 3)))


@pytest.fixture
def net() -> Turning:
    torch.manual_seed(0)
    return Turning()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def plain(net: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    out = net(x)
    return torch.autograd.grad(out[:, 3].sum(), x)[0].abs().amax(1)


def ours(net: nn.Module, x: Tensor, *methods: object, sites: object = None) -> list[Tensor]:
    found = ll.maps(net, x, list(methods or ["gradient"]), target=3, sites=sites)
    return [m.values for m in found]


def count_modes(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    made: list[object] = []

    class Counted(forward.OpMode):
        def __init__(self, *args: object) -> None:
            made.append(self)
            super().__init__(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(forward, "OpMode", Counted)
    return made


def test_ops_are_seen_once_for_gradients_at_borders(net, x, monkeypatch):
    made = count_modes(monkeypatch)
    first, second = (ours(net, x, "gradcam", "gradient", sites=["stem", "input"]) for _ in range(2))
    assert all(map(torch.equal, first, second))
    assert len(made) == 1
    torch.testing.assert_close(torch.stack(ours(net, x)), plain(net, x))
    assert len(made) == 2  # other sites are another forward
    ours(net, x[:1])
    assert len(made) == 3  # and so are other sizes
    ours(net, x, "guided_backprop")
    ours(net, x, "lrp")
    ours(net, x, "gradcam", sites="stem:conv2d.0")
    assert len(made) == 6  # what needs ops sees them


@pytest.mark.parametrize("turn", ["long", "inplace"])
def test_a_network_that_was_switched_is_seen_anew(net, x, turn):
    for switched in (False, False, True, True, False):
        setattr(net, turn, switched)
        found = ours(net, x, "input_x_gradient", sites="stem")[0]
        fresh = Turning()
        fresh.load_state_dict(net.state_dict())
        setattr(fresh, turn, switched)
        assert torch.equal(found, ours(fresh, x, "input_x_gradient", sites="stem")[0])
        torch.testing.assert_close(torch.stack(ours(net, x)), plain(net, x))


def test_a_way_that_depends_on_the_data_is_told_by_its_length(net, x):
    net.by_data = True
    with torch.no_grad():
        net.stem.weight.zero_()
    bright, dark = torch.ones(2, 3, 6, 6), torch.ones(2, 3, 6, 6)
    for value in (1.0, 1.0, -1.0, 1.0, -1.0):
        with torch.no_grad():
            net.stem.bias.fill_(value)
            net.stem.weight.fill_(0.01 * value)
        given = bright if value > 0 else dark
        torch.testing.assert_close(torch.stack(ours(net, given)), plain(net, given))


def test_a_value_that_is_written_over_is_always_seen(net, x, monkeypatch):
    net.inplace = True
    made = count_modes(monkeypatch)
    first, second = (ours(net, x, "input_x_gradient", sites="stem") for _ in range(2))
    assert all(map(torch.equal, first, second))
    assert len(made) == 2
    net.inplace = False
    assert all(map(torch.equal, first, ours(net, x, "input_x_gradient", sites="stem")))


def test_what_was_unseen_is_said_again(x):
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            return 2 * grad

    class Own(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return Doubled.apply(super().forward(x))

    net = Turning()
    net.stem = Own(3, 4, 3, padding=1)
    notes = [ll.maps(net, x, "gradient", target=3)[0].about.notes for _ in range(2)]
    assert notes[0] == notes[1]
    assert any("DoubledBackward" in note for note in notes[1])


def test_layouts_are_remembered_with_the_sizes_they_were_read_for(net, x):
    for size in (6, 6, 8, 8):
        given = x.new_ones(2, 3, size, size + 2)
        found = ll.maps(net, given, ["gradcam", "occlusion"], sites=["stem"], target=3)
        assert {(m.axes, *m.values.shape) for m in found} == {("y x", size, size + 2)}


def test_a_probe_without_ops_refuses_what_needs_them(net, x):
    with ll.Probe(net, ops=False) as probe:
        probe.watch("stem")
        for _ in range(2):
            probe(x)
            with pytest.raises(ProbeError, match="changes ops: open the probe with ops=True"):
                probe.backward(3, regime="guided")
            assert probe.backward(3)["stem"].grad is not None


def test_trees_are_equal_until_a_module_changes(net):
    before = tree_of(net)
    assert before == ModuleTree(net)
    assert before.known("fact", lambda: 1) == tree_of(net).known("fact", lambda: 2) == 1
    net.body = nn.Conv2d(4, 4, 3, padding=1)
    assert before != tree_of(net)
    assert tree_of(net).known("fact", lambda: 3) == 3


def test_new_parts_are_found(net, x):
    net.long = True
    assert len(ll.maps(net, x, "gradcam", sites="hidden", target=3)) == 4
    net.body = nn.Sequential(net.body, nn.Conv2d(4, 4, 1))
    assert len(ll.maps(net, x, "gradcam", sites="hidden", target=3)) == 6
    net.head = nn.Linear(4, 9)
    assert len(ll.maps(net, x, "gradient", target=8)) == 2


def test_what_is_remembered_keeps_no_model_alive(x):
    net = Turning()
    ours(net, x)
    ours(net, x)
    gone = weakref.ref(net), weakref.ref(net.stem)
    del net
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


class Laid(nn.Module):
    """Channels where the model says, in a value as long in all its directions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.seen = nn.Conv2d(3, 6, 3, padding=1), nn.Identity()
        self.order = (0, 1, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        back = sorted(range(4), key=self.order.__getitem__)
        return self.seen(self.stem(x).permute(self.order)).permute(back).mean((2, 3))


def test_axes_are_those_of_the_forward_that_ran(x):
    torch.manual_seed(0)
    net = Laid()
    first = ours(net, x, "gradcam", sites="seen")
    for order in ((0, 1, 2, 3), (0, 2, 3, 1), (0, 2, 3, 1), (0, 1, 2, 3)):
        net.order = order
        found = ours(net, x, "gradcam", sites="seen")
        assert all(map(torch.equal, found, first)), order


def test_a_module_under_another_name_is_another_tree(net, x):
    ours(net, x, "gradcam", sites="head")
    net.end = net.head
    del net.head
    assert dict(tree_of(net).paths()).keys() == {"", "stem", "body", "end"}
    net.head = net.end
    assert {"head", "end"} <= dict(tree_of(net).paths()).keys()


def test_the_callers_tensor_stays_as_it_was(net, x):
    ll.maps(net, x, ["gradient", "smoothgrad,n=2", "lrp"], target=3)
    ll.trace(net, x, "stem", target=3)
    assert not x.requires_grad
    assert x.grad_fn is None
    assert x.grad is None


def test_a_forward_that_overwrites_what_is_watched_is_not_tried_with_its_ops_unseen(net, x):
    net.inplace, runs = True, []
    net.register_forward_hook(lambda *_: runs.append(1))
    first = ours(net, x, "normgrad", sites="stem")[0]
    before = len(runs)
    assert torch.equal(ours(net, x, "normgrad", sites="stem")[0], first)
    assert len(runs) == before + 1
