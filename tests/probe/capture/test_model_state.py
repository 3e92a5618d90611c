"""A model is exactly as it was after a probe: hooks, flags, gradients, modes, weights."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

import limelight as ll
from limelight import probe
from limelight.probe.capture.model_state import run_eagerly
from limelight.probe.capture.undo import Undo
from limelight.probe.errors import ProbeError, SiteError


def make_net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(144, 5),
    )  # fmt: skip


def snapshot(net: nn.Module) -> dict[str, Any]:
    hooks = {
        f"{name}.{kind}": dict(getattr(module, kind))
        for name, module in net.named_modules()
        for kind in vars(module)
        if kind.endswith(("_hooks", "with_kwargs", "always_called"))
    }
    flags = {
        f"{n}.{k}": v
        for n, m in net.named_modules()
        for k, v in vars(m).items()
        if isinstance(v, bool)
    }
    tensors = dict(net.state_dict())
    return {
        **hooks,
        **flags,
        **{n: (t.clone(), t._version) for n, t in tensors.items()},
        **{f"{n} requires": p.requires_grad for n, p in net.named_parameters()},
        **{f"{n} grad": p.grad for n, p in net.named_parameters()},
    }


def assert_same(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert old.keys() == new.keys()
    for key, value in old.items():
        if isinstance(value, tuple):
            assert torch.equal(value[0], new[key][0]), key
            assert value[1] == new[key][1], key
        elif isinstance(value, torch.Tensor):
            assert value is new[key], key
        else:
            assert value == new[key], key


class TroubleError(Exception):
    pass


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_everything_is_put_back(grad, fails):
    net, x, fired = make_net().train(), torch.randn(2, 3, 8, 8), []
    net[1].eval()
    net[0].bias.requires_grad_(False)
    net.memory_efficient = net[2].use_checkpoint = True
    net(x).sum().backward()
    kept = net[0].weight.grad
    net[0].register_forward_pre_hook(lambda *a: fired.append("pre"))
    net[0].register_forward_hook(lambda *a: fired.append("post"))
    net[4].register_full_backward_hook(lambda *a: fired.append("back"))
    before = snapshot(net)

    def raise_(value, site):
        raise TroubleError

    def probe() -> None:
        with ll.Probe(net, grad=grad) as p:
            p.watch("**").edit({"3": raise_ if fails else ll.scale(1.0)})
            assert not net.training
            assert not net[3].training
            p(x)
            if grad:
                p.backward(1)
                assert fired == ["pre", "post", "back"]

    if fails:
        with pytest.raises(TroubleError):
            probe()
    else:
        probe()
    assert fired[:2] == ["pre", "post"]
    assert_same(before, snapshot(net))
    assert net[0].weight.grad is kept
    assert not net[1].training
    assert net[2].use_checkpoint is True
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_train_mode_is_kept_when_asked():
    net, x = make_net().train(), torch.randn(2, 3, 8, 8)
    with ll.Probe(net, evaluate=False) as p:
        p.watch("3")
        p(x)
        assert net[3].training
        assert (p.trace["3"].act == 0).float().mean() > 0.4


def test_hooks_that_change_values_are_seen_with_their_change():
    net, x = make_net().eval(), torch.randn(2, 3, 8, 8)
    net[0].register_forward_hook(lambda m, a, y: y * 0)
    trace = ll.trace(net, x, "0", target=1)
    assert not trace["0"].act.any()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modes_around_everything(mode):
    net = make_net().eval()
    expected = ll.trace(net, torch.ones(2, 3, 8, 8), "*", target=1)
    with mode():
        x = torch.ones(2, 3, 8, 8)
        trace = ll.trace(net, x, "*", target=1)
        kept = ll.trace(net, x, "*")
        found = ll.maps(net, x, "gradcam", sites="0", target=1)
        assert not torch.is_grad_enabled()
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
    for site, value in expected.items():
        assert torch.equal(value.grad, trace[site].grad)
        assert torch.equal(value.act, kept[site].act)
        assert not kept[site].act.is_inference()
    assert len(found) == 2


def test_inference_mode_with_ids_and_in_place_inputs():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(9, 4)

        def forward(self, ids, bias):
            bias += 1
            return self.words(ids).sum(1) + bias

    net = Net()
    with torch.inference_mode():
        given = (torch.tensor([[1, 2]]), torch.zeros(1, 4))
        assert ll.trace(net, given, "words", target=0)["words"].grad is not None
        assert ll.trace(net, given, "words")["words"].act.shape == (1, 2, 4)


def test_weights_made_in_inference_mode_are_refused():
    with torch.inference_mode():
        net = make_net().eval()
    with pytest.raises(ProbeError) as error, ll.Probe(net):
        pass
    assert str(error.value) == (
        "weight '0.weight' was made in torch.inference_mode() and can take part in no gradient; "
        "build or load the model outside it, or probe with grad=False"
    )
    assert ll.trace(net, torch.randn(1, 3, 8, 8), "0")["0"].act.shape == (1, 4, 6, 6)
    with ll.Probe(make_net()):
        pass


def test_an_error_while_opening_restores_as_well():
    net = make_net().train()
    with torch.inference_mode():
        net.register_buffer("late", torch.ones(1))
    before = [p.requires_grad for p in net.parameters()]
    with pytest.raises(ProbeError, match="'late' was made"), ll.Probe(net):
        pass
    assert net.training
    assert [p.requires_grad for p in net.parameters()] == before


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_a_scripted_part_keeps_its_mode():
    script = torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).train())
    net = nn.Sequential(script, nn.Linear(3, 2)).train()
    with ll.Probe(net) as p:
        p.watch("1")
        p(torch.randn(2, 3))
        assert not net[0].training
        with pytest.raises(SiteError, match="'0' matched nothing in this model"):
            p.watch("0")
    assert net[0].training
    assert all(m.training for m in net.modules())


SWITCHES = (
    "grad_checkpointing",
    "gradient_checkpointing",
    "memory_efficient",
    "use_checkpoint",
    "with_cp",
)


class Switched(nn.Module):
    """Checkpoints a part where a switch of any of the usual names says so."""

    def __init__(self, switch: str) -> None:
        super().__init__()
        self.part, self.switch = nn.Linear(3, 3), switch
        setattr(self, switch, True)

    def forward(self, x: Tensor) -> Tensor:
        if getattr(self, self.switch):
            return torch.utils.checkpoint.checkpoint(self.part, x * 1, use_reentrant=False)
        return self.part(x)


@pytest.mark.parametrize("switch", SWITCHES)
def test_every_usual_checkpoint_switch_is_off_inside(switch):
    net, x = Switched(switch), torch.randn(2, 3)
    with ll.Probe(net) as p:
        p.watch("part")
        p(x)
        assert getattr(net, switch) is False
        assert torch.equal(p.backward(0)["part"].grad[:, 0], torch.ones(2))
    assert getattr(net, switch) is True


PROBE = str(Path(probe.__file__).parent)  # a clone's folder may have any name


class Interrupts:
    """Raises KeyboardInterrupt at the n-th line that the probe's own files run."""

    def __init__(self, at: int) -> None:
        self.at, self.lines = at, 0

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PROBE):
            return None
        return self.line

    def line(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line" and not self.leaves_a_lock(frame):
            self.lines += 1
            if self.lines == self.at:
                raise KeyboardInterrupt
        return self.line

    @staticmethod
    def leaves_a_lock(frame: FrameType) -> bool:
        """Python takes and leaves a lock in C, where no signal is heard but a trace is called."""
        return linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip() == "with _lock:"


def interrupted(work: Callable[[], object], at: int) -> bool:
    """Whether `work` was interrupted at its n-th line, and not over before."""
    before = sys.gettrace()
    sys.settrace(Interrupts(at))
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("moment", ["entering", "registering", "leaving"])
def test_an_interrupt_at_any_line_of_entering_or_leaving_restores_as_well(moment, grad):
    net, x = make_net().train(), torch.randn(2, 3, 8, 8)
    net[1].eval()
    net[2].use_checkpoint = True
    before = snapshot(net)
    first = 2 if moment == "leaving" else 1  # Python itself may be stopped on its way into leaving
    for at in range(first, 10_000):
        p = ll.Probe(net, grad=grad).watch("**")
        if moment == "entering":
            stopped = interrupted(p.__enter__, at)
        elif moment == "registering":
            with p:
                stopped = interrupted(lambda p=p: p.capture.begin(p.model, (x,), {}), at)
        else:
            p.__enter__()
            p(x)
            stopped = interrupted(lambda p=p: p.__exit__(None, None, None), at)
        if not stopped:
            p._close()  # nothing interrupted its entering
            break
        assert_same(before, snapshot(net))
        with p:  # and it can be used again
            p(x)
        assert_same(before, snapshot(net))
    assert at > 50


def test_a_step_that_cannot_be_undone_does_not_keep_others_from_it():
    undo, done = Undo(), []

    def broken() -> None:
        raise TroubleError

    undo.note(done.append, "first")
    undo.note(broken)
    undo.note(done.append, "last")
    with pytest.raises(TroubleError), undo:
        pass
    assert done == ["last", "first"]


@pytest.mark.parametrize("tokens", [False, True])
def test_inputs_die_with_the_run_though_the_probe_lives_on(tokens):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(9, 4)

        def forward(self, x: Tensor) -> Tensor:
            return (self.words(x) if tokens else x * 2).sum(1)

    net = Net()
    x = torch.ones(2, 4, dtype=torch.long) if tokens else torch.ones(2, 4)
    with ll.Probe(net) as p:
        p.watch("output")
        seen: list[StorageWeakRef] = []

        def look(module: nn.Module, given: Any, words: Tensor) -> None:
            seen.append(StorageWeakRef(words.untyped_storage()))

        net.words.register_forward_hook(look)
        p(x)
        p.backward(lambda y: y.flatten().sum()[None].expand(2))
        seen.append(StorageWeakRef(x.untyped_storage()))
    del x
    assert p.trace["output"].act.shape[0] == 2
    assert [ref.expired() for ref in seen] == [True] * (1 + tokens)


def test_forwards_that_end_in_any_order_leave_compiled_code_compiled() -> None:
    """Two threads may leave in the order in which they came."""
    torch.compiler.reset()
    runs: list[int] = []

    def backend(graph: Any, _inputs: Any) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            runs.append(1)
            return graph.forward(*args)

        return call

    compiled, x = torch.compile(lambda t: t * 2, backend=backend), torch.ones(2)
    first, second = Undo(), Undo()
    run_eagerly(first)
    run_eagerly(second)
    first.close()
    compiled(x)
    assert runs == []
    second.close()
    compiled(x)
    assert runs == [1]
