"""Where the tokens of a row lie on the picture: known from the ops that made them, else said."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import limelight as ll

METHODS = ["rollout", "raw_attention", "attention_gradcam", "generic_attention"]
GUESSED = "token grid by the picture's proportions: Grid(rows=2, columns=3, prefix=0)"


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 1, 4)).permute(2, 0, 3, 1, 4)
        return ((q @ k.mT).softmax(-1) @ v).squeeze(1)


class Patches(nn.Module):
    """Tokens whose sides may differ, so that their grid does not have the picture's proportions.

    before, after  learned tokens on either side of the patches
    lose           whether the tokens pass through numbers that no op names
    """

    def __init__(self, before: int = 0, after: int = 0, lose: bool = False, rows: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch_embed = nn.Conv2d(3, 4, (rows, 8), (rows, 8))
        self.before = nn.Parameter(torch.randn(1, before, 4))
        self.after = nn.Parameter(torch.randn(1, after, 4))
        self.attn, self.head = SelfAttention(), nn.Linear(4, 2)
        self.lose = lose

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).mT
        if self.lose:
            x = x.flatten().reshape(len(x), -1).sort(1)[0].reshape(x.shape)
        parts = [self.before.expand(len(x), -1, -1), x, self.after.expand(len(x), -1, -1)]
        x = torch.cat([part for part in parts if part.shape[1]], 1)
        return self.head((x + self.attn(x)).mean(1))


def rows(net: nn.Module, x: Tensor, method: str) -> list[ll.SaliencyMap]:
    return list(ll.maps(net.eval(), x, method, target=0))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("before", "after"), [(0, 0), (1, 0), (3, 0), (0, 2)])
def test_the_grid_of_the_patch_embedding(method: str, before: int, after: int) -> None:
    net, x = Patches(before, after), torch.randn(2, 3, 24, 24)
    maps = rows(net, x, method)
    assert all(m.axes == "y x" and m.values.shape == (6, 3) for m in maps)
    assert not any("proportions" in note for m in maps for note in m.about.notes)


def test_the_row_that_is_laid_out() -> None:
    """The class token's among its patches; tokens behind them are no places."""
    x = torch.randn(1, 3, 24, 24)
    for before, after in ((0, 0), (2, 0), (0, 1)):
        net = Patches(before, after)
        with ll.Probe(net) as probe:
            probe.watch("attn:map")
            probe(x)
            weights = probe.trace["attn:map"].act.detach()[0, 0]
        row = weights[0] if before else weights.mean(0)
        wanted = row[before : before + 18].reshape(6, 3)
        torch.testing.assert_close(rows(net, x, "raw_attention")[0].values, wanted)


def test_what_is_assumed_is_said_once() -> None:
    net, x = Patches(lose=True, rows=8), torch.randn(2, 3, 16, 24)
    for method in METHODS:
        for m in rows(net, x, method):
            assert m.values.shape == (2, 3)
            assert [note for note in m.about.notes if "token" in note] == [GUESSED], method


def test_tokens_on_no_grid_are_said_to_be_on_none() -> None:
    net, x = Patches(lose=True, before=1), torch.randn(1, 3, 24, 24)
    (m,) = rows(net, x, "rollout")
    assert m.axes == "n"
    assert m.values.shape == (19,)
    assert "19 tokens lie on no grid of the picture that is known: the last token's row" in (
        m.about.notes
    )


def test_pixels_of_patches_that_are_not_square_count_by_their_area() -> None:
    """A patch of 4 x 8 pixels is as wide as one of the same area, sqrt(32) pixels."""
    distance = {"distance": torch.tensor([[1.0, 3.0]])}
    heads = SimpleNamespace(grid=(2, 2), patch=(4, 8), statistics=lambda raw: distance)
    assert float(ll.use("nonlocality", unit="pixels")(heads)) == pytest.approx(2 * 32**0.5)
