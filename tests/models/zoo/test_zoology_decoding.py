"""Decoding of Zoology's mixers: steps equal one pass, memories are as large as published."""

from __future__ import annotations

import pytest
import torch
from fill import fill, tokens
from torch import Tensor, nn

from limelight.models import load
from limelight.models.layers import Cache
from limelight.probe.errors import OptionError

SIZES = {"d_model": 16, "vocab_size": 50}
STEPS = {
    "attention": {"name": "attention", "kwargs": {"num_heads": 4}},
    "sliding": {"name": "sliding", "kwargs": {"block_size": 3}},
    "short": {"name": "baseconv", "kwargs": {"kernel_size": [2, 4], "use_act": True}},
    "long": {"name": "baseconv", "kwargs": {"l_max": 26, "kernel_size": -1, "use_act": True}},
    "hyena": {"name": "hyena", "kwargs": {"l_max": 30, "filter_order": 8, "w": 3}},
    "h3": {"name": "h3", "kwargs": {"l_max": 30, "d_state": 6, "head_dim": 4}},
    "based": {"name": "based", "kwargs": {"l_max": 30, "feature_dim": 6, "num_heads": 2}},
    "rwkv": {"name": "rwkv", "kwargs": {"l_max": 30, "n_layers": 2}},
}
FREE = {
    "name": "baseconv",
    "kwargs": {"l_max": 24, "kernel_size": -1, "implicit_long_conv": False},
}
HYBRID = [{"name": "baseconv", "kwargs": {"kernel_size": 3}}, STEPS["based"]]


def filled(mixer: object, **hyper: object) -> nn.Module:
    model = load("zoology", weights=None, sequence_mixer=mixer, **{**SIZES, **hyper})
    fill(model)
    return model


def ids(b: int = 2, n: int = 24) -> Tensor:
    return torch.from_numpy(tokens((b, n), 50, 0))


@torch.no_grad()
def decoded(model: nn.Module, x: torch.Tensor, sizes: list[int], cache: Cache) -> torch.Tensor:
    return torch.cat([model(part, cache=cache) for part in x.split(sizes, 1)], 1)


@pytest.mark.parametrize("sizes", [[1] * 24, [9] + [1] * 15, [2, 11, 5, 6]], ids=str)
@pytest.mark.parametrize("name", [*STEPS, "hybrid"])
def test_steps_equal_one_pass(name, sizes):
    model, x, cache = filled(HYBRID if name == "hybrid" else STEPS[name]).double(), ids(), Cache()
    with torch.no_grad():
        whole = model(x)
    torch.testing.assert_close(decoded(model, x, sizes, cache), whole, rtol=1e-5, atol=1e-5)
    assert cache.length == 24


def test_positions_go_on():
    model, x, cache = filled("attention", max_position_embeddings=24), ids(), Cache()
    with torch.no_grad():
        whole = model(x)
    torch.testing.assert_close(decoded(model, x, [5, 1, 18], cache), whole, rtol=1e-5, atol=1e-5)
    with pytest.raises(OptionError, match="25 tokens were given, but this model has 24 positions"):
        model(x[:, :1], cache=cache)


@pytest.mark.parametrize(
    ("name", "missing"), [("attention", 0), ("sliding", 0), ("based", 0), ("rwkv", 0), ("hyena", 0),
                          ("long", 0), ("short", 1)],
)  # fmt: skip
def test_a_memory_holds_what_state_size_says(name, missing):
    """Of a short convolution's taps one is that of the token itself."""
    model, cache = filled(STEPS[name]), Cache()
    decoded(model, ids(1), [20, 1, 1, 1, 1], cache)
    held = sum(
        x.numel()
        for memory in cache.layers.values()
        for name, x in memory.items()
        if name != "seen"
    )
    taps = missing * SIZES["d_model"] * 2  # of both layers
    assert 4 * (held + taps) == model.state_size(24)


@pytest.mark.parametrize("name", ["rwkv", "based", "hyena", "h3", "long"])
def test_more_steps_than_l_max_are_told(name):
    model, x, cache = filled(STEPS[name]), ids(1, 32), Cache()
    most = STEPS[name]["kwargs"]["l_max"]
    decoded(model, x[:, :most], [most - 1, 1], cache)
    with pytest.raises(OptionError, match=f"{most + 1} tokens were given"):
        model(x[:, :1], cache=cache)


def test_mixers_that_look_ahead_take_no_cache():
    with pytest.raises(OptionError, match="a selective mixer selects among all positions at once"):
        filled("selective")(ids(), cache=Cache())
    with pytest.raises(OptionError, match="a BaseConv of free taps takes taps behind the length"):
        filled(FREE)(ids(), cache=Cache())


def test_gradients_are_those_of_the_pass_without_a_memory():
    model = load("zoology", sequence_mixer="rwkv", **SIZES)
    x = ids(1)
    model(x).square().sum().backward()
    want = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(x, cache=Cache()).square().sum().backward()
    for p, grad in zip(model.parameters(), want, strict=True):
        torch.testing.assert_close(p.grad, grad, rtol=1e-4, atol=1e-6)
