"""Windows by index arithmetic: tiles, dilated grids, halos, strides."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from limelight.kernels import windows
from limelight.kernels.errors import KernelError
from limelight.kernels.windows import Window


def test_tiles_are_contiguous():
    found = Window("block", (2, 3), (4, 6)).query_index()
    numbers = torch.arange(24).reshape(2, 2, 2, 3).permute(0, 2, 1, 3)
    assert torch.equal(found, numbers.reshape(4, 6))


def test_a_grid_takes_tokens_far_apart():
    found = Window("grid", (2, 3), (4, 6)).query_index()
    numbers = torch.arange(24).reshape(2, 2, 3, 2).permute(1, 3, 0, 2)
    assert torch.equal(found, numbers.reshape(4, 6))


def test_a_halo_equals_unfolding_with_zeros():
    window = Window("halo", (4, 4), (8, 12), halo=2)
    numbers = torch.arange(1.0, 97.0).reshape(1, 1, 8, 12)
    want = F.unfold(numbers, 8, padding=2, stride=4)[0].T.long() - 1
    assert torch.equal(window.key_index(), want)
    assert window.key_size == (8, 8)


def test_a_stride_thins_the_queries():
    window = Window("halo", (4, 4), (8, 12), halo=1, stride=2)
    assert window.query_grid == (4, 6)
    assert torch.equal(window.query_index(), Window("block", (2, 2), (4, 6)).query_index())
    assert window.key_index().shape == (6, 36)


@pytest.mark.parametrize("window", [
    Window("block", (2, 3), (4, 6)),
    Window("grid", (2, 3), (4, 6)),
    Window("halo", (4, 4), (8, 12), 1, 2),
])  # fmt: skip
def test_each_query_has_one_place(window):
    queries, (at, local) = window.query_index(), window.place()
    assert torch.equal(queries[at, local], torch.arange(queries.numel()))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("tile", (2, 2), (4, 4)), "'block', 'grid' or 'halo'"),
        (("block", (3, 2), (4, 4)), "4 x 4 tokens does not divide"),
        (("block", (2, 2), (4, 4), 1), "only halo windows"),
        (("halo", (3, 3), (6, 6), 1, 2), "stride of 2 does not divide"),
    ],
)
def test_what_cannot_be_is_told(arguments, told):
    with pytest.raises(KernelError, match=told):
        Window(*arguments)


def test_tables_are_remembered_by_device_and_not_without_end(monkeypatch):
    monkeypatch.setattr(windows, "_kept", {})
    window = Window("block", (2, 3), (4, 6))
    assert window.query_index() is window.query_index()
    assert window.key_index(torch.device("meta")).is_meta
    assert len(windows._kept) == 2
    for side in range(1, windows.MOST_TABLES + 10):
        Window("block", (1, 1), (side, 1)).place()
    assert len(windows._kept) == windows.MOST_TABLES
    assert torch.equal(window.query_index(), Window("block", (2, 3), (4, 6)).query_index())
