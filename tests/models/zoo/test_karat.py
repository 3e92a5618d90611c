"""KArAt: published sizes, what each switch builds, hosts, relevance, and what weights fix."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import limelight as ll
from limelight.kernels.kan import BASES, kan_attention
from limelight.models import load
from limelight.models.weights.load import no_init
from limelight.probe.errors import ModelError, OptionError, WeightsError

SMALL = {"img_size": 64, "depth": 2, "num_classes": 10}
CONVIT = {**SMALL, "depth": 4, "local_up_to_layer": 2}
MILLIONS = {  # the paper's trunk, of 10 classes, where it is given, and what table 13 adds to it
    "karat_tiny_g3b": (5.53, 0.76),
    "karat_tiny_g3u": (5.53, 0.06),
    "karat_small_g3b": (None, 1.53),
    "karat_small_g3u": (None, 0.13),
    "karat_base_g1b": (85.81, 1.70),
    "karat_base_g1u": (85.81, 0.14),
}
WHOLE = {"karat_tiny_g3b": 6.29, "karat_base_g1b": 87.51}


def filled(name: str = "karat_tiny_g3b", **hyper: object) -> nn.Module:
    torch.manual_seed(0)
    return load(name, weights=None, **{**SMALL, **hyper})


@pytest.mark.parametrize("name", MILLIONS)
def test_parameter_counts_are_those_of_the_table(name):
    with torch.device("meta"), no_init():
        model = load(name, weights=None, num_classes=10)
        bare = load(name, weights=None, num_classes=10, scales=False)
    count = {n: p.numel() for n, p in model.named_parameters()}
    learned = sum(size for n, size in count.items() if "karat" in n)
    trunk, beside = MILLIONS[name]
    assert learned / 1e6 == pytest.approx(beside, abs=0.0065)  # .7659 is printed as 0.76
    if trunk is not None:
        assert (sum(count.values()) - learned) / 1e6 == pytest.approx(trunk, abs=0.005)
    if name in WHOLE:
        assert sum(count.values()) / 1e6 == pytest.approx(WHOLE[name], abs=0.005)
    (h, r, n, g), blocks = (count_of(model, "a").shape, 1 if name.endswith("u") else 12)
    assert learned == (2 * g + 3) * n * r * h * blocks
    without = sum(p.numel() for n, p in bare.named_parameters() if "karat" in n)
    assert without == (2 * g + 1) * n * r * h * blocks


def count_of(model: nn.Module, name: str) -> nn.Parameter:
    return next(p for n, p in model.named_parameters() if n.endswith(f"karat.{name}"))


def test_names_of_blockwise_and_universal_functions():
    own = [n for n, _ in filled().named_parameters() if "karat" in n]
    parts = ("a", "b", "scale_base", "scale_sp", "W")
    assert own == [f"blocks.{j}.attn.karat.{part}" for j in (0, 1) for part in parts]
    shared = [n for n, _ in filled(universal=True).named_parameters() if "karat" in n]
    assert shared == [f"karat.{part}" for part in parts]
    model = filled(order="phi_phi", scales=False, rank=5, grid_size=2)
    assert [n for n, _ in model.blocks[0].attn.karat.named_parameters()] == ["a", "b", "a2", "b2"]
    assert model.blocks[0].attn.karat.a2.shape == (3, 17, 5, 2)


def test_universal_functions_are_blockwise_ones_that_are_equal():
    one, many = filled(universal=True), filled()
    state = {n: x for n, x in one.state_dict().items() if not n.startswith("karat")}
    for j in (0, 1):
        state |= {f"blocks.{j}.attn.{n}": x for n, x in one.state_dict().items()
                  if n.startswith("karat")}  # fmt: skip
    many.load_state_dict(state)
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(one(x), many(x))


def test_a_block_is_the_formula():
    model = filled(base="gelu", scales=True, softmax_heads=(1,))
    with torch.no_grad():
        for name in ("scale_base", "scale_sp"):
            getattr(model.blocks[0].attn.karat, name).mul_(torch.rand(2, 12, 17) + 0.5)
    x = torch.randn(2, 3, 64, 64)
    ports = ("q", "k", "v", "map", "heads")
    t = ll.trace(model, x, [f"blocks.0.attn:{port}" for port in ports])
    q, k, v, share, heads = (t[f"blocks.0.attn:{port}"].act for port in ports)
    scores, own = q @ k.mT / 8, model.blocks[0].attn.karat
    for learned, head in enumerate((0, 2)):
        m = torch.arange(1, 4)
        turned = scores[:, head, :, None, :, None] * m  # b n p q m
        phi = (own.a[learned] * turned.cos() + own.b[learned] * turned.sin()).sum(-1)
        beside = nn.functional.gelu(scores[:, head, :, None])
        phi = own.scale_base[learned] * beside + own.scale_sp[learned] * phi
        want = phi.sum(-1) @ own.W[learned].T
        torch.testing.assert_close(share[:, head], want, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(share[:, 1], scores[:, 1].softmax(-1))
    torch.testing.assert_close(share @ v, heads, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "hyper",
    [
        *({"basis": basis} for basis in BASES),
        *({"order": order} for order in ("phi_w", "phi_phi", "phi")),
        *({"base": base} for base in ("identity", "silu", "gelu")),
        {"simplex": True},
        {"scales": False, "rank": 3, "grid_size": 11},
    ],
    ids=str,
)
def test_every_switch_builds_and_trains(hyper):
    model = filled(**hyper).train()
    x = torch.randn(2, 3, 64, 64)
    model(x).logsumexp(-1).sum().backward()
    learned = {n: p.grad for n, p in model.named_parameters() if "blocks.0.attn.karat" in n}
    idle = {n for n, g in learned.items() if g is None}
    assert idle <= {n for n in learned if "scale_base" in n and "base" not in hyper}
    assert all(
        bool(g.isfinite().all()) and bool(g.any()) for g in learned.values() if g is not None
    )
    t = ll.trace(model.eval(), x, "blocks.1.attn:map")
    share = t["blocks.1.attn:map"].act
    assert (float(share.min()) < 0) != ("simplex" in hyper)


EPSILON = "lrp:epsilon,epsilon=1e-9"


@pytest.mark.parametrize(
    ("name", "hyper", "preset"),
    [
        ("karat_tiny_g3b", {}, EPSILON),
        ("karat_tiny_g3u", {"base": "silu", "softmax_heads": (0,)}, EPSILON),
        ("karat_tiny_g3b", {"order": "phi_phi", "basis": "rational"}, EPSILON),
        ("convit_tiny_karat_g3b", {"depth": 4, "local_up_to_layer": 2}, EPSILON),
        # steps from a map to its scores would give entries of a row what is not theirs
        ("karat_tiny_g3b", {}, "lrp:chefer"),
        ("karat_tiny_g3u", {"base": "silu", "softmax_heads": (0,)}, "lrp:chefer"),
    ],
)
def test_relevance_is_kept_where_biases_are_zero(name, hyper, preset):
    model = filled(name, **hyper).double()
    with torch.no_grad():
        for n, p in model.named_parameters():
            if n.endswith("bias") or n in ("pos_embed", "cls_token"):
                p.zero_()
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    books = ll.ledger(model, x, preset, target=ll.label(3))
    assert books.kept == pytest.approx(1.0, abs=1e-4)


def test_a_class_tokens_row_keeps_its_sign():
    model, x = filled(), torch.randn(1, 3, 64, 64)
    (found,) = ll.maps(model, x, "raw_attention")
    share = ll.trace(model, x, "blocks.1.attn:map")["blocks.1.attn:map"].act
    want = share.mean(1)[0, 0, 1:].reshape(4, 4)
    torch.testing.assert_close(found.values, want.to(found.values))
    assert want.min() < 0


def test_learned_maps_in_the_last_blocks_of_a_convit():
    for universal in (False, True):
        model = load("convit_tiny_karat_g3b", universal=universal, **CONVIT)
        x = torch.randn(2, 3, 64, 64)
        t = ll.trace(model, x, "blocks.*.attn:map")
        signed = [bool((value.act < 0).any()) for value in t.values()]
        assert signed == [False, False, True, True]
        model.train().set_grad_checkpointing()
        model(x).sum().backward()
        assert all(p.grad.any() for n, p in model.named_parameters() if n.endswith("karat.a"))
    with torch.device("meta"), no_init():
        counts = [
            sum(p.numel() for p in load(name, weights=None).parameters())
            for name in ("convit_tiny_karat_g3b", "convit_tiny")
        ]
    assert counts[0] - counts[1] == 2 * 4 * (2 * 3 + 3) * 12 * 197
    three = load("convit_tiny_karat_g3b", **{**CONVIT, "karat_blocks": 1})
    assert [hasattr(block.attn, "form") for block in three.blocks] == [False] * 3 + [True]


@pytest.mark.parametrize("name", ["karat_tiny_g3b", "convit_tiny_karat_g3b"])
@pytest.mark.parametrize("size", [(96, 96), (32, 128)])
def test_another_grid_of_tokens_is_told(name, size):
    model = load(name, weights=None, **(SMALL if name.startswith("karat") else CONVIT))
    with pytest.raises(ModelError, match=r"the learned maps are those of 4 x 4: give 64 x 64"):
        model(torch.randn(1, 3, *size))
    with pytest.raises(ModelError, match="learned maps of 17 tokens were given 16"):
        model.blocks[-1].attn(torch.randn(1, 16, 192))


def test_a_file_of_another_size_is_told(tmp_path):
    torch.save(filled().state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"karat\.a|pos_embed"):
        load("karat_tiny_g3b", tmp_path / "w.pth", **{**SMALL, "img_size": 128})


@pytest.mark.parametrize(
    ("hyper", "told"),
    [
        ({"rank": 0}, "must be at least 1"),
        ({"grid_size": 0}, "must be at least 1"),
        ({"basis": "furier"}, "did you mean 'fourier'"),
        ({"base": "relu"}, "no base 'relu'"),
        ({"order": "w"}, "no order 'w'"),
        ({"softmax_heads": (0, 1, 2)}, "leave one whose map is learned"),
        ({"softmax_heads": (3,)}, "of 3 heads"),
        ({"head_dim": 5, "embed_dim": 192}, "do not fit"),
        ({"img_size": 65}, "does not divide into patches of 16"),
    ],
)
def test_what_cannot_be_built_is_told(hyper, told):
    with pytest.raises(OptionError, match=told):
        load("karat_tiny_g3b", **{**SMALL, **hyper})


@pytest.mark.parametrize("count", [3, -1])
def test_learned_blocks_must_have_a_class_token(count):
    with pytest.raises(OptionError, match="without a class token"):
        load("convit_tiny_karat_g3b", **{**CONVIT, "karat_blocks": count})


def test_options_of_learned_maps_are_not_ignored():
    with pytest.raises(OptionError, match="give karat_blocks=2"):
        load("convit_tiny", weights=None, rank=5, **CONVIT)


def test_the_papers_letters_are_read():
    model = load("karat_tiny_g3b", **SMALL, r=7, G=2, H=2, head_dim=16, in_channels=1)
    assert model.blocks[0].attn.karat.a.shape == (2, 7, 17, 2)
    assert model(torch.randn(1, 1, 64, 64)).shape == (1, 10)


def test_paths_drop_in_training_alone():
    model, x = filled(drop_path=0.9), torch.randn(4, 3, 64, 64)
    assert [block.drop for block in model.blocks] == pytest.approx([0, 0.9])
    assert torch.equal(model(x), model(x))
    assert not torch.equal(model.train()(x), model(x))


def test_an_operator_alone_is_the_op():
    operator = filled(softmax_heads=(2,)).blocks[0].attn.karat
    q, k, v = torch.randn(3, 2, 3, 17, 8)
    held = dict(operator.named_parameters())
    torch.testing.assert_close(
        operator(q, k, v), kan_attention(q, k, v, **held, softmax_heads=(2,))
    )
