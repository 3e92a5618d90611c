"""Learned curves and the ranks of scores, reduced rows and maps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limelight.kernels.kan import Functions
from limelight.kernels.kan.rows import phi_of
from limelight.methods.attention import learned_curves, map_spectra
from limelight.models.registry import load
from limelight.probe.errors import MethodError

SMALL = {"img_size": 64, "num_classes": 10, "depth": 2}


def built(**hyper: object) -> nn.Module:
    torch.manual_seed(0)
    return load("karat_tiny_g3b", **{**SMALL, **hyper})


def test_curves_are_the_functions_of_each_module():
    model = built(base="silu")
    first, second = learned_curves(model, low=-1, high=2, points=7)
    assert (first.path, second.path) == ("blocks.0.attn.karat", "blocks.1.attn.karat")
    torch.testing.assert_close(first.x, torch.linspace(-1, 2, 7))
    assert first.values.shape == (3, 12, 17, 7)
    own = second.x[4] * torch.ones(1, 3, 1, 17)
    karat = model.blocks[1].attn.karat
    f = Functions(karat.a, karat.b, karat.scale_base, karat.scale_sp)
    want = phi_of(own, f, "fourier", "silu")[0, :, 0]
    torch.testing.assert_close(second.values[..., 4].sum(-1), want.detach())


def test_a_model_has_one_set_or_two_and_a_softmax_none():
    (shared,) = learned_curves(built(universal=True, softmax_heads=(0,)))
    assert (shared.path, shared.values.shape[0]) == ("karat", 2)
    names = [c.path for c in learned_curves(built(order="phi_phi", universal=True))]
    assert names == ["karat", "karat:2"]
    with pytest.raises(MethodError, match="this model has none"):
        learned_curves(load("deit_tiny", weights=None, **SMALL))


@pytest.mark.parametrize("universal", [False, True])
def test_spectra_are_those_of_the_parts(universal):
    model = built(universal=universal, rank=4)
    x = torch.randn(2, 3, 64, 64)
    own = model.karat if universal else model.blocks[0].attn.karat
    first, second = map_spectra(model, x)
    assert (first.site, second.site) == ("blocks.0.attn", "blocks.1.attn")
    with torch.no_grad():
        tokens = torch.cat([model.cls_token.expand(2, -1, -1), model.patch_embed(x)], 1)
        norm = model.blocks[0].norm1(tokens + model.pos_embed)
        q, k, _ = model.blocks[0].attn.qkv(norm).reshape(2, 17, 3, 3, 64).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT / 8
        phi = phi_of(scores, Functions(own.a, own.b, own.scale_base, own.scale_sp),
                     "fourier", "zero")  # fmt: skip
        whole = phi @ own.W.mT
    parts = {"scores": scores, "reduced": phi, "map": whole}
    for name, part in parts.items():
        want = torch.linalg.svdvals(part.double())
        torch.testing.assert_close(getattr(first, name), want, rtol=1e-4, atol=1e-4)
    ranks = first.ranks(1 - 1e-9)
    assert int(ranks["map"].max()) <= 4
    assert int(ranks["scores"].min()) > 4


def test_softmax_has_scores_and_a_map():
    model, x = load("deit_tiny", weights=None, **SMALL), torch.randn(1, 3, 64, 64)
    spectra = map_spectra(model, x)
    assert all(s.reduced is None and s.map.shape == (1, 3, 17) for s in spectra)
    assert set(spectra[0].ranks()) == {"scores", "map"}
    largest = torch.stack([s.map[..., 0] for s in spectra])
    assert float(largest.min()) >= 1 - 1e-6  # rows add up to one
    with pytest.raises(MethodError, match="no attention"):
        map_spectra(load("resnet18", weights=None), x)
