"""Polarized attention: its formula and gates; HRNet, OCR and the pose head around it."""

from __future__ import annotations

import math

import pytest
import torch
from fill import fill
from torch import nn

import limelight as ll
from limelight.models import load
from limelight.models.layers import PolarizedAttention, spatial_mask
from limelight.models.weights.load import no_init
from limelight.models.zoo.psa.ocr import SpatialGather
from limelight.probe.errors import OptionError, WeightsError
from limelight.reports.explanation.mixer import mixer_of

SMALL = {"width": 8, "blocks_per_branch": 1, "modules": (1, 1, 1), "stage1_blocks": 1}
OCR = {**SMALL, "ocr_mid_channels": 16, "ocr_key_channels": 8, "num_classes": 5}


def block(kind, dim=12, **hyper):
    made = PolarizedAttention(dim, kind=kind, **hyper).double().eval()
    fill(made, 3)
    return made, torch.randn(2, dim, 4, 6, dtype=torch.float64)


def weight(conv):
    return conv.weight[:, :, 0, 0]


def channel_gate(made, x):
    flat = x.flatten(2)
    where = torch.einsum("c,bcn->bn", weight(made.conv_q_right)[0], flat).softmax(1)
    values = torch.einsum("oc,bcn->bon", weight(made.conv_v_right), flat)
    pooled = torch.einsum("bon,bn->bo", values, where)
    if made.kind == "p":
        return (pooled @ weight(made.conv_up).T).sigmoid()
    first, norm, _, second = made.conv_up
    y = pooled @ weight(first).T + first.bias
    y = (y - y.mean(1, keepdim=True)) / (y.var(1, correction=0, keepdim=True) + norm.eps).sqrt()
    y = (y * norm.weight.flatten() + norm.bias.flatten()).clamp(min=0)
    return (y @ weight(second).T + second.bias).sigmoid()


def spatial_gate(made, x):
    query = torch.einsum("oc,bc->bo", weight(made.conv_q_left), x.flatten(2).mean(2))
    keys = torch.einsum("oc,bcn->bon", weight(made.conv_v_left), x.flatten(2))
    if made.kind == "s":
        keys = keys.softmax(2)
    scores = (query[..., None] * keys).sum(1)
    if made.kind == "p":
        scores = scores.softmax(1)
    return scores.sigmoid().unflatten(1, x.shape[2:])[:, None]


@pytest.mark.parametrize("kind", ["p", "s"])
@pytest.mark.parametrize("hyper", [{}, {"inter_planes": 8}])
def test_a_block_computes_the_written_formula(kind, hyper):
    made, x = block(kind, **hyper)
    by_channel = x * channel_gate(made, x)[..., None, None]
    if kind == "p":
        want = x * spatial_gate(made, x) + by_channel
    else:
        want = by_channel * spatial_gate(made, by_channel)
    torch.testing.assert_close(made(x), want)


def test_narrowing_is_by_a_ratio_and_the_norm_has_its_own_eps():
    made, x = block("s", dim=16, ratio=2, ln_eps=0.5)
    assert made.conv_up[0].weight.shape == (4, 8, 1, 1)
    assert made.conv_up[1].weight.shape == (4, 1, 1)
    torch.testing.assert_close(made.channel_gate(x)[..., 0, 0], channel_gate(made, x))


def test_masks_of_the_same_weights_differ_by_where_the_softmax_stands():
    query, keys = torch.randn(3, 5).double(), torch.randn(3, 5, 40).double()
    p, s = (spatial_mask(query, keys, kind) for kind in ("p", "s"))
    torch.testing.assert_close(p.sum(1), torch.ones(3).double())
    torch.testing.assert_close(s.sum(1), query.sum(1))
    gate = p.sigmoid()
    assert bool(((gate >= 0.5) & (gate <= 1 / (1 + math.exp(-1)))).all())
    assert bool((s < 0).any())
    names = [
        {n for n, _ in PolarizedAttention(8, kind=kind).named_parameters() if "up" not in n}
        for kind in ("p", "s")
    ]
    assert names[0] == names[1]


def test_a_query_says_where_the_statistics_of_channels_are_taken():
    """One that answers to a single bright place makes the gate that of its values alone."""
    made, x = block("p")
    with torch.no_grad():
        made.conv_q_right.weight.zero_()[0, 0] = 50.0
        x[:, 0] = 0.0
        x[:, 0, 1, 4] = 1.0
    trace = ll.trace(made, x, [":map", ":channel_gate", ":spatial_gate"])
    where = trace[":map"].act
    assert where.shape == (2, 1, 1, 24)
    assert float(where[..., 1 * 6 + 4].min()) > 1 - 1e-9
    values = x[:, :, 1, 4] @ weight(made.conv_v_right).T
    alone = (values @ weight(made.conv_up).T).sigmoid()
    torch.testing.assert_close(trace[":channel_gate"].act[..., 0, 0], alone)
    even = ll.patch(made, x, {":map": lambda m, _: torch.full_like(m, 1 / 24)})
    mean = x.mean((2, 3)) @ (weight(made.conv_up) @ weight(made.conv_v_right)).T
    want = x * spatial_gate(made, x) + x * mean.sigmoid()[..., None, None]
    torch.testing.assert_close(even, want)


@pytest.mark.parametrize("kind", ["p", "s"])
def test_gates_are_held_and_pass_all_relevance_to_what_they_multiply(kind):
    made, x = block(kind)
    net = nn.Sequential(made, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 3, bias=False))
    books = ll.ledger(net.double(), x[:1], "lrp:lrp0", target=1)
    worst = max(abs(row.leak) for row in books)
    assert worst <= 1e-6 * max(row.absolute for row in books)


@pytest.mark.parametrize("name", ["psa_hrnet_ocr_s", "psa_hrnet_ocr_p"])
def test_the_published_network_is_larger_than_60_million(name):
    with torch.device("meta"), no_init():
        model = load(name, weights=None)
    assert model.backbone.out_channels == 720
    assert sum(p.numel() for p in model.parameters()) > 60e6
    blocks = [m for m in model.modules() if isinstance(m, PolarizedAttention)]
    assert len(blocks) == 4 * (1 * 2 + 4 * 3 + 3 * 4)
    assert {b.kind for b in blocks} == {name[-1]}


def test_counts_of_blocks_may_differ_by_stage():
    with torch.device("meta"), no_init():
        model = load("psa_hrnet_ocr_s", **{**OCR, "blocks_per_branch": (1, 2, 3)})
    depths = [len(model.backbone.get_submodule(f"stage{n}.0.branches.0")) for n in (2, 3, 4)]
    assert depths == [1, 2, 3]


@pytest.mark.parametrize("align", [False, True])
def test_scores_lie_on_the_pixels_and_the_guess_beside_them(align):
    model = load("psa_hrnet_ocr_s", return_aux=True, align_corners=align, **OCR)
    fill(model, 1)
    x = torch.randn(2, 3, 36, 52)
    low = {}
    for name in ("cls_head", "aux_head"):
        model.ocr.get_submodule(name).register_forward_hook(
            lambda _m, _x, y, name=name: low.update({name: y})
        )
    with torch.no_grad():
        out = model(x)
    assert list(out) == ["logits", "aux"]
    for key, name in (("logits", "cls_head"), ("aux", "aux_head")):
        assert low[name].shape == (2, 5, 9, 13)
        want = nn.functional.interpolate(low[name], (36, 52), mode="bilinear", align_corners=align)
        torch.testing.assert_close(out[key], want)
    model.return_aux = False
    with torch.no_grad():
        torch.testing.assert_close(model(x), out["logits"])


def test_classes_gather_by_the_softmax_of_their_scores_over_places():
    features, scores = torch.randn(2, 7, 3, 4), torch.randn(2, 5, 3, 4)
    shares = scores.flatten(2).softmax(2)
    want = torch.einsum("bkn,bcn->bck", shares, features.flatten(2))[..., None]
    net = SpatialGather()
    torch.testing.assert_close(net(features, scores), want)


def test_places_attend_to_classes():
    model = load("psa_hrnet_ocr_s", **OCR)
    fill(model, 1)
    x = torch.randn(1, 3, 32, 32)
    head = "ocr.ocr_distri_head.object_context_block"
    trace = ll.trace(model, x, [f"{head}:map", "ocr.ocr_gather_head:map", "ocr.aux_head"])
    assert trace[f"{head}:map"].act.shape == (1, 1, 64, 5)
    gathered = trace["ocr.aux_head"].act.flatten(2).softmax(2)
    torch.testing.assert_close(trace["ocr.ocr_gather_head:map"].act[:, 0], gathered)


def test_a_pose_has_heat_maps_whose_peak_is_a_target():
    model = load("psa_pose_s_384x288", num_classes=4, **SMALL)
    fill(model, 1)
    x = torch.randn(2, 3, 48, 32)
    with torch.no_grad():
        heat = model(x)
    assert heat.shape == (2, 4, 12, 8)
    assert model.card.size == (384, 288)
    last = model.backbone.stage4[-1]
    assert len(last.fuse_layers) == 1
    found = ll.maps(model, x, ["gradient", "gradcam"], target=ll.peak(2))
    assert all(m.values.isfinite().all() for m in found)
    assert float(found[0].values.abs().max()) > 0
    scored = ll.patch(model, x, {"final_layer": ll.scale(2.0)}, target=ll.peak(2))
    torch.testing.assert_close(scored, 2 * heat[:, 2].flatten(1).amax(1))


def test_a_file_of_the_published_form_loads(tmp_path):
    model = load("psa_hrnet_ocr_s", **OCR)
    fill(model, 4)
    path = tmp_path / "cityscapes.pth"
    torch.save({"state_dict": {f"module.{n}": x for n, x in model.state_dict().items()}}, path)
    again = load("psa_hrnet_ocr_s", path, **OCR)
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)
    with pytest.raises(WeightsError):
        load("psa_hrnet_ocr_p", path, **OCR)


def test_without_polarized_attention_it_is_an_hrnet():
    plain = load("psa_hrnet_ocr_s", psa=None, **OCR)
    names = {n for n, _ in plain.named_parameters()}
    whole = {n for n, _ in load("psa_hrnet_ocr_s", **OCR).named_parameters()}
    assert whole - names
    assert all(".deattn." in n for n in whole - names)
    assert not names - whole


def test_figures_show_where_channels_are_read_and_both_gates():
    model = load("psa_pose_p_256x192", **SMALL)
    fill(model, 1)
    x = torch.randn(1, 3, 64, 48)
    mixer = mixer_of(model, x, "x", {"input": "b c y x"})
    assert mixer.undrawn == ()
    gates = next(f for f in mixer.figures if f.title == "Gates of channels")
    first = gates.rows[0].curves[0]
    act = ll.trace(model, x, f"{first.name}")[first.name].act
    want = act.flatten().double().sort(descending=True).values
    torch.testing.assert_close(first.y, want)
    assert (gates.rows[0].x, len(first.x)) == ("channels by rank", 8)


@pytest.mark.parametrize(
    ("build_it", "words"),
    [
        (lambda: PolarizedAttention(8, 16), "planes=16 was given, but .* of 8 channels"),
        (lambda: PolarizedAttention(8, stride=2), "stride=2 were given"),
        (lambda: PolarizedAttention(8, kind="x"), "of kind 'x' was asked for"),
        (lambda: PolarizedAttention(8, kind="p", ratio=4), "ratio=4 was given"),
        (lambda: PolarizedAttention(4), "4 channels with 2 inside it and ratio=4"),
        (lambda: PolarizedAttention(8, ratio=0), "ratio=0"),
        (lambda: load("psa_hrnet_ocr_s", modules=(1, 2)), r"modules=\(1, 2\) was given"),
        (
            lambda: load("psa_pose_p_256x192", blocks_per_branch=(1, 0, 1)),
            r"blocks_per_branch=\(1, 0, 1\)",
        ),
        (lambda: load("psa_hrnet_ocr_s", stage1_blocks=0), "stage1_blocks=0"),
        (lambda: load("psa_hrnet_ocr_s", dropout=1.0), "dropout=1.0 is no share"),
    ],
)
def test_what_does_not_fit_is_one_sentence(build_it, words):
    with pytest.raises(OptionError, match=words):
        build_it()
