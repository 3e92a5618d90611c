"""Edits: each against the forward written by hand; heads, channels, composition, records."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.probe.errors import OptionError, SiteError

X = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(2, 5, 3), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.conv(x))

    def rest(self, y: Tensor) -> Tensor:
        return self.head(F.relu(y).mean((2, 3)))


class Heads(nn.Module):
    """Attention over tokens, through torch's module or through the fused call."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fused = fused
        self.attn = Fused() if fused else nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.attn(x) if self.fused else self.attn(x, x, x, need_weights=False)[0]
        return self.head(y.mean(1))


class Fused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out_proj = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(y.transpose(1, 2).flatten(2))


TOKENS = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


def by_hand(net: Heads, x: Tensor, change_map=None, change_heads=None) -> Tensor:
    attn = net.attn
    weight, bias = (
        (attn.qkv.weight, attn.qkv.bias) if net.fused else (attn.in_proj_weight, attn.in_proj_bias)
    )
    q, k, v = F.linear(x, weight, bias).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    attention = (q @ k.transpose(-1, -2) / 2).softmax(-1)
    attention = change_map(attention) if change_map else attention
    heads = attention @ v
    heads = change_heads(heads) if change_heads else heads
    return net.head(attn.out_proj(heads.transpose(1, 2).flatten(2)).mean(1))


EDITS = [
    (ll.zero, lambda y: y * 0),
    (ll.mean(), lambda y: y.mean(0, keepdim=True).expand_as(y)),
    (ll.mean("all"), lambda y: y.mean((0, 2, 3), keepdim=True).expand_as(y)),
    (ll.add(2.0), lambda y: y + 2),
    (ll.add(torch.arange(5.0)), lambda y: y + torch.arange(5.0)[:, None, None]),
    (ll.add(torch.ones(2, 2)), lambda y: y + 1),
    (ll.scale(-3.0), lambda y: y * -3),
    (ll.scale(torch.tensor([1.0, 2.0])), lambda y: y * torch.tensor([1.0, 2.0])),
    (ll.freeze, lambda y: y.detach()),
    (lambda value, site: value.flip(0), lambda y: y.flip(0)),
]


@pytest.mark.parametrize(("edit", "hand"), EDITS)
@pytest.mark.parametrize("grad", [True, False])
def test_whole_values(edit, hand, grad):
    net = Net()
    with ll.Probe(net, grad=grad) as p:
        p.watch("conv").edit({"conv": edit})
        out = p(X)
        y = net.conv(X)
        torch.testing.assert_close(out.detach(), net.rest(hand(y)).detach())
        torch.testing.assert_close(p.trace["conv"].act, hand(y).detach())
        assert p.trace.holes == []
    assert torch.equal(net(X), net.rest(net.conv(X)))


@pytest.mark.parametrize(("edit", "hand"), [EDITS[i] for i in (0, 3, 6, 8, 9)])
def test_one_channel(edit, hand):
    net = Net()
    with ll.Probe(net) as p:
        p.watch("input").edit({"conv:out[3]": edit})
        out = p(X)
        grad = p.backward(1)["input"].grad
        x = X.clone().requires_grad_()
        y = net.conv(x)
        expected = net.rest(torch.cat([y[:, :3], hand(y[:, 3:4]), y[:, 4:]], 1))
        torch.testing.assert_close(out.detach(), expected.detach())
        torch.testing.assert_close(grad, torch.autograd.grad(expected[:, 1].sum(), x)[0])
        assert [str(site) for site, _ in p.trace.edits] == ["conv:out[3]"]


def test_edits_compose_in_the_order_given_and_are_recorded():
    net = Net()
    with ll.Probe(net) as p:
        p.edit({"conv": ll.add(1.0)}).edit({"conv": ll.scale(2.0), "conv[0]": ll.zero})
        out = p(X)
        y = (net.conv(X) + 1) * 2
        y = torch.cat([y[:, :1] * 0, y[:, 1:]], 1)
        torch.testing.assert_close(out, net.rest(y), check_stride=False)
        found = [(str(s), n) for s, n in p.trace.edits]
        assert found == [("conv", "add"), ("conv", "scale(2.0)"), ("conv:out[0]", "zero")]


def test_edits_by_name_and_by_wildcard_keep_their_order():
    net = Net()
    y = net.conv(X)
    for first, second in (("conv", "con*"), ("con*", "conv")):
        with ll.Probe(net) as p:
            p.edit({first: ll.add(1.0)}).edit({second: ll.scale(2.0)})
            out = p(X)
        torch.testing.assert_close(out, net.rest((y + 1) * 2), check_stride=False)


def test_edits_of_inputs_and_of_the_whole_model():
    net = Net()
    out = ll.patch(net, X, {"conv:in": ll.scale(2.0), "output": ll.add(1.0)})
    torch.testing.assert_close(out, (net(X * 2) + 1).detach())
    out = ll.patch(net, X, {"input": ll.zero})
    torch.testing.assert_close(out, net(X * 0).detach())


def test_freeze_stops_the_gradient():
    with ll.Probe(Net()) as p:
        p.watch("input").edit({"conv[0]": ll.freeze, "conv[1]": ll.freeze})
        p(X)
        some = p.backward(0)["input"].grad
        assert some.abs().sum() > 0
    with ll.Probe(Net()) as p:
        p.watch("input").edit({"conv": ll.freeze})
        p(X)
        with pytest.raises(ll.LimelightError, match="depend"):
            p.backward(0)


@pytest.mark.parametrize("fused", [True, False])
def test_one_head(fused):
    net = Heads(fused).eval()
    plain = by_hand(net, TOKENS)
    torch.testing.assert_close(net(TOKENS), plain)
    out = ll.patch(net, TOKENS, {"attn:heads.1": ll.zero})
    expected = by_hand(
        net, TOKENS, change_heads=lambda h: h * torch.tensor([1.0, 0.0])[:, None, None]
    )
    torch.testing.assert_close(out, expected.detach())
    assert (out - plain).abs().max() > 1e-3


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_the_map(fused, grad):
    net = Heads(fused).eval()
    with ll.Probe(net, grad=grad) as p:
        p.watch("attn:map").edit({"attn:map": lambda m, site: m.tril()})
        out = p(TOKENS)
        expected = by_hand(net, TOKENS, change_map=lambda m: m.tril())
        torch.testing.assert_close(out.detach(), expected.detach())
        assert not p.trace["attn:map"].act.triu(1).any()
        assert p.trace.holes == []


@pytest.mark.parametrize("site", ["attn:q", "attn:k", "attn:v"])
def test_queries_keys_and_values(site):
    net = Heads(True)
    place = "qkv".index(site[-1])

    def hand(x):
        a = net.attn
        parts = list(a.qkv(x).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4))
        parts[place] = parts[place] * 2
        y = F.scaled_dot_product_attention(*parts)
        return net.head(a.out_proj(y.transpose(1, 2).flatten(2)).mean(1))

    torch.testing.assert_close(ll.patch(net, TOKENS, {site: ll.scale(2.0)}), hand(TOKENS).detach())


@pytest.mark.parametrize("fused", [True, False])
def test_activation_patching_equals_the_version_by_hand(fused):
    net, other = Heads(fused).eval(), TOKENS.flip(1) * 2
    noisy = ll.trace(net, other, "attn:heads")
    kept = ll.patch(net, TOKENS, {"attn:heads.1": ll.swap(noisy)}, target=ll.margin(0, 2))
    heads = noisy["attn:heads"].act

    def put(h):
        return torch.stack([h[:, 0], heads[:, 1]], 1)

    logits = by_hand(net, TOKENS, change_heads=put)
    torch.testing.assert_close(kept, (logits[:, 0] - logits[:, 2]).detach())
    whole = ll.patch(net, TOKENS, {"attn:heads": ll.swap(noisy)})
    torch.testing.assert_close(whole, net(other).detach())
    mean = ll.patch(net, TOKENS, {"attn:heads.0": ll.mean(noisy)})
    expected = by_hand(
        net,
        TOKENS,
        change_heads=lambda h: torch.stack([heads[:, 0].mean(0).expand_as(h[:, 0]), h[:, 1]], 1),
    )
    torch.testing.assert_close(mean, expected.detach())


def test_a_gradient_with_edits_equals_autograd():
    net = Heads(True)
    with ll.Probe(net) as p:
        p.watch("input", "attn:heads").edit({"attn:heads.0": ll.scale(0.5)})
        p(TOKENS)
        grad = p.backward(2)["input"].grad
    x = TOKENS.clone().requires_grad_()
    factor = torch.tensor([0.5, 1.0])[:, None, None]
    expected = by_hand(net, x, change_heads=lambda h: h * factor)[:, 2].sum()
    torch.testing.assert_close(grad, torch.autograd.grad(expected, x)[0])


@pytest.mark.parametrize(
    ("edit", "site", "error"),
    [
        (lambda v, s: None, "conv", "the edit at conv returned NoneType; it must return a tensor"),
        (
            lambda v, s: v[:, :2],
            "conv",
            r"the edit at conv returned shape \(3, 2, 2, 2\) where \(3, 5, 2, 2\) is needed",
        ),
        (ll.zero, "conv[7]", r"conv:out\[7\] cannot be edited: there are 5 of them"),
        (ll.zero, "conv:heads.1", r"'conv:heads.1' matched nothing in this model"),
    ],
)
def test_errors(edit, site, error):
    with pytest.raises(SiteError, match=error):
        ll.patch(Net(), X, {site: edit})


def test_mean_over_what():
    with pytest.raises(OptionError, match="mean is taken over 'batch', 'all' or a trace, not 'al'"):
        ll.mean("al")


def test_a_swap_of_a_site_that_was_not_traced():
    other = ll.trace(Net(), X, "head")
    with pytest.raises(SiteError, match="'conv' matched nothing in this model"):
        ll.patch(Net(), X, {"conv": ll.swap(other)})
