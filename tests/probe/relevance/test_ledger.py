"""The ledger closes, op by op, and says where relevance went."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import limelight as ll
from limelight.probe.errors import MethodError, ProbeError

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
PRESETS = (
    "epsilon",
    "epsilon_plus",
    "epsilon_plus_flat",
    "epsilon_gamma_box",
    "epsilon_gamma_wsquare",
    "lrp0",
    "auto",
)


class Net(nn.Module):
    """A residual, a gate, a broadcast, an in-place sum on a slice, a pool, a view."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=bias)
        self.norm = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=bias)
        self.gate = nn.Linear(8, 8, bias=bias)
        self.head = nn.Linear(8, 5, bias=bias)
        with torch.no_grad():
            self.norm.running_var.uniform_(0.5, 2)
            if bias:
                self.norm.bias.uniform_(-1, 1)
        self.eval()

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        y = self.conv(x)
        y += x
        y = y.clone()
        y[:, :4] += y[:, 4:] * 0.5
        y = y * torch.sigmoid(self.gate(y.mean((2, 3))))[:, :, None, None]
        a, b = F.max_pool2d(F.relu(y), 3, 2).chunk(2, 1)
        return self.head(torch.cat([b, a], 1).mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(1)
    return Net(bias=False)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_op_closes_without_biases(net, preset):
    books = ll.ledger(net, X, f"lrp:{preset}", target=3)
    assert books.leaks(1e-4) == ()
    assert math.isclose(books.start, net(X)[:, 3].sum().item(), rel_tol=1e-5)
    total = books.total
    assert math.isclose(
        total.received, total.handed + total.stabiliser + total.bias + total.leak, rel_tol=1e-9
    )
    assert abs(total.leak) < 1e-4 * total.absolute
    assert abs(total.bias) < 1e-6 * total.absolute


def test_what_biases_swallow_is_booked_as_bias():
    torch.manual_seed(2)
    books = ll.ledger(Net(bias=True), X, "lrp:epsilon_plus", target=1)
    assert books.leaks(1e-4) == ()
    assert abs(books.total.bias) > 1e-2 * abs(books.start)
    assert math.isclose(
        books.arrived, books.start - books.total.bias - books.total.stabiliser, rel_tol=1e-3
    )


def test_it_counts_by_edge_where_a_value_has_two_consumers(net):
    books = ll.ledger(net, X, "lrp:lrp0", target=0)
    residual = next(e for e in books if e.op == "add.0")
    assert math.isclose(residual.received, residual.handed, rel_tol=1e-5)


def test_a_stabiliser_shows_what_it_takes(net):
    small = ll.ledger(net, X, "lrp:epsilon,epsilon=1e-9", target=3).total
    large = ll.ledger(net, X, "lrp:epsilon,epsilon=0.5", target=3).total
    assert abs(large.stabiliser) > 100 * abs(small.stabiliser)
    assert abs(large.leak) < 1e-4 * large.absolute


def test_a_leak_is_found(net, monkeypatch):
    """An op that loses half of what it receives stands out by name."""
    from limelight.probe.relevance import op_rules
    from limelight.probe.relevance.messages import Message

    def half(context):
        return [Message(edge, x / 2) for edge, x in context.plain_gradients().items()]

    monkeypatch.setitem(op_rules.OP_RULES, "product", half)
    names = {e.op for e in ll.ledger(net, X, "lrp:lrp0", target=3).leaks()}
    assert any(name.startswith("mul") for name in names)


def test_the_kept_share_goes_with_the_map(net):
    found = ll.maps(net, X[:1], "lrp:epsilon_plus", target=2)[0]
    books = ll.ledger(net, X[:1], "lrp:epsilon_plus", target=2)
    assert math.isclose(found.about.kept, books.kept, rel_tol=1e-5)


def test_bfloat16_closes_to_its_own_bar(net):
    books = ll.ledger(net.bfloat16(), X.bfloat16(), "lrp:epsilon_plus", target=3)
    assert books.leaks(2e-2) == ()


def test_table_and_text(net):
    books = ll.ledger(net, X, "lrp:epsilon_plus", target=3)
    table = books.to_pandas()
    assert list(table["op"])[-1] == "total"
    assert len(table) == len(books) + 1
    assert "max_pool2d" in str(books)


def test_errors_are_sentences(net):
    with pytest.raises(MethodError, match="'gradcam' reads no relevance"):
        ll.ledger(net, X, "gradcam")
    with ll.Probe(net, relevance=True) as p:
        p(X)
        with pytest.raises(ProbeError, match=r"Probe\(model, ledger=True\)"):
            p.ledger()


@pytest.mark.parametrize("init", ["softmax-contrast", "clrp"])
def test_contrast_starts_weigh_the_class_against_the_others(net, init):
    """Relevance at the output: z_t, and -softmax z_j or -z_t / (N - 1) at the others."""
    with ll.Probe(net, relevance=True) as p:
        p.watch("output")
        logits = p(X).detach()
        found = ll.maps(net, X, ll.use("lrp", preset="lrp0", init=init), target=2)
        got = []
        regime = ll.use("lrp", preset="lrp0", init=init).regime
        p.differentiate(ll.label(2), p.values(), lambda v, r: got.append(r), regime=regime)
    others = torch.tensor([0, 1, 3, 4])
    expected = logits.clone()
    if init == "clrp":
        expected[:, others] = -logits[:, 2:3].expand(-1, 4) / 4
    else:
        expected[:, others] = -logits[:, others].softmax(1) * logits[:, others]
    torch.testing.assert_close(got[0], expected, rtol=1e-5, atol=1e-6)
    sums = torch.stack([m.values.sum() for m in found])
    torch.testing.assert_close(sums, expected.sum(1), rtol=1e-3, atol=1e-4)


class Fourier(nn.Module):
    """A convolution by transforms, with a filter of its own or one made from the input."""

    def __init__(self, *, adaptive: bool, real: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.x, self.k = (nn.Linear(6, 6, bias=False) for _ in range(2))
        self.filter = nn.Parameter(torch.randn(6, 10))
        self.out = nn.Linear(60, 5, bias=False)
        self.adaptive, self.real = adaptive, real

    def forward(self, x):
        k, x = self.k(x).mT if self.adaptive else self.filter, self.x(x).mT
        if self.real:
            waves = torch.fft.rfft(x, n=20) * torch.fft.rfft(k, n=20)
            return self.out(torch.fft.irfft(waves, n=20)[..., :10].flatten(1))
        return self.out(torch.fft.ifft(torch.fft.fft(x) * torch.fft.fft(k)).real.flatten(1))


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("real", [False, True])
def test_complex_values_are_booked_as_re_conj_x_g(adaptive, real):
    model = Fourier(adaptive=adaptive, real=real).double()
    x = torch.randn(2, 10, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    books = ll.ledger(model, x, "lrp:epsilon", target=ll.label(3))
    assert books.leaks(1e-6) == ()
    waves = [row for row in books if row.op.startswith(("fft", "mul"))]
    assert len(waves) == (4 if adaptive else 3)
    assert all(abs(row.received) > 1e-3 for row in waves)


class Padded(nn.Module):
    """A first convolution behind a padding of its own, or behind `F.pad`, whole or side by side."""

    def __init__(self, by: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.by = by
        self.stem = nn.Conv2d(3, 4, 3, padding=1 if by == "itself" else 0, bias=False)
        self.head = nn.Linear(4, 2, bias=False)
        self.eval()

    def forward(self, x):
        if self.by == "op":
            x = F.pad(x, (1, 1, 1, 1))
        if self.by == "sides":
            x = F.pad(F.pad(x, (1, 1)), (0, 0, 3, 1))
            x = F.pad(x, (0, 0, -2, 0))
        if self.by == "ones":
            x = F.pad(x, (1, 1, 1, 1), value=1.0)
        return self.head(F.relu(self.stem(x)).mean((2, 3)))


@pytest.mark.parametrize("by", ["op", "sides"])
@pytest.mark.parametrize("preset", PRESETS)
def test_zeros_by_an_op_before_a_convolution_are_its_padding(by, preset):
    """As tf_ networks pad: their `same` is an op, and its zeros are no places of the input."""
    own, other = (
        ll.maps(Padded(how), X, f"lrp:{preset},channels=true", target=1).stack()
        for how in ("itself", by)
    )
    torch.testing.assert_close(own, other)
    assert ll.ledger(Padded(by), X, f"lrp:{preset}", target=1).leaks(1e-4) == ()


def test_what_falls_on_a_constant_frame_is_booked():
    books = ll.ledger(Padded("ones"), X, "lrp:epsilon_plus_flat", target=1)
    (pad,) = (e for e in books if e.op.startswith("pad"))
    assert books.leaks(1e-4) == ()
    assert abs(pad.bias) > 1e-2 * abs(books.start)
    assert math.isclose(books.arrived + pad.bias, books.start, rel_tol=1e-3)
