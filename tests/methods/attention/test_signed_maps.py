"""Negative mass and rank of maps in closed form; statistics that signed maps do not have."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import limelight as ll
from limelight.kernels.long_convolution import long_convolution
from limelight.methods.attention.locality import attention_entropy
from limelight.methods.attention.signed_maps import map_rank, negative_mass, rank, row_sum
from limelight.models.registry import load
from limelight.probe.attribution import Heads
from limelight.probe.errors import MethodError
from limelight.probe.sites import Site


def heads(share: torch.Tensor) -> Heads:
    """The attention of a map that is known."""
    return Heads(Site("x", "map"), nn.Identity(), lambda s: share[:, :, s], tuple(share.shape))


def test_negative_mass_is_a_mean_of_rows():
    share = torch.zeros(1, 2, 3, 4)
    share[0, 0] = torch.tensor([[1.0, -1.0, 0, 2], [0.5, 0.5, 0, 0], [-3.0, -1.0, 0, 0]])
    share[0, 1, 0] = torch.tensor([-1.0, 3.0, 0, 0])  # its other rows are empty
    want = torch.tensor([[(0.25 + 0 + 1) / 3, 0.25]], dtype=torch.float64)
    torch.testing.assert_close(negative_mass(heads(share)), want)
    assert negative_mass(heads(torch.zeros(1, 1, 2, 2))).isnan().all()


def test_many_rows_are_read_in_blocks():
    share = torch.ones(2, 1, 600, 3)
    share[:, :, 300:, 0] = -1
    torch.testing.assert_close(
        negative_mass(heads(share)), torch.full((2, 1), 1 / 6, dtype=torch.float64)
    )


def test_row_sums_are_those_of_the_scores_and_their_bias():
    torch.testing.assert_close(
        row_sum(heads(torch.arange(1200.0).reshape(1, 1, 600, 2))),
        torch.full((1, 1), 1199.0, dtype=torch.float64),
    )
    model = load("sigmoid_attention", weights=None, d=8, heads=2, vocab=9, attn_bias=-(5.0**0.5))
    x = torch.zeros(1, 6, dtype=torch.long)
    for kind in ("q", "k"):
        torch.nn.init.zeros_(model.blocks[0].attn.get_submodule(f"{kind}_norm").weight)
    (found,) = ll.maps(model, x, "row_sum", target=ll.token(1, -1))
    want = 3.5 * torch.tensor(-(5.0**0.5), dtype=torch.float64).sigmoid()  # 1, 2, .. 6 keys
    torch.testing.assert_close(found.values.double().flatten(), want.expand(2))
    soft = load("vit_base_patch16_224", weights=None, img_size=32, depth=1, dim=16, heads=2)
    (found,) = ll.maps(soft, torch.randn(1, 3, 32, 32), "row_sum")
    torch.testing.assert_close(found.values, torch.ones_like(found.values))


def test_rank_is_a_count_of_singular_values():
    values = torch.tensor([3.0, 2.0, 1.0, 0.0]).square()
    whole = values.sum()
    for share, want in ((0.5, 1), (float((values[:2]).sum() / whole) - 1e-6, 2), (0.999, 3)):
        assert rank(torch.tensor([3.0, 2.0, 1.0, 0.0]), share) == want
    assert rank(torch.zeros(4)) == 0
    draw = torch.Generator().manual_seed(0)
    left, right = (torch.linalg.qr(torch.randn(9, 5, generator=draw))[0] for _ in range(2))
    share = (left * torch.tensor([4.0, 3.0, 2.0, 1.0, 0.5])) @ right.T
    assert map_rank(heads(share[None, None]), share=1 - 1e-9) == 5
    assert map_rank(heads(share[None, None]), share=0.95) == 3  # 29 / 30.25 = .9587


def test_softmax_has_no_negative_mass_and_keeps_its_statistics():
    torch.manual_seed(0)
    model, x = load("deit_tiny", weights=None, img_size=64, depth=2), torch.randn(1, 3, 64, 64)
    found = ll.maps(model, x, ["negative_mass", "map_rank", "attention_entropy"])
    assert all((m.values == 0).all() for m in found.where(method="negative_mass"))
    assert all(m.values.isfinite().all() for m in found)
    assert not any("negative" in note for m in found for note in m.about.notes)


def test_signed_maps_have_no_distribution_and_say_so():
    torch.manual_seed(0)
    small = {"img_size": 64, "depth": 2, "softmax_heads": (1,)}
    model, x = load("karat_tiny_g3b", **small), torch.randn(2, 3, 64, 64)
    names = ["negative_mass", "map_rank", "attention_entropy", "nonlocality", "attention_mass"]
    found = ll.maps(model, x, names)
    for m in found:
        if m.method == "negative_mass":
            assert m.values[[0, 2]].min() > 0
            assert m.values[1] == 0
        elif m.method == "map_rank":
            assert (m.values >= 1).all()
        else:
            assert m.values.isnan().tolist() == [True, False, True]
            assert "negative weights" in m.about.notes[-1]
    with pytest.raises(MethodError, match=r"'blocks\.0\.attn' has negative weights"):
        ll.maps(model, x, "rollout")
    assert ll.maps(model, x, "rollout:mean,normalise=false")[0].values.isfinite().all()


def test_rows_that_add_up_to_something_else_have_no_entropy():
    share = torch.full((1, 3, 4, 5), 0.2)
    share[0, 1, 2] *= 0.5  # one row of the second head
    share[0, 2, 1] = 0.0  # a query that attends to nothing
    found = attention_entropy(heads(share))
    even = torch.log(torch.tensor(5.0))
    torch.testing.assert_close(
        found, torch.stack([even, torch.tensor(torch.nan), even * 3 / 4])[None], equal_nan=True
    )
    whole = attention_entropy(heads(share.bfloat16()[:, :1]))  # whose rows add up to 1.0009
    assert whole.isfinite().all()


class Filter(nn.Module):
    """A long convolution of positive taps, whose map is no attention."""

    def __init__(self) -> None:
        super().__init__()
        self.taps = nn.Parameter(torch.rand(2, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        v = x.unflatten(-1, (2, 2)).transpose(1, 2)
        return long_convolution(v, self.taps).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("method", ["attention_entropy", "attention_entropy,normalised=true"])
def test_a_convolution_has_no_entropy_and_says_so(method):
    torch.manual_seed(0)
    net, x = nn.Sequential(Filter(), nn.Linear(4, 2)).eval(), torch.randn(2, 6, 4)
    found = ll.maps(net, x, method, sites="0", target=ll.token(0))
    assert len(found) == 2
    for m in found:
        assert m.values.isnan().all()
        assert m.about.notes[-1] == (
            "rows of the map do not add up to one: they are no distributions"
        )
