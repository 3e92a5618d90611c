"""Attention metrics: ConViT's golden figures, closed forms, class tokens, windows, languages."""

from __future__ import annotations

import pytest
import torch
from fill import fill, image
from shared import golden

import limelight as ll
from limelight.kernels.shared import distances
from limelight.methods.attention.locality import upstream_nonlocality
from limelight.models.weights.load import no_init
from limelight.probe.errors import MethodError, OptionError


@pytest.fixture(scope="module")
def tiny():
    case = golden("convit.tiny_64")
    with no_init():
        model = ll.load("convit_tiny", weights=None, img_size=64)
    fill(model, case.case["salt"])
    told = case.case["input"]
    return case, model, torch.from_numpy(image(tuple(told["shape"]), told["seed"]))


def stacked(maps, method):
    """One row a layer, averaged over samples."""
    found = maps.where(method=method)
    sites = list(dict.fromkeys(str(m.site) for m in found))
    rows = [found.where(site=site).stack().mean(0) for site in sites]
    return torch.stack(rows)


def test_convits_own_figures(tiny):
    case, model, x = tiny
    names = ["nonlocality", "gate", "centre_distance"]
    maps = ll.maps(model, x, names, sites=[f"blocks.{n}.attn" for n in range(10)])
    assert {m.axes for m in maps} == {"h"}
    for key, name in zip(("nonlocality_insitu", "gates"), names, strict=False):
        case.close(key, stacked(maps, name))
    found = stacked(maps, "centre_distance").flatten()
    want = torch.from_numpy(case.arrays["pos_distance"]).double()
    some = found.isfinite()  # elsewhere the filled weights make no centre
    torch.testing.assert_close(found[some], want.flatten()[some], rtol=1e-4, atol=1e-4)
    assert some.any()
    case.close("nonlocality_upstream", upstream_nonlocality(model, x))


def test_a_class_token_is_left_out_or_not():
    torch.manual_seed(0)
    model = ll.load("deit_tiny", weights=None, img_size=64, depth=2)
    x = torch.randn(2, 3, 64, 64)
    names = ["nonlocality", "nonlocality,raw=true", "attention_entropy", "nonlocality:pixels",
             "nonlocality:relative", "attention_mass,radius=1"]  # fmt: skip
    maps = ll.maps(model, x, names)
    share = ll.trace(model, x, "blocks.1.attn:map")["blocks.1.attn:map"].act.double()[:, :, 1:, 1:]
    whole = share / share.sum(-1, keepdim=True)
    far = distances((4, 4), 1, share.device, torch.float64)
    own = maps.where(site="blocks.1.attn:map")
    want = {
        "nonlocality": (whole * far).sum(-1).mean(-1),
        "nonlocality,raw=True": (share * far).sum(-1).mean(-1),
        "attention_entropy": torch.special.entr(whole).sum(-1).mean(-1),
        "nonlocality:pixels": 16 * (whole * far).sum(-1).mean(-1),
        "nonlocality:relative": (whole * far).sum(-1).mean(-1) / far.mean(),
        "attention_mass,radius=1.0": (whole * (far <= 1)).sum(-1).mean(-1),
    }
    for name, value in want.items():
        found = own.where(method=name).stack()
        torch.testing.assert_close(found, value, rtol=1e-5, atol=1e-6)


def test_queries_that_attend_to_all_alike_are_counted():
    torch.manual_seed(0)
    model = ll.load("deit_tiny", weights=None, img_size=64, depth=2)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        model.blocks[1].attn.qkv.weight[64:128] = 0  # the second head's queries
        model.blocks[1].attn.qkv.bias[64:128] = 0
    maps = ll.maps(model, x, "uniform")
    assert [m.values.tolist() for m in maps.where(site="blocks.0.attn:map")] == [[0, 0, 0]] * 2
    assert [m.values.tolist() for m in maps.where(site="blocks.1.attn:map")] == [[0, 1, 0]] * 2


def test_windows_have_distances_and_languages_have_none():
    torch.manual_seed(0)
    small = {"stages": ("BA", "A"), "out_chs": (64, 128), "stem_chs": (16,), "heads": 4,
             "block_size": 4, "halo_size": 1, "bottle_ratio": 0.5}  # fmt: skip
    model = ll.load("halonet26t", weights=None, **small)
    maps = ll.maps(model, torch.randn(1, 3, 64, 64), ["nonlocality", "gate"])
    near, thinned = maps.where(method="nonlocality")
    assert near.values.max() < 8
    (note,) = (n for n in near.about.notes if "by its proportions" in n)
    assert note == "tokens on the picture by its proportions: 16 x 16 after 0"
    assert thinned.values.isfinite().all()  # stride 2: queries in the middle of four keys
    assert maps.where(method="gate")[0].values.isnan().all()
    words = ll.load(
        "gla_340m", weights=None, hidden_size=64, num_hidden_layers=1, num_heads=2, vocab_size=50
    )
    ids = torch.randint(0, 50, (2, 20))
    assert ll.maps(words, ids, "nonlocality")[0].values.isnan().all()


def test_mass_in_windows_by_hand():
    torch.manual_seed(0)
    model = ll.load("deit_tiny", weights=None, img_size=64, depth=2)
    first = model.blocks[0].attn
    torch.nn.init.zeros_(first.qkv.weight[: 2 * 192].data)  # the first block looks everywhere
    x = torch.randn(2, 3, 64, 64)
    names = [f"attention_mass,window={size}" for size in ("2x4", "1x1", "4x4", "3x2")]
    maps = ll.maps(model, x, names)
    even = maps.where(site="blocks.0.attn:map")
    for name, share in zip(names, (1 / 2, 1 / 16, 1.0), strict=False):
        found = even.where(method=name).stack()
        torch.testing.assert_close(found, torch.full((2, 3), share).double())
    assert maps.where(method=names[3]).stack().isnan().all()  # three rows do not tile four
    path = "blocks.1.attn:map"
    share = ll.trace(model, x, path)[path].act.double()[:, :, 1:, 1:]
    share = share / share.sum(-1, keepdim=True)
    want = share.diagonal(dim1=2, dim2=3).mean(-1)
    found = maps.where(site=path, method=names[1]).stack()
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-7)
    with pytest.raises(OptionError, match=r"window=\(7,\) is no rows and columns, as in 7x7"):
        ll.maps(model, x, "attention_mass,window=7")


class Repeats(torch.nn.Module):
    """One attention head with a map that is known."""

    def __init__(self, share):
        super().__init__()
        self.share = share

    def forward(self, ids):
        v = ids[:, None, :, None].double()
        q = self.share.log().expand(len(ids), 1, -1, -1)
        k = torch.eye(q.shape[-1]).double().expand(len(ids), 1, -1, -1)
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=1.0)
        return out[:, 0, :, 0]


def test_sequence_heads_by_hand():
    ids = torch.tensor([[3, 4, 5, 3, 4]])
    share = torch.rand(5, 5, dtype=torch.float64).tril() + 1e-9
    share = share / share.sum(-1, keepdim=True)
    names = ["previous_token", "duplicate_token", "induction"]
    found = ll.maps(Repeats(share), ids, names, sites=":map", target=lambda out: out.sum(1))
    values = {m.method: float(m.values[0]) for m in found}
    previous = torch.stack([share[i, i - 1] for i in range(1, 5)]).mean()
    assert values["previous_token"] == pytest.approx(float(previous), rel=1e-5)
    assert values["duplicate_token"] == pytest.approx(
        float((share[3, 0] + share[4, 1]) / 2), rel=1e-5
    )
    assert values["induction"] == pytest.approx(float((share[3, 1] + share[4, 2]) / 2), rel=1e-5)


def test_errors_say_what_to_do():
    plain = ll.load("resnet18", weights=None, num_classes=5)
    with pytest.raises(MethodError, match="no attention"):
        ll.maps(plain, torch.randn(1, 3, 32, 32), "nonlocality")
    digits = ll.load("convit_digits")
    with pytest.raises(MethodError, match="compares token ids"):
        ll.maps(digits, torch.randn(1, 3, 32, 32), "induction")


def test_rollout_by_hand():
    torch.manual_seed(0)
    model = ll.load("deit_tiny", weights=None, img_size=64, depth=3)
    x = torch.randn(2, 3, 64, 64)
    t = ll.trace(model, x, [f"blocks.{n}.attn:map" for n in range(3)])
    maps = [t[f"blocks.{n}.attn:map"].act for n in range(3)]
    joint = eye = torch.eye(17)
    for one in maps:
        step = one.amax(1) + eye
        joint = step / step.sum(-1, keepdim=True) @ joint
    found = ll.maps(model, x, ["rollout:max", "raw_attention"])
    want = joint[:, 0, 1:].reshape(2, 4, 4)
    torch.testing.assert_close(found.where(method="rollout:max").stack(), want)
    want = maps[-1].mean(1)[:, 0, 1:].reshape(2, 4, 4)
    torch.testing.assert_close(found.where(method="raw_attention").stack(), want)


def test_attention_methods_follow_a_late_class_token():
    torch.manual_seed(0)
    model = ll.load("convit_tiny", weights=None, img_size=64, depth=3, local_up_to_layer=2)
    x = torch.randn(1, 3, 64, 64)
    names = ["rollout", "raw_attention", "attention_gradcam", "generic_attention",
             "transformer_attribution"]  # fmt: skip
    found = ll.maps(model, x, names, target=ll.label(3))
    assert {m.values.shape for m in found} == {(4, 4)}
    t = ll.trace(model, x, [f"blocks.{n}.attn:map" for n in range(3)])
    parts = [t[f"blocks.{n}.attn:map"].act.mean(1)[0] for n in range(3)]
    joint = eye = torch.eye(17)
    for part in parts:
        grown = torch.zeros(17, 17)
        grown[-part.shape[0] :, -part.shape[1] :] = part
        step = grown + eye
        joint = step / step.sum(-1, keepdim=True) @ joint
    torch.testing.assert_close(found[0].values, joint[0, 1:].reshape(4, 4))
