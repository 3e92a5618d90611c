"""Sigma: published layouts, head sharing, augmented queries, cache, padding, decoding."""

from __future__ import annotations

import pytest
import torch
from fill import fill, tokens
from torch import Tensor, nn

import limelight as ll
from limelight.models import load
from limelight.models.layers.sequence import Cache
from limelight.probe.errors import OptionError

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_heads": 2,
    "num_value_heads": 4,
    "augq_size": 40,
    "vocab_size": 30,
}
FORMS = {
    "values of more heads": {},
    "values of fewer heads": {"num_key_heads": 4, "num_value_heads": 1},
    "wide heads": {"head_dim": 6, "augq_size": None, "tie_word_embeddings": True},
}
every_form = pytest.mark.parametrize("form", FORMS)


def small(**hyper: object) -> nn.Module:
    model = load("sigma", weights=None, **{**SMALL, **hyper})
    fill(model, 0)
    return model


def ids(b: int, n: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(tokens((b, n), 30, seed))


@pytest.mark.parametrize(
    ("name", "tied", "untied", "cached"),
    [
        ("sigma_1.5b", 2.021e9, 2.284e9, 26 * 20 * 64),
        ("sigma_10b", 9.988e9, 10.513e9, 32 * 20 * 128),
    ],
)
def test_published_layouts(name, tied, untied, cached):
    with torch.device("meta"):
        for tie, want in ((True, tied), (False, untied)):
            model = load(name, weights=None, tie_word_embeddings=tie)
            assert sum(p.numel() for p in model.parameters()) == pytest.approx(want, rel=5e-4)
        assert model.cache_size() == cached
        even = load(name, weights=None, num_key_heads=16)  # grouped-query attention of 16 heads
    assert 1 - model.cache_size() / even.cache_size() == pytest.approx(0.375)


def test_the_cache_holds_what_is_told():
    model, cache = small(), Cache()
    model(ids(3, 5), cache=cache)
    held = sum(layer[n].numel() for layer in cache.layers.values() for n in ("k", "v"))
    assert held == 3 * 5 * model.cache_size()
    assert cache.layers[0]["k"].shape == (3, 2, 5, 4)
    assert cache.layers[0]["v"].shape == (3, 4, 5, 4)


@every_form
def test_query_heads_read_the_key_and_value_head_of_their_run(form):
    model = small(**FORMS[form])
    names = [f"model.layers.1.self_attn:{port}" for port in ("q", "k", "v", "map", "heads")]
    trace = ll.trace(model, ids(2, 6), names)
    q, k, v, share, heads = (trace[name].act for name in names)
    hidden = torch.ones(6, 6, dtype=torch.bool).triu(1)
    for h in range(8):
        key, value = h * k.shape[1] // 8, h * v.shape[1] // 8
        scores = q[:, h] @ k[:, key].mT * q.shape[-1] ** -0.5
        want = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        torch.testing.assert_close(share[:, h], want, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(heads[:, h], want @ v[:, value], atol=1e-5, rtol=1e-5)


def test_the_augmented_queries_are_marked():
    model = small()
    path = "model.layers.0.self_attn"
    trace = ll.trace(model, ids(1, 6), [f"{path}:projected", f"{path}:augmented"])
    y, found = (trace[f"{path}:{n}"].act for n in ("projected", "augmented"))
    attn = model.model.layers[0].self_attn
    gate, up = y @ attn.q_gate_proj.weight.T, y @ attn.q_up_proj.weight.T
    want = (gate * gate.sigmoid() * up) @ attn.q_down_proj.weight.T
    torch.testing.assert_close(found, want, atol=1e-6, rtol=1e-5)


def test_equal_heads_without_augmentation_are_a_llama():
    llama = load(
        "llama", weights=None, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=8, num_key_value_heads=2, vocab_size=30, rms_norm_eps=1e-5,
        rope_theta=50000.0,
    )  # fmt: skip
    fill(llama, 3)
    model = small(num_value_heads=2, augq_size=None)
    model.load_state_dict(llama.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(model(ids(2, 9)), llama(ids(2, 9)))


@every_form
@pytest.mark.parametrize("steps", [[12], [5, 1, 6], [1] * 12])
def test_decoding_with_a_cache_equals_one_pass(form, steps):
    model, x, cache = small(**FORMS[form]), ids(2, 12), Cache()
    with torch.no_grad():
        found = torch.cat([model(part, cache=cache) for part in x.split(steps, 1)], 1)
        torch.testing.assert_close(found, model(x), atol=2e-5, rtol=2e-5)


@every_form
def test_padded_sequences_give_what_they_give_alone(form):
    model, x = small(**FORMS[form]), ids(2, 9)
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, [0, 1, 4]] = 0
    keep = mask[1].bool()
    with torch.no_grad():
        found = model(x, mask)[1, keep]
        torch.testing.assert_close(found, model(x[1:, keep])[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"num_key_heads": 3}, "cannot share num_key_heads=3 in equal runs"),
        ({"num_value_heads": 5}, "cannot share num_value_heads=5"),
        ({"hidden_size": 36}, "do not divide into 8 even heads"),
    ],
)
def test_what_cannot_be_built_is_told(change, told):
    with pytest.raises(OptionError, match=told):
        load("sigma", weights=None, **{**SMALL, **change})
