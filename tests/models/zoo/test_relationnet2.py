"""RelationNet++: golden heads, the written formulas, the detector's published names, errors."""

from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F
from fill import fill, image
from matrix import SMALL
from shared import golden
from torch import nn

import limelight as ll
from limelight.models.zoo.relationnet2.anchors import anchors, boxes_of, decoded, encoded
from limelight.models.zoo.relationnet2.deformable import DeformableConv2d
from limelight.models.zoo.relationnet2.keypoint_head import (
    TYPES,
    candidates,
    keys_of,
    locations,
    strongest,
)
from limelight.models.zoo.relationnet2.training import gaussian_radius, goals, keypoint_loss
from limelight.probe.errors import ModelError, OptionError

CASES = ("relationnet2.retinanet_r50_head", "relationnet2.small_head")
ACCEPTED = 1e-4  # of the largest value, as both cases say
DETECTOR = next(small for small in SMALL if small.name.startswith("relationnet2"))
TINY = {
    "channels": 16,
    "num_classes": 3,
    "anchors_per_location": 1,
    "stacked_convs": 1,
    "keypoint_stacked_convs": 1,
    "keypoint_logits_convs": 0,
    "num_attn_heads": 2,
    "base_size": (8, 12),
    "strides": (8, 16),
    "max_keypoint_num": 5,
    "cross_level_topk": 7,
    "norm": "GroupNorm 4 groups, eps 1e-5",
}


def levels_of(case):
    about = case.case["input"]
    shapes = enumerate(about["shapes"])
    return [torch.from_numpy(image(tuple(shape), about["seed"] + n)) for n, shape in shapes]


@pytest.fixture(scope="module", params=CASES)
def recorded(request):
    """A golden case, its head with the case's weights, what it returns and what a probe saw."""
    case = golden(request.param)
    head = ll.load("relationnet2_head", weights=None, **case.case["config"])
    fill(head, case.case["salt"])
    decoder = "cls_transformer.decoder.0"
    ports = (f"{decoder}:{port}" for port in ("bias", "map", "points"))
    outs = ("bbox_head.cls_convs", "keypoint_head.keypoint_*_heads.*", "*_transformer.out_act")
    with ll.Probe(head, grad=False) as p:
        p.watch(decoder, *ports, *outs)
        out = p(levels_of(case))
        seen = {str(site): value.act for site, value in p.trace.items()}
    return case, head, out, seen


@pytest.mark.golden
def test_names_shapes_and_counts(recorded):
    case, head, _, _ = recorded
    found = {name: list(p.shape) for name, p in head.named_parameters()}
    assert found == dict(case.case["parameters"])
    assert set(head.state_dict()) == set(found)
    assert sum(p.numel() for p in head.parameters()) == case.case["n_params"]


@pytest.mark.golden
def test_scores_and_boxes_of_all_levels(recorded):
    case, _, out, _ = recorded
    for n in range(5):
        for key in ("cls_score", "bbox_pred"):
            assert case.worst(f"{key}_{n}", out[key][n]) <= ACCEPTED


def calls(seen, site):
    """What a site held at each of five calls, a level each."""
    return [seen[site], *(seen[f"{site}@{n}"] for n in range(1, 5))]


@pytest.mark.golden
def test_key_points_and_what_attends_to_them(recorded):
    case, head, _, seen = recorded
    logits = calls(seen, "keypoint_head.keypoint_cls_heads.center")
    offsets = calls(seen, "keypoint_head.keypoint_offset_heads.center")
    towers, options = calls(seen, "bbox_head.cls_convs"), head.options
    first = candidates(logits[0], offsets[0], 8, options.selection.most)
    keys = keys_of(towers, logits, offsets, options.strides, options.selection)[0]
    decoder = "cls_transformer.decoder.0"
    found = {
        "cls0_level0": towers[0],
        "kp_score_center_level0": logits[0],
        "kp_offset_tl_level0": seen["keypoint_head.keypoint_offset_heads.top_left_corner"],
        "kp_topk_score_level0": first.score,
        "kp_topk_pos_level0": first.position,
        "kp_topk_ind_level0": first.place,
        "key_positions_cls": keys.position,
        "key_features_cls": keys.features,
        "geometry_cls_level0": seen[f"{decoder}:bias"].permute(0, 2, 3, 1),
        "attn_cls_level0": seen[f"{decoder}:map"].mean(1),
        "attn_out_cls_level0": seen[decoder].transpose(0, 1),
    }
    places = {
        "bvr_cls_level0": seen["cls_transformer.out_act"],
        "bvr_reg_level0": seen["reg_transformer.out_act"],
        "bvr_reg_level4": seen["reg_transformer.out_act@4"],
    }
    found |= {key: x.reshape(case.entry(key)["shape"]) for key, x in places.items()}
    assert {e["key"] for e in case.case["outputs"]} - set(found) == {
        f"{key}_{n}" for key in ("cls_score", "bbox_pred") for n in range(5)
    }
    for key, value in found.items():
        assert case.worst(key, value) <= 1e-5, key
    torch.testing.assert_close(seen[f"{decoder}:points"], keys.position)


def tiny(seed=0, **hyper):
    """A head of two levels in float64, and levels for it."""
    head = ll.load("relationnet2_head", weights=None, **{**TINY, **hyper}).double()
    fill(head, seed)
    shapes = (2, TINY["channels"], 4, 6), (2, TINY["channels"], 2, 3)
    return head, [torch.from_numpy(image(s, n)).double() for n, s in enumerate(shapes)]


def written(head, kind, types, levels, towers):
    """What a branch becomes, by the formula as upstream computes it, place by place."""
    o, transformer = head.options, getattr(head, f"{kind}_transformer")
    scores, offsets = head.keypoint_head(levels)
    c, heads, made = o.channels, o.num_attn_heads, []
    w, h = o.base_size
    for n, x in enumerate(towers):
        query, at = x.flatten(2).transpose(1, 2), locations(x.shape[2:], o.strides[n], x)
        total, means = query, []
        for group, (kind_, decoder) in enumerate(zip(types, transformer.decoder, strict=True)):
            keys = keys_of(towers, scores[kind_], offsets[kind_], o.strides, o.selection)[n]
            delta = (keys.position[:, None] - at[:, None]) / o.scales[n]
            q, k, v = (
                (
                    y @ decoder.in_proj_weight[i * c : i * c + c].T
                    + decoder.in_proj_bias[i * c :][:c]
                )
                .unflatten(2, (heads, -1))
                .transpose(1, 2)
                for i, y in enumerate((query, keys.features, keys.features))
            )
            logits = q @ k.transpose(2, 3) * (c // heads) ** -0.5 * o.with_appearance_relation
            if o.with_relative_positional_encoding:
                own = transformer.relative_positional_encoding
                own = own[group] if isinstance(own, nn.ModuleList) else own
                conv = own.embedding_transform[0].conv
                points = [torch.arange(s + 1, dtype=torch.float64) - s / 2 for s in (w, h)]
                rate = 1000.0 ** (-4 * torch.arange(c // 4).double() / c)
                x_, y_ = (
                    torch.cat([(p[:, None] * rate).sin(), (p[:, None] * rate).cos()], 1)
                    for p in points
                )
                base = torch.cat([x_.expand(h + 1, -1, -1), y_[:, None].expand(-1, w + 1, -1)], 2)
                table = conv(base.permute(2, 0, 1)[None])
                grid = delta / torch.tensor([w / 2, h / 2]).double()
                value = F.grid_sample(
                    table.expand(len(x), -1, -1, -1),
                    grid,
                    padding_mode="border",
                    align_corners=False,
                )
                logits = logits + (value.clamp(min=1e-6).log() if o.log_scale else value)
            share = logits.softmax(-1)
            total = total + decoder.out_proj((share @ v).transpose(1, 2).flatten(2))
            means.append((share.mean(1)[..., None] * delta).sum(2))
        out = total.relu()
        if transformer.cat_pos:
            moved = [transformer.pos_trans(m) for m in means]
            out = transformer.embed_trans(torch.cat([out, *moved], -1))
        made.append(out.transpose(1, 2).unflatten(2, x.shape[2:]))
    return made


SWITCHES = (
    {},
    {"scale_position": True, "scale_factor": 0.5},
    {"log_scale": False},
    {"shared_positional_encoding_inter": False},
    {"shared_positional_encoding_outer": True},
    {"reg_cat_pos": True},
    {"with_relative_positional_encoding": False},
    {"with_appearance_relation": False},
    {"selection_method": "interpolation"},
    {"selection_method": "interpolation", "cross_level_selection": False},
    {"cross_level_topk": -1},
    {"norm": None, "keypoint_logits_convs": 1, "keypoint_stacked_convs": 2},
)


@torch.no_grad()
@pytest.mark.parametrize("switch", SWITCHES, ids=str)
def test_every_switch_computes_the_written_formula(switch):
    head, levels = tiny(**switch)
    out, inner = head(levels), head.bbox_head
    for kind, types, last, key in (
        ("cls", TYPES[2:], inner.retina_cls, "cls_score"),
        ("reg", TYPES[:2], inner.retina_reg, "bbox_pred"),
    ):
        towers = [getattr(inner, f"{kind}_convs")(x) for x in levels]
        want = [last(x) for x in written(head, kind, types, levels, towers)]
        torch.testing.assert_close(out[key], want, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_switches_change_what_they_say():
    plain, levels = tiny()
    base = plain(levels)
    for switch in SWITCHES[1:]:
        if "norm" in switch or any(word.startswith("shared") for word in switch):
            continue  # other parameters
        other, _ = tiny(**switch)
        other.load_state_dict(plain.state_dict(), strict=False)
        found = other(levels)["bbox_pred"][0]
        assert (found - base["bbox_pred"][0]).abs().max() > 1e-6, switch


@torch.no_grad()
@pytest.mark.parametrize("source", ["input", "cls", "reg"])
def test_key_points_are_found_where_keypoint_pos_says(source):
    head, levels = tiny(keypoint_pos=source)
    inner = head.bbox_head
    given = {
        "input": levels,
        "cls": [inner.cls_convs(x) for x in levels],
        "reg": [inner.reg_convs(x) for x in levels],
    }[source]
    scores, offsets = head.keypoint_head(given)
    head.train()
    out = head(*levels)
    torch.testing.assert_close(out["keypoint_scores"], scores)
    torch.testing.assert_close(out["keypoint_offsets"], offsets)
    assert set(head.eval()(levels)) == {"cls_score", "bbox_pred"}


def test_one_geometry_is_shared_as_the_switches_say():
    def parameters(**switch):
        head, _ = tiny(**switch)
        return [n for n, _ in head.named_parameters() if "relative_positional" in n]

    assert len(parameters()) == 4
    assert len(parameters(shared_positional_encoding_outer=True)) == 2
    split = parameters(shared_positional_encoding_inter=False)
    assert len(split) == 6
    assert "reg_transformer.relative_positional_encoding.1.embedding_transform.0.conv.bias" in split
    assert parameters(with_relative_positional_encoding=False) == []


def test_the_strongest_are_the_first_of_equals():
    scores = torch.tensor([[0.5, 0.0, 0.75, 0.5, 0.5, 0.0, 0.75]])
    assert strongest(scores, 7).tolist() == [[2, 6, 0, 3, 4, 1, 5]]
    assert strongest(scores.double(), 3).tolist() == [[2, 6, 0]]
    many = torch.randint(0, 4, (3, 4000), generator=torch.Generator().manual_seed(0)) / 4
    order = many.sort(dim=1, descending=True, stable=True).indices
    assert torch.equal(strongest(many, 500), order[:, :500])


def test_candidates_are_local_maxima_of_a_class_moved_by_their_offset():
    logits = torch.full((1, 2, 3, 4), -9.0)
    logits[0, 0, 1, 1], logits[0, 0, 1, 2], logits[0, 1, 1, 1] = 3.0, 2.0, 1.0
    offsets = torch.zeros(1, 2, 3, 4)
    offsets[0, :, 1, 1] = torch.tensor([0.5, -0.25])
    found = candidates(logits, offsets, 8, 3)
    assert found.place[0, :2].tolist() == [5, 5]  # of two classes; (1, 2) is beside a larger one
    torch.testing.assert_close(found.score[0, :2], torch.tensor([3.0, 1.0]).sigmoid())
    assert found.position[0, :2].tolist() == [[16.0, 10.0]] * 2
    level = torch.zeros(1, 1, 2, 2)
    found = candidates(level, torch.zeros(1, 2, 2, 2), 7, 20)  # all alike: in order, odd stride
    assert found.position[0].tolist() == [[3, 3], [10, 3], [3, 10], [10, 10]]


def test_offsets_learn_through_geometry_and_key_points_scores_do_not():
    head, levels = tiny()
    head(levels)["bbox_pred"][0].square().sum().backward()
    keypoint = head.keypoint_head
    assert keypoint.keypoint_offset_heads["top_left_corner"][-1].weight.grad.abs().max() > 0
    assert all(p.grad is None for p in keypoint.keypoint_cls_heads.parameters())
    assert head.bbox_head.reg_convs[0].conv.weight.grad.abs().max() > 0


def test_cutting_the_decoder_leaves_the_towers_alone():
    head, levels = tiny()
    cut = ll.patch(head, levels, {"*_transformer.decoder.*": ll.zero})
    with torch.no_grad():
        towers = [head.bbox_head.cls_convs(x) for x in levels]
        want = [head.bbox_head.retina_cls(x.relu()) for x in towers]
    torch.testing.assert_close(cut["cls_score"], want)


PUBLISHED = re.compile(
    r"backbone\.(conv1|bn1|layer[1-4]\.\d+\.(conv[123]|bn[123]|downsample\.[01]))\.\w+"
    r"|neck\.(lateral_convs\.[0-2]|fpn_convs\.[0-4])\.(conv|gn)\.\w+|bbox_head\..*"
)


def test_the_detector_has_published_names_and_ignores_published_sines():
    with torch.device("meta"):
        model = ll.load("relationnet2_retinanet_r50_fpn", weights=None)
        head = ll.load("relationnet2_head", weights=None)
        resnet = ll.load("resnet50", weights=None)
    state = model.state_dict()
    assert all(PUBLISHED.fullmatch(name) for name in state)
    names = {n.removeprefix("backbone.") for n in state if n.startswith("backbone.")}
    assert names == {n for n in resnet.state_dict() if not n.startswith("fc")}
    assert {n.removeprefix("bbox_head.") for n in state if n[:4] == "bbox"} == set(
        head.state_dict()
    )
    assert state["neck.fpn_convs.3.conv.weight"].shape == (256, 2048, 3, 3)
    sines = {
        f"bbox_head.{k}_transformer.relative_positional_encoding.base_embedding": torch.ones(1)
        for k in ("cls", "reg")
    }
    assert set(model.convert_state({**state, **sines})) == set(state)


def test_a_published_file_loads_and_the_pyramid_is_the_written_one(tmp_path):
    model = DETECTOR.build()
    sines = "bbox_head.cls_transformer.relative_positional_encoding.base_embedding"
    state = {**model.state_dict(), sines: torch.ones(1, 17, 17, 32)}
    torch.save({"meta": {"epoch": 12}, "state_dict": state}, tmp_path / "epoch_12.pth")
    other = ll.load(DETECTOR.name, weights=tmp_path / "epoch_12.pth", **DETECTOR.hyper)
    x = DETECTOR.batch(1)
    with torch.no_grad():
        torch.testing.assert_close(other(x), model(x), rtol=0, atol=0)
        c3, c4, c5 = model.backbone(x)[1:]
        side, out = model.neck.lateral_convs, model.neck.fpn_convs
        p5 = side[2](c5)
        p4 = side[1](c4) + p5.repeat_interleave(2, 2).repeat_interleave(2, 3)
        p3 = side[0](c3) + p4.repeat_interleave(2, 2).repeat_interleave(2, 3)
        p6 = out[3](c5)
        want = [out[0](p3), out[1](p4), out[2](p5), p6, out[4](p6)]
        torch.testing.assert_close(model.neck([c3, c4, c5]), want)
        assert [tuple(p.shape[2:]) for p in want] == [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1)]


def test_the_x101_detector_deforms_the_last_three_stages():
    with torch.device("meta"):
        model = ll.load("relationnet2_retinanet_x101_dcn_fpn", weights=None)
    state = model.state_dict()
    assert state["backbone.layer2.0.conv2.conv_offset.weight"].shape == (27, 512, 3, 3)
    assert state["backbone.layer2.0.conv2.weight"].shape == (512, 8, 3, 3)
    offset = [n for n in state if n.endswith("conv_offset.weight")]
    assert len(offset) == 4 + 23 + 3
    assert "neck.lateral_convs.0.conv.bias" in state
    assert not any(".gn." in name for name in state)


def read(x, row, column):
    """A map `c y x` at a place between pixels, 0 outside."""
    total, top, left = torch.zeros(len(x)).double(), math.floor(row), math.floor(column)
    for y, q in ((top, 1 - row + top), (top + 1, row - top)):
        for z, r in ((left, 1 - column + left), (left + 1, column - left)):
            if 0 <= y < x.shape[1] and 0 <= z < x.shape[2]:
                total = total + q * r * x[:, y, z]
    return total


@torch.no_grad()
@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 2)])
def test_a_deformable_convolution_is_the_written_sum(stride, groups):
    conv = DeformableConv2d(nn.Conv2d(4, 6, 3, stride, 1, groups=groups, bias=False)).double()
    fill(conv, 3)
    x = torch.from_numpy(image((2, 4, 5, 7), 0)).double()
    said, made = conv.conv_offset(x), conv(x)
    assert said[:, :18].abs().max() > 1
    want = torch.zeros_like(made)
    for b, y, z in torch.cartesian_prod(*map(torch.arange, (2, *made.shape[2:]))).tolist():
        moved, share = said[b, :18, y, z].reshape(9, 2), said[b, 18:, y, z].sigmoid()
        for tap in range(9):
            row = y * stride + tap // 3 - 1 + float(moved[tap, 0])
            column = z * stride + tap % 3 - 1 + float(moved[tap, 1])
            seen = (share[tap] * read(x[b], row, column)).chunk(groups)
            for g, part in enumerate(conv.weight[:, :, tap // 3, tap % 3].chunk(groups)):
                span = slice(g * 6 // groups, (g + 1) * 6 // groups)
                want[b, span, y, z] += part @ seen[g]
    torch.testing.assert_close(made, want)
    plain = DeformableConv2d(conv).double()  # starts as a convolution of half its weights
    half = F.conv2d(x, plain.weight / 2, stride=stride, padding=1, groups=groups)
    torch.testing.assert_close(plain(x), half)


def test_the_radius_keeps_the_overlap():
    sides = torch.tensor([[40.0, 24.0], [10.0, 90.0], [33.0, 33.0]])
    for (w, h), r in zip(sides.tolist(), gaussian_radius(sides).tolist(), strict=True):
        moved = (w - r) * (h - r)
        least = (
            moved / (2 * w * h - moved),  # one corner in, one out
            (w - 2 * r) * (h - 2 * r) / (w * h),  # both in
            w * h / ((w + 2 * r) * (h + 2 * r)),  # both out
        )
        assert min(least) == pytest.approx(0.7, abs=1e-5)


def test_goals_are_gaussians_around_the_nearest_places():
    boxes = torch.tensor([[3.0, 5.0, 27.0, 21.0]])
    made = goals(boxes, torch.tensor([1]), [(4, 4), (2, 2)], (8, 16), 3)
    goal = made["bottom_right_corner"][0]  # (27, 21): nearest is (28, 20), row 2, column 3
    assert goal.positive.nonzero().tolist() == [[2, 3]]
    torch.testing.assert_close(goal.offset[:, 2, 3], torch.tensor([-1 / 8, 1 / 8]))
    spread = (2 * float(gaussian_radius(torch.tensor([[24.0, 16.0]]))) + 1) / 6
    assert goal.score[1, 2, 3] == 1
    assert float(goal.score[1, 2, 2]) == pytest.approx(math.exp(-64 / (2 * spread**2)))
    assert goal.score[[0, 2]].abs().max() == 0
    assert made["center"][1].positive.nonzero().tolist() == [[0, 0]]  # (15, 13), places 8 and 24
    none = goals(boxes[:0], torch.empty(0, dtype=torch.long), [(4, 4)], (8,), 3)["center"][0]
    assert not none.positive.any()
    assert none.score.abs().max() == 0


def test_the_loss_of_key_points_is_the_written_one():
    head, levels = tiny()
    with torch.no_grad():
        out = head.train()(levels)
    boxes = [torch.tensor([[3.0, 5.0, 27.0, 21.0], [20.0, 2.0, 44.0, 30.0]]), torch.empty(0, 4)]
    labels = [torch.tensor([1, 0]), torch.empty(0, dtype=torch.long)]
    given = {k: [x.float() for x in v] for k, v in out["keypoint_scores"].items()}
    moved = {k: [x.float() for x in v] for k, v in out["keypoint_offsets"].items()}
    of_scores, of_offsets = keypoint_loss(given, moved, boxes, labels, (8, 16))
    focal, away, count = 0.0, 0.0, 0
    for picture in range(2):
        wanted = goals(boxes[picture], labels[picture], [(4, 6), (2, 3)], (8, 16), 3)
        for kind in TYPES:
            for n in range(2):
                p, g = given[kind][n][picture].sigmoid(), wanted[kind][n]
                hit, miss = (1 - p) ** 2 * p.log(), (1 - g.score) ** 4 * p**2 * (1 - p).log()
                focal -= float(torch.where(g.score == 1, hit, miss).sum())
                d = (moved[kind][n][picture] - g.offset).abs()[:, g.positive]
                away += float(torch.where(d < 1, d * d / 2, d - 0.5).sum())
                count += int(g.positive.sum())
    assert count == 12
    assert float(of_scores) == pytest.approx(0.25 * focal / count, rel=1e-5)
    assert float(of_offsets) == pytest.approx(away / count, rel=1e-5)
    with pytest.raises(ModelError, match="1 sets of boxes and 2 of labels were given for 2"):
        keypoint_loss(given, moved, boxes[:1], labels, (8, 16))


def test_anchors_and_boxes_go_round():
    own = anchors((2, 3), 8, like=torch.zeros(1))
    assert own.shape == (2, 3, 9, 4)
    assert own[0, 0, 3].tolist() == [-16, -16, 16, 16]  # ratio 1, octave 0
    sides = own[1, 2, :, 2:] - own[1, 2, :, :2]
    torch.testing.assert_close(
        sides[:, 1] / sides[:, 0], torch.tensor([0.5, 1, 2]).repeat_interleave(3)
    )
    torch.testing.assert_close(sides.prod(1).sqrt()[:3], 32 * 2 ** (torch.arange(3) / 3))
    torch.testing.assert_close((own[1, 2, 0, :2] + own[1, 2, 0, 2:]) / 2, torch.tensor([16.0, 8.0]))
    boxes = own + torch.tensor([1.0, -2.0, 5.0, 3.0])
    torch.testing.assert_close(decoded(own, encoded(own, boxes)), boxes)
    pred = encoded(own, boxes).flatten(2).permute(2, 0, 1)[None]
    torch.testing.assert_close(boxes_of([pred], (8,))[0][0], boxes)
    with pytest.raises(OptionError, match="make 3 anchors a place, but the head predicts 9"):
        boxes_of([pred], (8,), per_octave=1)


@pytest.mark.parametrize(
    ("hyper", "said"),
    [
        ({"norm": "BatchNorm"}, "write 'GroupNorm 32 groups, eps 1e-5', or None"),
        ({"norm": "GroupNorm 3 groups, eps 1e-5"}, "do not divide into 3 groups"),
        ({"num_attn_heads": 3}, "16 channels do not divide into num_attn_heads=3"),
        ({"channels": 18, "num_attn_heads": 2, "norm": None}, "give a multiple of 4"),
        ({"base_size": (8, 7)}, "give two even numbers"),
        ({"keypoint_pos": "neck"}, "write 'input', 'cls' or 'reg'"),
        ({"selection_method": "nearest"}, "write 'index' or 'interpolation'"),
        ({"cross_level_selection": False}, "write 'interpolation'"),
        ({"max_keypoint_num": 0}, "leaves no key point"),
        ({"strides": ()}, "give a number above 0 for each"),
        ({"scale_factor": 0}, "give a number above 0"),
        (
            {"shared_positional_encoding_outer": True, "shared_positional_encoding_inter": False},
            "leave one of them out",
        ),
        (
            {"with_relative_positional_encoding": False, "with_appearance_relation": False},
            "keep one of them",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(hyper, said):
    with pytest.raises(OptionError, match=re.escape(said)):
        ll.load("relationnet2_head", weights=None, **{**TINY, **hyper})


def test_networks_that_do_not_fit_are_refused():
    small = {**DETECTOR.hyper, "strides": (8, 16)}
    with pytest.raises(OptionError, match="fewer than the 3 stages"):
        ll.load(DETECTOR.name, weights=None, **small)
    with pytest.raises(OptionError, match="is for 2 stages, but the network has 4"):
        ll.load(DETECTOR.name, weights=None, **DETECTOR.hyper, stage_with_dcn=(True, False))


def test_levels_that_do_not_fit_are_refused():
    head, levels = tiny()
    with pytest.raises(ModelError, match=r"given 1 levels, but its strides are \(8, 16\)"):
        head(levels[0])
    with pytest.raises(ModelError, match=r"level 1 is .* of 16 channels: give such a map"):
        head(levels[0], levels[1][:, :8])
    with pytest.raises(ModelError, match=r"cross_level_topk=7 .* have 3 \+ 1 = 4 candidates"):
        head(levels[0][:, :, :1, :3], levels[1][:, :, :1, :1])


def test_a_detector_is_explained_box_by_box():
    model, x = DETECTOR.build(), DETECTOR.batch(1)
    target = ll.box(0, 3, 4, 2, at="cls_score")
    books = ll.ledger(model, x, "lrp:epsilon", target=target)
    assert float(books.kept) == pytest.approx(1, abs=1e-3)
    with ll.Probe(model) as p:
        p.watch("bbox_head.cls_transformer.decoder.0:map")
        p(x)
        share = p.trace["bbox_head.cls_transformer.decoder.0:map@0"].act
    assert share.shape == (1, 4, 64, 12)
    torch.testing.assert_close(share.sum(-1), torch.ones(1, 4, 64))
