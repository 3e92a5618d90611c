"""RelationNet++: golden heads, the written formulas, the detector's published names, errors."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from fill import fill, image
from shared import golden

import limelight as ll
from limelight.models.zoo.relationnet2.keypoint_head import candidates, strongest
from limelight.probe.errors import ModelError, OptionError

CASES = ("relationnet2.retinanet_r50_head", "relationnet2.small_head")


def levels_of(case):
    about = case.case["input"]
    return [
        torch.from_numpy(image(tuple(shape), about["seed"] + n))
        for n, shape in enumerate(about["shapes"])
    ]


@pytest.fixture(scope="module", params=CASES)
def recorded(request):
    """A golden case, its head with the case's weights, its levels and all that a probe saw."""
    case = golden(request.param)
    head = ll.load("relationnet2_head", weights=None, **case.case["config"])
    fill(head, case.case["salt"])
    levels = levels_of(case)
    kinds = ("top_left_corner", "center")
    with ll.Probe(head, grad=False) as p:
        p.watch(
            "bbox_head.cls_convs",
            *(f"keypoint_head.keypoint_{part}_heads.{k}" for part in ("cls", "offset") for k in kinds),
            "cls_transformer.decoder.0",
            "cls_transformer.decoder.0:bias",
            "cls_transformer.decoder.0:map",
            "cls_transformer.decoder.0:points",
            "*_transformer.out_act",
        )
        out = p(levels)
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
            assert case.worst(f"{key}_{n}", out[key][n]) <= 1e-5
