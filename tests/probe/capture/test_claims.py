"""Threads and tasks: two models side by side, one model one at a time, and nothing else changes."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.probe.capture import exclusive
from limelight.probe.capture.claims import _held
from limelight.probe.errors import ProbeError

REFUSED = (
    "this model is being probed by thread 'other'; a probe changes the model while it is open "
    "(eval mode, frozen weights, hooks), so two threads cannot probe it at once: leave that probe "
    "first, give each thread a copy of the model, or call limelight.maps, trace or patch, which "
    "wait"
)
CALLS = 200


def make_net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ).train()


@pytest.fixture(autouse=True)
def often_switched() -> Iterator[None]:
    """Threads take turns every few bytecodes; afterwards no claim is left."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)
    assert not _held


def inputs(number: int) -> Tensor:
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(number))


def saliency(net: nn.Module, x: Tensor) -> Tensor:
    """Maps, a gradient and a patched output of one input, as one tensor."""
    maps = ll.maps(net, x, ["gradcam", "gradient"], sites="0", target=1)
    slope = ll.trace(net, x, "2", target=2)["2"].grad
    patched = ll.patch(net, x, {"0": ll.zero}, target=0)
    return torch.cat([*(m.values.flatten() for m in maps), slope.flatten(), patched])


def by_hand(net: nn.Module, x: Tensor) -> Tensor:
    with ll.Probe(net) as p:
        p.watch("0", "2")
        p(x)
        trace = p.backward(1)
        return torch.cat([trace["0"].grad.flatten(), trace["2"].act.flatten()])


def in_threads(calls: list[Callable[[], Tensor]], threads: int) -> list[Tensor]:
    with ThreadPoolExecutor(threads) as pool:
        return [job.result(60) for job in [pool.submit(call) for call in calls]]


@pytest.mark.parametrize("work", [saliency, by_hand])
def test_two_models_in_two_threads_equal_one_after_the_other(work):
    nets = [make_net(0), make_net(1)]
    count = CALLS if work is by_hand else CALLS // 4
    expected = [[work(net, inputs(i)) for i in range(count)] for net in nets]

    def walk(number: int) -> list[Tensor]:
        return [work(nets[number], inputs(i)) for i in range(count)]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(walk, range(2)))
    for old, new in zip(chain(*expected), chain(*found), strict=True):
        assert torch.equal(old, new)


def test_three_threads_on_one_model_wait_for_one_another():
    net = make_net()
    before = copy.deepcopy(net.state_dict())
    expected = [saliency(net, inputs(i % 5)) for i in range(5)]
    calls = [lambda i=i: saliency(net, inputs(i % 5)) for i in range(CALLS // 3)]
    found = in_threads(calls, 3)
    for i, new in enumerate(found):
        assert torch.equal(new, expected[i % 5])
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(m.training for m in net.modules())
    assert all(p.requires_grad for p in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_asyncio_to_thread():
    nets, expected = [make_net(0), make_net(1)], {}
    for number, net in enumerate(nets):
        for i in range(3):
            expected[number, i] = saliency(net, inputs(i))

    async def main() -> list[Tensor]:
        jobs = [asyncio.to_thread(saliency, nets[n % 2], inputs(n % 3)) for n in range(CALLS // 4)]
        return await asyncio.gather(*jobs)

    for n, new in enumerate(asyncio.run(main())):
        assert torch.equal(new, expected[n % 2, n % 3])


def test_tasks_that_interleave_may_probe_different_models():
    nets = [make_net(0), make_net(1)]
    expected = [by_hand(net, inputs(0)) for net in nets]

    async def walk(net: nn.Module, turns: int) -> Tensor:
        with ll.Probe(net) as p:
            p.watch("0", "2")
            await asyncio.sleep(0)
            p(inputs(0))
            for _ in range(turns):
                await asyncio.sleep(0)
            trace = p.backward(1)
            return torch.cat([trace["0"].grad.flatten(), trace["2"].act.flatten()])

    async def main() -> list[Tensor]:
        return await asyncio.gather(walk(nets[0], 1), walk(nets[1], 4), walk(make_net(2), 2))

    for old, new in zip(expected, asyncio.run(main()), strict=False):
        assert torch.equal(old, new)


def test_tasks_that_interleave_on_one_model_are_refused():
    net = make_net()

    async def outer(go: asyncio.Event, done: asyncio.Event) -> None:
        with ll.Probe(net) as p:
            go.set()
            await done.wait()
            with ll.Probe(net):  # its own nested probe is allowed
                p(inputs(0))

    async def main() -> None:
        go, done = asyncio.Event(), asyncio.Event()
        another = r"probed by another task of this thread; .* so two tasks cannot"
        first = asyncio.create_task(outer(go, done))
        await go.wait()
        with pytest.raises(ProbeError, match=another):
            ll.Probe(net).__enter__()
        with pytest.raises(ProbeError, match=another):
            ll.trace(net, inputs(0), "0")
        done.set()
        await first
        ll.trace(net, inputs(0), "0")

    asyncio.run(main())
    assert all(m.training for m in net.modules())


def test_tasks_started_inside_a_probe_do_not_see_each_others_claims():
    net = make_net()

    async def nested(turns: int) -> str:
        try:
            with ll.Probe(net) as p:
                for _ in range(turns):
                    await asyncio.sleep(0)
                p(inputs(0))
        except ProbeError as error:
            return str(error)
        return ""

    async def main() -> list[str]:
        with ll.Probe(net):
            return await asyncio.gather(nested(3), nested(1))

    first, second = asyncio.run(main())
    assert first == ""
    assert "probed by another task of this thread" in second


class Other:
    """A thread that keeps a probe open until told."""

    def __init__(self, net: nn.Module) -> None:
        self.net, self.open, self.leave = net, threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run, name="other", daemon=True)

    def _run(self) -> None:
        with ll.Probe(self.net):
            self.open.set()
            self.leave.wait(30)

    def __enter__(self) -> Other:
        self.thread.start()
        assert self.open.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self.leave.set()
        self.thread.join(30)


def test_a_probe_on_a_model_that_another_thread_probes_is_refused():
    net = make_net()
    with Other(net) as other:
        for part in (net, net[0], nn.Sequential(net, nn.Identity())):
            probe = ll.Probe(part)
            with pytest.raises(ProbeError) as error, probe:
                pass
            assert str(error.value) == REFUSED
        other.leave.set()
        other.thread.join(30)
        with probe:
            probe(inputs(0))
    assert all(m.training for m in net.modules())


def test_calls_wait_until_the_other_probe_is_left():
    net = make_net()
    expected = ll.trace(net, inputs(0), "2")["2"].act
    with Other(net) as other, ThreadPoolExecutor(1) as pool:
        job = pool.submit(ll.trace, net, inputs(0), "2")
        with pytest.raises(TimeoutError):
            job.result(0.2)
        other.leave.set()
        assert torch.equal(job.result(30)["2"].act, expected)


def test_a_long_wait_says_what_it_waits_for(monkeypatch):
    monkeypatch.setattr("limelight.probe.capture.claims._PATIENCE", 0.05)
    net = make_net()
    with Other(net) as other:
        threading.Timer(0.3, other.leave.set).start()
        with pytest.warns(UserWarning, match="waiting for thread 'other', which is probing the"):
            ll.trace(net, inputs(0), "2")


def test_a_wait_that_could_never_end_is_refused():
    net, second = make_net(), make_net(1)

    async def inside() -> None:
        with ll.Probe(net), pytest.raises(ProbeError, match="waiting for it could never end"):
            await asyncio.to_thread(ll.trace, net, inputs(0), "2")

    asyncio.run(inside())
    mine, theirs = threading.Event(), threading.Event()
    errors: list[str] = []

    def cross(first: nn.Module, other: nn.Module, set_: threading.Event, wait: threading.Event):
        try:
            with exclusive(first):
                set_.set()
                assert wait.wait(30)
                ll.trace(other, inputs(0), "2")
        except ProbeError as error:
            errors.append(str(error))

    threads = [
        threading.Thread(target=cross, args=(net, second, mine, theirs)),
        threading.Thread(target=cross, args=(second, net, theirs, mine)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert len(errors) == 1
    assert "waiting for it could never end" in errors[0]


def test_nested_calls_of_one_thread_do_not_wait_for_themselves():
    net = make_net()
    with ll.Probe(net) as p:
        p.watch("0")
        p(inputs(0))
        assert torch.equal(ll.trace(net, inputs(0), "0")["0"].act, p.trace["0"].act)


def test_different_models_may_be_left_in_any_order():
    first, second = ll.Probe(make_net(0)), ll.Probe(make_net(1))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert all(m.training for p in (first, second) for m in p.model.modules())


def test_one_probe_is_not_run_by_two_threads_at_once():
    class Slow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            inside.set()
            assert go_on.wait(30)
            return x + 1

    inside, go_on = threading.Event(), threading.Event()
    with ll.Probe(Slow()) as p, ThreadPoolExecutor(1) as pool:
        job = pool.submit(p, torch.ones(1, 2))
        assert inside.wait(30)
        with pytest.raises(ProbeError, match="already running"):
            p(torch.ones(1, 2))
        go_on.set()
        assert torch.equal(job.result(30), torch.full((1, 2), 2.0))


@pytest.mark.parametrize("copied", [copy.deepcopy, pickle.dumps])
@pytest.mark.parametrize("run", [False, True])
@pytest.mark.parametrize("part", [lambda net: net, lambda net: net[0]])
def test_a_model_is_not_copied_inside_a_probe(copied, run, part):
    net = make_net()
    before = [vars(module).keys() for module in net.modules()]
    with ll.Probe(net) as p:
        if run:
            p.watch("0")
            p(inputs(0))
        with pytest.raises(ProbeError) as error:
            copied(part(net))
    assert str(error.value) == (
        "this model cannot be copied or pickled inside a probe: the copy would keep frozen "
        "weights, eval mode and the probe's hooks; leave the `with` first, then copy it"
    )
    assert [vars(module).keys() for module in net.modules()] == before
    copied(part(net))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_process_does_not_wait_for_threads_it_lacks():
    net = make_net()
    with Other(net):
        pid = os.fork()
        if pid == 0:
            try:
                with ll.Probe(net, evaluate=False):
                    os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
