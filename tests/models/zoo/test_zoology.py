"""Language models on any mixer: causality, sizes of states, switches, errors, what a probe sees."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from fill import fill, tokens
from shared import golden
from torch import Tensor, nn

import limelight as ll
from limelight.models import load
from limelight.models.zoo.zoology.mixers import MIXERS
from limelight.probe.errors import ModelError, OptionError

SIZES = {"d_model": 16, "vocab_size": 50}
LONG = {"name": "baseconv", "kwargs": {"l_max": 24, "kernel_size": -1, "use_act": True}}
FREE = {
    "name": "baseconv",
    "kwargs": {"l_max": 24, "kernel_size": -1, "implicit_long_conv": False},
}
SPECS = {
    "attention": {"name": "attention", "kwargs": {"num_heads": 4}},
    "sliding": {"name": "sliding", "kwargs": {"block_size": 3}},
    "short": {"name": "baseconv", "kwargs": {"kernel_size": [2, 4], "use_act": True}},
    "long": LONG,
    "free": FREE,
    "hyena": {
        "name": "hyena",
        "kwargs": {"l_max": 30, "emb_dim": 5, "filter_order": 8, "num_inner_mlps": 1, "w": 3},
    },
    "h3": {"name": "h3", "kwargs": {"l_max": 30, "d_state": 6, "head_dim": 4}},
    "based": {
        "name": "based",
        "kwargs": {"l_max": 30, "feature_dim": 6, "num_heads": 2, "num_key_value_heads": 2},
    },
    "rwkv": {"name": "rwkv", "kwargs": {"l_max": 30, "n_layers": 2}},
}


def filled(mixer: object, **hyper: object) -> nn.Module:
    model = load("zoology", sequence_mixer=mixer, **{**SIZES, **hyper})
    fill(model)
    return model


def ids(b: int = 2, n: int = 24, seed: int = 0) -> Tensor:
    return torch.from_numpy(tokens((b, n), 50, seed))


@pytest.mark.parametrize("name", SPECS)
def test_no_logit_depends_on_later_tokens(name):
    model, x = filled(SPECS[name]).double(), ids(1)
    embedded = model.backbone.embeddings(x).detach().requires_grad_()
    model.backbone.embeddings.forward = lambda *_: embedded
    grad = torch.autograd.grad(model(x)[0, 11].square().sum(), embedded)[0][0]
    assert float(grad[:12].abs().max()) > 0
    assert float(grad[12:].abs().max()) <= 1e-12 * float(grad.abs().max())


def test_free_taps_beyond_the_sequence_look_ahead_as_published():
    """rfft over 2 n points crops the filter there; taps from n + 1 on are negative lags."""
    model, n = filled(FREE), 15
    mixer, x = model.backbone.layers[0].sequence_mixer, torch.randn(2, n, 16)
    taps = mixer.conv.filter
    waves = torch.fft.rfft(x.mT, n=2 * n) * torch.fft.rfft(taps, n=2 * n)
    conv = torch.fft.irfft(waves, n=2 * n)[..., :n].mT + x
    torch.testing.assert_close(mixer(x), conv * mixer.projection(x) + x)
    changed = x.clone()
    changed[:, -1] += 1
    assert not torch.allclose(mixer(changed)[:, 0], mixer(x)[:, 0])
    with ll.Probe(model) as probe:
        probe.watch("backbone.layers.0.sequence_mixer:map")
        probe(ids(1, n))
        whole = probe.trace["backbone.layers.0.sequence_mixer:map"].act
    assert float(whole.triu(1).abs().max()) > 0


def test_short_convolutions_are_torchs():
    model = filled({"name": "baseconv", "kwargs": {"kernel_size": [4, 2], "use_act": False}})
    for layer, size in zip(model.backbone.layers, (4, 2), strict=True):
        mixer, x = layer.sequence_mixer, torch.randn(2, 9, 16)
        assert mixer.conv.conv.kernel_size == (size,)
        conv = mixer.conv.conv(x.mT)[..., :9].mT
        torch.testing.assert_close(mixer(x), conv * mixer.projection(x) + x)
        mixer.use_act = True
        torch.testing.assert_close(mixer(x), F.silu(conv) * F.silu(mixer.projection(x)) + x)


def test_h3_is_its_recurrence():
    """State space models stepped token by token, over all d_state modes of each."""
    mixer = filled(SPECS["h3"]).backbone.layers[0].sequence_mixer.double()
    x = torch.randn(1, 12, 16, dtype=torch.float64)
    q, k, v = (part(x)[0] for part in (mixer.q_proj, mixer.k_proj, mixer.v_proj))
    B, C = mixer.ssm_k_kernel.kernel.B, mixer.ssm_k_kernel.kernel.C[0]  # noqa: N806
    taps = [(C[:, lag:] * B[:, : 6 - lag]).sum(1) for lag in range(6)]
    past = [sum(taps[s] * k[t - s] for s in range(min(6, t + 1))) for t in range(12)]
    k = torch.stack(past) + mixer.ssm_k_D * k
    inner = mixer.kernel.kernel
    dt = inner.log_dt.exp()[:, None]
    A = torch.complex(-inner.inv_A_real.exp(), inner.A_imag)  # noqa: N806
    turn = (1 + dt * A / 2) / (1 - dt * A / 2)
    scale = torch.view_as_complex(inner.B * 1) * torch.view_as_complex(inner.C[0] * 1)
    scale, state = scale * dt / (1 - dt * A / 2), 0.0
    rows = []
    for t in range(12):
        kv = k[t].reshape(4, 4, 1) * v[t].reshape(4, 1, 4)  # heads, channels of k, of v
        state = turn[..., None, None] * state + kv[:, None]
        y = 2 * (scale[..., None, None] * state).sum(1).real + mixer.D[:, None, None] * kv
        rows.append(torch.einsum("hi,hij->jh", q[t].reshape(4, 4), y).flatten())
    want = mixer.output_linear(torch.stack(rows))
    torch.testing.assert_close(mixer(x)[0], want)


def test_sliding_sees_itself_and_a_block_before():
    model = filled(SPECS["sliding"], n_layers=1)
    with ll.Probe(model) as probe:
        probe.watch("backbone.layers.0.sequence_mixer:map")
        probe(ids(1, 7))
        seen = probe.trace["backbone.layers.0.sequence_mixer:map"].act[0, 0] > 0
    place = torch.arange(7)
    back = place[:, None] - place
    assert torch.equal(seen, (back >= 0) & (back <= 3))


@pytest.mark.parametrize("training", [False, True])
def test_selection_is_a_softmax_over_positions(training):
    model = filled("selective", max_position_embeddings=24)
    mixer, x = model.backbone.layers[0].sequence_mixer.train(training), torch.randn(2, 10, 16)
    q, k, v = mixer.Wqkv(x).chunk(3, -1)
    scores = (q @ k.mT / 4).masked_fill(torch.ones(10, 10).triu(1).bool(), -10000)
    share = mixer.selecting(x).softmax(1)
    if not training:
        least = share.sort(1, descending=True).values[:, 3:4]  # ceil(sqrt(10)) = 4
        share = share * (share >= least)
    want = x + mixer.out_proj(scores.softmax(-1) @ v) * share
    torch.testing.assert_close(mixer(x), want)
    if not training:
        site = "backbone.layers.0.sequence_mixer:selection"
        t = ll.trace(model, ids(1, 24), site)
        assert int((t[site].act > 0).sum()) == 5


@pytest.mark.parametrize(
    "name", ["attention", "sliding", "baseconv", "baseconv_long", "based", "hyena"]
)
def test_state_size_is_the_published_one(name):
    config = golden(f"zoology.lm_{name}").case["config"]
    model = load("zoology", **config)
    assert model.state_size(64) == model.published_state_size == config["upstream_state_size_bytes"]


def test_state_sizes_differ_by_mixer():
    assert filled("selective").state_size(64) is None
    assert filled(SPECS["h3"]).state_size(10) == 4 * 2 * 16 * 6
    mixed = filled([SPECS["attention"], SPECS["sliding"]])
    assert mixed.state_size(10) == 4 * (2 * 16 * 10 + 2 * 16 * 3)


def test_a_hybrid_takes_its_mixers_in_turn():
    model = filled(["baseconv", SPECS["attention"]], n_layers=3)
    kinds = [type(part.mixer).__name__ for part in model.sequence_mixers]
    assert kinds == ["BaseConv", "MHA", "BaseConv"]
    assert model.heads == model.card.heads
    assert model.heads[0] == "backbone.layers.0.sequence_mixer.mixer"
    published = {"configs": ["BaseConv", {"name": "zoology.mixers.attention.MHA"}]}
    named = {"name": "zoology.mixers.hybrid.Hybrid", "kwargs": published}
    assert filled(named).heads == model.heads[:2]


def test_every_mixer_is_found_by_all_its_names():
    for kind in MIXERS.values():
        options = {"configs": ["attention"]} if kind.name == "hybrid" else {}
        options |= {"l_max": 24} if "l_max" in kind.options else {}
        for name in (kind.name, kind.path, kind.path.rpartition(".")[2]):
            model = load("zoology", sequence_mixer={"name": name, "kwargs": options}, **SIZES)
            assert model(ids()).shape == (2, 24, 50)


def test_dropout_acts_in_training_alone():
    attention = {"name": "attention", "kwargs": {"dropout": 0.5}}
    model, x = filled(attention, embed_dropout=0.0), ids()
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))
    still = filled("attention", embed_dropout=0.0).train()
    assert torch.equal(still(x), still(x))
    model = filled("attention", embed_dropout=0.5, resid_dropout=0.25).train()
    assert model.backbone.dropout.p == 0.5
    assert {layer.dropout2.p for layer in model.backbone.layers} == {0.25}


def test_weights_start_as_published():
    model = load("zoology", d_model=256, vocab_size=500, n_layers=8, state_mixer="mlp")
    layer = model.backbone.layers[0]
    small = 0.02 / 16**0.5
    for weight, std in (
        (model.backbone.embeddings.word_embeddings.weight, 0.02),
        (layer.sequence_mixer.Wqkv.weight, 0.02),
        (layer.state_mixer.fc1.weight, 0.02),
        (layer.sequence_mixer.out_proj.weight, small),
        (layer.state_mixer.fc2.weight, small),
    ):
        assert float(weight.detach().std()) == pytest.approx(std, rel=0.05)
    assert float(layer.state_mixer.fc1.bias.detach().abs().max()) == 0
    assert model.lm_head.weight is model.backbone.embeddings.word_embeddings.weight


def test_vocabularies_are_padded_and_tied_weights_load(tmp_path):
    model = filled("attention", pad_vocab_size_multiple=8)
    assert model.lm_head.weight.shape == (56, 16)
    state = model.state_dict()
    del state["lm_head.weight"]
    torch.save(state, tmp_path / "x.pt")
    again = load(
        "zoology", tmp_path / "x.pt", sequence_mixer="attention", d_model=16, vocab_size=56
    )
    torch.testing.assert_close(again(ids()), model(ids()))


@pytest.mark.parametrize(
    ("hyper", "match"),
    [
        ({"sequence_mixer": "hyenna"}, "no sequence mixer 'hyenna'; did you mean 'hyena'"),
        ({"sequence_mixer": "hyena"}, "without l_max"),
        (
            {"sequence_mixer": {"name": "sliding", "kwargs": {"window": 3}}},
            "no option 'window'; there are block_size",
        ),
        ({"sequence_mixer": {"kwargs": {}}}, "neither a name nor"),
        ({"sequence_mixer": []}, "hybrid was asked without mixers"),
        (
            {"sequence_mixer": {"name": "attention", "kwargs": {"num_heads": 3}}},
            "does not divide into num_heads=3",
        ),
        (
            {"sequence_mixer": {"name": "baseconv", "kwargs": {"kernel_size": [3]}}},
            "no size for layer 1",
        ),
        (
            {"sequence_mixer": {"name": "baseconv", "kwargs": {"kernel_size": -1}}},
            "without l_max",
        ),
        (
            {"sequence_mixer": {"name": "h3", "kwargs": {"l_max": 9, "head_dim": 5}}},
            "head_dim that divides",
        ),
        (
            {"sequence_mixer": {"name": "hyena", "kwargs": {"l_max": 9, "emb_dim": 4}}},
            "odd width",
        ),
        (
            {"sequence_mixer": {"name": "based", "kwargs": {"feature_name": "relu"}}},
            "give 'taylor_exp'",
        ),
        (
            {"sequence_mixer": {"name": "based", "kwargs": {"train_view": "cubic"}}},
            "train_view 'cubic' is not known",
        ),
        (
            {"sequence_mixer": {"name": "based", "kwargs": {"num_key_value_heads": 2}}},
            "one number for both",
        ),
        (
            {"sequence_mixer": {"name": "based", "kwargs": {"num_heads": 3}}},
            "does not divide into num_heads=3",
        ),
        (
            {"sequence_mixer": {"name": "based", "kwargs": {"feature_dim": 0}}},
            "feature_dim=0",
        ),
        (
            {"sequence_mixer": {"name": "rwkv", "kwargs": {"n_layers": 1}}},
            "does not reach layer 1",
        ),
        ({"state_mixer": "glu"}, "state_mixer 'glu'"),
        ({"tied_lm_head": False}, "keeps tied_lm_head=True"),
    ],
)
def test_what_cannot_be_built_is_told(hyper, match):
    with pytest.raises((OptionError, ModelError), match=match):
        load("zoology", **SIZES, **hyper)


@pytest.mark.parametrize("name", ["long", "free", "hyena", "h3", "based", "rwkv"])
def test_more_tokens_than_l_max_are_told(name):
    with pytest.raises(OptionError, match="larger l_max"):
        filled(SPECS[name])(ids(1, 31))
    with pytest.raises(OptionError, match="larger max_position_embeddings"):
        filled("attention", max_position_embeddings=8)(ids(1, 9))


@pytest.mark.parametrize("name", SPECS)
def test_relevance_closes_op_by_op(name):
    model = filled(SPECS[name])
    books = ll.ledger(model, ids(1), "lrp:epsilon", target=ll.token(3, position=-1))
    assert books.leaks(1e-5) == ()
    with torch.no_grad():
        for part, p in model.named_parameters():
            if part.endswith("bias") and "filter_fn" not in part:
                p.zero_()
    books = ll.ledger(model, ids(1), "lrp:epsilon", target=ll.token(3, position=-1))
    assert books.kept == pytest.approx(1, abs=2e-3)


def test_a_convolution_gives_each_factor_an_equal_part():
    """Of out = gate_out (k * gate_in v) a third each, which adds up to the result."""
    model = filled(SPECS["hyena"], n_layers=1)
    books = ll.ledger(model, ids(1), "lrp:epsilon", target=ll.token(3, position=-1))
    row = next(row for row in books if row.op.startswith("long_convolution"))
    assert row.handed == pytest.approx(row.received, rel=1e-5)


@pytest.mark.parametrize("name", SPECS)
def test_it_trains_and_checkpointing_changes_nothing(name):
    found = []
    for enable in (False, True):
        model = filled(SPECS[name])
        model.set_grad_checkpointing(enable)
        model(ids()).square().mean().backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
        assert all(g is not None and g.isfinite().all() for g in grads.values())
        found.append(list(grads.values()))
    torch.testing.assert_close(*found)


def test_based_is_the_mean_by_its_features():
    """phi(x) = [1, x / d^1/4, vec(x x') / sqrt(2 d)], summed token by token as states."""
    mixer = filled(SPECS["based"]).sequence_mixers[0].double()
    x = torch.randn(9, 16, dtype=torch.float64)

    def phi(row):
        outer = torch.outer(row, row).flatten() / (2 * 6) ** 0.5
        return torch.cat([torch.ones(1).double(), row / 6**0.25, outer])

    q, k, v = (layer(x).reshape(9, 2, -1) for layer in (mixer.proj_q, mixer.proj_k, mixer.proj_v))
    rows = torch.empty(9, 2, 8, dtype=torch.float64)
    for h in range(2):
        state, total = torch.zeros(43, 8).double(), torch.zeros(43).double()
        for t in range(9):
            state, total = state + torch.outer(phi(k[t, h]), v[t, h]), total + phi(k[t, h])
            rows[t, h] = phi(q[t, h]) @ state / (phi(q[t, h]) @ total)
    torch.testing.assert_close(mixer(x[None])[0], mixer.proj_o(rows.flatten(1)))


def test_both_views_of_based_are_one():
    views = [
        {"name": "based", "kwargs": {"feature_dim": 4, "train_view": view}}
        for view in ("linear", "quadratic")
    ]
    assert torch.equal(*(filled(view)(ids()) for view in views))


def test_rwkv_is_its_recurrence():
    """As published: a numerator and a denominator that decay, token by token."""
    mixer = filled(SPECS["rwkv"]).sequence_mixers[0].double()
    x = torch.randn(12, 16, dtype=torch.float64)
    last, above, below, rows = torch.zeros(16), torch.zeros(16), torch.zeros(16), []
    for now in x:
        mix = lambda m, now=now, last=last: m[0, 0] * now + (1 - m[0, 0]) * last  # noqa: E731
        k, v = mixer.key(mix(mixer.time_mix_k)), mixer.value(mix(mixer.time_mix_v))
        r = mixer.receptance(mix(mixer.time_mix_r)).sigmoid()
        own = (mixer.time_first + k).exp()
        rows.append(mixer.output(r * (above + own * v) / (below + own)))
        keep = (-mixer.time_decay.exp()).exp()
        above, below, last = keep * above + k.exp() * v, keep * below + k.exp(), now
    torch.testing.assert_close(mixer(x[None])[0], torch.stack(rows))


def test_rwkv_starts_with_decays_from_slow_to_fast():
    """-5 to 3 by channel, slower in later layers for the same channel."""
    model = load("zoology", sequence_mixer=SPECS["rwkv"], **SIZES)
    first, last = (mixer.time_decay.detach() for mixer in model.sequence_mixers)
    for decay in (first, last):
        assert (float(decay[0]), float(decay[-1])) == pytest.approx((-5, 3))
        assert (decay.diff() > 0).all()
    assert (last[1:-1] < first[1:-1]).all()


def test_rwkv_shows_decay_bonus_and_receptance():
    model, site = filled(SPECS["rwkv"], n_layers=1), "backbone.layers.0.sequence_mixer"
    t = ll.trace(model, ids(), [f"{site}:{port}" for port in ("decay", "bonus", "receptance")])
    mixer = model.sequence_mixers[0]
    torch.testing.assert_close(t[f"{site}:decay"].act, -mixer.time_decay.detach().exp())
    torch.testing.assert_close(t[f"{site}:bonus"].act, mixer.time_first.detach())
    gate = t[f"{site}:receptance"].act
    assert gate.shape == (2, 24, 16)
    assert ((gate > 0) & (gate < 1)).all()


@pytest.mark.parametrize("name", ["based", "rwkv"])
def test_maps_of_recurrent_mixers_are_what_they_do(name):
    """Rows add up to one; times the values they are the heads; an edit of the map is heard."""
    model, site = filled(SPECS[name], n_layers=1), "backbone.layers.0.sequence_mixer"
    ports = {port: f"{site}:{port}" for port in ("map", "v", "heads")}
    t = ll.trace(model, ids(), list(ports.values()))
    whole, v, heads = (t[ports[port]].act for port in ports)
    assert whole.shape == (2, v.shape[1], 24, 24)
    torch.testing.assert_close(whole.sum(-1), torch.ones_like(whole[..., 0]))
    torch.testing.assert_close(whole @ v, heads)
    with ll.Probe(model) as probe:
        probe.edit({ports["map"]: lambda x, _: torch.eye(24).expand(x.shape)})
        probe.watch(ports["heads"])
        probe(ids())
        torch.testing.assert_close(probe.trace[ports["heads"]].act, v)


def test_state_sizes_of_recurrent_mixers_do_not_grow():
    assert filled(SPECS["based"]).state_size(10) == 4 * 2 * (16 + 2) * 28
    assert filled(SPECS["rwkv"]).state_size(10) == 4 * 2 * 4 * 16


def test_position_features_by_hand():
    mixer = load("zoology", sequence_mixer=SPECS["hyena"], **SIZES).sequence_mixers[0]
    z = mixer.filter_fn.pos_emb.z
    assert not z.requires_grad
    turn = 2 * math.pi * 7 / 30
    want = [7 / 29, math.cos(1e-4 * turn), math.cos(turn), -math.sin(1e-4 * turn), -math.sin(turn)]
    torch.testing.assert_close(z[0, 7], torch.tensor(want))
