"""HaloNet against its golden cases, published sizes and timm's names."""

from __future__ import annotations

import hashlib

import pytest
import torch
import torch.nn.functional as F
from foreign import import_foreign
from parity.fill import fill, image
from shared import golden, outputs

import limelight as ll
from limelight.kernels.errors import KernelError
from limelight.kernels.windows import Window
from limelight.models import load
from limelight.models.halonet import VARIANTS, HaloAttention
from limelight.models.weights import no_init
from limelight.probe.errors import OptionError

SMALL = {"stages": ("BA", "A"), "out_chs": (64, 128), "stem_chs": (16,), "heads": 4,
         "block_size": 4, "halo_size": 1, "num_classes": 5, "bottle_ratio": 0.5}  # fmt: skip


def opened(values, layer, x):
    """Relative logits and attention with the zeros outside, `(b h) w q k`, from the op's ports."""
    window = Window(
        "halo", (layer.block_size,) * 2, tuple(x.shape[2:]), layer.halo_size, layer.stride
    )
    queries, keys = window.query_index(), window.key_index()
    q, k, rows, columns = (values[port] for port in ("q", "k", "rows", "columns"))
    q, rows, columns = (t[:, :, queries] for t in (q, rows, columns))
    k = F.pad(k, (0, 0, 0, 1))[:, :, keys % (k.shape[2] + 1)]
    places = torch.arange(keys.shape[1])
    width = window.key_size[1]
    rel = rows[..., places // width] + columns[..., places % width]
    scores = (q @ k.mT * layer.scale + rel).softmax(-1)
    return rel.flatten(0, 1), scores.flatten(0, 1)


def ports(net, x, path):
    names = ("q", "k", "v", "rows", "columns")
    t = ll.trace(net, x, [f"{path}:{name}" for name in names])
    return {name: t[f"{path}:{name}"].act for name in names}


def given(case):
    told = case.case["input"]
    return torch.from_numpy(image(tuple(told["shape"]), told["seed"]))


def named(case, net):
    order = "\n".join(net.state_dict())
    assert hashlib.sha1(order.encode()).hexdigest() == case.case["state_dict_order"].split()[-1]
    assert sum(p.numel() for p in net.parameters()) == case.case["n_parameters"]


@pytest.mark.parametrize("name", ["halonet.layer_stride2", "halonet.layer_avgdown"])
def test_layers_equal_their_golden_cases(name):
    case = golden(name)
    own = dict(case.case["config"])
    net = HaloAttention(own.pop("dim"), own.pop("dim_out", None), **own).eval()
    fill(net, case.case["salt"])
    named(case, net)
    x = given(case)
    rel, attention = opened(ports(net, x, ""), net, x)
    case.close("rel_logits", rel)
    case.close("attn", attention)
    with torch.no_grad():
        case.close("out", net(x))


@pytest.mark.parametrize(
    ("name", "halo", "stages"),
    [
        ("halonet26t", "stages.2.1", (2, 2, 2, 2)),
        ("halonet_h1", "stages.0.0", (3, 3, 10, 3)),
    ],
)
def test_networks_equal_their_golden_cases(name, halo, stages):
    case = golden(f"halonet.{name}_256")
    with no_init():
        model = load(name)
    fill(model, case.case["salt"])
    named(case, model)
    x = given(case)
    where = {"stem": "stem", "halo": f"{halo}.self_attn"}
    where |= {f"stage{s}": f"stages.{s}.{n - 1}" for s, n in enumerate(stages)}
    if "halo_s2" in case.arrays:
        where["halo_s2"] = "stages.3.0.self_attn"
    found = outputs(model, x, where)
    layer = model.get_submodule(f"{halo}.self_attn")
    values = ports(model, x, f"{halo}.self_attn")
    found["rel_logits"], found["attn"] = opened(values, layer, found["halo"])
    assert set(found) == {key for key in case.arrays if not key.endswith("__spread")}
    for key, value in found.items():
        case.close(key, value)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("halonet26t", 12.48),
        ("halonet50ts", 22.73),
        ("sehalonet33ts", 13.69),
        ("eca_halonext26ts", 10.76),
        ("halonet_h1", 8.10),
    ],
)
def test_published_sizes_and_timms_names(name, count):
    assert name in VARIANTS
    with torch.device("meta"), no_init():
        ours = load(name)
    assert sum(p.numel() for p in ours.parameters()) / 1e6 == pytest.approx(count, abs=0.006)
    timm = import_foreign("timm")
    with torch.device("meta"):
        theirs = timm.create_model(name).state_dict()
    assert {n: p.shape for n, p in ours.state_dict().items()} == {
        n: p.shape for n, p in theirs.items()
    }


@pytest.mark.parametrize("name", ["halonet50ts", "sehalonet33ts", "eca_halonext26ts"])
def test_logits_equal_timms(name):
    timm = import_foreign("timm")
    with no_init():
        ours = load(name)
    fill(ours, 1)
    theirs = timm.create_model(name).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.from_numpy(image((1, 3, 256, 256), 4))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_what_leaves_the_picture_is_missing_in_the_map():
    net = HaloAttention(16, num_heads=2, block_size=4, halo_size=2)
    t = ll.trace(net, torch.randn(1, 16, 12, 12), [":map"])
    rows = t[":map"].act.sum(-1)[0, 0].reshape(12, 12)
    torch.testing.assert_close(rows[4:8, 4:8], torch.ones(4, 4))
    assert (rows[:4] < 1).all()


def test_sizes_options_and_checkpointing():
    model = load("halonet26t", **SMALL)
    x = torch.randn(1, 3, 64, 32)
    found = []
    for enable in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(enable)
        model(x).sum().backward()
        found.append(model.stages[0][1].self_attn.kv.weight.grad.clone())
    torch.testing.assert_close(*found)
    with pytest.raises(KernelError, match="does not divide into windows"):
        model(torch.randn(1, 3, 40, 40))
    scaled = load("halonet26t", scale_pos_embed=True, qkv_bias=True, avg_down=True, **SMALL)
    assert scaled(x).shape == (1, 5)
    with pytest.raises(OptionError, match="write stages in A and B"):
        load("halonet26t", stages=("BC", "A"), out_chs=(64, 128))
    with pytest.raises(OptionError, match="different numbers of stages"):
        load("halonet26t", stages=("B",))
