"""FFNet of simple segmentation: its name scheme, its heads by formula, its scales, its weights."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from fill import fill
from torch import Tensor, nn

import limelight as ll
from limelight.models import Card, list_models, load
from limelight.models.card import Source
from limelight.models.weights import download
from limelight.models.weights.load import no_init
from limelight.models.zoo.sess.backbones import Smoothing
from limelight.models.zoo.sess.heads import ClassificationHead, Resize, UpBranch
from limelight.models.zoo.sess.model import SCALES
from limelight.models.zoo.sess.variants import NAMES, options
from limelight.probe.errors import ModelError, OptionError, WeightsError

MILLIONS = {
    "ffnet18_AAA": 15.18,
    "ffnet34_AAA": 25.29,
    "ffnet56_AAA": 33.62,
    "ffnet86_AAA": 53.99,
    "ffnet150_AAA": 98.84,
    "ffnet40S_BBB_mobile": 13.91,
    "ffnet54S_BBB_mobile": 18.04,
    "ffnet78S_BBB_mobile": 27.49,
    "ffnet86S_BBB_mobile": 26.60,
    "ffnet150S_BBB_gpu": 48.01,
    "ffnet46N_CBB_gpu": 20.21,
    "ffnet74N_CBB_gpu": 37.15,
    "ffnet122N_CBB_gpu": 51.39,
    "ffnet46NS_CCC_mobile": 12.53,
    "ffnet74NS_CCC_mobile": 23.31,
    "ffnet122NS_CCC_mobile_pre_down": 32.17,
}
SMALL = {"layers": (1, 1, 1, 1), "num_classes": 5}


def small(name: str = "ffnet40S_BBB_mobile", salt: int = 0, **hyper: object) -> nn.Module:
    """With drawn weights and no biases or means."""
    with no_init():
        model = load(name, weights=None, **SMALL | hyper)
    fill(model, salt)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if key.endswith(("bias", "running_mean")):
                value.zero_()
    return model


@pytest.mark.parametrize("name", MILLIONS)
def test_parameter_counts_are_the_measured_ones(name):
    with torch.device("meta"):
        model = load(name, weights=None)
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert count == pytest.approx(MILLIONS[name], abs=0.005)


@pytest.mark.parametrize(
    ("name", "scales"),
    [
        ("ffnet50_AAA", (4, 8, 16, 32)),
        ("ffnet50_dAAA", (8, 16, 32, 64)),
        ("ffnet22S_BBB_mobile", (4, 8, 16, 32)),
        ("ffnet22S_dBBB_mobile", (8, 16, 32, 64)),
        ("ffnet46N_CBB_gpu", (4, 8, 16, 32)),
        ("ffnet46NS_CCC_mobile_pre_down", (8, 16, 32, 64)),
    ],
)
def test_features_lie_at_four_scales(name, scales):
    with torch.device("meta"):
        model = load(name, weights=None)
        x = torch.empty(2, 3, 128, 192)
        features = model.backbone_model(x if model.smoothing is None else model.smoothing(x))
        out = model(x)
    for part, scale in zip(features, scales, strict=True):
        assert part.shape[2:] == (128 // scale, 192 // scale)
    assert out.shape == (2, 19, *features[0].shape[2:])


def test_names_say_what_is_built():
    assert options("ffnet18_dAAC") == {
        "backbone": "Resnet18_D", "head": "A", "task": "segmentation_C",
        "pre_downsampling": False, "num_classes": 19,
    }  # fmt: skip
    assert options("ffnet46NS_CCX_mobile")["task"] == "classification"
    assert options("ffnet122N_CBB_gpu")["head"] == "B"
    assert len(set(NAMES)) == len(NAMES) == len(list_models("ffnet[0-9]*"))
    stems = {"S": "B", "N": "C"}
    for name in NAMES:
        size, code = name.removeprefix("ffnet").split("_")[:2]
        kind = size.lstrip("0123456789")[:1]
        assert code.lstrip("d")[0] == stems.get(kind, "A")
    with torch.device("meta"):
        for word in ("segmentation_ffnet18_AAA", "cls_ffnet18_AAX", "ffnet46N_CBB"):
            assert load(word, weights=None).card.name in NAMES
        given = {"ffnet_head_type": "A", "task": "segmentation_A", "num_classes": 19,
                 "use_adapter_convs": True, "backbone": "resnet.Resnet18_D",
                 "pre_downsampling": False}  # fmt: skip
        own = load("ffnet22S_BBB_gpu", weights=None, **given)
        same = load("ffnet18_dAAA", weights=None)
    shapes = [{k: v.shape for k, v in net.state_dict().items()} for net in (own, same)]
    assert shapes[0] == shapes[1]
    assert list_models("ffnet_*")  # another paper's


def test_a_head_goes_from_coarse_to_fine():
    branch = UpBranch((4, 5, 6, 7), (3, 2, 2, 1), Resize(nearest=False), 1e-5).eval()
    fill(branch, 1)
    f4, f8, f16, f32 = (torch.randn(2, 4 + n, 16 >> n, 24 >> n) for n in range(4))
    with torch.no_grad():
        sm4, sm8, sm16, sm32 = branch([f4, f8, f16, f32])
        torch.testing.assert_close(sm32, branch.fam_32_sm(f32))
        down = F.interpolate(branch.fam_32_up(f32), (4, 6), mode="bilinear", align_corners=True)
        x = f16 + down
        torch.testing.assert_close(sm16, branch.fam_16_sm(x))
        x = f8 + F.interpolate(branch.fam_16_up(x), (8, 12), mode="bilinear", align_corners=True)
        torch.testing.assert_close(sm8, branch.fam_8_sm(x))
        x = f4 + F.interpolate(branch.fam_8_up(x), (16, 24), mode="bilinear", align_corners=True)
        torch.testing.assert_close(sm4, branch.fam_4(x))


def test_modes_of_resizing():
    x = torch.tensor([[[[0.0, 3.0]]]])
    like = torch.empty(1, 1, 1, 4)
    assert Resize(nearest=True)(x, like).tolist() == [[[[0, 0, 3, 3]]]]
    torch.testing.assert_close(Resize(nearest=False)(x, like)[0, 0, 0], torch.arange(4.0))


def test_the_blur_reflects_rows_and_cuts_columns():
    blur = Smoothing(2)
    x = torch.randn(1, 2, 8, 9)
    rows = [1, 0, 1, 2, 3, 4, 5, 6, 7, 6]  # the second is the first row
    padded = torch.stack([x[:, :, r] for r in rows], 2)
    made = blur(x)
    assert made.shape == (1, 2, 3, 3)
    for y in range(3):
        for z in range(3):
            window = padded[:, :, 2 * y : 2 * y + 5, 2 * z : 2 * z + 5]
            want = (window * blur.weight[:, 0]).sum((2, 3))
            torch.testing.assert_close(made[:, :, y, z], want)
    assert float(blur.weight[0].sum()) == pytest.approx(1, abs=1e-6)


def test_a_classification_head_sums_scales_and_keeps_the_batch():
    head = ClassificationHead((6, 6, 4, 2), 9, 1e-5).eval()
    fill(head, 2)
    scales = [torch.randn(1, c, 16 >> n, 16 >> n) for n, c in enumerate((6, 6, 4, 2))]
    with torch.no_grad():
        x = head.expansion_layers[0](scales[0])
        for n in range(3):
            x = head.downsampling_layers[n](x) + head.expansion_layers[n + 1](scales[n + 1])
        want = head.classifier(head.final_layer(x).mean((2, 3)))
        torch.testing.assert_close(head(scales), want)
    assert want.shape == (1, 9)


@pytest.mark.parametrize("name", ["ffnet40S_BBB_mobile", "ffnet18_AAC", "ffnet40S_dBBB_gpu"])
def test_scales_share_the_score_of_a_pixel(name):
    """The head behind them is piecewise linear: parts of the logit are value times gradient."""
    model = small(name).double()
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        logits = model(x)
    y, z = logits.shape[2] // 2, logits.shape[3] // 3
    target = ll.pixel(y, z, 2)
    maps = ll.maps(model, x, "lrp:lrp0", sites=list(SCALES), target=target)
    assert sum(float(m.values.double().sum()) for m in maps) == pytest.approx(
        float(logits[0, 2, y, z]), rel=1e-5
    )
    trace = ll.trace(model, x, list(SCALES), target=target)
    parts = {str(s): float((v.act * v.grad).sum()) for s, v in trace.items()}
    for m in maps:
        assert float(m.values.double().sum()) == pytest.approx(parts[str(m.site)], rel=1e-4)


def test_the_page_shows_shares_and_the_receptive_field():
    from limelight.reports.explanation.mixer import mixer_of

    model, x = small(), torch.randn(1, 3, 64, 64)
    target = ll.pixel(8, 8, 1)
    mixer = mixer_of(model, x, "x", {"input": "b c y x"}, target)
    assert mixer.undrawn == ()
    figures = {f.title: f.rows[0] for f in mixer.figures}
    shares = torch.cat([c.y for c in figures["Share of each scale"].curves])
    assert [c.name for c in figures["Share of each scale"].curves] == list(SCALES)
    assert float(shares.sum()) == pytest.approx(1)
    sums = [
        float(m.values.double().sum())
        for m in ll.maps(model, x, "lrp:lrp0", sites=list(SCALES), target=target)
    ]
    torch.testing.assert_close(shares, torch.tensor(sums).double() / sum(sums))
    ((_, field),) = figures["What the score reads"].maps
    given = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(model(given)[0, 1, 8, 8], given)
    torch.testing.assert_close(field.values, grad[0].norm(dim=0))


def archive(folder: Path, state: dict[str, Tensor]) -> Source:
    """A release on this machine."""
    torch.save(state, folder / "inner.pth")
    with zipfile.ZipFile(folder / "net.zip", "w") as held:
        held.write(folder / "inner.pth", "net/net_CCC_cityscapes.pth")
    return Source(url=(folder / "net.zip").as_uri(), file="net/net_CCC_cityscapes.pth")


def test_weights_are_taken_out_of_their_archive(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "folder", lambda: tmp_path / "kept")
    name, hyper = "ffnet46NS_CCC_mobile_pre_down", {"layers": (1, 1, 1)}
    blurred = load(name, weights=None, **hyper)
    path = download.fetch("net", "cityscapes", archive(tmp_path, blurred.state_dict()))
    assert path == tmp_path / "kept" / "net_CCC_cityscapes.pth"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    again = load(name, weights=path, **hyper)
    plain = load("ffnet46NS_CCC_mobile", weights=path, **hyper)  # without the blur's buffer
    for net in (again, plain):
        for key, value in net.state_dict().items():
            torch.testing.assert_close(value, blurred.state_dict()[key])
    absent = Source(url=(tmp_path / "net.zip").as_uri(), file="net/other.pth")
    with pytest.raises(WeightsError, match=r"take 'net/other.pth' out of it and put it into"):
        download.fetch("net", "cityscapes", absent)


def test_every_published_file_is_named():
    named = {card.name: card for card in list_models("ffnet[0-9]*")}
    source = named["ffnet86S_BBB_gpu"].weights["cityscapes"]
    assert source.url.endswith("/download/models/ffnet86S.zip")
    assert source.file == "ffnet86S/ffnet86S_BBB_gpu_cityscapes_state_dict_quarts.pth"
    card: Card = named["ffnet46NS_CCX_mobile"]
    assert card.weights["imagenet"].file.endswith("_CCX_imagenet_state_dict_quarts.pth")
    assert card.labels == "imagenet"
    assert named["ffnet18_AAA"].labels[10] == "sky"
    assert not named["ffnet22S_BBB_gpu"].weights


@pytest.mark.parametrize(
    ("hyper", "words"),
    [
        ({"backbone": "Resnet41S"}, "backbone='Resnet41S' is unknown; did you mean .*'Resnet40S'"),
        ({"backbone": "Resnet46N_D"}, "backbone='Resnet46N_D' is unknown"),
        ({"head": "D"}, "an FFNet has no head='D'"),
        ({"task": "segmentation"}, "no task='segmentation'; did you mean"),
        ({"layers": (1, 1, 1)}, r"layers=\(1, 1, 1\) was asked of Resnet40S, which has 4 stages"),
        ({"layers": (1, 1, 0, 1)}, "4 stages: give that many numbers from 1"),
        ({"use_adapter_convs": False}, "keeps use_adapter_convs=True: leave it out"),
    ],
)
def test_bad_options_are_one_sentence(hyper, words):
    with pytest.raises(OptionError, match=words):
        load("ffnet40S_BBB_mobile", weights=None, **hyper)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("ffnet40S_BBB_mobile", (1, 1, 64, 64), r"takes b 3 y x with sides of at least 8, but the"),
        ("ffnet40S_BBB_mobile", (3, 64, 64), r"the tensor is \(3, 64, 64\)"),
        ("ffnet40S_BBB_mobile", (1, 3, 64, 7), "sides of at least 8"),
    ],
)
def test_bad_input_is_one_sentence(name, shape, words):
    with pytest.raises(ModelError, match=words):
        small(name)(torch.rand(shape))


def test_pictures_of_other_channels_and_odd_sides():
    model = small("ffnet40S_BBB_gpu", in_channels=2)
    with torch.no_grad():
        assert model(torch.rand(1, 2, 8, 9)).shape == (1, 5, 2, 3)
        assert model(torch.rand(2, 2, 33, 47)).shape == (2, 5, 9, 12)
