"""Relevance on the foreign models of the sweep: finite, and all of it kept without constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from sweep import calibrate, liven
from sweep_models import cases
from torch import Tensor, nn

import limelight as ll
from limelight.probe.relevance.linear_rules import Epsilon
from limelight.probe.relevance.presets import Preset
from limelight.probe.relevance.propagate import NoRule
from limelight.probe.targets import targets
from limelight.probe.trace.pytree import first_tensor

CASES = cases()
EXACT = Preset("exact", Epsilon(1e-12), Epsilon(1e-12))
# What keeps a share for itself even when biases and class tokens are zero, and why.
OPEN = {
    "timm edgenext_xx_small": "a position code made by a convolution",
    "hf T5ForConditionalGeneration sdpa": "two embeddings: the decoder's words take their part",
    "hf T5ForConditionalGeneration eager": "two embeddings: the decoder's words take their part",
    "timm coat_lite_tiny": "its class token alone carries the score",
}
REFUSED = {"timm sequencer2d_s": "lstm"}
# Their tables stay in float32.
SINGLE = ("SwinFor", "T5", "Mamba", "beit_base", "maxvit_nano", "coatnet_0", "tiny_vit")
CONSTANTS = (
    "pos_embed", "position_embed", "pos_embedding", "token_type", "wpe", "class_embedding",
    "cls_token", "class_token", "dist_token", "distillation_token", "mask_token", "register_token",
    "reg_token", "patch_pos", "pixel_pos", "q_bias", "v_bias", "in_proj_bias", ".beta",
)  # fmt: skip
pytestmark = [pytest.mark.sweep, pytest.mark.filterwarnings("ignore")]


def quieten(model: nn.Module) -> None:
    """Set to zero what adds to a value without depending on the input."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias") or any(word in name for word in CONSTANTS):
                p.zero_()
        for name, b in model.named_buffers():
            if name.endswith("running_mean"):
                b.zero_()


def widened(x: Any) -> Any:
    if isinstance(x, Mapping):
        return {k: widened(v) for k, v in x.items()}
    return x.double() if x.is_floating_point() else x


def score(output: Any) -> Tensor:
    flat = first_tensor(output).flatten(1)
    mixture = torch.randn(flat.shape[1], generator=torch.Generator().manual_seed(1))
    return flat @ mixture.to(flat) / flat.shape[1] ** 0.5


@pytest.mark.parametrize("name", list(CASES))
def test_relevance_closes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.manual_seed(0)
    model, x = CASES[name].build(), CASES[name].example()
    liven(model)
    calibrate(model, x)
    quieten(model)
    single = any(word in name for word in SINGLE)
    if not single:
        model, x = model.double(), widened(x)
    with ll.Probe(model, relevance=True) as p:
        p.watch("input")
        p(**x) if isinstance(x, Mapping) else p(x)
        found: list[Tensor] = []
        target = targets(score)[0]
        if name in REFUSED:
            with pytest.raises(NoRule, match=REFUSED[name]):
                p.differentiate(target, p.values(), lambda v, r: found.append(r), regime=EXACT)
            return
        total = p.differentiate(target, p.values(), lambda v, r: found.append(r), regime=EXACT)
    assert all(r.isfinite().all() for r in found)
    share = float(sum(r.sum() for r in found) / total.sum())
    if name not in OPEN:
        assert share == pytest.approx(1, abs=2e-3 if single else 1e-4), f"{share} was kept"
