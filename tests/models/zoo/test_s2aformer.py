"""S2AFormer has no golden case: it is held to the identities that its description implies."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import limelight as ll
from limelight.models import list_models
from limelight.models.layers import Attention
from limelight.models.zoo.s2aformer import StripAttention
from limelight.probe.errors import ModelError, OptionError, WeightsError

SMALL = {"embed_dims": (16, 32), "depths": (1, 2), "num_heads": (2, 4), "sr_ratios": (4, 1),
         "num_classes": 7}  # fmt: skip


def small(seed: int = 0, **hyper: object):
    torch.manual_seed(seed)
    return ll.load("s2aformer_mini", weights=None, **{**SMALL, **hyper})


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_rows_sum_to_one_over_the_reduced_places(x):
    """Scores cost h n^2 / reduction^2 products of one channel, whatever the width."""
    for dims in ((16, 32), (48, 96)):
        trace = ll.trace(small(embed_dims=dims), x, ["**:map", "**:q", "**:k"])
        shapes = {site.path: value.act.shape for site, value in trace.where("**:map").items()}
        assert shapes == {
            "stages.0.0.ssa": (2, 2, 256, 16),
            "stages.1.0.ssa": (2, 4, 64, 64),
            "stages.1.1.ssa": (2, 4, 64, 64),
        }
        for value in trace.where("**:map").values():
            torch.testing.assert_close(value.act.sum(-1), torch.ones(value.act.shape[:3]))
        assert {value.act.shape[-1] for value in trace.where("**:q").values()} == {1}
        assert {value.act.shape[-1] for value in trace.where("**:k").values()} == {1}


@pytest.mark.parametrize("qk_dim", [1, 3, (2, 5)])
def test_scores_have_the_rank_of_a_query(qk_dim, x):
    found = ll.maps(small(qk_dim=qk_dim), x, "logit_rank")
    first, *rest = [qk_dim] * 2 if isinstance(qk_dim, int) else qk_dim
    for site, want in (("stages.0.0.ssa:map", first), ("stages.1.1.ssa:map", *rest)):
        assert found.where(site=site).stack().unique().tolist() == [want]


def test_without_a_reduction_and_with_whole_queries_it_is_self_attention():
    torch.manual_seed(0)
    strip, plain = StripAttention(24, 4, 6, 1, 1e-5), Attention(24, 4, True, 0.0, 0.0)
    with torch.no_grad():
        for name in ("weight", "bias"):
            parts = [getattr(layer, name) for layer in (strip.q, strip.k, strip.v)]
            getattr(plain.qkv, name).copy_(torch.cat(parts))
            getattr(plain.proj, name).copy_(getattr(strip.proj, name))
        x = torch.randn(2, 24, 5, 7)
        want = plain(x.flatten(2).mT).mT.unflatten(2, (5, 7))
        torch.testing.assert_close(strip(x), want)


def test_strip_attention_by_its_formula():
    torch.manual_seed(0)
    layer = StripAttention(12, 3, 2, 2, 1e-5).eval()
    x = torch.randn(2, 12, 6, 4)
    with torch.no_grad():
        reduced = layer.reduce(x)
        assert reduced.shape == (2, 12, 3, 2)
        tokens, few = (y.flatten(2).mT for y in (x, reduced))
        q, k, v = (f(y).unflatten(2, (3, -1)).transpose(1, 2) for f, y in
                   ((layer.q, tokens), (layer.k, few), (layer.v, few)))  # fmt: skip
        out = (q @ k.mT * 2**-0.5).softmax(-1) @ v
        want = layer.proj(out.transpose(1, 2).flatten(2)).mT.unflatten(2, (6, 4))
        torch.testing.assert_close(layer(x), want)


def test_queries_and_keys_are_pictures(x):
    model = small(qk_dim=2)
    sites = [f"stages.0.0.ssa:{port}" for port in ("query", "key", "q", "k")]
    trace = ll.trace(model, x, sites)
    query, key, q, k = (trace[site].act for site in sites)
    assert query.shape == (2, 4, 16, 16)
    assert key.shape == (2, 4, 4, 4)
    assert torch.equal(query.flatten(2).unflatten(1, (2, 2)).mT, q)
    assert torch.equal(key.flatten(2).unflatten(1, (2, 2)).mT, k)
    found = ll.maps(model, x, "gradcam", sites="stages.0.0.ssa:query", target=ll.label(3))
    assert found[0].axes == "y x"
    assert found[0].values.shape == (16, 16)


def test_the_steps_of_a_block_add_up(x):
    steps = ("dwconv", "ssa", "lim", "mlp")
    own = "stages.1.1"
    sites = ["stages.1.0", *(f"{own}.{step}" for step in steps), own]
    trace = ll.trace(small(), x, sites)
    start, *parts, end = (trace[site].act for site in sites)
    torch.testing.assert_close(start + sum(parts), end)
    assert all(part.abs().max() > 1e-3 for part in parts)


def test_strides_norms_sizes_and_channels(x):
    whole = ll.load("s2aformer_mini", weights=None, in_channels=1, num_classes=5)
    shapes = []
    for embed in whole.patch_embeds:
        embed.register_forward_hook(lambda m, a, out: shapes.append(tuple(out.shape[1:])) or None)
    with torch.no_grad():
        assert whole(torch.randn(1, 1, 64, 96)).shape == (1, 5)
    assert shapes == [(32, 16, 24), (64, 8, 12), (128, 4, 6), (160, 2, 3)]
    first = small(head_norm="ln", mlp_ratio=(2.0, 3.0))
    assert isinstance(first.norm, torch.nn.LayerNorm)
    assert [stage[0].mlp.fc1.out_features for stage in first.stages] == [32, 96]
    assert first(x).shape == (2, 7)
    counts = {}
    for card in list_models("s2aformer_*"):
        with torch.device("meta"):
            model = ll.load(card.name, weights=None)
        counts[card.name[10:]] = sum(p.numel() for p in model.parameters()) / 1e6
        assert "reconstruction" in card.about
    assert counts["mini"] < counts["t"] < counts["xs"] < counts["s"] < counts["m"]


@pytest.mark.parametrize(
    ("hyper", "message"),
    [
        ({"num_heads": (3, 4)}, r"heads \(16 by 3\)"),
        ({"num_heads": (2,)}, "num_heads=.2. has 1 entries for 2 stages"),
        ({"qk_dim": (1, 1, 1)}, "qk_dim=.* has 3 entries"),
        ({"qk_dim": 0}, "must be at least 1"),
        ({"sr_ratios": (0, 1)}, "must be at least 1"),
        ({"mlp_ratio": (1.0,)}, "mlp_ratio=.* has 1 entries"),
        ({"embed_dims": (15, 32), "num_heads": (1, 4)}, "make it even"),
        ({"head_norm": "gn"}, "write 'bn' or 'ln'"),
    ],
)
def test_options_that_cannot_be(hyper, message):
    with pytest.raises(OptionError, match=message):
        small(**hyper)


def test_a_picture_or_a_file_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ModelError, match="cannot reduce its map of 15 x 16 4 times"):
        small()(torch.randn(1, 3, 60, 64))
    torch.save(small(embed_dims=(16, 48)).state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="of another shape"):
        ll.load("s2aformer_mini", tmp_path / "w.pth", **SMALL)


def test_checkpointing_and_paths(x):
    model = small(drop_path=0.5).train()
    assert [b.drop for stage in model.stages for b in stage] == [0, 0.25, 0.5]
    model = small().train()
    found = []
    for enable in (False, True):
        model.zero_grad()
        model.set_grad_checkpointing(enable)
        model(x).sum().backward()
        found.append(model.stages[0][0].ssa.q.weight.grad.clone())
    torch.testing.assert_close(*found)
