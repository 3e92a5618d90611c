"""ULSAM: its formula and maps, its hosts' names, the published costs of every variant."""

from __future__ import annotations

import pytest
import torch
from fill import fill, image
from foreign import import_foreign
from golden_models import build
from shared import golden
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import limelight as ll
from limelight.models import load
from limelight.models.layers.gates import ULSAM
from limelight.models.weights.load import no_init
from limelight.probe.errors import OptionError

CASES = ("ulsam.module_512_g4", "ulsam.module_64_g1")


@pytest.mark.parametrize("name", CASES)
def test_the_words_of_the_published_constructor_build_the_module(name):
    case = golden(name)
    module = ULSAM(**case.case["constructor"]["kwargs"]).eval()
    fill(module, case.case["salt"])
    x = torch.from_numpy(image(tuple(case.case["input"]["shape"]), case.case["input"]["seed"]))
    with torch.no_grad():
        case.close("out", module(x))
    dim, splits = case.case["config"]["nin"], case.case["config"]["num_splits"]
    count = sum(p.numel() for p in module.parameters())
    assert count == splits * (5 * (dim // splits) + 3)


def test_the_module_computes_the_written_formula():
    module = ULSAM(12, num_splits=3).double().eval()
    fill(module, 5)
    x = torch.randn(2, 12, 5, 6, dtype=torch.float64)

    def norm(layer, x):
        scale = layer.weight / (layer.running_var + layer.eps).sqrt()
        return (
            scale[:, None, None] * (x - layer.running_mean[:, None, None])
            + (layer.bias[:, None, None])
        )

    parts = []
    for n, own in enumerate(module.subspaces):
        f = x[:, 4 * n : 4 * n + 4]
        a = f * own.conv_dws.weight[:, :, 0, 0, None] + own.conv_dws.bias[:, None, None]
        a = norm(own.bn_dws, a).clamp(min=0)
        largest = torch.empty_like(a)
        for y in range(5):
            for z in range(6):
                near = a[..., max(y - 1, 0) : y + 2, max(z - 1, 0) : z + 2]
                largest[..., y, z] = near.amax((-2, -1))
        score = torch.einsum("c,bcyx->byx", own.conv_point.weight[0, :, 0, 0], largest)
        score = norm(own.bn_point, score[:, None] + own.conv_point.bias).clamp(min=0)
        shares = score.exp() / score.exp().sum((-2, -1), keepdim=True)
        parts.append(f + f * shares)
    with torch.no_grad():
        torch.testing.assert_close(module(x), torch.cat(parts, 1))


def test_maps_of_each_subspace_and_those_that_a_relu_made_uniform():
    built = build("ulsam.module_512_g4")
    host = nn.Sequential(built.model, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 5))
    names = ["uniform", "attention_entropy:true"]
    alike, entropy = (m.values for m in ll.maps(host, built.x, names, sites="0", target=1))
    assert alike[-1] == 1
    assert (alike == 0).any()
    torch.testing.assert_close(entropy[alike == 1], torch.ones(int(alike.sum())).double())
    assert (entropy[alike == 0] < 0.9999).all()
    scores = ll.trace(host, built.x, "0.subspaces.*:score")
    shut = [bool((value.act == 0).all()) for value in scores.values()]
    assert shut == (alike == 1).tolist()
    whole = ll.maps(host, built.x, "activation,channels=true", sites="0:map", target=1)[0]
    each = ll.maps(host, built.x, "activation", sites="0.subspaces.*", target=1)
    assert (whole.axes, tuple(whole.values.shape)) == ("c y x", (4, 7, 7))
    torch.testing.assert_close(each.stack(), whole.values)
    torch.testing.assert_close(each.stack().sum((1, 2)), torch.ones(4))


def test_a_map_can_be_changed():
    module = ULSAM(8, num_splits=2).eval()
    x = torch.randn(2, 8, 4, 4)
    shut = ll.patch(module, x, {":map": ll.zero})
    torch.testing.assert_close(shut, x)
    third = ll.patch(module, x, {"subspaces.1": lambda a, _: torch.full_like(a, 0.5)})
    torch.testing.assert_close(third[:, 4:], 1.5 * x[:, 4:])
    assert not torch.allclose(third[:, :4], 1.5 * x[:, :4])


def weights_of(model):
    """Numbers in convolutions and linear layers, without biases and norms, as papers count."""
    return sum(p.numel() for p in model.parameters() if p.ndim > 1)


def costs(name, **hyper):
    """Multiplications and additions, and weights, in millions."""
    with torch.device("meta"), no_init():
        model = load(name, weights=None, **hyper)
        x = torch.empty(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        model(x)
    return counted.get_total_flops() / 2e6, weights_of(model) / 1e6


@pytest.mark.parametrize(
    ("name", "flops", "params"),
    [
        ("mobilenet_v2_ulsam_for_13", 277.34, 3.28),
        ("mobilenet_v2_ulsam_for_16", 284.54, 3.08),
        ("mobilenet_v2_ulsam_for_10_13", 267.06, 3.23),
        ("mobilenet_v2_ulsam_for_15_16", 269.08, 2.77),
        ("mobilenet_v2_ulsam_for_13_16", 261.88, 2.97),
        ("mobilenet_v2_ulsam_for_12_13_15_16", 223.77, 2.54),
    ],
)
def test_replacing_saves_what_the_published_table_says(name, flops, params):
    """The table starts at the 300 M and 3.40 M that MobileNet v2 is published with."""
    whole, less = costs("mobilenet_v2"), costs(name)
    assert whole[0] == pytest.approx(300, abs=1)
    assert 300 - whole[0] + less[0] == pytest.approx(flops, abs=0.01)
    assert 3.40 - whole[1] + less[1] == pytest.approx(params, abs=0.005)


def test_inserting_costs_what_is_published():
    whole = costs("mobilenet_v1")
    assert whole[0] == pytest.approx(569, abs=0.5)
    assert whole[1] == pytest.approx(4.2, abs=0.05)
    for place, published in ((11, 569.2), (13, 569.1)):
        flops, params = costs(f"mobilenet_v1_ulsam_after_{place}")
        assert 569 - whole[0] + flops == pytest.approx(published, abs=0.005)
        assert (params - whole[1]) * 1e6 == pytest.approx(2 * (512, 1024)[place == 13], abs=0.1)
    more = costs("mobilenet_v2_ulsam_after_16")[0] - costs("mobilenet_v2")[0]
    assert more == pytest.approx(0.01, abs=0.006)


@pytest.mark.parametrize(
    ("width", "before", "after"), [(1, 569, 517), (0.75, 325, 296), (0.5, 149, 136)]
)
def test_replacing_in_mobilenet_v1_at_each_width(width, before, after):
    names = {1: "mobilenet_v1", 0.75: "mobilenet_v1_075", 0.5: "mobilenet_v1_050"}
    whole, less = costs("mobilenet_v1", width=width), costs(f"{names[width]}_ulsam_for_11")
    assert whole[0] == pytest.approx(before, abs=0.9)
    assert less[0] == pytest.approx(after, abs=0.5)
    if width == 1:
        assert less[1] == pytest.approx(3.9, abs=0.05)


def test_hosts_have_the_names_and_outputs_of_timm_and_torchvision():
    x = torch.randn(1, 3, 64, 64)
    timm, vision = import_foreign("timm"), import_foreign("torchvision")
    for name, theirs in (
        ("mobilenet_v1", timm.create_model("mobilenetv1_100")),
        ("mobilenet_v2", vision.models.mobilenet_v2()),
    ):
        with no_init():
            ours = load(name, weights=None)
        theirs.load_state_dict(ours.state_dict())
        fill(ours, 2)
        fill(theirs, 2)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        with torch.no_grad():
            want = theirs.eval()(x)
            atol = 1e-5 * float(want.std())
            torch.testing.assert_close(ours(x), want, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("name", ["mobilenet_v1", "mobilenet_v2"])
def test_a_host_runs_through_its_modules(name):
    hyper = {"width": 0.25, "num_classes": 5, "num_splits": 2}
    model = load(name, weights=None, insert=(2, 9), replace=(10,), **hyper).train()
    bare = load(name, weights=None, **hyper)
    names = {n for n, _ in model.named_parameters()}
    assert {n for n in names if n.startswith("ulsam.")} == {
        f"ulsam.{place}.{n}"
        for place in (2, 9)
        for n, _ in model.ulsam[str(place)].named_parameters()
    }
    held = {n for n, _ in bare.named_parameters()} - names
    assert all(n.startswith(("blocks.3.4.", "features.10.")) for n in held)
    x, found = torch.randn(2, 3, 64, 64), []
    for enable in (False, True):
        model.zero_grad()
        model.eval().set_grad_checkpointing(enable)
        model(x).sum().backward()
        found.append(model.ulsam["2"].subspaces[1].conv_point.weight.grad.clone())
    torch.testing.assert_close(*found)
    seen = [str(site) for site in ll.trace(model, x, "**:map")]
    place = "blocks.3.4:map" if name == "mobilenet_v1" else "features.10:map"
    assert seen == ["ulsam.2:map", "ulsam.9:map", place]


def test_relevance_is_kept_through_a_ulsam():
    """By the rule without a stabiliser, beside which the small values of a MobileNet are not."""
    model = load(
        "mobilenet_v2", weights=None, width=0.25, num_classes=5, replace=(13, 16), insert=(9,)
    )
    fill(model, 3)
    with torch.no_grad():
        for n, p in (*model.named_parameters(), *model.named_buffers()):
            if n.endswith(("bias", "running_mean")):
                p.zero_()
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).double()
    found = ll.maps(model.double(), x, "lrp:lrp0", target=1)
    assert found[0].about.kept == pytest.approx(1, abs=1e-9)
    assert not ll.maps(model, x, "uniform", sites="features.13")[0].values.all()


@pytest.mark.parametrize(
    ("build_it", "words"),
    [
        (lambda: ULSAM(10, num_splits=4), "10 channels do not divide into num_splits=4 groups"),
        (lambda: ULSAM(8, nout=16), "nout=16 was given, but a ULSAM of 8 channels returns as many"),
        (lambda: ULSAM(8, num_splits=2, group_size=2), "group_size=2 was given, but 8 channels"),
        (lambda: load("mobilenet_v2", weights=None, replace=(11,)), "leads from 64 to 96 channels"),
        (lambda: load("mobilenet_v2", weights=None, replace=(18,)), "has blocks 1 to 17"),
        (lambda: load("mobilenet_v1", weights=None, insert=(0,)), "insert=.*has blocks 1 to 13"),
        (lambda: load("mobilenet_v1", weights=None, insert=(3, 3)), "names a block twice"),
        (
            lambda: load("mobilenet_v1", weights=None, replace=(11,), num_splits=3),
            "512 channels do not divide",
        ),
    ],
)
def test_bad_places_and_groups_are_one_sentence(build_it, words):
    with pytest.raises(OptionError, match=words):
        build_it()
