"""Kernels under the probe: ports, lazy maps and their gradients, edits, relevance, the ledger."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.kernels.kernel import kernel
from limelight.probe.relevance.presets import preset


def _map(rows: slice, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    scores = q[..., rows, :] @ k.mT * q.shape[-1] ** -0.5
    if causal:
        seen = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()[rows]
        scores = scores.masked_fill(~seen, float("-inf"))
    return scores.softmax(-1)


@kernel("test_softmax", share=("v",), hold=("q", "k"), mixing=_map)
def softmax_attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False) -> Tensor:
    """Attention, fused."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def _linear_map(rows: slice, q: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> Tensor:
    return (q[..., rows, :] * gate) @ k.mT


@kernel("test_gated", share=("q", "k", "v"), hold=("gate",), mixing=_linear_map)
def gated(q: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> Tensor:
    """(q gate) k' v."""
    return ((q * gate) @ k.mT) @ v


@kernel("test_through", share=(), values="", opaque=False)
def recursive(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q k v, one factor after the other."""
    return q * k * v


class Mixer(nn.Module):
    """One mixer between two linear maps."""

    def __init__(self, op) -> None:
        super().__init__()
        self.op, self.qkv, self.proj = op, nn.Linear(12, 36, bias=False), nn.Linear(12, 12, False)
        self.gate = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 2, 6).permute(2, 0, 3, 1, 4).unbind(0)
        if self.op is gated:
            out = gated(q, k, v, self.gate(x).sigmoid().reshape(b, n, 2, 6).transpose(1, 2))
        else:
            out = self.op(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(b, n, c))


@pytest.fixture
def make():
    def build(op):
        torch.manual_seed(0)
        return nn.Sequential(Mixer(op), nn.Linear(12, 5, bias=False)).eval()

    return build


@pytest.fixture
def x():
    return torch.randn(2, 7, 12, generator=torch.Generator().manual_seed(1))


SCORE = ll.token(0, -1)


@pytest.mark.parametrize("op", [softmax_attention, gated])
def test_the_map_is_read_and_has_its_gradient(make, x, op):
    with ll.Probe(make(op)) as p:
        p.watch("0:map", "0:heads", "0:v", "0:q", "0:k")
        p(x)
        p.backward(SCORE)
        t = p.trace
    attention, v, out = (t[f"0:{port}"] for port in ("map", "v", "heads"))
    torch.testing.assert_close(attention.act @ v.act, out.act)
    torch.testing.assert_close(attention.grad, out.grad @ v.act.mT)
    assert t["0:q"].site.axes == "b h n d"


def test_a_gate_is_a_port_like_any_argument(make, x):
    t = ll.trace(make(gated), x, sites="0:gate")
    assert t["0:gate"].act.shape == (2, 2, 7, 6)


def test_an_edited_map_makes_the_heads(make, x):
    net = make(softmax_attention)
    whole = ll.trace(net, x, sites=["0:map", "0:v"])
    cut = ll.patch(net, x, {"0:map.1": ll.zero}, target=SCORE)
    kept = whole["0:map"].act.clone()
    kept[:, 1] = 0
    out = (kept @ whole["0:v"].act).transpose(1, 2).reshape(2, 7, 12)
    torch.testing.assert_close(cut, SCORE(net[1](net[0].proj(out))))


@pytest.mark.parametrize(
    ("op", "name"),
    [
        (softmax_attention, "epsilon"),
        (gated, "epsilon"),
        (gated, "attnlrp"),
        (recursive, "epsilon"),
        (recursive, "attnlrp"),
    ],
)
def test_relevance_is_kept_and_the_ledger_closes(make, x, op, name):
    net = make(op)
    with torch.no_grad():
        net[0].gate.bias.zero_()
    books = ll.ledger(net, x, f"lrp:{name}", target=SCORE)
    size = max(row.absolute for row in books)
    assert max(abs(row.leak) for row in books) < 1e-4 * size
    assert books.arrived == pytest.approx(books.start, rel=1e-3)


def test_shares_are_equal_parts_of_the_gradient(make, x):
    net = make(gated)
    with ll.Probe(net, relevance=True) as p:
        p.watch("0:q", "0:k", "0:v", "0:gate")
        p(x)
        p.backward(SCORE)
        grads = {str(s): v.act * v.grad / 3 for s, v in p.trace.items()}
        found = {}
        keep = lambda v, r: found.update({str(v.site): r})  # noqa: E731
        p.differentiate(SCORE, p.values(), keep, regime=preset("epsilon"))
    for port in ("q", "k", "v"):
        torch.testing.assert_close(found[f"0:{port}"], grads[f"0:{port}"])
    assert not found["0:gate"].any()


def test_one_tensor_given_thrice_is_told_apart(x):
    class Same(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.unsqueeze(1) * 1.0
            return softmax_attention(y, y, y).squeeze(1)

    net = nn.Sequential(Same(), nn.Linear(12, 5, bias=False))
    with ll.Probe(net, relevance=True) as p:
        p.watch("0", "0:v", "0:in")
        p(x)
        sums = {}
        keep = lambda v, r: sums.update({str(v.site): r.sum()})  # noqa: E731
        p.differentiate(SCORE, p.values(), keep, regime=preset("epsilon"))
    torch.testing.assert_close(sums["0:in"], sums["0"])
    torch.testing.assert_close(sums["0:v"], sums["0"])


def test_chefer_halves_between_map_and_values(make, x):
    with ll.Probe(make(softmax_attention), relevance=True) as p:
        p.watch("0:q", "0:k", "0:v", "0:heads")
        p(x)
        sums = {}
        keep = lambda v, r: sums.update({str(v.site): float(r.sum())})  # noqa: E731
        p.differentiate(SCORE, p.values(), keep, regime=preset("chefer"))
    whole = sums["0:heads"]
    assert sums["0:v"] == pytest.approx(whole / 2, rel=1e-4)
    assert sums["0:q"] + sums["0:k"] == pytest.approx(whole / 2, rel=1e-2)
