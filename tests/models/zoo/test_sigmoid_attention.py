"""Sigmoid attention: positions, activations, padding, decoding; vision transformers with it."""

from __future__ import annotations

import math

import pytest
import torch
from fill import fill, tokens
from torch import Tensor, nn

import limelight as ll
from limelight.models import load
from limelight.models.layers.sequence import Cache
from limelight.models.zoo.sigmoid_attention import alibi_slopes, turned, waves
from limelight.probe.errors import LimelightError, OptionError

SMALL = {"d": 24, "heads": 3, "blocks": 2, "hidden": 40, "vocab": 30}
FORMS = {
    "rope": {"attn_temp": 0.3, "attn_bias": -2.0},
    "alibi": {"kind": "alibi", "layer_scale": 0.5, "act": "seq_len_normalized_sigmoid"},
    "sincos": {"kind": "sincos", "act": "sqrt_seq_len_normalized_sigmoid", "qk_norm": False},
    "none": {"kind": "none"},
    "softmax": {"kind": "alibi", "act": "softmax", "attn_bias": -1.0},
}
every_form = pytest.mark.parametrize("form", FORMS)


def small(**hyper: object) -> nn.Module:
    model = load("sigmoid_attention", weights=None, **{**SMALL, **hyper})
    fill(model, 0)
    return model


def ids(b: int, n: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(tokens((b, n), 30, seed))


@every_form
def test_the_map_is_the_formula_and_gives_the_heads(form):
    model, x = small(**FORMS[form]), ids(2, 7)
    names = [f"blocks.1.attn:{port}" for port in ("q", "k", "v", "map", "heads")]
    trace = ll.trace(model, x, names)
    q, k, v, share, heads = (trace[name].act.double() for name in names)
    attn, places = model.blocks[1].attn, torch.arange(7).double()
    scores = q @ k.mT
    if attn.kind == "alibi":
        far = places[None] - places[:, None]
        slopes = torch.tensor(alibi_slopes(3)).double()
        scores = scores + attn.attn_temp.double().exp() * slopes[:, None, None] * far
    scores = scores + attn.attn_bias.double()
    hidden = torch.ones(7, 7, dtype=torch.bool).triu(1)
    if attn.score == "softmax":
        want = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    else:
        want = scores.sigmoid().masked_fill(hidden, 0.0)
    power = {"alibi": 1.0, "sincos": 0.5}.get(form, 0.0)
    want = want / (places + 1)[:, None] ** power
    torch.testing.assert_close(share, want, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(share @ v, heads, atol=1e-5, rtol=1e-5)


@every_form
@pytest.mark.parametrize("steps", [[11], [4, 1, 6], [1] * 11])
def test_decoding_with_a_cache_equals_one_pass(form, steps):
    model, x, cache = small(**FORMS[form]), ids(2, 11), Cache()
    mask = torch.ones(2, 11)
    mask[1, :3] = 0
    for given in (None, mask):
        cache, found, end = Cache(), [], 0
        with torch.no_grad():
            for part in x.split(steps, 1):
                end += part.shape[1]
                found.append(model(part, None if given is None else given[:, :end], cache=cache))
            want = model(x, given)
        torch.testing.assert_close(torch.cat(found, 1), want, atol=2e-5, rtol=2e-5)
    assert cache.length == 11


@every_form
def test_no_token_sees_the_future_or_padding(form):
    model, x = small(**FORMS[form]), ids(1, 6)
    mask = torch.tensor([[1, 0, 1, 1, 1, 1]])
    rows = []
    hook = model.input_embedding.register_forward_hook(
        lambda _m, _x, y: rows.append(y.detach().requires_grad_()) or rows[-1]
    )
    model(x, mask)[0, 3].square().sum().backward()
    hook.remove()
    seen = rows[0].grad[0].abs().sum(-1) > 0
    assert seen.tolist() == [True, False, True, True, False, False]


def test_positions():
    assert alibi_slopes(4) == [0.25, 0.0625, 2**-6, 2**-8]
    assert alibi_slopes(6) == [0.25, 0.0625, 2**-6, 2**-8, 0.5, 0.125]
    x = torch.tensor([1.0, 0.0, 0.0, 1.0]).expand(1, 1, 3, 4)
    want = [math.cos(3), math.sin(3), -math.sin(0.03), math.cos(0.03)]
    torch.testing.assert_close(turned(x, 1)[0, 0, 2], torch.tensor(want))
    want = [math.sin(3), math.cos(3), math.sin(0.03), math.cos(0.03)]
    torch.testing.assert_close(waves(2, 2, x[0, 0])[1], torch.tensor(want))


def test_published_configurations():
    with torch.device("meta"):
        tiny = load("sigmoid_attention_tiny_shakespeare")
        large = load("sigmoid_attention_realnews")
    assert tiny.blocks[0].mlp.fc1.out_features == 1536
    assert tiny.blocks[0].attn.qkv.in_features // tiny.blocks[0].attn.num_heads == 32
    assert large.blocks[0].mlp.fc1.out_features == 12288
    assert (large.blocks[0].attn.kind, tiny.blocks[0].attn.kind) == ("alibi", "rope")
    assert float(load("sigmoid_attention_tiny_shakespeare").blocks[0].attn.attn_bias) == -10
    scaled = small(layer_scale=True)
    fresh = load("sigmoid_attention", **SMALL, ls=True).blocks[1].ls2.gamma
    torch.testing.assert_close(fresh.detach(), torch.full((24,), 1e-4))
    assert not any(name.endswith("gamma") for name in small().state_dict())
    assert "blocks.0.ls1.gamma" in scaled.state_dict()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"act": "sigmiod"}, "no act 'sigmiod'; did you mean"),
        ({"kind": "absolute"}, "positions are rope, alibi"),
        ({"heads": 5}, "does not divide into 5 heads of even width"),
        ({"heads": 8}, "of even width, as rope asks"),
        ({"mask": "none"}, "keeps mask='causal'"),
    ],
)
def test_what_cannot_be_built_is_told(change, told):
    with pytest.raises(OptionError, match=told):
        load("sigmoid_attention", weights=None, **{**SMALL, **change})


def test_a_mask_of_other_length_is_told():
    with pytest.raises(OptionError, match="does not fit ids"):
        small()(ids(2, 5), torch.ones(2, 4))


# vision transformers

VISION = {"img_size": 32, "depth": 2, "dim": 24, "heads": 3, "num_classes": 5}


def test_a_vision_transformer_keeps_names_and_weights():
    torch.manual_seed(0)
    soft = load("vit_base_patch16_224", weights=None, **VISION)
    model = load("vit_base_patch16_224_sigmoid", weights=None, layer_scale_init=None, **VISION)
    model.load_state_dict(soft.state_dict())
    scaled = load("vit_base_patch16_224_sigmoid", weights=None, **VISION)
    assert set(scaled.state_dict()) - set(soft.state_dict()) == {
        f"blocks.{n}.ls{k}.gamma" for n in range(2) for k in (1, 2)
    }
    names = [f"blocks.1.attn:{port}" for port in ("q", "k", "v", "map", "heads")]
    trace = ll.trace(model, torch.randn(2, 3, 32, 32), names)
    q, k, v, share, heads = (trace[name].act for name in names)
    torch.testing.assert_close(share, (q @ k.mT * 8**-0.5 - math.log(5)).sigmoid())
    torch.testing.assert_close(share @ v, heads)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"score": "softmax", "attn_bias": -1.0}, "are of sigmoid scores"),
        ({"score": "tanh"}, "no score 'tanh'"),
        ({"attention_dropout": 0.1}, "has no dropout"),
    ],
)
def test_vision_options_that_do_not_fit_are_told(change, told):
    with pytest.raises(LimelightError, match=told):
        load("vit_base_patch16_224_sigmoid", weights=None, **{**VISION, **change})


def test_norms_of_queries_and_keys_carry_timms_names():
    model = load("vit_base_patch16_224_sigmoid", weights=None, qk_norm=True, **VISION)
    assert model.blocks[0].attn.q_norm.weight.shape == (8,)
    assert model.eval()(torch.randn(1, 3, 32, 32)).isfinite().all()
