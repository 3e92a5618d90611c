"""A batch as arguments: what belongs to a sample is taken with it, what all share stays whole."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import limelight as ll
from limelight.probe.engine.batch import Batch, chunks
from limelight.probe.errors import LimelightError, MethodError


class Looks(nn.Module):
    """A classifier that weighs its channels by rows of a table which all samples share."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, image: Tensor, table: Tensor, scale: Tensor) -> Tensor:
        gain = (table.sum(0) * scale)[:, None, None]
        return self.head((self.conv(image).relu() * gain).mean((2, 3)))


X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
TABLE = torch.rand(7, 4, generator=torch.Generator().manual_seed(2))
SCALE = torch.tensor(3.0)


def test_only_tensors_as_long_as_the_batch_are_taken_by_sample() -> None:
    rows = torch.arange(4)
    part = Batch.of((X, {"table": TABLE, "rows": rows}, SCALE)).take([2, 0, 2])
    image, given, scale = part.args
    assert torch.equal(image, X[[2, 0, 2]])
    assert given["table"] is TABLE
    assert given["rows"].tolist() == [2, 0, 2]
    assert scale is SCALE
    assert part.index == (2, 0, 2)


@pytest.mark.parametrize(
    "method", ["gradcam", "smoothgrad,n=3", "occlusion,window=4,stride=2", "rise,n=7"]
)
def test_shared_inputs_reach_every_part_whole(method: str) -> None:
    net = Looks().eval()
    sites = "conv" if method == "gradcam" else None
    whole, split = (
        ll.maps(net, (X, TABLE, SCALE), method, sites=sites, target=1, batch=n) for n in (4, 1)
    )
    torch.testing.assert_close(whole.stack(), split.stack())


def test_a_shared_input_shorter_than_the_batch_stays_whole() -> None:
    short = TABLE[:2]
    pair = Batch.of((X, short)).take([3, 1])
    assert pair.args[1] is short
    assert pair.take([0]).args[1] is short


def test_many_inputs_belong_to_one_sample_or_to_as_many() -> None:
    copies = torch.zeros(5, 3, 8, 8)
    batch = Batch.of((X, torch.arange(4)))
    moved = batch.take([2]).with_x(copies)
    assert moved.args[0] is copies
    assert moved.args[1].tolist() == [2] * 5
    with pytest.raises(MethodError, match="5 inputs were given for a batch of 4 samples"):
        batch.with_x(copies)


def test_what_holds_no_sample() -> None:
    with pytest.raises(LimelightError, match="the input holds no sample"):
        Batch.of(SCALE)


def test_chunks_cover_all_places_once() -> None:
    assert [list(part) for part in chunks(5, 2)] == [[0, 1], [2, 3], [4]]


@given(st.integers(0, 50), st.integers(1, 20))
def test_chunks_cover_every_place_once_in_order(count, size):
    parts = chunks(count, size)
    assert [place for part in parts for place in part] == list(range(count))
    assert all(0 < len(part) <= size for part in parts)
    assert all(len(part) == size for part in parts[:-1])


@given(st.data())
def test_samples_are_taken_with_all_that_is_theirs(data):
    count = data.draw(st.integers(1, 5))
    shared = data.draw(st.booleans())
    ids = torch.arange(count)
    x, table = torch.randn(count, 2), torch.randn(7, count if not shared else 3)
    batch = ll.inputs(x, {"ids": ids, "table": table}, shared=["1.table"])
    for _ in range(2):  # taking from what was taken
        places = data.draw(st.lists(st.integers(0, len(batch) - 1), min_size=1, max_size=6))
        before, batch = batch, batch.take(places)
        given_x, (given_ids, given_table) = batch.args[0], batch.args[1].values()
        assert torch.equal(given_x, before.args[0][places])
        assert torch.equal(given_ids, before.args[1]["ids"][places])
        assert given_table is table
        assert batch.index == tuple(before.index[p] for p in places)
