"""Orchid: transforms, shift equivariance of what makes filters, its map, filters, relevance."""

from __future__ import annotations

import math

import pytest
import torch
from fill import fill, image, tokens
from torch import Tensor, nn

import limelight as ll
from limelight.models import load
from limelight.models.zoo.orchid.conditioning import of_spectrum
from limelight.models.zoo.orchid.transforms import TRANSFORMS
from limelight.probe.errors import ModelError, OptionError

SIZES = {"d_model": 6, "l_max": 12, "filter_order": 8, "w": 10}
LAST = 6  # the last layer of the network that makes a static filter
CORRELATION = {"type": "corrTime"}
CASES = {
    "fft": {},
    "fft_freq": {"causal": False, "dxt": "fft-o"},
    "odd": {"l_max": 11, "causal": False},
    "parts": {"causal": False, "conv_kernel": {"type": "freq"}},
    "convt": {"conv_kernel": {"nn": "convt"}},
    "convf": {"conv_kernel": {"nn": "convf", "n_layer": 2}},
    "parts_convt": {"causal": False, "conv_kernel": {"type": "freq", "nn": "convt"}},
    "dct1": {"dxt": "dct1"},
    "dct": {"dxt": "dct", "causal": False, "residual_long_conv": None},
    "dctxd": {"dxt": "dctxd", "conv_kernel": {"type": "freq"}},
    "correlation": {"causal": False, "conv_kernel": {**CORRELATION, "actq": "tanh_abs"}},
    "correlation_dct": {"causal": False, "dxt": "dct1", "conv_kernel": {**CORRELATION}},
    "layers": {"causal": False, "conv_kernel": {"n_layer": 3, "conv_filter_size": 5}},
    "plain": {"conv_kernel": {"norm": None, "bias": False, "padding_mode": "circular"}},
}
every_case = pytest.mark.parametrize("name", CASES)


def filled(name: str = "fft", **hyper: object) -> nn.Module:
    model = load("orchid", **{**SIZES, **CASES[name], **hyper})
    fill(model)
    return model


def drawn(model: nn.Module, b: int = 2, seed: int = 0) -> Tensor:
    return torch.from_numpy(image((b, model.l_max, 6), seed))


def ports(model: nn.Module, x: Tensor, *names: str) -> list[Tensor]:
    t = ll.trace(model, x, [f":{name}" for name in names])
    return [t[f":{name}"].act for name in names]


def naive_transform(name: str, x: Tensor) -> Tensor:
    """The sums that define each transform, `... n`."""
    n = x.shape[-1]
    j, k = torch.arange(n, dtype=x.dtype), torch.arange(n, dtype=x.dtype)[:, None]
    if name.startswith("fft"):
        wave = torch.polar(torch.ones(n // 2 + 1, n).to(x), -2 * math.pi / n * k[: n // 2 + 1] * j)
        return (wave @ x[..., None].to(wave))[..., 0] / (n if name == "fft" else n**0.5)
    if name == "dct1":
        ends = torch.where((j == 0) | (j == n - 1), 1.0, 2.0).to(x)
        return ((math.pi / (n - 1) * k * j).cos() * ends @ x[..., None])[..., 0]
    matrix = 2 * (math.pi / n * k * (j + 0.5)).cos()
    if name.endswith("-o"):
        matrix = matrix * torch.where(k == 0, (4 * n) ** -0.5, (2 * n) ** -0.5)
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(n).to(x))
    return (matrix @ x[..., None])[..., 0]


@pytest.mark.parametrize("n", [2, 5, 8])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_are_their_sums(name, n):
    dxt, x = TRANSFORMS[name], torch.randn(3, n, dtype=torch.float64)
    want = naive_transform(name, x)
    torch.testing.assert_close(dxt.forward(x, n), want)
    torch.testing.assert_close(dxt.inverse(want, n), x)
    padded = torch.cat([x, torch.zeros(3, 2, dtype=x.dtype)], -1)
    torch.testing.assert_close(dxt.forward(x, n + 2), naive_transform(name, padded))


@every_case
def test_operator_is_its_formula(name):
    """Products of spectra by the sums above, without the op."""
    model = filled(name).double()
    u, dxt = drawn(model).double(), model.dxt
    n = u.shape[1]
    p = model.in_linear(u)
    x0, x1, v = model.conv1d_short(p.mT)[..., :n].chunk(3, 1)
    made = model.adaptive(p[..., 12:])
    static = model.fixed_conv(n)
    if model.causal:
        kernel = naive_transform(dxt.name, static + made)
    else:
        kernel = naive_transform(dxt.name, static) + made
    gated = x1 * v
    y = dxt.inverse(naive_transform(dxt.name, gated) * kernel, n)
    y = x0 * (y + model.fixed_conv.bias[:, None] * gated)
    if (own := model.fixed_conv_res) is not None:
        kernel = naive_transform(dxt.name, super(type(own), own).forward(n))
        y = y + dxt.inverse(naive_transform(dxt.name, u.mT) * kernel, n)
        y = y + own.bias[:, None] * u.mT
    torch.testing.assert_close(model(u), model.out_linear(y.mT))


@every_case
def test_map_times_values_is_the_result(name):
    model = filled(name)
    x = drawn(model)
    whole, v, out = ports(model, x, "map", "v", "heads")
    torch.testing.assert_close(whole @ v, out, rtol=1e-4, atol=1e-5)
    n = x.shape[1]
    assert whole.shape[-1] == model.dxt.extended(x.mT).shape[-1]
    own = model.dxt.folded(whole, n)
    assert own.shape[-2:] == (n, n)
    torch.testing.assert_close(own @ v[:, :, :n], out[:, :, :n], rtol=1e-4, atol=1e-5)
    if model.fixed_conv_res is not None:
        sites = [f"fixed_conv_res:{port}" for port in ("map", "v", "heads")]
        t = ll.trace(model, x, sites)
        whole, v, out = (t[site].act for site in sites)
        torch.testing.assert_close(whole @ v, out, rtol=1e-4, atol=1e-5)


ROUND = {"padding_mode": "circular"}
EQUIVARIANT = {
    "magnitude": ROUND,
    "magnitude_layers": {**ROUND, "n_layer": 2},
    "magnitude_convt": {**ROUND, "nn": "convt"},
    "correlation": {**ROUND, **CORRELATION},
    "correlation_nn": {**ROUND, **CORRELATION, "nn": "convt"},
    "correlation_abs": {**ROUND, **CORRELATION, "actq": "tanh_abs"},
}


@pytest.mark.parametrize("name", EQUIVARIANT)
@pytest.mark.parametrize("shift", [1, 5])
def test_a_rolled_sequence_makes_the_same_filter(name, shift):
    model = filled(causal=False, conv_kernel=EQUIVARIANT[name]).double()
    x = drawn(model).double()
    torch.testing.assert_close(model.adaptive(x.roll(shift, 1)), model.adaptive(x))


@pytest.mark.parametrize(
    "form", [{**ROUND, "type": "freq"}, {**ROUND, **CORRELATION, "actq": "tanh"}]
)
def test_real_and_imaginary_parts_alone_are_not_equivariant(form):
    model = filled(causal=False, conv_kernel=form).double()
    x = drawn(model).double()
    moved = model.adaptive(x.roll(1, 1)) - model.adaptive(x)
    assert float(moved.detach().abs().max()) > 0.1


def test_padding_with_zeros_breaks_equivariance_at_the_edges_alone():
    """A sequence that is zero there makes the same filter, but for the edge that its bias makes."""
    model = filled(causal=False, conv_kernel={"bias": False, "norm": None}).double()
    x = drawn(model).double()
    near = model.adaptive(x)
    assert float((model.adaptive(x.roll(1, 1)) - near).detach().abs().max()) > 1e-6
    x[:, :2] = x[:, -2:] = 0
    torch.testing.assert_close(model.adaptive(x.roll(1, 1)), model.adaptive(x))


def test_functions_of_a_spectrum_keep_phases_or_act_on_parts():
    x = torch.polar(torch.tensor([0.5, 2.0]), torch.tensor([1.0, -2.0]))
    want = torch.polar(torch.tensor([0.5, 2.0]).tanh(), torch.tensor([1.0, -2.0]))
    torch.testing.assert_close(of_spectrum("tanh_abs", x), want)
    want = torch.complex(x.real.clamp_min(0), x.imag.clamp_min(0))
    torch.testing.assert_close(of_spectrum("relu", x), want)
    real = torch.tensor([-1.5, 2.0])
    torch.testing.assert_close(of_spectrum("tanh_abs", real), real.tanh())
    assert of_spectrum("id", x) is x


@every_case
def test_filters_in_time_are_those_of_the_map(name):
    """Of every lag: the map without gates and bias, and energies as Parseval counts them."""
    model = filled(name)
    x = drawn(model)
    fixed, made, whole, g_in, g_out = ports(
        model, x, "kernel_fixed", "kernel_adapt", "map", "gate_in", "gate_out"
    )
    found = model.filters(fixed, made)
    taps = found.static + found.adaptive
    size = taps.shape[-1]
    lag = (torch.arange(size)[:, None] - torch.arange(size)) % size
    want = taps[..., lag] + model.fixed_conv.bias[:, None, None] * torch.eye(size)
    want = g_out[..., :, None] * want * g_in[..., None, :]
    torch.testing.assert_close(whole, want, rtol=1e-4, atol=1e-5)
    waves = torch.fft.fft(found.adaptive)
    torch.testing.assert_close(found.adaptive_energy, waves.abs().square().mean(-1))
    share = found.adaptive_share
    assert share.shape == (2, 6)
    torch.testing.assert_close(share * found.static_energy, (1 - share) * found.adaptive_energy)


def test_each_sample_has_its_own_filter():
    model = filled()
    x = drawn(model)
    alone = torch.cat([model(x[:1]), model(x[1:])])
    torch.testing.assert_close(model(x), alone)
    (filter,) = ports(model, x, "filter")
    assert float((filter[0] - filter[1]).abs().max()) > 0.1


def test_causal_cuts_the_filter_and_still_sees_the_future():
    model = filled("fft").double()
    u = drawn(model, 1).double().requires_grad_()
    grad = torch.autograd.grad(model(u)[0, 3].sum(), u)[0][0]
    assert float(grad[4:].abs().max()) > 1e-3


@every_case
def test_relevance_closes_where_nothing_is_static(name):
    """Biases and the static part of a sum of filters keep what is theirs; without them all does."""
    model = filled(name).double()
    with torch.no_grad():
        for part, p in model.named_parameters():
            if part.endswith("bias") or part.endswith(f"implicit_filter.{LAST}.weight"):
                p.zero_()
    x = drawn(model, 1).double()
    books = ll.ledger(model, x, "lrp:epsilon", target=lambda y: y[:, 3, 2])
    assert books.leaks(1e-4) == ()
    assert books.kept == pytest.approx(1, abs=5e-3)
    row = next(row for row in books if row.op.startswith("long_convolution"))
    assert row.handed == pytest.approx(row.received, rel=1e-4)


@every_case
def test_it_trains(name):
    model = filled(name).train()
    model(drawn(model)).square().mean().backward()
    grads = {n: p.grad for n, p in model.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in grads.values())


def test_learning_rates_are_named():
    rates = filled(lr=1e-3, lr_pos_emb=1e-5).learning_rates
    assert rates["fixed_conv.pos_emb.z"] == rates["fixed_conv_res.pos_emb.z"] == 1e-5
    others = {rate for name, rate in rates.items() if not name.endswith("pos_emb.z")}
    assert others == {1e-3}
    assert all(".implicit_filter." in n or n.endswith("pos_emb.z") for n in rates)
    assert filled(lr=None, lr_pos_emb=None).learning_rates == {}


@pytest.mark.parametrize(
    ("hyper", "match"),
    [
        ({"dxt": "fftt"}, "no transform dxt='fftt'; did you mean 'fft'"),
        ({"conv_kernel": {"typ": "freq"}}, "no option 'typ'"),
        ({"conv_kernel": {"type": "absfreqs"}}, "type='absfreqs'"),
        ({"conv_kernel": {"type": "corrTime"}}, "give causal=False"),
        ({"causal": False, "conv_kernel": {"type": "corrTime", "nn": "convf"}}, "nn='convf'"),
        ({"conv_kernel": {"conv_filter_size": 4}}, "odd size"),
        ({"conv_kernel": {"actq": "tan"}}, "no activation 'tan'"),
        ({"conv_kernel": {"padding_mode": "same"}}, "padding_mode='same'"),
        ({"residual_long_conv": "conv"}, "'sconv', or None"),
        ({"short_filter_order": 0}, "at least 1, 1 and 0"),
        ({"order": 3}, "keeps order=2"),
        ({"emb_dim": 4}, "odd width"),
    ],
)
def test_what_cannot_be_built_is_told(hyper, match):
    with pytest.raises(OptionError, match=match):
        load("orchid", **{**SIZES, **hyper})


def test_lengths_that_do_not_fit_are_told():
    with pytest.raises(OptionError, match=r"13 tokens .* give 1 to 12 tokens"):
        filled()(torch.randn(1, 13, 6))
    with pytest.raises(OptionError, match=r"7 tokens .* give 12 tokens"):
        filled("dctxd")(torch.randn(1, 7, 6))
    assert filled()(torch.randn(1, 7, 6)).shape == (1, 7, 6)
    words = load("orchid_bert_base", d_model=8, depth=1, vocab_size=20, l_max=12)
    with pytest.raises(OptionError, match="larger l_max"):
        words(torch.zeros(1, 13, dtype=torch.long))
    small = load("orchid_vit_cifar10", d_model=8, depth=1)
    with pytest.raises(ModelError, match=r"a picture of 32 x 64 .*: give 32 x 32"):
        small(torch.randn(1, 3, 32, 64))


def test_a_language_model_refuses_what_is_circular():
    with pytest.raises(OptionError, match="train on masked tokens"):
        load("orchid_bert_base", causal=True)
    model = load("orchid_bert_base", d_model=12, depth=2, vocab_size=50, l_max=16)
    assert "no causal training" in model.card.about
    assert model.lm_head.weight is model.word_embeddings.weight
    assert model.card.heads == ("blocks.*.attn",)
    assert model(torch.from_numpy(tokens((2, 16), 50, 0))).shape == (2, 16, 50)


@pytest.mark.parametrize("dxt", ["fft", "dct"])
def test_a_classifier_learns_two_kinds_of_pictures(dxt):
    torch.manual_seed(0)
    hyper = {"img_size": 16, "d_model": 16, "depth": 1, "filter_order": 8, "num_classes": 2}
    model = load("orchid_vit_cifar10", dxt=dxt, **hyper).train()
    x, y = torch.randn(16, 3, 16, 16), torch.arange(16) % 2
    x[y == 1, :, ::4] += 2
    steps = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(25):
        loss = nn.functional.cross_entropy(model(x), y)
        steps.zero_grad()
        loss.backward()
        steps.step()
    assert float(loss.detach()) < 0.1


@pytest.mark.parametrize("name", ["orchid_bert_base", "orchid_vit_cifar10"])
def test_relevance_of_models_closes_but_for_positions_and_static_filters(name):
    hyper = {"d_model": 12, "depth": 2, "filter_order": 8}
    words = "bert" in name
    model = load(name, weights=None, **hyper, **({"vocab_size": 50, "l_max": 16} if words else {}))
    fill(model)
    with torch.no_grad():
        for part, p in model.named_parameters():
            static = f"implicit_filter.{LAST}.weight"
            if part.endswith(("bias", static)) or part.startswith("pos"):
                p.zero_()
    x = tokens((1, 16), 50, 0) if words else image((1, 3, 32, 32), 0)
    target = ll.token(3, position=-1) if words else ll.label(3)
    books = ll.ledger(model, torch.from_numpy(x), "lrp:epsilon", target=target)
    assert books.leaks(1e-4) == ()
    assert books.kept == pytest.approx(1, abs=2e-3)
