"""NiNformer: its gates as sites, its grid, the published size."""

from __future__ import annotations

import pytest
import torch

import limelight as ll
from limelight.models import load
from limelight.models.weights.load import no_init
from limelight.models.zoo.ninformer import token_mixing
from limelight.probe.errors import LimelightError, ModelError, OptionError, WeightsError

SMALL = {"d_model": 16, "d_ffn": 24, "num_layers": 2, "num_classes": 5}


def test_published_size_and_order_of_names():
    with torch.device("meta"), no_init():
        model = load("ninformer_cifar10")
    assert sum(p.numel() for p in model.parameters()) == 2_652_170
    names = list(model.state_dict())
    assert names[0] == "model.0.norm.weight"
    assert names[-1] == "classifier.bias"


def test_a_block_computes_the_written_formula():
    torch.manual_seed(0)
    model = load("ninformer", **SMALL, img_size=(8, 12)).double()
    block, x = model.model[0], torch.randn(2, 6, 16, dtype=torch.float64)

    def norm(layer, x):
        x = x - x.mean(-1, keepdim=True)
        spread = (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return x / spread * layer.weight + layer.bias

    def mlp(net, x):
        first, second = net.get_submodule("net.0"), net.get_submodule("net.3")
        y = x @ first.weight.T + first.bias
        y = y * (1 + torch.erf(y / 2**0.5)) / 2
        return y @ second.weight.T + second.bias

    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, torch.nn.LayerNorm):
                part.weight.normal_(1, 0.1)
                part.bias.normal_()
        mixer, z = block.mgu.Mixer, norm(block.norm, x)
        m = z + mlp(mixer.token_mix[2], norm(mixer.token_mix[0], z).mT).mT
        g = m + mlp(mixer.channel_mix[1], norm(mixer.channel_mix[0], m))
        y = x + (z @ block.mgu.proj.weight.T + block.mgu.proj.bias) * g
        torch.testing.assert_close(block(x), y + mlp(block.ffn, norm(block.norm, y)))


def test_the_gate_of_each_token_is_a_site_and_a_map():
    torch.manual_seed(0)
    model, x = load("ninformer", **SMALL), torch.randn(2, 3, 32, 32)
    t = ll.trace(model, x, ["model.1.mgu:gate", "model.1.mgu:value", "model.1.mgu"])
    gate, value = t["model.1.mgu:gate"].act, t["model.1.mgu:value"].act
    torch.testing.assert_close(gate * value, t["model.1.mgu"].act)
    found = ll.maps(model, x, "activation", sites="model.*.mgu:gate")
    assert [str(m.site) for m in found][:2] == ["model.0.mgu:gate", "model.1.mgu:gate"]
    assert found[1].axes == "y x"
    torch.testing.assert_close(found[1].values, gate[0].sum(-1).reshape(8, 8))
    shut = ll.patch(model, x, {"model.1.mgu:gate": ll.zero})
    with torch.no_grad():
        block = model.model[1]
        h = model.model[0](model.patcher(x).flatten(2).transpose(1, 2))
        want = model.classifier((h + block.ffn(block.norm(h))).mean(1))
    torch.testing.assert_close(shut, want)


def test_token_mixing_is_what_a_linear_mixer_does_to_one_token_after_the_other():
    torch.manual_seed(0)
    mixer = load("ninformer", **SMALL).model[0].mgu.Mixer
    found, net = token_mixing(mixer), mixer.token_mix[2].net
    with torch.no_grad():
        net.act = torch.nn.Identity()
        one = torch.zeros(64)
        one[5] = 1
        torch.testing.assert_close(found[:, 5], net(one) - net(torch.zeros(64)))
    assert found.shape == (64, 64)


def test_other_pictures_are_refused_in_one_sentence(tmp_path):
    model = load("ninformer", **SMALL)
    for size, words in (((64, 64), "16 x 16 patches"), ((16, 64), "4 x 16 patches")):
        with pytest.raises(
            ModelError, match=f"{words}, but the token-mixing weights are those of 8 x 8"
        ):
            model(torch.randn(1, 3, *size))
    with pytest.raises(OptionError, match="30 x 32 does not divide into patches of 4"):
        model(torch.randn(1, 3, 30, 32))
    with pytest.raises(OptionError, match="does not divide into patches"):
        load("ninformer", img_size=30)
    with pytest.raises(LimelightError, match="dropout"):
        load("ninformer", dropout=1.5)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"token_mix"):
        load("ninformer", tmp_path / "w.pth", **SMALL, img_size=64)


def test_dropout_falls_in_training_alone_and_checkpointing_changes_no_gradient():
    torch.manual_seed(0)
    model, x = load("ninformer", **SMALL), torch.randn(2, 3, 32, 32)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))
    model, found = load("ninformer", **SMALL, dropout=0.0).train(), []
    for enable in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(enable)
        model(x).sum().backward()
        found.append(model.model[0].mgu.proj.weight.grad.clone())
    assert found[0].any()
    torch.testing.assert_close(*found)
