"""LITv2: HiLo and deformable merging against formulas, published sizes, switches, what it shows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fill import fill, image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import limelight as ll
from limelight.methods.metrics import radial_spectrum
from limelight.models import load
from limelight.models.weights.load import no_init
from limelight.models.zoo.litv2.hilo import HiLo
from limelight.models.zoo.litv2.merging import DeformableConv, displaced
from limelight.probe.errors import OptionError, WeightsError

SMALL = {
    "img_size": 64,
    "embed_dim": 16,
    "depths": (1, 1, 2, 1),
    "num_heads": (1, 1, 4, 4),
    "alpha": 0.5,
    "num_classes": 7,
}


def filled(salt: int = 0, **hyper: object) -> nn.Module:
    with no_init():
        model = load("litv2_s", weights=None, **{**SMALL, **hyper})
    fill(model, salt)
    return model


def unbiased(model: nn.Module) -> nn.Module:
    """Without what adds to values: biases and stored means."""
    with torch.no_grad():
        for name, x in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith(("bias", "running_mean")):
                x.zero_()
    return model


def heads_of(x: Tensor, weight: Tensor, bias: Tensor, parts: int, heads: int) -> Tensor:
    """`n c` to `p h n d`."""
    return (x @ weight.T + bias).unflatten(1, (parts, heads, -1)).permute(1, 2, 0, 3)


def mixed(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return ((q @ k.mT * scale).softmax(-1) @ v).transpose(0, 1).flatten(1)


def by_hand(net: HiLo, x: Tensor, scale: float) -> Tensor:
    """HiLo of one map `y x c`, window by window."""
    s, high = net.ws, net.h_heads
    rows, columns, _ = x.shape
    out = []
    if high:
        part = torch.empty(rows, columns, net.h_proj.in_features, dtype=x.dtype)
        for y in range(0, rows, s):
            for z in range(0, columns, s):
                tokens = x[y : y + s, z : z + s].flatten(0, 1)
                q, k, v = heads_of(tokens, net.h_qkv.weight, net.h_qkv.bias, 3, high)
                part[y : y + s, z : z + s] = mixed(q, k, v, scale).unflatten(0, (s, s))
        out.append(net.h_proj(part))
    if net.l_heads:
        cells = x.unflatten(0, (-1, s)).unflatten(2, (-1, s)).mean((1, 3)).flatten(0, 1)
        (q,) = heads_of(x.flatten(0, 1), net.l_q.weight, net.l_q.bias, 1, net.l_heads)
        k, v = heads_of(cells, net.l_kv.weight, net.l_kv.bias, 2, net.l_heads)
        out.append(net.l_proj(mixed(q, k, v, scale).unflatten(0, (rows, columns))))
    return torch.cat(out, -1)


@pytest.mark.parametrize(
    ("ws", "alpha", "heads"),
    [(2, 0.5, (2, 2)), (3, 0.9, (1, 3)), (2, 0, (4, 0)), (2, 1, (0, 4)), (1, 0.5, (0, 4))],
)
def test_hilo_is_its_formula(ws, alpha, heads):
    net = HiLo(16, 4, ws, alpha).double()
    fill(net)
    assert (net.h_heads, net.l_heads) == heads
    assert hasattr(net, "sr") == (ws > 1 and alpha > 0)
    x = torch.randn(2, 6, 12, 16, dtype=torch.float64)
    with torch.no_grad():
        want = torch.stack([by_hand(net, one, 4**-0.5) for one in x])
        torch.testing.assert_close(net(x), want)
        scaled = HiLo(16, 4, ws, alpha, qk_scale=0.7).double()
        scaled.load_state_dict(net.state_dict())
        torch.testing.assert_close(scaled(x)[0], by_hand(net, x[0], 0.7))


def test_heads_part_as_published():
    with torch.device("meta"), no_init():
        model = load("litv2_s", weights=None)
        parts = [(b.attn.h_heads, b.attn.l_heads) for n in (2, 3) for b in model.layers[n].blocks]
    assert parts == [(2, 10)] * 6 + [(0, 24)] * 2
    bare = HiLo(16, 4, 2, 0.5, qkv_bias=False)
    biases = {name for name, _ in bare.named_parameters() if name.endswith("bias")}
    assert biases == {"l_proj.bias", "h_proj.bias"}


def test_windows_are_padded_where_asked():
    net, x = HiLo(8, 2, 4, 0.5, pad_windows=True), torch.randn(1, 5, 6, 8)
    fill(net)
    plain = HiLo(8, 2, 4, 0.5)
    plain.load_state_dict(net.state_dict())
    with torch.no_grad():
        whole = F.pad(x, (0, 0, 0, 2, 0, 3))
        torch.testing.assert_close(net(x), plain(whole)[:, :5, :6])
    with pytest.raises(OptionError, match="5 x 6 tokens does not divide into windows of 4 x 4"):
        plain(x)
    coarse = HiLo(8, 2, 4, 1.0)  # no windows: what is left of whole cells is no key
    assert coarse(x).shape == x.shape
    with pytest.raises(OptionError, match="smaller than a cell of 4 x 4"):
        coarse(x[:, :3])


def deformed(net: DeformableConv, x: Tensor) -> Tensor:
    """The deformable convolution of one picture, tap by tap and corner by corner."""
    _, height, width = x.shape
    off = net.conv_offset(x[None])[0]
    out = net.bias[:, None, None].repeat(1, height // 2, width // 2).clone()
    for y in range(height // 2):
        for z in range(width // 2):
            for tap in range(4):
                at_y = 2 * y + tap // 2 + float(off[2 * tap, y, z])
                at_x = 2 * z + tap % 2 + float(off[2 * tap + 1, y, z])
                out[:, y, z] += net.weight[:, :, tap // 2, tap % 2] @ at(x, at_y, at_x)
    return out


def at(x: Tensor, y: float, z: float) -> Tensor:
    """Bilinear value of `c y x`; nothing outside -1 < y < height, and corners outside are 0."""
    total = torch.zeros_like(x[:, 0, 0])
    for row in (int(y // 1), int(y // 1) + 1):
        for column in (int(z // 1), int(z // 1) + 1):
            if 0 <= row < x.shape[1] and 0 <= column < x.shape[2]:
                total += (1 - abs(y - row)) * (1 - abs(z - column)) * x[:, row, column]
    return total


@torch.no_grad()
def test_merging_is_the_deformable_convolution():
    net = DeformableConv(3, 5).double()
    fill(net)
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    net.conv_offset.weight.mul_(3)  # some taps leave the picture
    net.conv_offset.bias.add_(0.3)
    torch.testing.assert_close(net(x), torch.stack([deformed(net, one) for one in x]))


@torch.no_grad()
def test_merging_starts_as_a_plain_convolution():
    net, x = DeformableConv(3, 5), torch.randn(1, 3, 6, 8)
    plain = F.conv2d(x, net.weight, net.bias, 2)
    torch.testing.assert_close(net(x), plain, rtol=1e-4, atol=1e-5)
    with_x = torch.randn(2, 3, 5, 5)
    still = torch.zeros(2, 2, 5, 5)
    torch.testing.assert_close(displaced(with_x, still), with_x, rtol=1e-4, atol=1e-5)
    down = still.clone()
    down[:, 0] = 1
    want = F.pad(with_x[:, :, 1:], (0, 0, 0, 1))
    torch.testing.assert_close(displaced(with_x, down), want, rtol=1e-4, atol=1e-5)


PUBLISHED = {  # parameters and multiplications in milliards
    "litv2_s": (27_844_000, 28, 3.7),
    "litv2_m": (None, 49, 7.5),
    "litv2_b": (None, 87, 13.2),
    "litv2_b_384": (None, 87, 39.7),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    exact, millions, flops = PUBLISHED[name]
    with torch.device("meta"), no_init(), FlopCounterMode(display=False) as counter:
        model = load(name, weights=None)
        side = 384 if "384" in name else 224
        model(torch.empty(1, 3, side, side))
    count = sum(p.numel() for p in model.parameters())
    assert count == exact if exact else abs(count / 1e6 - millions) < 0.6
    assert counter.get_total_flops() / 2e9 == pytest.approx(flops, rel=0.03)


def test_rows_are_those_of_the_release():
    cards = {card.name: card for card in ll.list_models("litv2*")}
    assert len(cards) == 4 + 7
    assert cards["litv2_b_384"].size == cards["litv2_b_384"].resize == 384
    study = cards["litv2_s_alpha_0.7"]
    assert study.weights["imagenet"].url.endswith("/download/v1.1/alpha_0.7.pth")
    assert study.weights["imagenet"].key == "model"
    with torch.device("meta"), no_init():
        attn = load("litv2_s_alpha_0", weights=None).layers[2].blocks[0].attn
    assert (attn.h_heads, attn.l_heads) == (12, 0)


def test_weights_start_as_published():
    torch.manual_seed(0)
    model = load("litv2_s", weights=None, **SMALL)
    merging = model.layers[0].downsample.dconv
    assert not merging.conv_offset.weight.any()
    assert not merging.conv_offset.bias.any()
    mlp = model.layers[3].blocks[0].mlp
    spread = [float(layer.weight.detach().std()) for layer in (mlp.dwconv.dwconv, mlp.fc1)]
    assert spread == pytest.approx([(2 / 9) ** 0.5, 0.02], rel=0.05)


def test_every_switch_builds_and_runs():
    model = filled(
        in_chans=1,
        patch_size=2,
        img_size=(32, 64),
        has_msa=(1, 0, 0, 1),
        local_ws=(4, 0, 0, 2),
        alpha=(0.5, 0, 0, 0.25),
        mlp_ratio=(2, 1, 3, 2),
        num_heads=(2, 1, 1, 4),
        patch_norm=False,
        qkv_bias=False,
        qk_scale=0.3,
        ape=False,
        drop_rate=0.1,
        drop_path_rate=0.1,
        norm_eps=1e-3,
    )
    assert model(torch.randn(2, 1, 32, 64)).shape == (2, 7)
    assert model.patch_embed.norm is None
    assert [stage.blocks[0].attn is not None for stage in model.layers] == [
        True,
        *[False] * 2,
        True,
    ]
    assert not [name for name in model.state_dict() if "layers.1.blocks.0.norm1" in name]
    hyper = {"depths": (1, 1), "num_heads": (1, 2), "has_msa": (0, 1), "local_ws": (0, 2)}
    two = load("litv2_s", weights=None, **{**SMALL, **hyper})
    assert two(torch.randn(1, 3, 64, 64)).shape == (1, 7)


def test_what_is_said_of_the_heads_is_checked():
    for said in ({"head_dim": 16, "l_heads": 2, "h_heads": 2},
                 {"head_dim": [16, 32], "l_heads": [2, 4], "h_heads": (2, 0)}):  # fmt: skip
        assert load("litv2_s", weights=None, **SMALL, **said).layers[2].blocks[0].attn.l_heads == 2
    with pytest.raises(OptionError, match=r"h_heads=3 was said, .* come to \[2, 0\]"):
        load("litv2_s", weights=None, **SMALL, h_heads=3)
    with pytest.raises(OptionError, match=r"head_dim=\[16\] was said, .* come to \[16, 32\]"):
        load("litv2_s", weights=None, **SMALL, head_dim=[16])


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"img_size": 100}, "100 x 100 does not divide .* multiples of 32"),
        ({"local_ws": (0, 0, 3, 1)}, "64 x 64 does not divide .* multiples of 96"),
        ({"local_ws": (0, 0, 0, 1)}, "local_ws=0 of a stage with attention"),
        ({"local_ws": (2, 1)}, r"local_ws=\[2, 1\] has 2 entries for 4 stages"),
        ({"num_heads": (1, 1)}, r"num_heads=\[1, 1\] has 2 entries"),
        ({"has_msa": (1,)}, r"has_msa=\[1\] has 1 entries"),
        ({"num_heads": (1, 1, 5, 4)}, "64 does not divide into 5 heads"),
        ({"alpha": 1.2}, "alpha=1.2 is no share"),
        ({"drop_path": 1.0}, "drop_path=1.0 is no share"),
        ({"dropout": -0.1}, "dropout=-0.1 is no share"),
        ({"ape": True}, "keeps ape=False"),
        ({"depths": ()}, "names no stage"),
    ],
)
def test_what_does_not_fit_is_told(asked, words):
    with pytest.raises(OptionError, match=words):
        load("litv2_s", weights=None, **{**SMALL, **asked})


def test_a_picture_or_a_file_of_another_kind_is_told(tmp_path):
    model = load("litv2_s", weights=None, **SMALL)
    with pytest.raises(OptionError, match=r"72 x 64 does not divide .* multiples of 32"):
        model(torch.randn(1, 3, 72, 64))
    odd = load("litv2_s", weights=None, **{**SMALL, "local_ws": (0, 0, 3, 1)}, pad_windows=True)
    assert odd(torch.randn(1, 3, 64, 96)).shape == (1, 7)
    torch.save({"model": model.state_dict()}, tmp_path / "w.pth")
    same = load("litv2_s", tmp_path / "w.pth", **SMALL)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(same(x), model(x))
    with pytest.raises(WeightsError):
        load("litv2_s", tmp_path / "w.pth", **{**SMALL, "embed_dim": 32})


def test_relevance_is_kept_where_the_merging_reads_elsewhere():
    model, x = unbiased(filled()).double(), torch.from_numpy(image((1, 3, 64, 64))).double()
    t = ll.trace(model, x, "layers.*.downsample.dconv:offset")
    assert all(float(value.act.abs().mean()) > 0.3 for value in t.values())
    books = ll.ledger(model, x, "lrp:epsilon", target=3)
    assert books.kept == pytest.approx(1, abs=5e-5)
    assert books.leaks(1e-6) == ()


def test_two_maps_by_group_of_heads():
    model, x = filled(), torch.from_numpy(image((1, 3, 64, 64)))
    site = "layers.2.blocks.0.attn"
    t = ll.trace(model, x, [f"{site}.{group}:{port}" for group in ("hifi", "lofi")
                            for port in ("map", "v", "heads")])  # fmt: skip
    high, low = t[f"{site}.hifi:map"].act, t[f"{site}.lofi:map"].act
    assert high.shape == (1, 2, 16, 16)  # 4 x 4 tokens
    assert low.shape == (1, 2, 16, 4)  # 2 x 2 cells
    row = torch.arange(16)
    window = row // 8 * 2 + row % 4 // 2
    assert torch.equal(high[0, 0] > 0, window[:, None] == window)
    assert (low > 0).all()
    for group, share in (("hifi", high), ("lofi", low)):
        found = share @ t[f"{site}.{group}:v"].act
        torch.testing.assert_close(found, t[f"{site}.{group}:heads"].act)


def test_how_far_each_group_looks_in_pixels():
    model, x = filled(), torch.from_numpy(image((1, 3, 64, 64)))
    names = ["nonlocality:pixels", "attention_mass,radius=0.5"]
    maps = ll.maps(model, x, names, sites="layers.2.blocks.0.attn.lofi")
    site = "layers.2.blocks.0.attn.lofi:map"
    share = ll.trace(model, x, site)[site].act[0].double()
    centres = torch.cartesian_prod(*[torch.arange(4.0, dtype=torch.float64)] * 2) * 16 + 8
    cells = torch.cartesian_prod(*[torch.arange(2.0, dtype=torch.float64)] * 2) * 32 + 16
    far = torch.cdist(centres, cells)
    torch.testing.assert_close(maps[0].values, (share * far).sum(-1).mean(-1), rtol=1e-5, atol=1e-5)
    near = (share * (far <= 16)).sum(-1).mean(-1)
    torch.testing.assert_close(maps[1].values, near, rtol=1e-5, atol=1e-5)
    assert "each key stands for 2 x 2 queries" in maps[0].about.notes[-1]


def test_spectra_of_both_halves_and_offsets_are_maps_of_the_page(tmp_path):
    model, x = filled(), torch.from_numpy(image((2, 3, 128, 128)))
    attn, merging = "layers.2.blocks.0.attn", "layers.0.downsample.dconv"
    halves = (f"{attn}:hifi", f"{attn}:lofi")
    asked = [
        ll.use("band_energy", sites=halves),
        ll.use("activation:norm", sites=f"{merging}:offset"),
    ]
    page = ll.explain(model, inputs=x, methods=asked, target=3)
    maps, text = page.maps, page.save(tmp_path / "page.html").read_text()
    assert all(word in text for word in (*halves, "band_energy", "activation"))
    t = ll.trace(model, x, [*halves, f"{merging}:offset"])
    for half in halves:
        act = t[half].act.permute(0, 3, 1, 2)  # 8 x 8 places
        _, power = radial_spectrum(act, bins=4)
        assert power.shape == (2, 4)
        assert (power > 0).all()
        spectrum = torch.fft.fft2(act).abs().square().sum(1) / 64
        at = torch.fft.fftfreq(8)
        fine = (at[:, None].square() + at.square()).sqrt() >= 0.25
        found = maps.where(site=half).stack().sum((1, 2))
        torch.testing.assert_close(found, spectrum[:, fine].sum(1), rtol=1e-4, atol=1e-3)
    offset = t[f"{merging}:offset"].act
    assert offset.shape == (2, 2, 32, 32)
    torch.testing.assert_close(maps.where(method="activation:norm").stack(), offset.norm(dim=1))


def test_holding_the_offsets_at_zero_makes_a_plain_convolution():
    model, x = filled(), torch.from_numpy(image((1, 3, 64, 64)))
    site = "layers.0.downsample.dconv"
    with ll.Probe(model, grad=False) as probe:
        probe.watch(f"{site}:in", site)
        probe.edit({f"{site}:offset": ll.zero})
        probe(x)
        entered, left = (probe.trace[name].act for name in (f"{site}:in", site))
    net = model.get_submodule(site)
    want = F.conv2d(entered, net.weight, net.bias, 2)
    torch.testing.assert_close(left, want, rtol=1e-4, atol=1e-4)


def test_checkpointing_changes_no_gradient():
    model, x = filled(), torch.from_numpy(image((1, 3, 64, 64)))
    found = []
    for enable in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(enable)
        model(x).sum().backward()
        found.append([p.grad.clone() for p in model.parameters()])
    torch.testing.assert_close(*found)
    assert all(grad.any() for grad in found[0])


def test_paths_and_values_drop_in_training_alone():
    model, x = filled(drop_path=0.8), torch.randn(4, 3, 64, 64)
    drops = [block.drop for stage in model.layers for block in stage.blocks]
    assert drops == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert torch.equal(model(x), model(x))
    for hyper in ({"drop_path": 0.8}, {"dropout": 0.5, "drop_path": 0.0}):
        net = filled(**hyper).train()
        assert not torch.equal(net(x), net(x))


def test_samples_do_not_see_each_other_and_bfloat16_is_finite():
    model, x = filled(), torch.randn(3, 3, 64, 96)
    with torch.no_grad():
        whole = model(x)
        torch.testing.assert_close(model(x[1:2]), whole[1:2], rtol=1e-4, atol=1e-5)
        low = model.bfloat16()(x.bfloat16())
    assert low.dtype == torch.bfloat16
    assert low.isfinite().all()
