"""Tiles that a neighbourhood visits: golden rows, the sheet's figures, every pair by hand."""

from __future__ import annotations

import pytest
import torch
from shared import golden

from limelight.kernels.errors import KernelError
from limelight.kernels.neighborhood import Axis, axes_of, simulate, tile_map
from limelight.kernels.neighborhood.axes import visible


def test_simulated_tiles_equal_the_golden_rows():
    case = golden("gna.simulator")
    for row in case.case["config"]["rows"]:
        axes = axes_of(
            row["shape"], row["kernel"], row["stride"], row.get("dilation", 1), row["causal"]
        )
        found, want = simulate(axes, row["q_tile"], row["kv_tile"]), row["result"]
        assert found.visited_tiles == want["visited_tiles"], row
        assert found.dense_tiles == want["dense_tiles"]
        assert found.block_sparse == want["fully_block_sparse"], row
        assert found.flop_speedup == pytest.approx(want["flop_speedup"])
        assert found.tile_speedup == pytest.approx(want["tile_speedup"])
        assert found.sparsity == pytest.approx(want["sparsity"])


def test_dense_attention_has_no_dilation_groups():
    axes = axes_of((100, 60), 5, dilation=(3, 7))
    found = simulate(axes, (8, 8), (16, 4))
    assert found.dense_tiles == 13 * 7 * 8 * 15
    assert found.tile_speedup == found.dense_tiles / found.visited_tiles


@pytest.mark.parametrize(
    ("grid", "kernel", "stride", "dilation", "causal", "q_tile", "kv_tile"),
    [
        ((37,), 7, 3, 2, False, (4,), (8,)),
        ((37,), 7, 7, 3, True, (8,), (4,)),
        ((12, 10), (4, 5), (2, 3), (1, 2), (True, False), (4, 2), (2, 4)),
        ((4, 6, 5), (2, 3, 5), (2, 1, 5), (2, 1, 1), False, (2, 2, 5), (1, 4, 2)),
    ],
)
def test_the_map_is_what_pairs_say(grid, kernel, stride, dilation, causal, q_tile, kv_tile):
    axes = axes_of(grid, kernel, stride, dilation, causal)
    tiles = [_tile_numbers(axes, tile) for tile in (q_tile, kv_tile)]
    pairs = visible(axes).double()
    rows, columns = (torch.nn.functional.one_hot(t).double() for t in tiles)
    seen, all_pairs = rows.T @ pairs @ columns, rows.sum(0)[:, None] * columns.sum(0)
    want = (seen > 0).int() + (seen == all_pairs).int()
    found = tile_map(axes, q_tile, kv_tile)
    assert torch.equal(found.int(), want)
    counts = simulate(axes, q_tile, kv_tile)
    assert counts.visited_tiles == int((want > 0).sum())
    assert counts.block_sparse == (not bool((want == 1).any()))


def _tile_numbers(axes: tuple[Axis, ...], tile: tuple[int, ...]) -> torch.Tensor:
    """The tile of every token: group by group along an axis, raster order over the axes."""
    numbers = torch.zeros(1, dtype=torch.long)
    for axis, side in zip(axes, tile, strict=True):
        order = [(c % axis.dilation, c // axis.dilation // side) for c in range(axis.length)]
        known = sorted(set(order))
        along = torch.tensor([known.index(place) for place in order])
        numbers = (numbers[:, None] * len(known) + along).flatten()
    return numbers


def test_tiles_that_cut_nothing_are_refused():
    axes = axes_of((8, 8), 3)
    for call in (simulate, tile_map):
        with pytest.raises(KernelError, match=r"q_tile=\(4,\) cannot cut 2 axes"):
            call(axes, (4,), (4, 4))
        with pytest.raises(KernelError, match=r"kv_tile=\(4, 0\) cannot cut"):
            call(axes, (4, 4), (4, 0))
