"""OverLoCK's sizes and switches, its merged form, its ports, and its kernels at a pixel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from fill import fill, image
from golden_models import NETWORKS
from shared import outputs
from torch import nn

import limelight as ll
from limelight.models import load
from limelight.models.weights.load import no_init
from limelight.models.zoo.overlock import pixel_kernels, reparameterised
from limelight.models.zoo.overlock.context_mixing import relative_bias
from limelight.models.zoo.overlock.dilated import BRANCHES, DilatedReparam
from limelight.probe.errors import ModelError, OptionError, WeightsError

SMALL = {
    "depth": (1, 1, 1, 1),
    "sub_depth": (2, 2),
    "embed_dim": (16, 16, 32, 48),
    "kernel_size": (7, 7, 5, 5),
    "sub_num_heads": (2, 3),
    "smk_size": 3,
    "projection": 64,
    "num_classes": 7,
}
FIRST = "sub_blocks3.0"


def filled(name: str = "overlock_xt", **hyper: object) -> nn.Module:
    with no_init():
        model = load(name, weights=None, **{**SMALL, **hyper})
    fill(model, 0)
    return model


def picture(y: int = 96, x: int = 128, b: int = 1, c: int = 3) -> torch.Tensor:
    return torch.from_numpy(image((b, c, y, x), 0))


COUNTS = {"xt": 16e6, "t": 33e6, "s": 56e6, "b": 95e6}


@pytest.mark.parametrize("size", COUNTS)
def test_parameter_counts_are_the_published_ones(size):
    """The README counts the merged form without the auxiliary head."""
    with torch.device("meta"):
        model = load(f"overlock_{size}_reparam", weights=None, use_ds=False)
    count = sum(p.numel() for p in model.parameters())
    assert abs(count - COUNTS[size]) < 0.6e6


@pytest.mark.golden
@pytest.mark.parametrize("built", ["overlock.xt_224", "overlock.xt_96x128"], indirect=True)
def test_the_merged_form_gives_the_same_logits(built):
    """The sheet measured 1.2e-4 of logits whose deviation is 55.7."""
    logits = outputs(built.model, built.x, {})["logits"]
    merged = reparameterised(built.model)
    with torch.no_grad():
        assert (merged(built.x) - logits).abs().max() < 1e-5 * logits.std()
    published = load("overlock_xt_reparam", weights=None)
    assert list(published.state_dict()) == list(merged.state_dict())
    published.load_state_dict(merged.state_dict())
    names = {name for name, _ in merged.named_parameters()}
    assert "blocks1.0.proj.1.lk_origin.bias" in names
    assert not [name for name in names if "dil_" in name or "origin_bn" in name]
    assert built.model.blocks1[0].proj[1].branches  # the model itself stays as it was


@pytest.mark.parametrize("kernel", BRANCHES)
def test_every_kernel_merges_exactly(kernel):
    layer = DilatedReparam(3, kernel).double().eval()
    for part in layer.modules():
        if isinstance(part, nn.BatchNorm2d):
            for x in (part.weight, part.bias, part.running_mean):
                nn.init.normal_(x)
            nn.init.uniform_(part.running_var, 0.5, 2)
    one = layer.merged()
    assert one.lk_origin.weight.shape == (3, 1, kernel, kernel)
    x = torch.randn(2, 3, 19, 23, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(one(x), layer(x))
    assert one.merged() is one


def test_a_model_that_is_merged_already_is_told():
    with pytest.raises(ModelError, match="no dilated branches to merge"):
        reparameterised(filled(deploy=True))
    with pytest.raises(ModelError, match="Linear has no dilated branches"):
        reparameterised(nn.Linear(2, 2))


SWITCHES = {
    "scaled branch": {"res_scale": False},
    "scales everywhere": {"ls_init_value": 0.5, "mlp_ratio": (1, 2, 3, 4), "sub_mlp_ratio": (2, 1)},
    "no scales": {"ls_init_value": None},
    "one channel": {"in_channels": 1, "use_ds": False},
    "merged": {"deploy": True, "kernel_size": 9},
    "kernels": {"kernel_size": (5, 9, 11, 13), "smk_size": 1, "sub_num_heads": 1},
}


@pytest.mark.parametrize("hyper", SWITCHES.values(), ids=SWITCHES)
def test_every_switch_builds_and_runs(hyper):
    model = filled(**hyper)
    out = model(picture(70, 45, b=2, c=hyper.get("in_channels", 3)))
    assert out.shape == (2, 7)
    assert out.isfinite().all()


def test_layer_scales_multiply_the_shortcut_or_the_branch():
    x = picture(8, 8, c=16)
    for res_scale in (True, False):
        block = filled(res_scale=res_scale, ls_init_value=1.0).blocks1[0]
        with torch.no_grad():
            start = block.dwconv(x)
            branch, scale = block.proj(start), block.ls
            want = scale(start) + branch if res_scale else start + scale(branch)
            torch.testing.assert_close(block(x), want)
            by_convolution = F.conv2d(x, scale.weight, scale.bias, groups=16)
            torch.testing.assert_close(scale(x), by_convolution)


def test_in_training_the_overview_has_a_head_of_its_own_and_branches_drop():
    model = filled(drop_path=0.9).train()
    torch.manual_seed(0)
    one, other = model(picture(b=2)), model(picture(b=2))
    assert {name: tuple(x.shape) for name, x in one.items()} == {"main": (2, 7), "aux": (2, 7)}
    assert not torch.equal(one["main"], other["main"])
    assert isinstance(filled(use_ds=False).train()(picture(b=2)), torch.Tensor)


def test_published_names_load_without_the_auxiliary_head_and_with_new_classes(tmp_path):
    model = filled()
    file = tmp_path / "overlock.pth"
    torch.save({"state_dict": model.state_dict()}, file)
    plain = load("overlock_xt", file, use_ds=False, **SMALL)
    with torch.no_grad():
        assert torch.equal(plain(picture()), model(picture()))
    with pytest.warns(UserWarning, match=r"'head\.4' of the model starts with random weights"):
        fresh = load("overlock_xt", file, **{**SMALL, "num_classes": 3})
    assert fresh(picture()).shape == (1, 3)
    with pytest.raises(WeightsError, match="of another shape"):
        load("overlock_xt", file, **{**SMALL, "embed_dim": (16, 16, 48, 48)})


def test_the_bias_is_a_function_of_the_offset():
    table = torch.randn(2, 5, 5)
    bias = relative_bias(table, (4, 5)).reshape(2, 4, 5, 3, 3)
    for y, x in ((0, 0), (1, 2), (3, 4), (2, 3)):
        top, left = min(max(y - 1, 0), 1), min(max(x - 1, 0), 2)
        own = table[:, top - y + 2 : top - y + 5, left - x + 2 : left - x + 5]
        assert torch.equal(bias[:, y, x], own)


@pytest.mark.parametrize("size", [(96, 128), (224, 192)])
def test_a_probe_sees_prior_affinity_kernels_and_map(size):
    """The map times the values is what the kernels make, also where a small map is mixed larger."""
    model, x = filled(), picture(*size)
    ports = ("context", "affinity", "small", "large", "v", "map", "heads")
    trace = ll.trace(model, x, [f"{FIRST}:{port}" for port in ports])
    context, affinity, small, large, v, attention, heads = (
        trace[f"{FIRST}:{port}"].act for port in ports
    )
    grid = model.get_submodule(FIRST).mixed_at(context.shape[2:])
    n = grid[0] * grid[1]
    assert context.shape == (1, 12, -(-size[0] // 16), -(-size[1] // 16))
    assert affinity.shape == (1, 4, n, 49)
    assert v.shape == (1, 8, n, 4)
    for kernels in (small, large):
        torch.testing.assert_close(kernels.sum(3), torch.ones(1, 4, n))
    torch.testing.assert_close(attention @ v, heads, rtol=1e-4, atol=1e-5)


def test_an_edited_kernel_changes_the_output_and_even_kernels_blur():
    model, x = filled(), picture(224, 224)
    with torch.no_grad():
        before = model(x)
    even = {f"{FIRST}:large": lambda k, _: torch.full_like(k, 1 / k.shape[3])}
    assert not torch.equal(ll.patch(model, x, even), before)


def test_kernels_at_a_pixel_are_rows_of_the_map():
    model, x = filled(), picture(224, 192)
    every = pixel_kernels(model, x, (100, 190))
    assert [k.block for k in every] == [f"sub_blocks{s}.{n}" for s in (3, 4) for n in (0, 1)]
    one = every[0]
    assert (one.grid, one.pixel) == ((14, 12), (6, 11))
    assert (one.small.shape, one.large.shape) == ((4, 3, 3), (4, 5, 5))
    assert one.corners == ((5, 9), (4, 7))
    attention = ll.trace(model, x, [f"{FIRST}:map"])[f"{FIRST}:map"].act
    row = attention[0, :, 6 * 12 + 11].unflatten(1, one.grid)
    torch.testing.assert_close(row[:4, 5:8, 9:12], one.small)
    torch.testing.assert_close(row[4:, 4:9, 7:12], one.large)
    affinity = ll.trace(model, x, [f"{FIRST}:affinity"])[f"{FIRST}:affinity"].act
    torch.testing.assert_close(one.affinity.flatten(1), affinity[0, :, 6 * 12 + 11])
    (again,) = pixel_kernels(model, x, (100, 190), [FIRST])
    assert torch.equal(again.large, one.large)


def test_a_region_wrote_what_changes_without_it():
    """Its affinity set to zero in the model itself moves the kernel by as much as was told."""
    model, x = filled(), picture(224, 224)
    (found,) = pixel_kernels(model, x, (30, 60), [FIRST])
    place = found.pixel[0] * found.grid[1] + found.pixel[1]
    for region in (0, 24, 40):

        def silent(a, _, region=region):
            a = a.clone()
            a[..., region] = 0
            return a

        with ll.Probe(model, grad=False) as probe:
            probe.watch(f"{FIRST}:large").edit({f"{FIRST}:affinity": silent})
            probe(x)
            large = probe.trace[f"{FIRST}:large"].act[0, :, place].unflatten(1, (5, 5))
        moved = (large - found.large).abs().sum((1, 2)) / 2
        torch.testing.assert_close(found.written.flatten(1)[:, region], moved)
    assert found.written.max() > 1e-3


def test_where_no_kernels_are_is_told():
    with pytest.raises(OptionError, match="lies outside an input of 96 x 128"):
        pixel_kernels(filled(), picture(), (96, 0))
    with pytest.raises(ModelError, match=r"'blocks1\.0' was asked for kernels"):
        pixel_kernels(filled(), picture(), (0, 0), ["blocks1.0"])
    with pytest.raises(ModelError, match="in no block"):
        pixel_kernels(nn.Conv2d(3, 3, 1), picture(), (0, 0))


def test_the_prior_is_a_map_beside_the_picture_block_by_block():
    model, x = filled(), picture(224, 224)
    maps = ll.maps(model, x, "activation:norm", sites="**:context")
    assert [m.site.path for m in maps] == [f"sub_blocks{s}.{n}" for s in (3, 4) for n in (0, 1)]
    trace = ll.trace(model, x, "**:context")
    for m in maps:
        torch.testing.assert_close(m.values, trace[str(m.site)].act[0].norm(dim=0))


def test_relevance_is_kept_whole_and_gates_may_be_held():
    model = filled().double()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("bias", "beta")):
                p.zero_()
        for name, b in model.named_buffers():
            if name.endswith("running_mean"):
                b.zero_()
    x = picture().double()
    for options in ({}, {"hold": ("sub_blocks3.*.gate", "sub_blocks4.*.gate", "**:gate")}):
        books = ll.ledger(model, x, ll.use("lrp", preset="lrp0", **options), target=3)
        assert books.kept == pytest.approx(1, abs=1e-6)
        assert books.leaks() == ()
    relevance = [
        ll.maps(model, x, ll.use("lrp", preset="lrp0", **options), target=3)[0].values
        for options in ({}, {"hold": "sub_blocks3.*.gate"})
    ]
    assert (relevance[0] - relevance[1]).abs().max() > 1e-3 * relevance[0].abs().max()


def test_checkpointing_gives_equal_gradients_and_samples_do_not_mix():
    model, x = filled(), picture(b=3)
    grads = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().sum().backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(grads[0], grads[1])
    model.set_grad_checkpointing(False)
    with torch.no_grad():
        torch.testing.assert_close(model(x)[1:2], model(x[1:2]), rtol=1e-4, atol=1e-5)


def test_small_maps_are_mixed_with_their_shorter_side_at_the_kernel():
    block = filled(kernel_size=(7, 7, 15, 5)).get_submodule(FIRST)
    sizes = {(11, 11): (15, 15), (3, 4): (15, 20), (8, 6): (20, 15), (15, 16): (15, 16)}
    assert {size: block.mixed_at(size) for size in sizes} == sizes


def test_impossible_shapes_are_told():
    for hyper, told in (
        ({"depth": (2, 2, 3)}, r"depth=\[2, 2, 3\] has 3 entries for 4 stages"),
        ({"sub_depth": (2,)}, "1 entries for 2 stages"),
        ({"sub_depth": (0, 2)}, "leaves a stage no block"),
        ({"kernel_size": (17, 15, 12, 7)}, r"kernel_size=12 has no dilated branches.*\[5, 7"),
        ({"embed_dim": (56, 112, 256, 330)}, "quarters for the context"),
        ({"sub_num_heads": (5, 6)}, "sub_num_heads=5"),
        ({"smk_size": 4}, "smk_size=4 has no middle"),
    ):
        with pytest.raises(OptionError, match=told):
            load("overlock_xt", weights=None, **hyper)


def test_cases_are_compared():
    assert {"overlock.xt_224", "overlock.xt_96x128"} <= set(NETWORKS)
