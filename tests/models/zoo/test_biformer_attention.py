"""BiFormer's mixers against their formulas, region by region."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limelight.models.zoo.biformer.attention import (
    POOLS,
    ConvStandIn,
    FullAttention,
    RoutedAttention,
)
from limelight.models.zoo.biformer.channels_first import FullAttention as FullNCHW
from limelight.models.zoo.biformer.channels_first import RoutedAttention as RoutedNCHW
from limelight.probe.errors import ModelError


def drawn(layer: nn.Module) -> nn.Module:
    """The layer in float64 with random weights and biases."""
    draw = torch.Generator().manual_seed(0)
    layer = layer.double()
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=draw) * (0.5 if p.ndim < 2 else 0.3))
    return layer


def tiles(x: Tensor, region: tuple[int, int]) -> list[Tensor]:
    """The regions of `y x c`, row by row."""
    return [part for row in x.split(region[0], 0) for part in row.split(region[1], 1)]


def attended(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float) -> Tensor:
    """Attention of tokens `n c`, head by head."""
    found = [
        (a @ b.T * scale).softmax(-1) @ c
        for a, b, c in zip(*(x.chunk(heads, -1) for x in (q, k, v)), strict=True)
    ]
    return torch.cat(found, -1)


def by_regions(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    region: tuple[int, int],
    layer: nn.Module,
    topk: int,
    there: tuple[int, int],
) -> Tensor:
    """Routed attention of maps `y x c`; regions are averaged over the places that are there."""
    pool = getattr(layer, "kv_down", nn.Identity())
    keys, values = (
        [pool(part.permute(2, 0, 1)[None])[0].flatten(1).T for part in tiles(x, region)]
        for x in (k, v)
    )
    means = [
        torch.stack([part.mean((0, 1)) for part in tiles(x[: there[0], : there[1]], region)])
        for x in (q, k)
    ]
    affinity = means[0] @ means[1].T
    out = torch.zeros_like(v)
    for r, part in enumerate(tiles(q, region)):
        best, chosen = affinity[r].topk(topk)
        weight = [1.0] * topk
        if getattr(layer, "soft", False):
            weight = list((best * layer.scale).softmax(-1))
        seen_k = torch.cat([w * keys[c] for w, c in zip(weight, chosen, strict=True)])
        seen_v = torch.cat([w * values[c] for w, c in zip(weight, chosen, strict=True)])
        found = attended(part.flatten(0, 1), seen_k, seen_v, layer.num_heads, layer.scale)
        tiles(out, region)[r].copy_(found.reshape(*part.shape[:2], -1))
    return out


def legacy(layer: RoutedAttention, x: Tensor) -> Tensor:
    """The routed layer of `y x c` by its formula."""
    height, width, n = x.shape[0], x.shape[1], layer.n_win
    x = F.pad(x, (0, 0, 0, -width % n, 0, -height % n))
    q, k, v = layer.qkv.qkv(x).split([layer.qkv.keys, layer.qkv.keys, x.shape[-1]], -1)
    region = (x.shape[0] // n, x.shape[1] // n)
    out = by_regions(q, k, v, region, layer, layer.router.topk, (x.shape[0], x.shape[1]))
    if isinstance(layer.lepe, nn.Conv2d):
        out = out + layer.lepe(v.permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    return layer.wo(out)[:height, :width]


@pytest.mark.parametrize(
    ("keys", "heads", "how"),
    [
        (12, 3, {}),
        (6, 2, {"scale": 0.7}),
        (12, 3, {"side_dwconv": 0, "output": False}),
        (12, 3, {"soft": True}),
        (12, 3, {"pool": POOLS["ada_avgpool"](2, 1)}),
        (12, 3, {"pool": POOLS["ada_maxpool"](1, 1), "soft": True}),
        (12, 3, {"pool": POOLS["avgpool"](1, 2)}),
        (12, 3, {"pool": POOLS["maxpool"](1, 2)}),
    ],
)
def test_routed_attention_region_by_region(keys, heads, how):
    how = {"n_win": 2, "topk": 3, "side_dwconv": 3, **how}
    layer = drawn(RoutedAttention(12, heads, keys, **how))
    x = torch.randn(2, 4, 6, 12, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        want = torch.stack([legacy(layer, one) for one in x])
        torch.testing.assert_close(layer(x), want)


def test_padding_before_the_projection():
    layer = drawn(RoutedAttention(8, 2, 8, n_win=3, topk=2, side_dwconv=5, auto_pad=True))
    x = torch.randn(1, 7, 8, 8, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        torch.testing.assert_close(layer(x)[0], legacy(layer, x[0]))
    layer.auto_pad = False
    with pytest.raises(ModelError, match="7 x 8 does not divide into 3 x 3"):
        layer(x)


@pytest.mark.parametrize(("side", "grid"), [(5, (6, 6)), (3, (7, 8)), (0, (5, 11)), (5, (2, 1))])
def test_refactored_routed_attention_region_by_region(side, grid):
    layer = drawn(RoutedNCHW(8, 2, 3, 2, side))
    x = torch.randn(1, 8, *grid, generator=torch.Generator().manual_seed(1)).double()
    region = tuple(max(length // 3, 1) for length in grid)
    with torch.no_grad():
        whole = layer.qkv_linear(x)[0].permute(1, 2, 0)
        rest = [-length % size for length, size in zip(grid, region, strict=True)]
        q, k, v = F.pad(whole, (0, 0, 0, rest[1], 0, rest[0])).chunk(3, -1)
        out = by_regions(q, k, v, region, layer, 2, grid)[: grid[0], : grid[1]].permute(2, 0, 1)
        if side:
            out = out + layer.lepe(whole.chunk(3, -1)[2].permute(2, 0, 1)[None])[0]
        torch.testing.assert_close(layer(x), layer.output_linear(out[None]))


@pytest.mark.parametrize("side", [0, 5])
def test_full_attention_adds_a_convolution_of_its_input(side):
    layer = drawn(FullAttention(8, 4, side))
    x = torch.randn(1, 3, 5, 8, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        q, k, v = layer.qkv(x[0].flatten(0, 1)).chunk(3, -1)
        out = attended(q, k, v, 4, 2**-0.5).reshape(x.shape)
        if side:
            out = out + layer.lepe(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        torch.testing.assert_close(layer(x), layer.proj(out))


def test_refactored_full_attention_adds_a_convolution_of_the_values():
    layer = drawn(FullNCHW(8, 4))
    x = torch.randn(1, 8, 3, 5, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        q, k, v = layer.qkv(x).chunk(3, 1)
        out = attended(*(part[0].flatten(1).T for part in (q, k, v)), 4, 2**-0.5)
        out = out.T.reshape(x.shape) + layer.lepe(v)
        torch.testing.assert_close(layer(x), layer.proj(out))
    assert layer.lepe.kernel_size == (5, 5)


def test_convolutions_stand_in():
    layer = ConvStandIn(8)
    assert [name for name, _ in layer.named_parameters()][::2] == [f"{n}.weight" for n in (1, 2, 3)]
    assert layer(torch.randn(2, 3, 4, 8)).shape == (2, 3, 4, 8)
