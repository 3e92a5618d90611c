"""Relevance through any op: spellings, conservation, what is refused, what is conditioned on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import limelight as ll
from limelight.probe.errors import ProbeError
from limelight.probe.relevance.linear_rules import Epsilon, Flat, Gamma, WSquare, ZBox, ZPlus
from limelight.probe.relevance.presets import PRESETS, Preset
from limelight.probe.relevance.propagate import NoRule

SUM = ll.label(0)


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Net(nn.Module):
    """A function of x and some layers as a module; all layers without bias."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def relevance(
    net: nn.Module, x: Any, preset: Preset | str = "epsilon", target: Any = SUM, *sites: str
) -> dict[str, Tensor]:
    regime = PRESETS[preset] if isinstance(preset, str) else preset
    found: dict[str, Tensor] = {}
    with ll.Probe(net, relevance=True) as p:
        p.watch(*(sites or ("input",)))
        through = [s.partition("[")[0] for s in regime.through]
        p.watch(*through)
        out = p(x)
        p.differentiate(
            target, p.values(), lambda v, r: found.update({str(v.site): r}), regime=regime
        )
        found["score"] = target(out).detach()
    return found


def kept(net: nn.Module, x: Tensor, preset: Preset | str = "epsilon") -> float:
    """The part of the score that arrives at the input."""
    found = relevance(net, x, preset)
    return float(found["input"].sum() / found["score"].sum())


def conv(i: int = 3, o: int = 4, **how: Any) -> nn.Conv2d:
    torch.manual_seed(i + o)
    return nn.Conv2d(i, o, 3, padding=1, bias=False, **how)


def head(x: Tensor) -> Tensor:
    return x.flatten(1).sum(1, keepdim=True)


def lin(i: int, o: int) -> nn.Linear:
    torch.manual_seed(i * o)
    return nn.Linear(i, o, bias=False)


def body(relu: Callable[[Tensor], Tensor], add: Callable[[Tensor, Tensor], Tensor]) -> Net:
    def run(m: Any, x: Tensor) -> Tensor:
        y = relu(m.a(x))
        return m.c(relu(add(m.b(y), y)).mean((2, 3)))

    return Net(run, a=conv(3, 4), b=conv(4, 4), c=lin(4, 2))


def written_in_place(x: Tensor, y: Tensor) -> Tensor:
    x += y
    return x


RELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "module": nn.ReLU(),
    "clamp": lambda x: x.clamp(min=0),
    "relu_": lambda x: F.relu(x, inplace=True),
    "inplace module": nn.ReLU(inplace=True),
}
ADDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "+": lambda x, y: x + y,
    "+=": written_in_place,
    "torch.add": torch.add,
    "add_": lambda x, y: x.add_(y),
}


@pytest.mark.parametrize("preset", ["epsilon", "epsilon_plus_flat", "gamma_hold"])
@pytest.mark.parametrize("relu", RELUS)
@pytest.mark.parametrize("add", ADDS)
def test_spellings_of_a_residual_net(relu: str, add: str, preset: str) -> None:
    x = image(2, 3, 6, 6)
    want = relevance(body(F.relu, torch.add), x, preset)["input"]
    found = relevance(body(RELUS[relu], ADDS[add]), x, preset)["input"]
    assert torch.allclose(found, want, atol=1e-6)
    assert want.abs().max() > 0


@pytest.mark.parametrize("preset", [Preset("a", Gamma(), Gamma()), PRESETS["epsilon_plus_flat"]])
def test_spellings_of_a_linear_layer(preset: Preset) -> None:
    def net(second: Callable[[Any, Tensor], Tensor]) -> Net:
        return Net(
            lambda m, x: m.c(F.relu(second(m, m.a(x)))), a=lin(5, 6), b=lin(6, 4), c=lin(4, 1)
        )

    x = image(3, 5)
    spellings: list[Callable[[Any, Tensor], Tensor]] = [
        lambda m, x: m.b(x),
        lambda m, x: F.linear(x, m.b.weight),
        lambda m, x: x @ m.b.weight.t(),
        lambda m, x: torch.mm(x, m.b.weight.T),
        lambda m, x: (m.b.weight @ x.t()).t(),
        lambda m, x: torch.einsum("bi,oi->bo", x, m.b.weight),
        lambda m, x: torch.einsum("oi,bi->bo", m.b.weight, x),
        lambda m, x: torch.addmm(torch.zeros(4), x, m.b.weight.t()),
    ]
    want = relevance(net(spellings[0]), x, preset)["input"]
    for spelling in spellings[1:]:
        assert torch.allclose(relevance(net(spelling), x, preset)["input"], want, atol=1e-5)


def normed(seed: int = 0) -> nn.BatchNorm2d:
    norm, state = nn.BatchNorm2d(4), torch.Generator().manual_seed(seed)
    for p in (norm.running_mean, norm.running_var, norm.weight.data, norm.bias.data):
        p.copy_(torch.rand(4, generator=state) + 0.5)
    return norm.eval()


def merged(a: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """A convolution and the batch norm behind it as one convolution."""
    scale = (norm.running_var + norm.eps).rsqrt() * norm.weight
    one = nn.Conv2d(a.in_channels, a.out_channels, 3, padding=1)
    one.weight.data = a.weight.data * scale.data[:, None, None, None]
    one.bias.data = (norm.bias - norm.running_mean * scale).data
    return one


@pytest.mark.parametrize("preset", ["epsilon_plus", "epsilon_alpha2_beta1_flat", "gamma_hold"])
@pytest.mark.parametrize("black", [False, True])
def test_batch_norm_joins_its_convolution(preset: str, black: bool) -> None:
    x = image(1, 3, 6, 6)
    if black:
        x[..., :3] = 0

    def functional(m: Any, x: Tensor) -> Tensor:
        n = m.n
        return F.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, False, 0.1, n.eps)

    layers = {"a": conv(), "n": normed(), "c": lin(4, 1)}
    nets = [
        Net(lambda m, x: m.c(F.relu(m.n(m.a(x))).mean((2, 3))), **layers),
        Net(lambda m, x: m.c(F.relu(functional(m, m.a(x))).mean((2, 3))), **layers),
    ]
    one = Net(
        lambda m, x: m.c(F.relu(m.a(x)).mean((2, 3))), a=merged(conv(), normed()), c=lin(4, 1)
    )
    want = relevance(one, x, preset, SUM, "input", "a")
    for net in nets:
        found = relevance(net, x, preset, SUM, "input", "a")
        assert torch.allclose(found["input"], want["input"], atol=1e-5)
        assert torch.allclose(found["a"], want["a"], atol=1e-5)


def test_a_batch_norm_that_comes_first_passes_relevance() -> None:
    net = Net(lambda m, x: head(m.a(F.relu(m.n(x)))), n=normed(), a=conv(4, 2))
    found = relevance(net, image(1, 4, 5, 5), "epsilon_plus", SUM, "input", "n")
    assert torch.allclose(found["input"], found["n"], atol=1e-5)
    assert float(found["input"].sum()) == pytest.approx(float(found["score"]), rel=1e-4)


def test_a_convolution_read_twice_keeps_its_norm_apart() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)
        return head(F.relu(m.n(y)) + y)

    net = Net(run, a=conv(), n=normed())
    assert kept(net, image(1, 3, 5, 5), "epsilon_plus") == pytest.approx(1, abs=1e-3)


def attention(m: Any, x: Tensor) -> Tensor:
    q, k, v = m.q(x), m.k(x), m.v(x)
    return head(((q @ k.transpose(1, 2)) / 2).softmax(-1) @ v)


def fused(**how: Any) -> Callable[[Any, Tensor], Tensor]:
    def run(m: Any, x: Tensor) -> Tensor:
        q, k, v = (y(x).unflatten(-1, (-1, 2)).transpose(1, 2) for y in (m.q, m.k, m.v))
        if how.get("enable_gqa"):
            k, v = k[:, :1], v[:, :1]
        return head(F.scaled_dot_product_attention(q, k, v, **how))

    return run


def by_hand_norm(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    centred = y - y.mean(-1, keepdim=True)
    return head(m.b(centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()))


def by_hand_rms(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    return head(m.b(y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)))


def sliced(m: Any, x: Tensor) -> Tensor:
    y = m.a(x).clone()
    y[:, :2] += m.b(x)[:, :2]
    y[:, 3:] = y[:, :1] * 2
    return head(y)


def squeezed(m: Any, x: Tensor) -> Tensor:
    y = F.relu(m.a(x))
    return head(y * m.d(F.relu(m.c(y.mean((2, 3))))).sigmoid()[..., None, None])


PICTURES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "residual": lambda m, x: head(F.relu(m.e(F.relu(m.a(x)))) + m.a(x)),
    "two stems": lambda m, x: head(torch.cat([m.a(x), m.b(x)], 1)),
    "shared": lambda m, x: head(m.e(F.relu(m.e(m.a(x))))),
    "einsum": lambda m, x: head(torch.einsum("bchw,bdhw->bcd", m.a(x), m.b(x))),
    "views": lambda m, x: head(m.a(x).permute(0, 2, 3, 1).reshape(2, -1, 2).transpose(1, 2)[:, :1]),
    "roll": lambda m, x: head(m.e(m.a(x).roll((1, 2), (2, 3)))),
    "fold": lambda m, x: head(F.fold(F.unfold(m.a(x), 3, padding=1), 8, 3, padding=1) ** 2),
    "fft": lambda m, x: head(m.e(torch.fft.irfft2(torch.fft.rfft2(m.a(x)) * 0.5, s=(8, 8)))),
    "interpolate": lambda m, x: head(m.e(F.interpolate(m.a(x), size=(5, 11), mode="bilinear"))),
    "pixel shuffle": lambda m, x: head(F.pixel_unshuffle(F.pixel_shuffle(m.a(x), 2), 2) * 3),
    "indexing": lambda m, x: head(m.a(x)[:, [0, 2, 2], 1:5][..., torch.tensor([1, 1, 4])]),
    "slices in place": sliced,
    "overlapping pool": lambda m, x: head(F.max_pool2d(m.e(m.a(x)), 3, 2)),
    "adaptive pools": lambda m, x: head(
        F.adaptive_avg_pool2d(m.a(x), 3) + F.adaptive_max_pool2d(m.b(x), 3)
    ),
    "dropout": lambda m, x: head(F.dropout(m.a(x), 0.5, training=False)),
    "glu": lambda m, x: head(F.glu(m.a(x), 1)),
    "squeeze-excite": squeezed,
    "normalize": lambda m, x: head(m.e(F.normalize(m.a(x), dim=1))),
    "three products": lambda m, x: head(m.a(x) * m.b(x) * m.e(m.a(x))),
    "gelu": lambda m, x: head(m.e(F.gelu(m.a(x)))),
    "gelu by hand": lambda m, x: head(
        (y := m.a(x)) * 0.5 * (1 + torch.tanh(0.8 * (y + 0.04 * y**3)))
    ),
    "erf gelu": lambda m, x: head((y := m.a(x)) * 0.5 * (1 + torch.erf(y / math.sqrt(2)))),
    "transposed": lambda m, x: head(F.conv_transpose2d(m.a(x), m.e.weight, stride=2)),
    "dynamic kernel": lambda m, x: head(F.linear(m.a(x), m.b(x).mean((0, 1)))),
    "group norm": lambda m, x: head(m.e(F.group_norm(m.a(x), 2)) ** 2),
    "instance norm": lambda m, x: head(m.e(F.instance_norm(m.a(x))) ** 2),
}


def talking(m: Any, x: Tensor) -> Tensor:
    """Heads' maps mixed by a linear layer behind the softmax."""
    q, k, v = (y(x).unflatten(-1, (4, 1)).transpose(1, 2) for y in (m.q, m.k, m.v))
    mixed = m.b((q @ k.transpose(-1, -2)).softmax(-1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return head(mixed @ v)


SENTENCES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "attention": attention,
    "talking heads": talking,
    "fused": fused(),
    "causal": fused(is_causal=True),
    "masked": fused(attn_mask=torch.eye(5).bool() | torch.ones(5, 5).bool().tril()),
    "biased": fused(attn_mask=image(5, 5)),
    "grouped": fused(enable_gqa=True),
    "layer norm": lambda m, x: head(m.b(F.layer_norm(m.a(x), (4,)))),
    "rms norm": lambda m, x: head(m.b(F.rms_norm(m.a(x), (4,)))),
    "norm by hand": by_hand_norm,
    "rms by hand": by_hand_rms,
    "linear attention": lambda m, x: head(m.q(x) @ (m.k(x).transpose(1, 2) @ m.v(x))),
    "swiglu": lambda m, x: head(m.b(F.silu(m.a(x)) * m.q(x))),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_conserved(name: str) -> None:
    torch.manual_seed(1)
    net = Net(PICTURES[name], a=conv(3, 4), b=conv(3, 4), e=conv(4, 4), c=lin(4, 2), d=lin(2, 4))
    net.b.weight.data += 0.1
    net = net.double()
    x = image(2, 3, 8, 8).double()
    assert kept(net, x, Preset("exact", Epsilon(0.0), Epsilon(0.0))) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", SENTENCES)
def test_sentences_are_conserved(name: str) -> None:
    layers = {"q": lin(4, 4), "k": lin(4, 4), "v": lin(4, 4), "a": lin(4, 4), "b": lin(4, 4)}
    torch.manual_seed(3)
    for layer in layers.values():
        nn.init.normal_(layer.weight)
    net = Net(SENTENCES[name], **layers).double()
    exact = Preset("exact", Epsilon(0.0), Epsilon(0.0))
    assert kept(net, image(2, 5, 4).double(), exact) == pytest.approx(1, abs=1e-4)


def test_embedding_is_the_input() -> None:
    net = Net(lambda m, x: head(m.b(m.e(x))), e=nn.Embedding(9, 4), b=lin(4, 3))
    found = relevance(net, torch.tensor([[1, 4, 4]]))
    assert found["input"].shape == (1, 3, 4)
    assert float(found["input"].sum()) == pytest.approx(float(found["score"]), rel=1e-4)


@pytest.mark.parametrize("rule", [Flat(), WSquare(), ZBox(-4, 4)], ids=str)
def test_first_rule_below_moves_and_sums(rule: Any) -> None:
    """What a first-layer rule gives survives what lies below it: scaling, shifting, cropping."""
    first = Preset("first", ZPlus(), Epsilon(), first=rule)
    layers = {"a": conv(3, 4), "b": conv(3, 4), "c": lin(4, 1)}

    def run(m: Any, x: Tensor) -> Tensor:
        x = (x / 0.3)[:, :, 1:].flip(3)
        return m.c(F.relu(m.a(x) + m.b(x)).mean((2, 3)))

    assert kept(Net(run, **layers), image(1, 3, 7, 6), first) == pytest.approx(1, abs=1e-3)


def test_both_stems_are_first() -> None:
    net = Net(lambda m, x: head(F.relu(m.a(x)) + F.relu(m.b(x))), a=conv(3, 4), b=conv(3, 4))
    flat = Preset("f", None, None, first=Flat(0.0))
    found = relevance(net, image(1, 3, 5, 5), flat, SUM, "input", "a", "b")
    assert torch.allclose(found["input"][:, 0], found["input"][:, 2], atol=1e-6)
    assert float(found["input"].sum()) == pytest.approx(float(found["score"]), rel=1e-4)


def test_an_op_without_a_rule_is_named() -> None:
    net = Net(lambda m, x: head(torch.erfinv(m.a(x).tanh())), a=conv())
    with pytest.raises(NoRule, match=r"op 'erfinv' at erfinv\.0 in the model's own forward has no"):
        relevance(net, image(1, 3, 5, 5))
    loose = Preset("a", unknown="gradient")
    assert relevance(net, image(1, 3, 5, 5), loose)["input"].isfinite().all()
    assert ll.maps(net, image(1, 3, 5, 5), "lrp:epsilon,unknown=gradient", target=0)


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * 2


@pytest.mark.parametrize("unknown", ["error", "gradient"])
def test_holes_raise(unknown: Any) -> None:
    net = Net(lambda m, x: head(Double.apply(m.a(x))), a=conv())
    with pytest.raises(NoRule, match="did not see being made"):
        relevance(net, image(1, 3, 5, 5), Preset("a", unknown=unknown))


def test_half_precision_is_refused_and_bfloat16_works() -> None:
    net = body(F.relu, torch.add)
    x = image(1, 3, 6, 6)
    want = relevance(net, x, "epsilon_plus")["input"]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = relevance(net, x, "epsilon_plus")["input"]
    assert (mixed - want).abs().max() < 0.05 * want.abs().max()
    whole = relevance(body(F.relu, torch.add).bfloat16(), x.bfloat16(), "epsilon_plus")["input"]
    assert (whole - want).abs().max() < 0.05 * want.abs().max()
    with pytest.raises(ProbeError, match=r"float16.*bfloat16 or float32"):
        relevance(body(F.relu, torch.add).half(), x.half(), "epsilon_plus")


def test_a_probe_without_relevance_says_so() -> None:
    with ll.Probe(body(F.relu, torch.add)) as p:
        p.watch("input")
        p(image(1, 3, 6, 6))
        with pytest.raises(ProbeError, match=r"Probe\(model, relevance=True\)"):
            p.differentiate(SUM, p.values(), lambda v, r: None, regime=PRESETS["epsilon"])


def test_starts() -> None:
    net, x = body(F.relu, torch.add), image(2, 3, 6, 6)
    logits = net(x).detach()
    exact = {"conv": Epsilon(0.0), "linear": Epsilon(0.0)}
    found = {
        init: relevance(net, x, Preset("a", **exact, init=init))["input"].sum((1, 2, 3))
        for init in ("logit", "one", "softmax-contrast")
    }
    assert torch.allclose(found["logit"], logits[:, 0], atol=1e-4)
    assert torch.allclose(found["one"], torch.ones(2), atol=1e-4)
    assert torch.allclose(found["softmax-contrast"], logits[:, 0] - logits[:, 1], atol=1e-4)


def test_one_layer_by_its_own_rule() -> None:
    net, x = body(F.relu, torch.add), image(1, 3, 6, 6)
    one = Preset("a", Epsilon(), Epsilon(), sites=(("b", ZPlus()),))
    plain = relevance(net, x, Preset("a", Epsilon(), Epsilon()))["input"]
    assert not torch.allclose(relevance(net, x, one)["input"], plain, atol=1e-4)
    every = Preset("a", Epsilon(), Epsilon(), sites=(("?", ZPlus()),))
    assert torch.allclose(
        relevance(net, x, every)["input"], relevance(net, x, Preset("a", ZPlus(), ZPlus()))["input"]
    )


def test_sites_share_one_pass() -> None:
    net, x = body(F.relu, torch.add), image(1, 3, 6, 6)
    maps = ll.maps(net, x, "lrp:epsilon_plus", target=0, sites=["input", "a", "b"])
    assert [str(m.site) for m in maps] == ["input", "a", "b"]
    alone = ll.maps(net, x, "lrp:epsilon_plus", target=0, sites="b")[0]
    assert torch.equal(alone.values, maps[2].values)
    assert float(maps[1].values.sum()) == pytest.approx(net(x)[0, 0].item(), rel=1e-3)


def test_relevance_above_an_op_without_a_rule_needs_none() -> None:
    net = Net(lambda m, x: head(m.e(torch.erfinv(m.a(x).tanh()))), a=conv(), e=conv(4, 4))
    assert relevance(net, image(1, 3, 5, 5), "epsilon", SUM, "e:in")["e:in"].isfinite().all()


@pytest.mark.parametrize("preset", ["epsilon_plus_flat", "gamma_hold"])
def test_conditional_relevance_adds_up(preset: str) -> None:
    net, x = body(F.relu, torch.add), image(2, 3, 6, 6)
    want = relevance(net, x, preset)["input"]
    specs = [ll.use(f"lrp:{preset}", through=f"a[{i}]") for i in range(4)]
    parts = ll.maps(net, x, specs, target=0)
    stacked = torch.stack([m.values for m in parts if m.sample == parts[0].sample])
    assert torch.allclose(stacked.sum(0), want[0].sum(0), atol=1e-5)
    assert (stacked[0] - stacked[1]).abs().max() > 0
    two = ll.use(f"lrp:{preset}", through=("a[0]", "a[3]"))
    both = ll.maps(net, x, two, target=0)[0].values
    assert torch.allclose(both, stacked[0] + stacked[3], atol=1e-5)


def test_conditional_relevance_at_the_site_itself() -> None:
    net, x = body(F.relu, torch.add), image(1, 3, 6, 6)
    only = Preset("a", Epsilon(), Epsilon(), through=("b[2]",))
    found = relevance(net, x, only, SUM, "b")["b"]
    assert found[:, 2].abs().sum() > 0
    assert found[:, [0, 1, 3]].abs().sum() == 0
    with pytest.raises(ProbeError, match="names no channel"):
        relevance(net, x, Preset("a", through=("b",)))


def test_conditional_relevance_where_channels_come_last() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).permute(0, 2, 3, 1)

    net = Net(lambda m, x: head(m.last(x).permute(0, 3, 1, 2)), last=Last())
    only = Preset("a", Epsilon(), Epsilon(), through=("last[2]",))
    found = relevance(net, image(1, 3, 6, 6), only, SUM, "last")["last"]
    assert found[..., 2].abs().sum() > 0
    assert found[..., [0, 1, 3]].abs().sum() == 0


def test_keys_of_written_out_attention_have_their_own_layout() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.proj = lin(4, 12), lin(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).reshape(1, 5, 3, 2, 2).permute(2, 0, 3, 1, 4)
            attention = (q @ k.transpose(-2, -1)).softmax(-1)
            return self.proj((attention @ v).transpose(1, 2).reshape(1, 5, 4))

    net = Net(lambda m, x: head(m.attn(x)), attn=Attention())
    sites = ("attn:q", "attn:k", "attn:v", "attn:heads")
    found = relevance(net, image(1, 5, 4), "attnlrp", SUM, *sites)
    assert found["attn:k"].shape == (1, 2, 5, 2)
    assert torch.allclose(found["attn:q"].sum(), found["attn:k"].sum(), atol=1e-5)


def test_a_product_on_a_slice_in_place() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        y = m.a(x).clone()
        y[:, :2] *= m.b(x)[:, :2]
        return head(y)

    net = Net(run, a=conv(), b=conv(3, 4)).double()
    exact = Preset("exact", Epsilon(0.0), Epsilon(0.0))
    assert kept(net, image(1, 3, 5, 5).double(), exact) == pytest.approx(1, abs=1e-4)


def test_an_output_made_of_other_outputs_starts_once() -> None:
    def run(m: Any, x: Tensor) -> Any:
        a, b = m.a(x), m.b(x)
        return {"logits": (a + b) / 2, "a": a, "b": b}

    net = Net(run, a=lin(4, 2), b=lin(4, 2))
    found = relevance(net, image(3, 4), "epsilon")
    assert torch.allclose(found["input"].sum(1), found["score"], atol=1e-4)


def test_a_recurrent_layer_is_refused() -> None:
    net = Net(lambda m, x: head(m.r(m.a(x))[0]), r=nn.LSTM(4, 3, batch_first=True), a=lin(4, 4))
    with pytest.raises(NoRule, match="'lstm'"):
        relevance(net, image(1, 5, 4))


def shrinking(seed: int, norms: bool) -> nn.Module:
    """Convolutions with batch norms of a trained net, or without and ever smaller values."""
    torch.manual_seed(seed)
    parts: list[nn.Module] = []
    for i, channels in enumerate((8, 16, 16)):
        parts += [nn.Conv2d((3, 8, 16)[i], channels, 3, padding=1, stride=1 + i % 2)]
        if norms:
            norm = nn.BatchNorm2d(channels)
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            parts += [norm]
        parts += [nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)).eval()


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_a_stabiliser_lets_no_other_sample_decide(seed: int, norms: bool) -> None:
    net = shrinking(seed, norms)
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    whole = ll.maps(net, x, "lrp:epsilon", target=1, batch=4).stack()
    for batch in (1, 3):
        other = ll.maps(net, x, "lrp:epsilon", target=1, batch=batch).stack()
        assert (other - whole).abs().max() < 1e-5 * whole.abs().max()
    wide = ll.maps(net.double(), x.double(), "lrp:epsilon", target=1).stack()
    assert (wide - whole).abs().max() < 1e-5 * whole.abs().max()
