"""What masks keep of attention: closed forms, controls of equal size, maps without a mask."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.kernels.attention import attention_map
from limelight.methods.attention import connectivity
from limelight.methods.attention.masks import mask_recall
from limelight.probe.attribution import Heads
from limelight.probe.errors import MethodError
from limelight.probe.sites import Site
from limelight.probe.trace import MapRows, Value

SMALL = {"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 3, "reduce_n_factor": 2}


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def heads(share: Tensor, seen: Tensor, **more: object) -> Heads:
    """A record of attention whose map without its mask is known."""
    keys = torch.eye(share.shape[-1]).to(share).expand(*share.shape[:2], -1, -1)
    given = {"q": share.log(), "k": keys, "v": keys, "mask": seen}
    held = {name: Value(Site("", name), x, None) for name, x in given.items()}
    op = MapRows(attention_map, {**held, "scale": 1.0})
    shape = tuple(share.shape)
    return Heads(Site("", "map"), nn.Identity(), op, shape, op=op, **more)  # type: ignore[arg-type]


def test_masks_of_equal_size_by_hand():
    """A class token and a row of four patches, each of which sees two keys."""
    share = draw(1, 2, 5, 5).softmax(-1)
    seen = torch.zeros(1, 2, 5, 5, dtype=torch.bool)
    seen[..., 0, :] = True  # the class token's row is not counted
    seen[..., 1:, 3:] = True
    own = heads(share, seen, grid=(1, 4), prefix=1)
    want = share[..., 1:, 3:].sum((-1, -2)) / 4
    torch.testing.assert_close(mask_recall(own), want)
    torch.testing.assert_close(mask_recall(own, mask="random"), torch.full((1, 2), 0.4).double())
    nearest = torch.stack([share[..., i, 0] + share[..., i, i] for i in range(1, 5)]).mean(0)
    torch.testing.assert_close(mask_recall(own, mask="local"), nearest)


def test_the_nearest_of_a_grid_are_taken_row_by_row():
    share = draw(1, 1, 6, 6).softmax(-1)
    seen = torch.zeros(1, 1, 6, 6, dtype=torch.bool)
    seen[..., :3] = True
    near = {0: (0, 1, 3), 1: (0, 1, 2), 2: (1, 2, 5), 3: (0, 3, 4), 4: (1, 3, 4), 5: (2, 4, 5)}
    want = sum(share[0, 0, i, list(keys)].sum() for i, keys in near.items()) / 6
    found = mask_recall(heads(share, seen, grid=(2, 3)), mask="local")
    torch.testing.assert_close(found[0, 0], want)
    assert mask_recall(heads(share, seen), mask="local").isnan().all()


def test_recall_of_a_model_is_that_of_its_ports():
    torch.manual_seed(0)
    model = ll.load("sparsifiner_small", weights=None, attn_keep_rate_list=(0.25, 1.0), **SMALL)
    x = torch.randn(2, 3, 64, 64)
    names = ["mask_recall", "mask_recall:random", "mask_recall:local"]
    maps = ll.maps(model, x, names)
    trace = ll.trace(model, x, ["blocks.0.attn:q", "blocks.0.attn:k", "blocks.0.attn:mask"])
    q, k, mask = (trace[f"blocks.0.attn:{port}"].act for port in ("q", "k", "mask"))
    share = (q @ k.mT * 16**-0.5).softmax(-1)
    want = (share * mask)[:, :, 1:].sum(-1).mean(-1).double()
    own, random, local = (maps.where(method=m, site="blocks.0.attn:map").stack() for m in names)
    torch.testing.assert_close(own, want)
    torch.testing.assert_close(random, torch.full((2, 3), 5 / 17).double())
    assert ((local > 0) & (local < 1)).all()
    for name in names:  # where everything is seen, everything is kept
        whole = maps.where(method=name, site="blocks.1.attn:map").stack()
        torch.testing.assert_close(whole, torch.ones(2, 3).double())
    free = ll.load("deit_tiny", weights=None, img_size=64, depth=1)
    assert ll.maps(free, x, "mask_recall")[0].values.isnan().all()


def test_the_connectivity_of_a_patch_beside_its_softmax():
    torch.manual_seed(0)
    model = ll.load("sparsifiner_small", weights=None, **SMALL)
    x = torch.randn(2, 3, 64, 64)
    found = connectivity(model, x, "blocks.1.attn", 6)
    ports = {port: f"blocks.1.attn:{port}" for port in ("q", "k", "mask", "map")}
    trace = ll.trace(model, x, list(ports.values()))
    q, k, mask, behind = (trace[site].act for site in ports.values())
    assert torch.equal(found.seen, mask[:, :, 6])
    assert found.seen.sum(-1).unique().tolist() == [5]
    torch.testing.assert_close(found.softmax, (q @ k.mT / 4).softmax(-1)[:, :, 6])
    torch.testing.assert_close(found.map, behind[:, :, 6])
    assert not found.map[~found.seen].any()
    picture = found.picture("softmax")
    assert picture.shape == (2, 3, 4, 4)
    torch.testing.assert_close(picture[..., 1, 1], found.softmax[..., 6])
    with pytest.raises(MethodError, match="token 17 was asked for"):
        connectivity(model, x, "blocks.1.attn", 17)
    with pytest.raises(MethodError, match="behind no boolean mask"):
        connectivity(
            ll.load("deit_tiny", weights=None, img_size=64, depth=1), x, "blocks.0.attn", 0
        )


class Plain(nn.Module):
    """Torch's fused attention behind a mask."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, x: Tensor) -> Tensor:
        q = x[:, None]
        return nn.functional.scaled_dot_product_attention(q, q, q, self.mask).mean((1, 2))


def test_masks_of_torchs_fused_attention_count_and_biases_do_not():
    x, mask = draw(2, 5, 3), draw(5, 5) > 0
    found = ll.maps(Plain(mask), x, "mask_recall", sites=":map", target=0).stack()
    want = ((x @ x.mT * 3**-0.5).softmax(-1) * mask).sum(-1).mean(-1)
    torch.testing.assert_close(found, want[:, None], rtol=1e-5, atol=1e-6)
    biased = Plain(torch.zeros(5, 5, dtype=torch.float64).masked_fill(~mask, -torch.inf))
    assert ll.maps(biased, x, "mask_recall", sites=":map", target=0).stack().isnan().all()
