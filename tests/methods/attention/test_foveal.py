"""Foveal mass and the attention of one place, against maps that are summed by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import limelight as ll
from limelight.kernels.aggregated import aggregated_attention, aggregated_shares
from limelight.methods.attention.foveal import spread
from limelight.probe.errors import MethodError

GRID, POOL = (4, 6), (2, 3)
SMALL = {"img_size": 64, "embed_dims": (24, 48, 48, 48), "num_heads": (1, 2, 2, 2),
         "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2), "num_classes": 5}  # fmt: skip


class Foveal(nn.Module):
    """One head whose query and keys are all alike, so that only biases tell them apart."""

    def __init__(self, bias: torch.Tensor | None = None, table: float = 0.0) -> None:
        super().__init__()
        self.bias, self.table = bias, table

    def forward(self, x):
        tokens = F.avg_pool2d(x.mean(1, keepdim=True), 8).flatten(2).mT[:, None]  # b 1 24 1
        n, p = 24, 6
        ones = torch.ones(len(x), 1, n + p, 4)
        v = torch.cat([tokens, torch.zeros(len(x), 1, p, 1)], 2)
        table = torch.full((len(x), 1, n, 9), self.table)
        out = aggregated_attention(
            ones[:, :, :n], ones, v, grid=GRID, pool=POOL, pool_bias=self.bias, table=table
        )
        return out[:, 0, :, 0]


def measured(model: nn.Module, x: torch.Tensor, name: str) -> torch.Tensor:
    return ll.maps(model, x, name, sites=":map", target=lambda out: out.sum(1))[0].values


def test_foveal_mass_of_alike_keys_is_a_share_of_their_number():
    x = torch.randn(1, 3, 32, 48)
    cells = F.conv2d(torch.ones(1, 1, *GRID), torch.ones(1, 1, 3, 3), padding=1)
    want = (cells / (cells + 6)).mean()
    for table in (0.0, -0.7):  # what is added behind the softmax is no share of it
        found = measured(Foveal(table=table), x, "foveal_mass")
        torch.testing.assert_close(found, want.double()[None], rtol=1e-5, atol=0)
    far = torch.full((1, 24, 6), -torch.inf)
    found = measured(Foveal(far), x, "foveal_mass")
    torch.testing.assert_close(found, torch.ones(1, dtype=torch.float64))


def test_metrics_that_need_shares_on_a_grid_say_nothing_beside_pooled_keys():
    x = torch.randn(1, 3, 32, 48)
    for name in ("nonlocality", "attention_mass", "attention_entropy"):
        assert measured(Foveal(), x, name).isnan().all()


def test_every_head_and_depth_of_a_transnext():
    torch.manual_seed(0)
    model, x = ll.load("transnext_micro", weights=None, **SMALL), torch.randn(2, 3, 64, 64)
    maps = ll.maps(model, x, "foveal_mass")
    assert [str(m.site) for m in maps[:4]] == [f"block{n}.0.attn:map" for n in range(1, 5)]
    ports = ("q", "k", "v", "embedding", "scale", "local_bias", "pool_bias")
    path = "block2.0.attn"
    trace = ll.trace(model, x, [f"{path}:{port}" for port in ports])
    shares = aggregated_shares(
        **{port: trace[f"{path}:{port}"].act for port in ports}, grid=(8, 8), pool=(2, 2)
    )
    want = shares[..., :9].sum(-1).mean(-1).double()
    found = maps.where(site=f"{path}:map").stack()
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-6)
    assert maps.where(site="block4.0.attn:map").stack().isnan().all()  # attends to all tokens


def test_a_map_says_how_its_keys_lie_also_where_it_is_edited():
    model, x = ll.load("transnext_micro", weights=None, **SMALL), torch.randn(1, 3, 64, 64)
    site = "block2.0.attn:map"
    for edits in ({}, {site: lambda attention, _: attention}):
        with ll.Probe(model, grad=False) as probe:
            probe.watch(site)
            probe.edit(edits)
            probe(x)
            assert probe.trace[site].grids == ((8, 8), (2, 2))


def test_spreading_keeps_sums_and_gives_each_key_its_own_tokens():
    pooled = torch.zeros(1, 2, 3)
    pooled[0, 1, 2] = 8.0
    whole = spread(pooled, GRID)
    want = torch.zeros(1, 4, 6)
    want[:, 2:, 4:] = 2.0
    assert torch.equal(whole, want)
    uneven = spread(torch.rand(2, 3, 2), (7, 5))
    assert uneven.shape == (2, 7, 5)
    weights = torch.rand(1, 3, 2)
    torch.testing.assert_close(spread(weights, (7, 5)).sum(), weights.sum())
    tokens = torch.randn(1, 1, 7, 5)  # weights times means are spread weights times tokens
    means = F.adaptive_avg_pool2d(tokens, (3, 2))[0]
    torch.testing.assert_close((weights * means).sum(), (spread(weights, (7, 5)) * tokens[0]).sum())


def test_near_and_far_lie_in_one_picture():
    torch.manual_seed(0)
    model, x = ll.load("transnext_micro", weights=None, **SMALL), torch.randn(1, 3, 64, 64)
    (seen,) = ll.maps(model, x, "place_attention,row=0.25,column=1,layer=0")
    trace = ll.trace(model, x, "block1.0.attn:map")
    near, far = trace["block1.0.attn:map"].act[0, 0, 4 * 16 + 15].split([256, 4])
    quarters = far.reshape(2, 2).repeat_interleave(8, 0).repeat_interleave(8, 1)
    torch.testing.assert_close(seen.values, near.reshape(16, 16) + quarters / 64)
    assert near.count_nonzero() == near.reshape(16, 16)[3:6, 14:].count_nonzero() == 6


def test_a_place_of_plain_attention_is_a_row_of_its_map():
    torch.manual_seed(0)
    model, x = ll.load("deit_tiny", weights=None, img_size=64, depth=2), torch.randn(1, 3, 64, 64)
    (seen,) = ll.maps(model, x, "place_attention,row=0,column=1,layer=0,head=2")
    whole = ll.trace(model, x, "blocks.0.attn:map")["blocks.0.attn:map"].act
    torch.testing.assert_close(seen.values, whole[0, 2, 4, 1:].reshape(4, 4))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("layer=4", "attends 4 times: give -4 to 3"),
        ("layer=0,head=1", "has 1 heads"),
        ("row=1.2", "is no place"),
    ],
)
def test_what_is_not_there_is_told(options, told):
    model, x = ll.load("transnext_micro", weights=None, **SMALL), torch.randn(1, 3, 64, 64)
    with pytest.raises(MethodError, match=told):
        ll.maps(model, x, f"place_attention,{options}")


def test_tokens_on_no_grid_are_told():
    small = {
        "img_size": 64,
        "layers": (1, 1, 1),
        "embed_dims": (48, 96, 96),
        "num_heads": (3, 6, 6),
    }
    model = ll.load("volo_d1", weights=None, **small)
    with pytest.raises(MethodError, match=r"post_network\.1\.attn:map mixes lie on no grid"):
        ll.maps(model, torch.randn(1, 3, 64, 64), "place_attention")


def test_a_place_looks_where_queries_are_finer_than_keys():
    model = ll.load("litv2_s", weights=None, img_size=64, embed_dim=16, depths=(1, 1, 1, 1),
                    num_heads=(1, 1, 4, 4), alpha=0.5, num_classes=5)  # fmt: skip
    x, path = torch.randn(1, 3, 64, 64), "layers.2.blocks.0.attn.lofi"
    (value,) = ll.trace(model, x, sites=[f"{path}:map"]).values()
    found = ll.maps(model, x, "place_attention,row=0.8,column=0.3,layer=1,head=0")[0].values
    torch.testing.assert_close(found, value.act[0, 0, 3 * 4 + 1].unflatten(0, (2, 2)))
