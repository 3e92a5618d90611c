"""Weights without values and default devices of another kind: one sentence, and nothing is left."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.overrides import _get_current_function_mode_stack

import limelight as ll


def net(device: str = "cpu") -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, device=device),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3, device=device),
    )


def opened(model, x):
    with ll.Probe(model) as p:
        p(x)


CALLS = {
    "maps": lambda model, x, _: ll.maps(model, x, ["gradcam", "smoothgrad,n=2"], target=1),
    "trace": lambda model, x, _: ll.trace(model, x, "0", target=1),
    "patch": lambda model, x, _: ll.patch(model, x, {"0": ll.zero}, target=1),
    "plan": lambda model, x, _: ll.plan(model, x, "gradient"),
    "ledger": lambda model, x, _: ll.ledger(model, x, "lrp", target=1),
    "explain": lambda model, _, __: ll.explain(model, ll.example("china"), size=16),
    "preprocess": lambda model, _, __: ll.preprocess(model, ll.example("china")),
    "run": lambda model, _, folder: ll.run(folder, model, ll.samples([ll.example("china")])),
    "circuit": lambda model, _, __: ll.circuit(model, "induction", count=4),
    "probe": lambda model, x, _: opened(model, x),
}


@contextmanager
def default(device: str):
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("around", [torch.device, default])
def test_a_default_device_without_values_is_told(name, around, tmp_path):
    model, x = net(), torch.randn(2, 3, 16, 16)
    with around("meta"):
        modes = _get_current_function_mode_stack()
        with pytest.raises(ll.LimelightError, match="default device is 'meta'"):
            CALLS[name](model, x, tmp_path / "run")
        assert _get_current_function_mode_stack() == modes
    assert ll.maps(model, x, "gradient", target=1)[0].values.device.type == "cpu"


@pytest.mark.parametrize("name", [name for name in CALLS if name != "preprocess"])
def test_a_model_without_values_is_told(name, tmp_path):
    with pytest.raises(ll.LimelightError, match="meta device, without values"):
        CALLS[name](net("meta"), torch.randn(2, 3, 16, 16), tmp_path / "run")


def test_the_cpu_as_default_goes_with_every_model():
    x = torch.randn(2, 3, 16, 16)
    with torch.device("cpu"):
        assert len(ll.maps(net(), x, "gradient", target=1)) == 2


def test_targets_and_weights_hold_values_whatever_the_default():
    with torch.device("meta"):
        target, recall = (
            ll.label([1, 2]),
            ll.mqar(vocab_size=64, num_examples=4, input_seq_len=32, num_kv_pairs=4),
        )
        with pytest.raises(ll.LimelightError, match="convit_digits was asked with weights"):
            ll.load("convit_digits")
        assert next(ll.load("convit_digits", weights=None).parameters()).is_meta
    assert len(ll.maps(net(), torch.randn(2, 3, 16, 16), "gradient", target=target)) == 2
    assert int(recall.inputs.max()) < 64


def test_a_part_without_values_is_told_and_offloaded_weights_run():
    x = torch.randn(2, 3, 16, 16)
    half = net()
    half[4] = nn.Linear(4, 3, device="meta")
    with pytest.raises(ll.LimelightError, match="some of its weights are on the meta device"):
        ll.maps(half, x, "gradient", target=1)

    class Offloaded(nn.Conv2d):
        """Has its weights while it runs, as accelerate's hooks bring them."""

        _hf_hook = "brings the weights"

        def forward(self, x):
            weight = torch.ones(self.weight.shape)
            return nn.functional.conv2d(x, weight)

    model = nn.Sequential(Offloaded(3, 4, 3, device="meta"), *list(net())[1:])
    assert ll.maps(model, x, "gradient", target=1)[0].values.shape == (16, 16)
