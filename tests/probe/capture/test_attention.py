"""Attention: the re-expressed module equals torch's, and maps are what they claim to be."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.probe.capture.attention import mixing
from limelight.probe.errors import SiteError

B, N, M, C, H = 2, 5, 7, 8, 2


def close(found, expected) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9, equal_nan=True)


def masks(kind: str, n: int, m: int) -> Tensor | None:
    torch.manual_seed(1)
    shape = (n, m) if kind.endswith("2") else (B * H, n, m)
    if kind.startswith("bool"):
        mask = torch.rand(shape) < 0.3
        mask[..., 0] = False
        return mask
    return torch.randn(shape, dtype=torch.float64) if kind.startswith("float") else None


OPTIONS = [
    {"bias": bias, "add_bias_kv": kv, "add_zero_attn": zero, "batch_first": kv != zero, **sizes}
    for bias, kv, zero, sizes in itertools.product(
        (True, False), (True, False), (True, False), ({}, {"kdim": 6, "vdim": 4})
    )
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("mask", ["none", "bool2", "float2", "bool3", "float3"])
def test_multi_head_attention_equals_torchs(options, mask):
    torch.manual_seed(0)
    net = nn.MultiheadAttention(C, H, dtype=torch.float64, **options).train()
    for parameter in net.parameters():
        nn.init.normal_(parameter)
    q = torch.randn(B, N, C, dtype=torch.float64)
    k = torch.randn(B, M, options.get("kdim", C), dtype=torch.float64)
    v = torch.randn(B, M, options.get("vdim", C), dtype=torch.float64)
    if not options["batch_first"]:
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    padding = torch.zeros(B, M, dtype=torch.bool)
    padding[0, -2:] = True
    attn_mask = masks(mask, N, M)
    if mask.startswith("float"):
        padding = padding.double() * -3
    for pad, (weights, average) in itertools.product(
        (None, padding), ((True, True), (True, False), (False, True))
    ):
        call = {
            "key_padding_mask": pad, "need_weights": weights, "attn_mask": attn_mask,
            "average_attn_weights": average,
        }  # fmt: skip
        expected = net(q, k, v, **call)
        with ll.Probe(net, evaluate=False) as p:
            p.watch(":heads", ":q")
            found = p(q, k, v, **call)
            assert p.trace.holes == []
        close(found[0].detach(), expected[0].detach())
        assert (found[1] is None) == (expected[1] is None)
        if weights:
            close(found[1].detach(), expected[1].detach())


@pytest.mark.parametrize("weights", [True, False])
def test_unbatched_and_causal(weights):
    net = nn.MultiheadAttention(C, H, dtype=torch.float64)
    x = torch.randn(N, C, dtype=torch.float64)
    with ll.Probe(net) as p:
        close(p(x, x, x, need_weights=weights)[0], net(x, x, x, need_weights=weights)[0].detach())
    mask = nn.Transformer.generate_square_subsequent_mask(N, dtype=torch.float64)
    x = x[:, None]
    call = {"need_weights": weights, "attn_mask": mask, "is_causal": True}
    with ll.Probe(net) as p:
        p.watch(":map")
        close(p(x, x, x, **call)[0], net(x, x, x, **call)[0].detach())
        assert not p.trace[":map"].act.triu(1).any()


def test_static_keys_and_values():
    torch.manual_seed(0)
    x = torch.randn(N, B, C, dtype=torch.float64)
    static = torch.randn(B * H, M, C // H, dtype=torch.float64)
    weight, out = torch.randn(3 * C, C, dtype=torch.float64), torch.randn(C, C, dtype=torch.float64)
    net = nn.Module()
    net.forward = lambda x: F.multi_head_attention_forward(
        x, x, x, C, H, weight, None, None, None, False, 0.0, out, None, False,
        static_k=static, static_v=static, need_weights=False,
    )[0]  # fmt: skip
    with ll.Probe(net) as p:
        close(p(x).detach(), net(x))


def test_dropout_in_training_drops():
    net = nn.MultiheadAttention(C, H, dropout=0.5)
    x = torch.randn(N, B, C)
    with ll.Probe(net, evaluate=False) as p:
        attention = p(x, x, x)[1]
        assert ((attention == 0).float().mean() > 0.05).item()


class Fused(nn.Module):
    """A fused call with any options; grouped heads where `groups` is less than the heads."""

    def __init__(self, groups: int = 4, **options) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.options, self.groups = options, groups
        self.q, self.kv = nn.Linear(8, 16), nn.Linear(8, 8 * groups)
        self.head = nn.Linear(16, 3)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q = self.q(x).unflatten(2, (4, 4)).transpose(1, 2)
        k, v = self.kv(x).unflatten(2, (2, self.groups, 4)).permute(2, 0, 3, 1, 4)
        return q, k, v

    def explicit(self, x: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v = self.parts(x)
        k, v = (t.repeat_interleave(4 // self.groups, 1) for t in (k, v))
        scores = q @ k.transpose(-1, -2) * self.options.get("scale", 0.5)
        mask = self.options.get("attn_mask")
        if self.options.get("is_causal"):
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
        if mask is not None:
            closed = torch.where(mask, 0.0, -math.inf) if mask.dtype == torch.bool else mask
            scores = scores + closed
        attention = scores.softmax(-1)
        return attention, self.head((attention @ v).transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.parts(x)
        y = F.scaled_dot_product_attention(q, k, v, **self.options)
        return self.head(y.transpose(1, 2).flatten(2))


KINDS = [
    {},
    {"is_causal": True},
    {"scale": 0.3},
    {"attn_mask": torch.randn(6, 6, dtype=torch.float64)},
    {"attn_mask": torch.eye(6).bool() | (torch.rand(6, 6) < 0.5)},
    {"groups": 2, "enable_gqa": True, "is_causal": True},
]


@pytest.mark.parametrize("options", KINDS)
def test_a_lazy_map_and_its_gradient_equal_the_explicit_softmax(options):
    net = Fused(**options).double()
    x = torch.randn(2, 6, 8, dtype=torch.float64)
    attention, logits = net.explicit(x)
    expected = torch.autograd.grad(logits.mean(1)[:, 1].sum(), attention)[0]
    with ll.Probe(net) as p:
        p.watch(":map", ":heads", ":v", ":q", ":k")
        out = p(x)
        trace = p.backward(lambda out: out.mean(1)[:, 1])
        close(out.detach(), logits.detach())
        assert trace[":map"].held is None
        assert trace[":map"].site.axes == "b h q k"
        close(trace[":map"].act, attention.detach())
        close(trace[":map"].grad, expected)
        close(trace[":map.2"].act, attention[:, 2].detach())
        close(trace[":map.2"].grad, expected[:, 2])
        close(trace[":q"].act, net.parts(x)[0].detach())
    close(trace[":map"].act, attention.detach())


def test_a_map_without_a_batch():
    q, k = torch.randn(2, 1, 2, 3, 4).double(), torch.randn(2, 1, 2, 1100, 4).double()
    found = mixing(q[0], k[0], {})
    close(found, (q[0] @ k[0].transpose(-1, -2) / 2).softmax(-1))


def test_a_lazy_map_alone_stops_early_and_survives_overwriting():
    ran = []

    class Net(Fused):
        def forward(self, x):
            q, k, v = (part.clone() for part in self.parts(x))
            y = F.scaled_dot_product_attention(q, k, v)
            ran.append(1)
            q.mul_(0)
            k += 1
            return self.head(y.transpose(1, 2).flatten(2))

    net, x = Net().double(), torch.randn(2, 6, 8, dtype=torch.float64)
    expected = net.explicit(x)[0].detach()
    with ll.Probe(net, grad=False) as p:
        p.watch(":map")
        p(x)
        close(p.trace[":map"].act, expected)
        assert ran == [1]
        assert p(x) is None
        assert ran == [1]
        close(p.trace[":map"].act, expected)
    with ll.Probe(Fused().double()) as p:
        p.watch(":map@0")
        p(x)
        p.backward(ll.label(1, position=-1))
        with pytest.raises(SiteError) as error:
            _ = p.trace[":map"].grad
    assert str(error.value) == (
        "the gradient of :map is made from the heads and v of the same attention; watch ':heads' "
        "and ':v' as well"
    )


class Written(nn.Module):
    """Softmax attention written out, as many foreign models do."""

    def __init__(self, softmax) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.proj, self.softmax = nn.Linear(8, 24), nn.Linear(8, 3), softmax

    def forward(self, x: Tensor) -> Tensor:
        return self.full(x)[1]

    def full(self, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        q, k, v = self.qkv(x).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind()
        attention = self.softmax(q @ k.transpose(-2, -1) * 0.5)
        heads = attention @ v
        parts = {"q": q, "k": k, "v": v, "map": attention, "heads": heads}
        return parts, self.proj(heads.transpose(1, 2).reshape(len(x), -1, 8)).mean(1)


@pytest.mark.parametrize(
    "softmax",
    [lambda s: s.softmax(-1), lambda s: F.softmax(s, -1), nn.Softmax(-1)],
    ids=["method", "function", "module"],
)
def test_written_out_attention_is_recognised(softmax):
    net, x = Written(softmax).double(), torch.randn(2, 6, 8, dtype=torch.float64)
    parts, logits = net.full(x)
    grads = torch.autograd.grad(logits[:, 1].sum(), list(parts.values()))
    expected = dict(zip(parts, grads, strict=True))
    with ll.Probe(net) as p:
        p.watch(*(f":{port}" for port in parts))
        p(x)
        trace = p.backward(1)
        for port, value in parts.items():
            close(trace[f":{port}"].act, value.detach())
            close(trace[f":{port}"].grad, expected[port])
        assert p.trace.holes == []
    with pytest.raises(SiteError) as error:
        ll.patch(net, x, {":q": ll.zero})
    assert str(error.value) == (
        ":q cannot be edited: this attention is written out, and is recognised only once q and k "
        "have been multiplied; edit the module that makes them, or the map"
    )


def test_a_transformer_layer_on_its_fast_path_is_seen_and_unchanged():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True, dtype=torch.float64)
    net = nn.TransformerEncoder(layer, 2).eval()
    x = torch.randn(2, 6, 8, dtype=torch.float64)
    with torch.no_grad():
        plain = net(x)
    for grad in (True, False):
        with ll.Probe(net, grad=grad) as p:
            p.watch("layers.*.self_attn:map", "layers.*.self_attn:heads", "layers.1.linear1")
            close(p(x).detach(), plain)
            assert len(p.trace) == 5
            assert p.trace["layers.1.self_attn:map"].act.sum(-1).allclose(torch.ones(1).double())
            assert p.trace.holes == []
    with torch.no_grad():
        close(net(x), plain)


def test_two_calls_in_one_module():
    class Net(Fused):
        def forward(self, x):
            q, k, v = self.parts(x)
            y = F.scaled_dot_product_attention(q, k, v)
            y = F.scaled_dot_product_attention(q, k, y)
            return self.head(y.transpose(1, 2).flatten(2))

    trace = ll.trace(Net(), torch.randn(2, 6, 8), [":heads", ":map"])
    assert [str(s) for s in trace] == [":map", ":heads", ":map@1", ":heads@1"]
    assert torch.equal(trace[":map@0"].act, trace[":map@1"].act)
