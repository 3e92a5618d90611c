"""FFNet's names: backbone, channels of the branch from coarse to fine, what reads it, and how."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ...card import Source
from ...registry import Variant

NAMES = (
    *("ffnet18_AAA", "ffnet34_AAA", "ffnet50_AAA", "ffnet56_AAA"),
    *("ffnet86_AAA", "ffnet101_AAA", "ffnet134_AAA", "ffnet150_AAA"),
    *("ffnet18_dAAA", "ffnet34_dAAA", "ffnet50_dAAA", "ffnet56_dAAA"),
    *("ffnet86_dAAA", "ffnet101_dAAA", "ffnet134_dAAA", "ffnet150_dAAA"),
    *("ffnet18_AAC", "ffnet34_AAC", "ffnet18_dAAC", "ffnet34_dAAC"),
    *("ffnet34_ABB", "ffnet56_ABB", "ffnet86_ABB", "ffnet150_ABB"),
    *("ffnet18_AAX", "ffnet34_AAX", "ffnet50_AAX", "ffnet56_AAX"),
    *("ffnet86_AAX", "ffnet101_AAX", "ffnet134_AAX", "ffnet150_AAX"),
    *("ffnet22S_BBB_gpu", "ffnet30S_BBB_gpu", "ffnet40S_BBB_gpu", "ffnet54S_BBB_gpu"),
    *("ffnet78S_BBB_gpu", "ffnet86S_BBB_gpu", "ffnet150S_BBB_gpu"),
    *("ffnet40S_dBBB_gpu", "ffnet54S_dBBB_gpu", "ffnet78S_dBBB_gpu"),
    *("ffnet86S_dBBB_gpu", "ffnet150S_dBBB_gpu"),
    *("ffnet22S_BBB_mobile", "ffnet30S_BBB_mobile", "ffnet40S_BBB_mobile", "ffnet54S_BBB_mobile"),
    *("ffnet78S_BBB_mobile", "ffnet86S_BBB_mobile", "ffnet150S_BBB_mobile"),
    *("ffnet22S_dBBB_mobile", "ffnet30S_dBBB_mobile", "ffnet40S_dBBB_mobile"),
    *("ffnet54S_dBBB_mobile", "ffnet78S_dBBB_mobile", "ffnet86S_dBBB_mobile"),
    "ffnet150S_dBBB_mobile",
    *("ffnet22S_BCC_mobile", "ffnet30S_BCC_mobile", "ffnet40S_BCC_mobile", "ffnet54S_BCC_mobile"),
    *("ffnet78S_BCC_mobile", "ffnet86S_BCC_mobile", "ffnet150S_BCC_mobile"),
    *("ffnet22S_BBX_mobile", "ffnet30S_BBX_mobile", "ffnet40S_BBX_mobile", "ffnet54S_BBX_mobile"),
    *("ffnet78S_BBX_mobile", "ffnet86S_BBX_mobile", "ffnet150S_BBX_mobile"),
    *("ffnet46N_CBB_gpu", "ffnet74N_CBB_gpu", "ffnet122N_CBB_gpu"),
    *("ffnet46N_CBX_gpu", "ffnet74N_CBX_gpu", "ffnet122N_CBX_gpu"),
    *("ffnet46NS_CBB_mobile", "ffnet74NS_CBB_mobile", "ffnet122NS_CBB_mobile"),
    *("ffnet46NS_CBB_mobile_pre_down", "ffnet74NS_CBB_mobile_pre_down"),
    "ffnet122NS_CBB_mobile_pre_down",
    *("ffnet46NS_CCC_mobile", "ffnet74NS_CCC_mobile", "ffnet122NS_CCC_mobile"),
    *("ffnet46NS_CCC_mobile_pre_down", "ffnet74NS_CCC_mobile_pre_down"),
    "ffnet122NS_CCC_mobile_pre_down",
    *("ffnet46NS_CBX_mobile", "ffnet74NS_CBX_mobile", "ffnet122NS_CBX_mobile"),
    *("ffnet46NS_CCX_mobile", "ffnet74NS_CCX_mobile", "ffnet122NS_CCX_mobile"),
)
SCHEME = re.compile(
    r"(ffnet(?P<size>\d+(?P<kind>NS|N|S)?))_(?P<code>(?P<deeper>d?)(?P<stem>[ABC])(?P<head>[ABC])"
    r"(?P<task>[ABCX]))(?P<mode>_gpu|_mobile)?(?P<smooth>_pre_down)?"
)
PUBLISHED = {"18", "34", "50", "56", "86", "101", "134", "150", "40S", "54S", "78S", "86S", "150S",
             "46N", "74N", "122N", "46NS", "74NS", "122NS"}  # fmt: skip
MIOU = {
    "ffnet150_AAA": 84.4,
    "ffnet134_AAA": 84.1,
    "ffnet86_AAA": 83.2,
    "ffnet56_AAA": 82.5,
    "ffnet34_AAA": 81.4,
    "ffnet101_AAA": 82.1,
    "ffnet50_AAA": 79.6,
    "ffnet150S_BBB_gpu": 84.1,
    "ffnet122N_CBB_gpu": 83.7,
    "ffnet74N_CBB_gpu": 83.0,
    "ffnet46N_CBB_gpu": 81.9,
    "ffnet86S_dBBB_mobile": 81.5,
    "ffnet78S_dBBB_mobile": 81.3,
    "ffnet54S_dBBB_mobile": 80.8,
    "ffnet40S_dBBB_mobile": 79.2,
    "ffnet122NS_CBB_mobile_pre_down": 79.3,
    "ffnet46NS_CCC_mobile_pre_down": 76.7,
}
CITYSCAPES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign"),
    *("vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train"),
    *("motorcycle", "bicycle"),
)
RELEASE = "https://github.com/Qualcomm-AI-research/FFNet/releases/download/models/"


def options(name: str) -> dict[str, object]:
    """What a name says of backbone, head, task and blur."""
    found = SCHEME.fullmatch(name)
    assert found is not None, name
    letter = found["task"]
    return {
        "backbone": f"Resnet{found['size']}" + "_D" * bool(found["deeper"]),
        "head": found["head"] + "_mobile" * (found["mode"] == "_mobile"),
        "task": "classification" if letter == "X" else f"segmentation_{letter}",
        "pre_downsampling": bool(found["smooth"]),
        "num_classes": 1000 if letter == "X" else len(CITYSCAPES),
    }


def weights(name: str) -> Mapping[str, Source]:
    """The published file, inside an archive of all those of the backbone."""
    found = SCHEME.fullmatch(name)
    assert found is not None, name
    if found["size"] not in PUBLISHED:
        return {}
    tag = "imagenet" if found["task"] == "X" else "cityscapes"
    gpu = "_gpu" * (found["mode"] == "_gpu")
    file = f"{found[1]}/{found[1]}_{found['code']}{gpu}_{tag}_state_dict_quarts.pth"
    return {tag: Source(f"{RELEASE}{found[1]}.zip", file=file)}


def variant(name: str) -> Variant:
    """A row; segmentation is of 1024 x 2048 pixels, classification of 224 x 224."""
    built = options(name)
    classifies = built["task"] == "classification"
    others = [f"classification_{name}", f"cls_{name}"] if classifies else [f"segmentation_{name}"]
    if name.endswith("_gpu"):
        others.append(name.removesuffix("_gpu"))
    card: dict[str, object] = {"classifier": "head.layers.2.classifier"}
    if not classifies:
        card = {"classifier": "head.layers.3.last_layer.3", "labels": CITYSCAPES}
    return Variant(
        name,
        also=tuple(others),
        build=built,
        size=224 if classifies else (1024, 2048),
        resize=256 if classifies else 1024,
        weights=weights(name),
        about=f"Cityscapes mIoU {MIOU[name]} (README)" if name in MIOU else "",
        card=card,
    )


VARIANTS = tuple(variant(name) for name in NAMES)
