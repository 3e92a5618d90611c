"""HaloNet against its formula, published sizes, timm's names and timm's outputs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fill import fill, image
from foreign import import_foreign
from golden_recordings import halo_attention
from shared import golden

import limelight as ll
from limelight.kernels.errors import KernelError
from limelight.kernels.windows import Window
from limelight.models import load
from limelight.models.layers.gates import SqueezeExcite, divisible
from limelight.models.weights.load import no_init
from limelight.models.zoo.halonet.model import VARIANTS, HaloAttention
from limelight.probe.errors import OptionError

SMALL = {"stages": ("BA", "A"), "out_chs": (64, 128), "stem_chs": (16,), "heads": 4,
         "block_size": 4, "halo_size": 1, "num_classes": 5, "bottle_ratio": 0.5}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("halonet26t", 12.48),
        ("halonet50ts", 22.73),
        ("sehalonet33ts", 13.69),
        ("eca_halonext26ts", 10.76),
        ("halonet_h1", 8.10),
    ],
)
def test_published_sizes_and_timms_names(name, count):
    assert name in {variant.name for variant in VARIANTS}
    with torch.device("meta"), no_init():
        ours = load(name, weights=None)
    assert sum(p.numel() for p in ours.parameters()) / 1e6 == pytest.approx(count, abs=0.006)
    timm = import_foreign("timm")
    with torch.device("meta"):
        theirs = timm.create_model(name).state_dict()
    assert {n: p.shape for n, p in ours.state_dict().items()} == {
        n: p.shape for n, p in theirs.items()
    }


@pytest.mark.parametrize("name", ["halonet50ts", "sehalonet33ts", "eca_halonext26ts"])
def test_logits_equal_timms(name):
    timm = import_foreign("timm")
    with no_init():
        ours = load(name, weights=None)
    fill(ours, 1)
    theirs = timm.create_model(name).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.from_numpy(image((1, 3, 256, 256), 4))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_what_leaves_the_picture_is_missing_in_the_map():
    net = HaloAttention(16, num_heads=2, block_size=4, halo_size=2)
    t = ll.trace(net, torch.randn(1, 16, 12, 12), [":map"])
    rows = t[":map"].act.sum(-1)[0, 0].reshape(12, 12)
    torch.testing.assert_close(rows[4:8, 4:8], torch.ones(4, 4))
    assert (rows[:4] < 1).all()


def test_sizes_options_and_checkpointing():
    model = load("halonet26t", weights=None, zero_init_last=False, **SMALL)
    x = torch.randn(1, 3, 64, 32)
    found = []
    for enable in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(enable)
        model(x).sum().backward()
        found.append(model.stages[0][1].self_attn.kv.weight.grad.clone())
    assert found[0].any()
    torch.testing.assert_close(*found)
    with pytest.raises(KernelError, match="does not divide into windows"):
        model(torch.randn(1, 3, 40, 40))
    scaled = load(
        "halonet26t", weights=None, scale_pos_embed=True, qkv_bias=True, avg_down=True, **SMALL
    )
    assert scaled(x).shape == (1, 5)
    with pytest.raises(OptionError, match="write stages in A and B"):
        load("halonet26t", weights=None, stages=("BC", "A"), out_chs=(64, 128))
    with pytest.raises(OptionError, match="different numbers of stages"):
        load("halonet26t", weights=None, stages=("B",))


def test_the_words_of_a_case_build_its_network():
    config = golden("halonet.halonet_h1_256").case["config"]
    with torch.device("meta"), no_init():
        ours, theirs = load("halonet26t", weights=None, **config), load("halonet_h1")
    assert list(ours.state_dict()) == list(theirs.state_dict())
    config = dict(golden("halonet.halonet26t_256").case["config"])
    del config["downsample"]  # it says "avg", but the case's shortcuts are strided convolutions
    with torch.device("meta"), no_init():
        ours, theirs = load("halonet_h1", **config), load("halonet26t", weights=None)
    assert {n: p.shape for n, p in ours.state_dict().items()} == {
        n: p.shape for n, p in theirs.state_dict().items()
    }


@pytest.mark.parametrize("name", ["halonet26t", "eca_halonext26ts"])
def test_averaging_shortcuts_are_timms(name):
    timm = import_foreign("timm")
    with no_init():
        ours = load(name, weights=None, downsample="avg", num_classes=7)
    fill(ours, 2)
    theirs = timm.create_model(name, downsample="avg", num_classes=7).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    x = torch.from_numpy(image((1, 3, 256, 256), 4))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


LAYERS = [
    {"dim": 16, "num_heads": 2, "block_size": 4, "halo_size": 2, "scale_pos_embed": True},
    {"dim": 16, "dim_out": 32, "num_heads": 4, "block_size": 3, "halo_size": 1, "stride": 2},
    {"dim": 24, "num_heads": 3, "block_size": 4, "halo_size": 0, "qk_ratio": 0.33},
    {"dim": 16, "num_heads": 2, "dim_head": 5, "block_size": 6, "halo_size": 3, "stride": 2},
]


def written(layer, x):
    """The attention of one query after the other."""
    block, halo, stride, d = layer.block_size, layer.halo_size, layer.stride, layer.dim_qk
    side, step = block + 2 * halo, block // stride
    q = layer.q(x).unflatten(1, (layer.num_heads, d))
    kv = F.pad(layer.kv(x), (halo,) * 4).unflatten(1, (layer.num_heads, -1))
    out = x.new_empty(len(x), layer.num_heads, kv.shape[2] - d, *q.shape[-2:])
    for y in range(q.shape[-2]):
        for z in range(q.shape[-1]):
            top, left = y // step * block, z // step * block
            k, v = kv[..., top : top + side, left : left + side].split([d, out.shape[2]], 2)
            one = q[..., y, z]
            down = torch.arange(side) - y % step + side - 1
            along = torch.arange(side) - z % step + side - 1
            rows = one @ layer.pos_embed.height_rel[down].T
            columns = one @ layer.pos_embed.width_rel[along].T
            relative = rows[..., :, None] + columns[..., None, :]
            relative = relative * (layer.scale if layer.scale_pos_embed else 1.0)
            logits = torch.einsum("bhd,bhdij->bhij", one, k) * layer.scale + relative
            share = logits.flatten(2).softmax(-1).unflatten(2, (side, side))
            out[..., y, z] = torch.einsum("bhij,bheij->bhe", share, v)
    return layer.pool(out.flatten(1, 2))


@pytest.mark.parametrize("config", LAYERS)
def test_layers_compute_the_written_formula_and_timms(config):
    torch.manual_seed(0)
    layer = HaloAttention(**config).double()
    side = 2 * config["block_size"]
    x = torch.randn(2, config["dim"], side, 2 * side, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), written(layer, x), rtol=1e-9, atol=1e-9)
    import_foreign("timm")
    from timm.layers.halo_attn import HaloAttn

    theirs = HaloAttn(**config).double()
    theirs.load_state_dict(layer.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(layer(x), theirs(x), rtol=1e-9, atol=1e-9)


def test_mass_in_the_padding_is_what_the_map_lacks():
    net = HaloAttention(16, num_heads=2, block_size=4, halo_size=2)
    x = torch.randn(1, 16, 12, 12)
    window = Window("halo", (4, 4), (12, 12), 2)
    attention = halo_attention(net, x, "", (12, 12))["attn"]
    spent = torch.einsum("hwqk,wk->hwq", attention, (window.key_index() < 0).float())
    lacks = 1 - ll.trace(net, x, [":map"])[":map"].act.sum(-1)[0][:, window.query_index()]
    torch.testing.assert_close(lacks, spent, rtol=1e-4, atol=1e-5)


def test_squeezed_channels_round_down_and_others_do_not():
    assert [divisible(n) for n in (4, 9, 12, 511.488)] == [8, 16, 16, 512]
    assert SqueezeExcite(144).fc1.out_channels == 8
    import_foreign("timm")
    from timm.layers import SEModule

    for dim in range(64, 641, 8):
        with torch.device("meta"):
            own, other = SqueezeExcite(dim), SEModule(dim)
        assert own.fc1.out_channels == other.fc1.out_channels, dim


def test_fresh_weights_are_drawn_as_timm_draws_them():
    torch.manual_seed(0)
    state = load("halonet26t", weights=None).state_dict()
    spread = {
        "stages.3.1.self_attn.q.weight": 512**-0.5,
        "stages.3.1.self_attn.kv.weight": 512**-0.5,
        "stages.3.1.self_attn.pos_embed.height_rel": 64**-0.5,
        "stages.1.0.conv2_kxk.conv.weight": (2 / (9 * 128)) ** 0.5,
        "head.fc.weight": 0.01,
    }
    for name, want in spread.items():
        assert state[name].std().item() == pytest.approx(want, rel=0.05), name
    assert not state["head.fc.bias"].any()
    assert not state["stages.0.0.conv3_1x1.bn.weight"].any()
    kept = load("halonet26t", weights=None, zero_init_last=False).state_dict()
    assert kept["stages.0.0.conv3_1x1.bn.weight"].all()


def test_batches_channels_files_and_half_precision(tmp_path):
    torch.manual_seed(0)
    hyper = {**SMALL, "in_channels": 1, "gate": "eca", "halo_size": (1, 2), "zero_init_last": False}
    model = load("halonet26t", weights=None, **hyper)
    x = torch.randn(3, 1, 64, 96)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    again = load("halonet26t", tmp_path / "w.pth", **hyper)
    with torch.no_grad():
        whole, apart = model(x), torch.cat([model(one[None]) for one in x])
        torch.testing.assert_close(whole, apart, rtol=1e-4, atol=1e-4)
        assert torch.equal(again(x), whole)
        assert model.bfloat16()(x.bfloat16()).isfinite().all()
    gate = ll.trace(again, x, ["stages.0.0.attn:gate"])["stages.0.0.attn:gate"].act
    assert ((gate > 0) & (gate < 1)).all()


def test_wrong_stems_are_told():
    with pytest.raises(OptionError, match="no stem 'conv'"):
        load("halonet26t", weights=None, stem="conv")
