"""TransNeXt's published sizes, its switches, positions at other sizes, errors, ports."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from fill import fill, image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import limelight as ll
from limelight.models import load
from limelight.models.registry import list_models
from limelight.models.weights.load import no_init
from limelight.models.zoo.transnext.attention import AggregatedAttention
from limelight.models.zoo.transnext.positions import coordinate_table, window_sizes
from limelight.probe.errors import ModelError, OptionError, WeightsError

SMALL = {"img_size": 64, "embed_dims": (24, 48, 48, 48), "num_heads": (1, 2, 2, 2),
         "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2), "num_classes": 7}  # fmt: skip


def filled(name: str = "transnext_micro", **hyper: object) -> nn.Module:
    with no_init():
        model = load(name, weights=None, **{**SMALL, **hyper})
    fill(model)
    return model


def picture(side: int = 64, channels: int = 3) -> torch.Tensor:
    return torch.from_numpy(image((1, channels, side, side), 0))


PUBLISHED = {  # millions of parameters, 10^9 multiplications and additions
    "transnext_micro": (12.8, 2.7),
    "transnext_tiny": (28.2, 5.7),
    "transnext_small": (49.7, 10.3),
    "transnext_base": (89.7, 18.4),
    "transnext_small_384": (49.7, 32.1),
    "transnext_base_384": (89.7, 56.3),
    "transnext_micro_AAAA": (13.1, 3.3),
}


def published(name: str) -> nn.Module:
    with torch.device("meta"):
        return load(name, weights=None).to("meta")


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name):
    count = sum(p.numel() for p in published(name).parameters())
    assert count / 1e6 == pytest.approx(PUBLISHED[name][0], abs=0.06)


@pytest.mark.parametrize("name", ["transnext_micro", "transnext_micro_AAAA", "transnext_base_384"])
def test_operations_are_the_published_ones(name):
    """But for norms and activations, which are not counted here: up to one in a hundred."""
    model = published(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 3, *model.img_size, device="meta"))
    windows = sum(
        2 * 9 * math.prod(part.grid) * part.proj.in_features  # scores and values, cell by cell
        for part in model.modules()
        if isinstance(part, AggregatedAttention)
    )
    found = counter.get_total_flops() / 2e9 + windows / 1e9
    rounding = 0.05
    assert -rounding < PUBLISHED[name][1] - found < 0.01 * found + rounding


def test_every_published_file_is_named_and_says_what_it_was_trained_at():
    cards = list_models("transnext_*")
    assert {card.name for card in cards} == set(PUBLISHED)
    for card in cards:
        source = card.weights["imagenet"]
        assert source.file.startswith("transnext_")
        size = 256 if "AAAA" in card.name else 224
        assert source.hyper == {"pretrain_size": size}
        assert card.resize == {224: 256, 256: 292, 384: 384}[card.size]


def test_positions_are_those_of_every_pair():
    grid, pool, old = (6, 5), (2, 3), (9, 7)
    table, vertical, horizontal = coordinate_table(grid, pool, old)
    for y, x, i, j in [(0, 0, 0, 0), (5, 4, 1, 2), (3, 1, 1, 0), (2, 4, 0, 1)]:
        want = []
        for at, key, side, keys, before in ((y, i, 6, 2, 9), (x, j, 5, 3, 7)):
            start, stop = key * side // keys, -(-(key + 1) * side // keys)
            far = (at - sum(range(start, stop)) / (stop - start)) / (before - 1) * 8
            want.append(math.copysign(math.log2(abs(far) + 1) / math.log2(8), far))
        found = table[vertical[y, i] + horizontal[x, j]]
        torch.testing.assert_close(found, torch.tensor(want))
    assert len(table.unique(dim=0)) == len(table)


def test_lengths_count_the_cells_on_the_grid():
    for side in (1, 3, 5):
        ones = torch.ones(1, 1, 4, 3)
        want = F.conv2d(ones, torch.ones(1, 1, side, side), padding=side // 2)
        assert torch.equal(window_sizes((4, 3), side).float(), want.flatten())


def test_fine_tuning_measures_distances_on_the_grid_of_pretraining():
    old, tuned = (filled(img_size=128, pretrain_size=size) for size in (None, 64))
    assert old.block1[0].attn.coordinates.max() < tuned.block1[0].attn.coordinates.max()
    x = picture(128)
    with torch.no_grad():
        assert not torch.allclose(old(x), tuned(x))
        same = filled(img_size=128, pretrain_size=128)
        torch.testing.assert_close(same(x), old(x), rtol=0, atol=0)


def test_published_weights_bring_their_own_size_of_pretraining(tmp_path, monkeypatch):
    path = tmp_path / "transnext.pth"
    torch.save(filled().state_dict(), path)
    monkeypatch.setattr("limelight.models.weights.load.fetch", lambda *_: path)
    hyper = {**SMALL, "img_size": 128}
    found = load("transnext_micro", "imagenet", **hyper)
    told = load("transnext_micro", path, **hyper, pretrain_size=224)
    assert torch.equal(found.block1[0].attn.coordinates, told.block1[0].attn.coordinates)
    untold = load("transnext_micro", path, **hyper)
    assert not torch.equal(found.block1[0].attn.coordinates, untold.block1[0].attn.coordinates)


SWITCHES = (
    {"in_channels": 1},
    {"in_channels": 5, "qkv_bias": False},
    {"fixed_pool_size": 3, "img_size": 128},
    {"fixed_pool_size": (2, 4), "img_size": 128},
    {"window_size": (5, 1, 3, None)},
    {"sr_ratios": (16, 8, 4, 2), "window_size": (3, 3, 3, 3)},
    {"sr_ratios": (5, 3, 1, 1), "window_size": (3, 3, None, None)},
    {"img_size": (64, 96), "pretrain_size": (96, 64)},
    {"patch_size": 2, "img_size": 32},
    {"mlp_ratios": (2.5, 1.7, 3, 0.6)},
    {"norm_eps_blocks": 1e-3, "norm_eps_patch_embed": 1e-2, "norm_eps_attn_pool": 1e-1},
    {
        name: tuple(SMALL[name][:2]) for name in ("embed_dims", "num_heads", "depths", "mlp_ratios")
    } | {"sr_ratios": (4, 2), "window_size": (3, 3)},
)  # fmt: skip


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_every_switch_builds_and_runs(switches):
    model = filled(**switches)
    x = torch.randn(2, switches.get("in_channels", 3), *model.img_size)
    with torch.no_grad():
        assert model(x).isfinite().all()
    assert any("q.bias" in n for n in model.state_dict()) == switches.get("qkv_bias", True)


def test_fixed_pools_replace_ratios_but_where_all_tokens_are_keys():
    model = filled(fixed_pool_size=3, img_size=128)
    pools = [stage[0].attn.pool_size for stage in (model.block1, model.block3, model.block4)]
    assert pools == [(3, 3), (3, 3), (4, 4)]
    scale = model.block1[0].attn.length_scale
    assert scale[0] == pytest.approx(math.log(4 + 9))
    assert scale[33] == pytest.approx(math.log(9 + 9))


def test_each_eps_is_where_it_says():
    model = filled(norm_eps_blocks=1e-3, norm_eps_patch_embed=1e-2, norm_eps_attn_pool=1e-1)
    eps = {name: part.eps for name, part in model.named_modules() if isinstance(part, nn.LayerNorm)}
    want = lambda name: 1e-2 if "patch" in name else 1e-1 if "attn" in name else 1e-3  # noqa: E731
    assert eps == {name: want(name) for name in eps}
    assert {1e-3, 1e-2, 1e-1} == set(eps.values())


def test_ports_are_the_parts_of_the_op():
    model, x, path = filled(), picture(), "block1.0.attn"
    ports = ("q", "table", "scale", "map", "pool_bias")
    trace = ll.trace(model, x, [f"{path}:{name}" for name in ports] + ["block1.0.mlp:gate"])
    q, table, scale, whole, bias = (trace[f"{path}:{name}"].act for name in ports)
    attn = model.block1[0].attn
    want = F.normalize(q, dim=-1) @ attn.learnable_tokens + attn.learnable_bias
    torch.testing.assert_close(table, want.detach())
    temperature = F.softplus(attn.temperature[:, 0]).detach()
    torch.testing.assert_close(scale, temperature * attn.length_scale)
    assert whole.shape == (1, 1, 256, 256 + 4)
    assert bias.shape == (1, 256, 4)
    far, near = whole[..., 256:].sum(-1), whole[..., :256].sum(-1)
    inside = table.masked_fill(window_mask(), 0).sum(-1)
    torch.testing.assert_close(near - inside + far, torch.ones(1, 1, 256))
    gate = trace["block1.0.mlp:gate"].act
    assert gate.shape == (1, 256, int(2 * 48 / 3))


def window_mask() -> torch.Tensor:
    """The cells outside a grid of 16 x 16, `n 9`."""
    inside = F.unfold(torch.ones(1, 1, 16, 16), 3, padding=1)[0].T
    return inside == 0


def test_the_table_can_be_cut():
    model, x = filled(), picture()
    with torch.no_grad():
        before = model(x)
    after = ll.patch(model, x, {"block1.0.attn:table": ll.zero})
    assert not torch.allclose(before, after)
    with torch.no_grad():
        model.block1[0].attn.learnable_tokens.zero_()
        model.block1[0].attn.learnable_bias.zero_()
        torch.testing.assert_close(model(x), after)


@pytest.mark.parametrize("preset", ["lrp:epsilon", "lrp:chefer"])
def test_relevance_stays_closed(preset):
    model = filled()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.zero_()
    books = ll.ledger(model, picture(), preset, target=3)
    assert books.leaks(1e-4) == ()
    if preset == "lrp:epsilon":
        assert books.kept == pytest.approx(1.0, abs=1e-4)


def test_checkpointing_and_dropping_and_halves():
    model, x = filled(), picture()
    grads = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(grads[0], grads[1])
    dropping = filled(drop_path=0.9, dropout=0.1).train()
    torch.manual_seed(0)
    assert not torch.equal(dropping(x), dropping(x))
    assert filled().bfloat16()(x.bfloat16()).isfinite().all()


def test_weights_start_as_the_authors_say():
    torch.manual_seed(0)
    model = load("transnext_micro", weights=None, **SMALL)
    attn = model.block1[0].attn
    torch.testing.assert_close(F.softplus(attn.temperature), torch.full((1, 1, 1), 1 / 0.24))
    assert attn.relative_pos_bias_local.abs().max() < 0.004
    assert not attn.learnable_bias.any()
    depthwise = model.block1[0].mlp.dwconv.dwconv
    assert float(depthwise.weight.detach().std()) == pytest.approx(math.sqrt(2 / 9), rel=0.15)
    assert not depthwise.bias.any()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"img_size": 72}, "img_size=72 does not divide .* multiples of 32"),
        ({"pretrain_size": 100}, "pretrain_size=100 does not divide"),
        ({"pretrain_size": 32}, "leaves a grid of 1 x 1 at stage 4"),
        ({"depths": (1, 1, 1)}, "4 entries for 3 stages"),
        ({"num_heads": (1, 2, 2, 5)}, "a width of 48 at stage 4 does not divide into 5 heads"),
        ({"window_size": (3, 4, 3, None)}, "stage 2 looks around each token in a window of 4"),
        ({"window_size": (3, None, 3, None)}, "in a window of None"),
        ({"sr_ratios": (8, 4, 0, 1)}, "stage 3 has sr_ratio 0"),
        ({"sr_ratios": (8, 4, 5, 1)}, "sr_ratio 5 makes 0 x 0 pooled keys of the 4 x 4 tokens"),
        ({"fixed_pool_size": 5}, "fixed_pool_size=5 makes 5 x 5 pooled keys .* of stage 3"),
        ({"drop_path": 1.5}, "drop_path=1.5 is no share"),
        ({"patch_size": 0}, "at least 1"),
    ],
)
def test_impossible_shapes_are_told(wrong, told):
    with pytest.raises(OptionError, match=told):
        load("transnext_micro", weights=None, **{**SMALL, **wrong})


def test_pictures_of_another_size_and_files_of_another_width_are_told(tmp_path):
    with pytest.raises(ModelError, match=r"64 x 64 but was given 96 x 64: build it with img_size"):
        filled()(torch.randn(1, 3, 96, 64))
    path = tmp_path / "other.pth"
    torch.save(filled(embed_dims=(24, 48, 48, 96)).state_dict(), path)
    with pytest.raises(WeightsError, match="of another shape"):
        load("transnext_micro", path, **SMALL)
