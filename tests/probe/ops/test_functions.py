"""Op names, and ops that write in place: captured values and gradients stay right."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.probe.ops.functions import describe, rectifies


@pytest.mark.parametrize(
    ("function", "name", "inplace"),
    [
        (torch.add, "add", False),
        (Tensor.add, "add", False),
        (Tensor.__add__, "add", False),
        (Tensor.__radd__, "add", False),
        (Tensor.__iadd__, "add", True),
        (Tensor.add_, "add", True),
        (Tensor.__rsub__, "sub", False),
        (Tensor.__matmul__, "matmul", False),
        (torch.bmm, "matmul", False),
        (torch.mm, "matmul", False),
        (Tensor.softmax, "softmax", False),
        (F.softmax, "softmax", False),
        (torch.special.softmax, "softmax", False),
        (Tensor.relu_, "relu", True),
        (Tensor.__setitem__, "setitem", True),
        (Tensor.unsqueeze_, "unsqueeze", True),
        (Tensor.__invert__, "invert", False),
        (Tensor.T.__get__, "transpose", False),
        (torch.concat, "cat", False),
        (F.scaled_dot_product_attention, "scaled_dot_product_attention", False),
    ],
)
def test_spellings(function, name, inplace):
    op = describe(function)
    assert op is not None
    assert (op.name, op.inplace) == (name, inplace)


@pytest.mark.parametrize(
    "function", [Tensor.shape.__get__, Tensor.grad_fn.__get__, Tensor.size, Tensor.requires_grad_]
)
def test_reads_are_no_ops(function):
    assert describe(function) is None


def test_the_inplace_switch_is_read_wherever_it_stands():
    op = describe(F.relu)
    assert op.overwrites((1, True), {})
    assert op.overwrites((1,), {"inplace": True})
    assert not op.overwrites((1,), {})
    x = torch.zeros(1)
    assert op.targets((), {"input": x, "inplace": True})[0] is x
    assert describe(torch.max).targets((x,), {"out": (x, x)}) == [x, x]


@pytest.mark.parametrize(
    ("function", "args", "expected"),
    [
        (F.relu, (), True),
        (Tensor.clamp, (0,), True),
        (Tensor.clamp, (-1, 1), False),
        (torch.clamp_min, (0.0,), True),
        (F.hardtanh, (0.0, 6.0), True),
        (F.hardtanh, (), False),
        (torch.sigmoid, (), False),
    ],
)
def test_what_rectifies(function, args, expected):
    assert rectifies(describe(function), (torch.zeros(1), *args), {}) is expected


class Twin(nn.Module):
    """One network, its in-place and its out-of-place spelling."""

    def __init__(self, kind: str, inplace: bool) -> None:
        super().__init__()
        self.kind, self.inplace = kind, inplace
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.flat = nn.Flatten()
        self.act = nn.ReLU(inplace=inplace)
        self.same = nn.Identity()
        self.head = nn.Linear(3 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "input":
            x = x.add_(1) if self.inplace else x + 1
        return self.head(getattr(self, self.kind)(self.same(self.conv(x)), x))

    def module(self, y: Tensor, x: Tensor) -> Tensor:
        return self.flat(self.act(y))

    def view(self, y: Tensor, x: Tensor) -> Tensor:
        return self.act(self.flat(y))

    def iadd(self, y: Tensor, x: Tensor) -> Tensor:
        more = x.repeat(1, 2, 1, 1)[:, :3]
        if not self.inplace:
            return self.flat(y + more)
        y += more
        return self.flat(y)

    def setitem(self, y: Tensor, x: Tensor) -> Tensor:
        if self.inplace:
            y[:, 1] = x[:, 0] * 2
            return self.flat(y)
        return self.flat(torch.stack([y[:, 0], x[:, 0] * 2, y[:, 2]], 1))

    def relu_(self, y: Tensor, x: Tensor) -> Tensor:
        return self.flat(y.relu_() if self.inplace else y.relu())

    def keyword(self, y: Tensor, x: Tensor) -> Tensor:
        return self.flat(F.relu(input=y, inplace=self.inplace))

    def part(self, y: Tensor, x: Tensor) -> Tensor:
        if self.inplace:
            y[:, :2].relu_()
            return self.flat(y)
        return self.flat(torch.cat([y[:, :2].relu(), y[:, 2:]], 1))

    def view_after(self, y: Tensor, x: Tensor) -> Tensor:
        if self.inplace:
            first = y[:, 0]
            y.add_(1)
            return self.flat(torch.cat([first[:, None] * 3, y[:, 1:]], 1))
        y = y + 1
        return self.flat(torch.cat([y[:, :1] * 3, y[:, 1:]], 1))

    def twice(self, y: Tensor, x: Tensor) -> Tensor:
        flat = self.flat(y)
        return flat.mul_(2).add_(1) if self.inplace else flat.mul(2).add(1)

    def input(self, y: Tensor, x: Tensor) -> Tensor:
        return self.flat(y * x[:, :1])

    def shape(self, y: Tensor, x: Tensor) -> Tensor:
        flat = self.flat(y)
        return flat.unsqueeze_(0).squeeze_(0) if self.inplace else flat


KINDS = (
    "module view iadd setitem relu_ keyword part view_after twice input shape".split()  # noqa: SIM905
)


def _twins(kind: str) -> tuple[Twin, Twin, Tensor]:
    torch.manual_seed(0)
    inplace = Twin(kind, True).double().eval()
    plain = Twin(kind, False).double().eval()
    plain.load_state_dict(inplace.state_dict())
    return inplace, plain, torch.randn(2, 2, 4, 4, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_equal_those_written_out_of_place(kind):
    inplace, plain, x = _twins(kind)
    expected = inplace(x.clone())
    traces = []
    for net in (inplace, plain):
        with ll.Probe(net) as p:
            p.watch(
                "conv", "same", "input", *(["flat"] if kind in ("view", "twice", "shape") else [])
            )
            out = p(x.clone())
            traces.append(p.backward(2))
            assert torch.equal(out, expected)
    for site, value in traces[0].items():
        assert torch.equal(value.act, traces[1][site].act), site
        assert torch.equal(value.grad, traces[1][site].grad), site
    assert float(traces[0]["conv"].grad.abs().sum()) > 0
    assert traces[0].holes == []


@pytest.mark.parametrize("kind", KINDS)
def test_values_without_a_graph(kind):
    inplace, plain, x = _twins(kind)
    sites = ["conv", "same", "input"]
    found, expected = (ll.trace(net, x.clone(), [*sites, "output"]) for net in (inplace, plain))
    for site in found:
        assert torch.equal(found[site].act, expected[site].act), site


def test_out_writes_over_a_captured_value():
    class Net(nn.Module):
        def forward(self, x):
            y = self.a(x)
            torch.mul(y, 2, out=y)
            torch.max(y, 1, out=(y[:, 0], torch.zeros(len(x), dtype=torch.long)))
            return y

        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3)

    net, x = Net(), torch.randn(2, 3)
    with torch.no_grad():
        plain = net(x)
    trace = ll.trace(net, x, ["a", "output"])
    assert torch.equal(trace["a"].act, net.a(x).detach())
    assert torch.equal(trace["output"].act, plain)


def test_the_users_input_is_not_written_over():
    inplace, _, x = _twins("input")
    kept = x.clone()
    with ll.Probe(inplace) as p:
        p(x)
    assert torch.equal(x, kept)


def test_op_sites_are_counted_by_name_within_a_call():
    class Net(nn.Module):
        def forward(self, x):
            y = F.relu(x) + 1
            y = torch.add(y, x)
            y += x
            return y.softmax(-1) + torch.softmax(y, -1)

    net, x = Net(), torch.randn(2, 3)
    with ll.Probe(net) as p:
        p.watch(":**")
        p(x)
        names = [str(s) for s in p.trace if s.port.partition(".")[0] not in ("in", "out")]
    relu = F.relu(x)
    assert names == [
        ":relu.0", ":add.0", ":add.1", ":add.2", ":softmax.0", ":softmax.1", ":add.3",
    ]  # fmt: skip
    assert torch.equal(p.trace[":relu.0"].act, relu)
    assert torch.equal(p.trace[":add.1"].act, relu + 1 + x)
    assert torch.equal(p.trace[":add.2"].act, relu + 1 + x + x)


def test_edits_of_ops_in_place_and_not():
    class Net(nn.Module):
        def forward(self, x):
            y = x * 2
            y += 1
            return F.relu(y, inplace=True) + 3

    x = torch.randn(2, 3)
    with ll.Probe(Net()) as p:
        p.edit({":relu.0": ll.zero})
        assert torch.equal(p(x), torch.full((2, 3), 3.0))
    with ll.Probe(Net()) as p:
        p.edit({":add.0": ll.scale(2.0)})
        assert torch.equal(p(x), F.relu((x * 2 + 1) * 2) + 3)
        assert p.trace.holes == []


def test_a_gradient_stops_at_what_is_written_into_a_part():
    inplace, plain, x = _twins("view")
    for net in (inplace, plain):
        with ll.Probe(net) as p:
            p.watch("flat")
            p(x)
            grad = p.backward(1)["flat"].grad
            assert torch.equal(grad, (p.trace["flat"].act > 0) * net.head.weight[1])

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3)

        def forward(self, x):
            y = x * 2
            y[:, 1] = self.a(x)[:, 0]
            return y

    with ll.Probe(Net()) as p:
        p.watch("a")
        p(torch.randn(2, 3))
        assert p.backward(1)["a"].grad.tolist() == [[1, 0, 0], [1, 0, 0]]
