"""GaRNet: its gates by the written formula, its masks, what is kept of a photo, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fill import fill
from golden_models import build, photo_and_boxes
from torch import Tensor, nn

import limelight as ll
from limelight.models import load
from limelight.models.weights.load import no_init
from limelight.models.zoo.garnet.blocks import GatedAttention, GatedBlock, MaskBranch
from limelight.probe.errors import ModelError, OptionError
from limelight.reports import render

OUTPUTS = ("up1", "up2", "up3_o", "up4_o", "up5", "masks", "attentions", "gates", "composite")


def small(**hyper: object) -> nn.Module:
    torch.manual_seed(0)
    return load("garnet", weights=None, ndf=8, **hyper)


def judge() -> nn.Module:
    return load("garnet_discriminator", weights=None, ndf=4)


def given(count: int = 2, side: int = 64) -> tuple[Tensor, Tensor]:
    """Photos, and a box each, of different sizes."""
    draw = torch.Generator().manual_seed(3)
    boxes = torch.zeros(count, 1, side, side)
    for n, box in enumerate(boxes):
        box[:, 8 : 20 + 16 * n, 8:48] = 1
    return torch.rand(count, 3, side, side, generator=draw) * 2 - 1, boxes


def test_the_gate_is_the_written_formula():
    attention = GatedAttention().double()
    assert (attention.alpha.item(), attention.beta.item()) == (0.5, 0.5)
    fill(attention, 4)
    assert list(attention.state_dict()) == ["alpha", "beta", "conv.weight", "conv2.weight"]
    x = torch.randn(2, 5, 9, 8, dtype=torch.float64)
    box = torch.rand(2, 1, 9, 8, dtype=torch.float64)
    pooled = torch.stack([x.sum(1) / 5, x.max(1).values, box[:, 0]], 1)
    windows = F.pad(pooled, (3, 3, 3, 3)).unfold(2, 7, 1).unfold(3, 7, 1)
    a, s = (
        torch.einsum("bcyxij,cij->byx", windows, conv.weight[0])[:, None]
        for conv in (attention.conv, attention.conv2)
    )
    with torch.no_grad():
        found = attention(x, box)
        want = 1 / (1 + (-attention.alpha * a - attention.beta * s).exp())
        torch.testing.assert_close(found.gate, want)
        torch.testing.assert_close(found.stroke, a.sigmoid())
        torch.testing.assert_close(found.surround, s.sigmoid())


@pytest.mark.parametrize(("out", "stride"), [(4, 1), (6, 2)])
def test_a_block_gates_its_branch_and_not_its_shortcut(out, stride):
    block = GatedBlock(4, out, stride)
    x, box = torch.randn(1, 4, 8, 8), torch.rand(1, 1, 8 // stride, 8 // stride)
    with torch.no_grad():
        made, gated = block(x, box)
        beside = block.conv3(x) if stride == 2 else x
        branch = block.conv2(block.conv1(x).clamp(min=0))
        torch.testing.assert_close(made, (branch * gated.gate + beside).clamp(min=0))


def test_a_closed_gate_leaves_the_shortcut():
    model, x = small(), given(1)
    site = "layer2.att_layer:gate"
    shut = ll.patch(model, x, {site: ll.zero})
    before = ll.trace(model, x, ["layer1_block"])["layer1_block"].act
    with ll.Probe(model) as probe:
        probe.watch("layer2")
        probe.edit({site: ll.zero})
        probe(*x)
        kept = probe.trace["layer2"].act
    torch.testing.assert_close(kept, before)
    assert not torch.equal(shut["up5"], model(*x)["up5"])


def test_masks_are_means_over_their_largest_value():
    branch = MaskBranch()
    assert not any(p.requires_grad for p in branch.parameters())
    assert all(float(p.unique()) == pytest.approx(1 / p.numel()) for p in branch.parameters())
    _, boxes = given(1)
    masks = branch(boxes)
    assert [m.shape[-1] for m in masks] == [16, 16, 8, 8, 4, 4, 2, 2]
    x = F.max_pool2d(F.avg_pool2d(F.pad(boxes, (1, 1, 1, 1)), 4, 2), 2)
    for mask, stride in zip(masks, (1, 1, 2, 1, 2, 1, 2, 1), strict=True):
        for s in (stride, 1):
            x = F.avg_pool2d(x, 3, s, 1)
        x = x / x.max()
        torch.testing.assert_close(mask, x, atol=3e-5, rtol=0)


def test_one_photo_does_not_change_another_unless_as_published():
    photos, boxes = given()
    boxes[1] *= 0.25  # the first has the largest values of the batch
    for over, alike in (("sample", True), ("batch", False)):
        model = small(mask_max=over)
        with torch.no_grad():
            both, alone = model(photos, boxes), model(photos[1:], boxes[1:])
        close = torch.allclose(both["masks"][0][1:], alone["masks"][0], atol=1e-6)
        assert close is alike
        assert torch.allclose(both["up5"][1:], alone["up5"], atol=1e-6) is alike
    one = [small(mask_max=over)(photos[:1], boxes[:1])["up5"] for over in ("sample", "batch")]
    torch.testing.assert_close(*one)


@pytest.mark.golden
def test_as_published_the_golden_case_is_the_same():
    built = build("garnet.garnet")
    built.model.mask_branch.over = "batch"
    for key, value in built.outputs().items():
        built.case.within(key, value, rtol=1e-3, atol=1e-4)


def test_what_is_returned():
    model, (photos, boxes) = small(), given()
    with torch.no_grad():
        apart, joined = model(photos, boxes), model(torch.cat([photos, boxes], 1))
        assert tuple(apart) == OUTPUTS
        assert all(torch.equal(apart[key], joined[key]) for key in (*OUTPUTS[:5], "composite"))
        flags = model(photos, boxes.bool())
        assert torch.equal(flags["up5"], apart["up5"])
        inside = boxes.expand_as(photos) == 1
        assert torch.equal(apart["composite"][inside], apart["up5"][inside])
        assert torch.equal(apart["composite"][~inside], photos[~inside])
        assert [len(apart[key]) for key in ("masks", "attentions", "gates")] == [8, 8, 8]
        assert all(torch.is_tensor(m) for pair in apart["attentions"] for m in pair)
        model.published_outputs = True
        up1, up2, up3, up4, up5, masks, attentions, gates = model(photos, boxes)
    assert [tuple(t.shape[1:]) for t in (up1, up2, up3, up4, up5)] == [
        (32, 4, 4), (16, 8, 8), (3, 16, 16), (3, 32, 32), (3, 64, 64),
    ]  # fmt: skip
    assert torch.equal(up5, apart["up5"])
    assert float(up5.min()) > -1
    for mask, (stroke, surround), gate in zip(masks, attentions, gates, strict=True):
        assert mask.shape == stroke.shape == surround.shape == gate.shape


def test_sides_need_only_be_multiples_of_32_and_a_photo_may_be_grey():
    model = small(in_channels=1)
    with torch.no_grad():
        made = model(torch.rand(1, 1, 96, 32), torch.ones(1, 1, 96, 32))
    assert made["up5"].shape == made["composite"].shape == (1, 1, 96, 32)


def test_masks_can_be_trained():
    assert all(p.requires_grad for p in small(mask_branch="trained").mask_branch.parameters())
    published = "constructor values (constant 1/k^2, frozen)"  # as golden cases say it
    assert not any(p.requires_grad for p in small(mask_branch=published).mask_branch.parameters())
    with no_init():
        model = small()
    assert float(model.mask_branch.initial[0].weight.min()) == 1 / 16


def test_relevance_lies_on_photo_and_mask_and_the_gates_take_none():
    model = small()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.zero_()
    x = given(1)
    target = ll.region(x[1][0, 0], 1, at="up5")
    maps = ll.maps(model, x, "lrp:lrp0", sites=["input", "input.1"], target=target)
    with torch.no_grad():
        score = float((model(*x)["up5"][:, 1] * x[1][:, 0]).sum())
    assert sum(float(m.values.double().sum()) for m in maps) == pytest.approx(score, rel=1e-4)
    gates = ll.maps(model, x, "lrp:lrp0", sites="layer1_block.att_layer.conv", target=target)
    assert not any(m.values.any() for m in gates)


def test_the_page_shows_before_and_after():
    model, (photos, boxes) = small(), given(1)
    x = torch.cat([photos, boxes], 1)
    pictures = [(photos[0].permute(1, 2, 0).numpy() * 127.5 + 127.5).astype(np.uint8)]
    made = {}
    for part in ("up5", "composite"):
        shown = ll.explain(
            model, pictures, "gradient", inputs=x, target=ll.region(boxes[0, 0], 1, at=part),
            output="picture", mean=(0.5,) * 3, std=(0.5,) * 3, mixer=part == "up5",
        )  # fmt: skip
        ((_, image),) = shown.restored.items()
        made[part] = np.asarray(image).astype(float)
        if shown.mixer is not None:
            figures = {f.title: f for f in shown.mixer.figures}
            page = render(shown)
    with torch.no_grad():
        whole = model(x)
    for part, pixels in made.items():
        want = (whole[part][0].permute(1, 2, 0) + 1).clamp(0, 2) * 127.5
        assert np.abs(pixels - want.numpy()).max() <= 0.51
    row = figures["Before, raw and composite"].rows[0]
    assert [name for name, _ in row.images] == [":photo", ":raw", ":composite"]
    for (_, image), part in zip(row.images[1:], ("up5", "composite"), strict=True):
        assert np.array_equal(np.asarray(image).astype(float), made[part])
    assert page.count('alt="Before, raw and composite, :') == 3
    gates = figures["Gates"].rows[0].maps
    assert gates[0][0] == "layer1_block.att_layer:gate"
    torch.testing.assert_close(gates[0][1].values, whole["gates"][0][0, 0])


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (lambda p, m: small()(p, m[..., :32]), r"the mask of photos \(2, 3, 64, 64\) is "
         r"\(2, 1, 64, 32\), but it has one channel and their size: give \(2, 1, 64, 64\)"),
        (lambda p, m: small()(p, m[:1]), r"is \(1, 1, 64, 64\)"),
        (lambda p, m: small()(p, m[:, 0]), r"is \(2, 64, 64\)"),
        (lambda p, m: small()(p), r"no mask and a tensor \(2, 3, 64, 64\) .*give b 4 y x"),
        (lambda p, m: small()(p[:, :2], m), r"a mask and a tensor \(2, 2, 64, 64\).*give b 3 y x"),
        (lambda p, m: small()(p, m * torch.tensor([1, 0])[:, None, None, None]),
         "the mask of sample 1 is empty"),
        (lambda p, m: small()(p[..., :48], m[..., :48]), "multiples of 32, but the photo is 64 x"),
        (lambda p, m: judge()(p), r"takes b 6 y x with sides of at least 24"),
        (lambda p, m: judge()(torch.rand(1, 6, 16, 64)), "sides of at least 24"),
        (lambda p, m: load("garnet_label_discriminator", weights=None)(p),
         "the label discriminator takes b 1"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(run, words):
    with pytest.raises(ModelError, match=words):
        run(*given())


@pytest.mark.parametrize(
    ("hyper", "words"),
    [
        ({"ndf": 7}, "ndf=7 has no half"),
        ({"mask_branch": "random"}, "mask_branch='random' is unknown: write 'frozen' or"),
        ({"mask_max": "all"}, "largest value over 'all': write 'sample' or 'batch'"),
    ],
)
def test_bad_options_are_one_sentence(hyper, words):
    with pytest.raises(OptionError, match=words):
        load("garnet", weights=None, **hyper)
    with pytest.raises(OptionError, match="num_blocks=0 leaves"):
        load("garnet_discriminator", weights=None, num_blocks=0)


def test_empty_masks_can_be_allowed():
    model, (photos, boxes) = small(allow_empty_masks=True), given(1)
    with torch.no_grad():
        made = model(photos, boxes * 0)
    assert made["up5"].isfinite().all()
    assert torch.equal(made["composite"], photos)


@pytest.mark.parametrize("num_blocks", [1, 2, 3, 4])
def test_labels_are_the_shares_of_text_box_in_the_patches_that_are_judged(num_blocks):
    patches = load("garnet_discriminator", weights=None, ndf=2, num_blocks=num_blocks)
    labels = load("garnet_label_discriminator", weights=None, num_blocks=num_blocks)
    x = torch.zeros(1, 6, 96, 64, requires_grad=True)
    score = patches(x)
    assert labels(x[:, :1]).shape == score.shape
    for name, p in patches.named_parameters():
        p.data.fill_(1 / p[0].numel() if name.endswith("weight") else 0.1)
    score = patches(x)
    y, z = score.shape[2] // 2, score.shape[3] // 2
    (seen,) = torch.autograd.grad(score[0, 0, y, z], x)
    (read,) = torch.autograd.grad(labels(x[:, :1])[0, 0, y, z], x)
    assert torch.equal(seen[0, 0] != 0, read[0, 0] != 0)
    if num_blocks == 3:
        assert labels.conv.kernel_size == (70, 70)
        assert (labels.conv.stride, labels.conv.padding) == ((8, 8), (23, 23))
    with torch.no_grad():
        assert float(labels(torch.ones(1, 1, 256, 256)).max()) == pytest.approx(1, abs=1e-4)


def test_the_golden_input_is_as_its_case_says():
    x = photo_and_boxes((1, 4, 64, 64), 0)
    assert (x[:, 3].sum(), float(x[:, :3].abs().max()) < 1) == (16 * 40 + 16 * 24, True)
