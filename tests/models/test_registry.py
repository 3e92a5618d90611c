"""Models by name: building, listing, spelling and refusing."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from limelight import Probe
from limelight.models import Card, list_models, load
from limelight.models.registry import Variant, hyper_parameters, register
from limelight.probe.errors import ModelError, OptionError

# A mixer alone; what chooses among the objects it is given.
NO_CLASSES = {
    *("oat_amazon", "oat_wine", "oat_yogurt"),
    *("msguided_narrow", "msguided_resnext50", "msguided_resnext101"),
    *("relationnet2_head", "relationnet2_retinanet_r50_fpn", "relationnet2_retinanet_x101_dcn_fpn"),
    *("garnet", "orchid", "reid_lba_pair"),  # pictures, a mixer alone, a similarity
}


def test_every_card_tells_its_sites_in_the_built_model():
    for card in list_models():
        with torch.device("meta"):
            net = load(card.name, weights=None)
        names = [name for name, _ in net.named_modules()]
        last = net.get_submodule(net.card.classifier) if net.card.classifier else None
        assert last is None or isinstance(last, nn.Linear | nn.Conv2d)
        assert last is not None or card.name in NO_CLASSES, card.name
        for pattern in (*net.card.hidden, *net.card.heads):
            assert any(fits(pattern, name) for name in names), (card.name, pattern)
        assert not net.training


def fits(pattern: str, name: str) -> bool:
    from limelight.probe.sites.site import Site, parse

    return parse(pattern).matches(Site(name))


def test_listing_takes_wildcards():
    assert [card.name for card in list_models("resnet*")] == [
        *("resnet101", "resnet18", "resnet34", "resnet50")
    ]
    with pytest.raises(ModelError, match=r"no model's name fits 'resnest'.*'resnet50'"):
        list_models("resnest")


def test_deit_with_other_hyper_parameters():
    net = load("deit_tiny", weights=None, img_size=96, depth=5, num_classes=13)
    assert len(net.blocks) == 5
    assert net(torch.zeros(2, 3, 96, 96)).shape == (2, 13)
    assert (net.card.size, net.card.resize, net.card.labels) == (96, 106, "")


def test_papers_timm_and_torchvision_spellings_build_the_same():
    small = {"num_classes": 10, "num_heads": 4, "mlp_dim": 128}
    one = load(
        "vit_b_16", weights=None, image_size=32, patch_size=8, num_layers=3, hidden_dim=64, **small
    )
    two = load("vit_b_16", weights=None, img_size=32, patch=8, depth=3, dim=64, **small)
    shapes = [[p.shape for p in net.parameters()] for net in (one, two)]
    assert shapes[0] == shapes[1]
    case = {"img": 224, "patch": 16, "dim": 192, "depth": 2, "heads": 3, "mlp_ratio": 4}
    told = {"qkv_bias": True, "norm_eps": 1e-6, "act": "GELU exact", "pool": "class token"}
    assert load("deit_tiny", weights=None, **case, **told).card.size == 224


@pytest.mark.parametrize(
    ("name", "hyper", "shape"),
    [
        ("vit_base_patch16_224", {"depth": 2, "img_size": (32, 64)}, (1, 3, 32, 64)),
        ("vit_b_16", {"depth": 2, "img_size": (32, 64)}, (1, 3, 32, 64)),
        ("resnet50", {"layers": (1, 1), "width": 16, "in_channels": 1}, (1, 1, 32, 32)),
        ("resnet50", {"layers": (1, 1, 1, 1), "groups": 4, "width_per_group": 16}, (1, 3, 32, 32)),
        ("resnet34", {"blocks": (1, 2, 1), "eps": 1e-3}, (1, 3, 33, 47)),
        ("vgg16", {"cfg": (8, "M", 16, 16, "M")}, (1, 3, 20, 20)),
        ("efficientnet_lite0", {"width": 0.5, "depth": 0.5, "in_chans": 1}, (1, 1, 37, 50)),
        ("alexnet", {"in_channels": 1}, (1, 1, 64, 80)),
    ],
)
def test_hyper_parameters_build_and_run(name, hyper, shape):
    net = load(name, weights=None, num_classes=7, **hyper)
    assert net(torch.zeros(shape)).shape == (1, 7)


def test_another_input_size_than_built_resizes_the_positions():
    for name in ("deit_tiny", "vit_b_16"):
        net = load(name, weights=None, img_size=64, depth=1, dim=48, heads=3)
        assert net(torch.randn(1, 3, 32, 96)).shape == (1, 1000)
        with pytest.raises(OptionError, match="33 x 64 does not divide into patches of 16"):
            net(torch.randn(1, 3, 33, 64))


@pytest.mark.parametrize(
    ("name", "attn"),
    [("deit_tiny", "blocks.0.attn"), ("vit_b_16", "encoder.layers.*.self_attention")],
)
def test_attention_shows_its_ports_once(name, attn):
    net = load(name, weights=None, img_size=32, depth=1, dim=192, heads=3)
    ports = ("q", "k", "v", "map", "heads")
    with Probe(net, grad=False) as p:
        p.watch(*(f"{attn}:{port}" for port in ports))
        p(torch.randn(2, 3, 32, 32))
    q, k, v, held, heads = (p.trace[f"{attn}:{port}"].act for port in ports)
    assert q.shape == k.shape == v.shape == heads.shape == (2, 3, 5, 64)
    torch.testing.assert_close(held, (q @ k.mT / 8).softmax(-1))
    torch.testing.assert_close(heads, held @ v)


def test_img_size_of_a_convolutional_network_changes_its_preprocessing():
    card = load("resnet18", weights=None, layers=(1,), width=8, img_size=(56, 112)).card
    assert (card.size, card.resize) == ((56, 112), 64)


def test_preprocessing_can_be_given():
    told = {"input": [224, 224], "mean": [0.5] * 3, "std": [0.5] * 3}
    net = load("efficientnet_lite0", weights=None, width=0.25, depth=0.1, **told, crop_pct=0.9)
    assert (net.card.mean, net.card.std) == ((0.5,) * 3, (0.5,) * 3)
    assert (net.card.size, net.card.resize) == ((224, 224), 248)
    with pytest.raises(OptionError, match="asks for 'area' interpolation"):
        load("deit_tiny", weights=None, depth=1, interpolation="area")


def test_no_activation_is_in_place():
    for card in list_models():
        with torch.device("meta"):
            parts = load(card.name, weights=None).modules()
        assert not any(getattr(part, "inplace", False) for part in parts), card.name


def test_vgg_layers_follow_the_configuration():
    assert load("vgg16", weights=None, cfg=(8, "M", 8, 8, "M")).card.hidden == (
        "features.1",
        "features.6",
    )
    bn = next(iter(list_models("vgg16_bn")))
    assert bn.hidden[-1] == "features.42"


def test_unknown_names_are_refused_with_near_ones():
    with pytest.raises(ModelError, match=r"model 'resnet5' is not in the zoo; did you mean .*50'"):
        load("resnet5")
    with pytest.raises(OptionError, match="no hyper-parameter 'dept'; did you mean 'depth'"):
        load("deit_tiny", weights=None, dept=3)
    with pytest.raises(OptionError, match="'heads' gives 'num_heads' of 'deit_tiny' twice"):
        load("deit_tiny", weights=None, num_heads=3, heads=3)


@pytest.mark.parametrize(
    ("name", "hyper", "told"),
    [
        ("deit_tiny", {"img_size": 100}, "100 x 100 does not divide into patches of 16"),
        ("deit_tiny", {"heads": 5}, "192 does not divide into 5 heads"),
        ("deit_tiny", {"classes": 0}, "classes=0 of 'deit_tiny' must be at least 1"),
        ("deit_tiny", {"depth": "six"}, "depth='six' of 'deit_tiny' must be a number"),
        ("deit_tiny", {"depth": 10**30}, "is beyond what a model can have"),
        ("resnet18", {"img_size": [1, 2, 3]}, "must be one side, or height and width"),
        ("resnet18", {"img_size": "big"}, "img_size='big' of 'resnet18' must be a number"),
        ("deit_tiny", {"act": "swoosh"}, "no activation 'swoosh'; did you mean 'swish'"),
        ("deit_tiny", {"pool": "max"}, "no pooling 'max'"),
        ("vgg16", {"cfg": "F"}, "no configuration 'F'"),
        ("vgg16", {"cfg": ("M", 3)}, "cannot use the configuration"),
        ("resnet50", {"block": "plain"}, "no block 'plain'"),
        ("resnet18", {"groups": 2}, "basic blocks take no groups"),
        ("efficientnet_lite0", {"width": 0}, "cannot have width 0"),
    ],
)
def test_impossible_hyper_parameters_are_refused(name, hyper, told):
    with pytest.raises(OptionError, match=told):
        load(name, weights=None, **hyper)


def test_a_builder_that_fails_is_explained():
    with pytest.raises(ModelError, match=r"'resnet50' cannot be built with .*layers='abc'"):
        load("resnet50", weights=None, layers="abc")


def test_the_same_name_from_two_modules_is_refused():
    def twin(*, num_classes: int = 1000) -> nn.Module:
        return nn.Identity()

    with pytest.raises(
        ModelError, match=r"'vgg16' is asked for by .* but limelight.models.zoo.vgg"
    ):
        register(twin, Card("twin", "none"), [Variant("vgg16")])


def tiny(*, width: int = 2) -> nn.Module:
    """A builder of one layer."""
    return nn.Linear(width, width)


@pytest.mark.parametrize(
    ("rows", "error", "told"),
    [
        ([Variant("tiny_a"), Variant("tiny_a")], ModelError, "'tiny_a' is asked for by"),
        ([Variant("tiny_a", also=("tiny_b",)), Variant("tiny_b")], ModelError, "'tiny_b'"),
        ([Variant("tiny_a", build={"widht": 3})], OptionError, "did you mean 'width'"),
    ],
)
def test_rows_that_cannot_be_are_refused(rows, error, told):
    with pytest.raises(error, match=told):
        register(tiny, Card("tiny", "none"), rows)
    with pytest.raises(ModelError, match="no model's name fits"):
        list_models("tiny_a")


def test_fixed_hyper_parameters_keep_the_published_value():
    assert (
        load("vig_h_tiny", weights=None, depths=(1,), num_heads=(3,), expand_v=1.0).card.name
        == "vig_h_tiny"
    )
    for word, name in (("patch", "patch_size"), ("patch_size", "patch_size"), ("stride", "stride")):
        with pytest.raises(OptionError, match=f"{word}=8 was asked .* keeps {name}=16: leave"):
            load("vig_tiny", weights=None, **{word: 8})


def test_hyper_parameters_can_be_listed():
    told = hyper_parameters("resnet18")
    assert (told["layers"], told["block"], told["num_classes"]) == ((2, 2, 2, 2), "basic", 1000)


def test_import_is_light():
    code = (
        "import sys, limelight.models as m; m.load('deit_tiny', weights=None, depth=1);"
        "heavy = {'timm', 'torchvision', 'transformers', 'pandas', 'huggingface_hub'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_and_listing_build_nothing_and_draw_nothing():
    code = (
        "import torch; from torch import nn; built = []; start = nn.Module.__init__\n"
        "def count(self, *a, **k): built.append(type(self)); start(self, *a, **k)\n"
        "nn.Module.__init__ = count;"
        "before = torch.get_rng_state(); import limelight as ll, limelight.models;"
        "ll.list_models(); [limelight.models.registry.hyper_parameters(c.name)"
        " for c in ll.list_models()];"
        "print(torch.equal(before, torch.get_rng_state()), built)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True []"


def test_cards_refuse_impossible_preprocessing():
    with pytest.raises(OptionError, match="asks for 'area' interpolation"):
        Card("x", "y", interpolation="area")
    with pytest.raises(OptionError, match="resizes to 100, less than the crop 224"):
        Card("x", "y", resize=100)
