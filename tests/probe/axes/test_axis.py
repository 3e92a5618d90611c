"""Dimensions keep their names through every reshape: a value is read as what it was made of."""

from __future__ import annotations

from math import prod

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limelight.probe.axes.axis import (
    dimension,
    dimensions,
    joined,
    length,
    names_of,
    reshaped,
    resized,
    root,
    sliced,
)
from limelight.probe.axes.layout import layout


def shape_of(dims) -> list[int]:
    return [length(dim) for dim in dims]


PRIMES = {1: [1], 2: [2], 3: [3], 4: [2, 2], 6: [2, 3]}


@st.composite
def moves(draw) -> tuple[list[int], list[tuple[str, list[int]]]]:
    """A shape `b c y x`, and views and permutations that mix none of its factors."""
    shape = [draw(st.sampled_from([1, 2, 3]))]
    shape += [draw(st.sampled_from([2, 4, 6])) for _ in range(3)]
    steps, now = [], [PRIMES[size] for size in shape]
    for _ in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["permute", "split", "merge", "one"]))
        i = draw(st.integers(0, len(now) - 1))
        if kind == "permute":
            order = draw(st.permutations(range(len(now))))
            steps.append(("permute", list(order)))
            now = [now[k] for k in order]
            continue
        if kind == "split":
            cut = draw(st.integers(0, len(now[i])))
            now = [*now[:i], now[i][:cut] or [1], now[i][cut:] or [1], *now[i + 1 :]]
        elif kind == "merge" and i:
            now = [*now[: i - 1], now[i - 1] + now[i], *now[i + 1 :]]
        elif kind == "one":
            now = [*now[:i], [1], *now[i:]]
        steps.append(("view", [prod(factors) for factors in now]))
    return shape, steps


@settings(max_examples=300, deadline=None)
@given(moves())
def test_whatever_is_split_moved_and_merged_is_read_as_it_was(made) -> None:
    shape, steps = made
    x = torch.arange(torch.Size(shape).numel(), dtype=torch.float64).reshape(shape)
    dims, value = dimensions(shape, ("b", "c", "y", "x")), x
    for kind, how in steps:
        if kind == "permute":
            value, dims = value.permute(how), tuple(dims[i] for i in how)
        else:
            value, dims = value.reshape(how), reshaped(dims, how)
        assert shape_of(dims) == list(value.shape)
    plan = layout(dims)
    assert plan is not None
    want = [name for name in plan.axes.split() if name != "n"]
    assert sorted(want) == ["x", "y"]
    read = plan.canonical(value)
    if plan.axes != "y x":
        read = read.transpose(2, 3)
    assert torch.equal(read, x)


def test_heads_become_channels_again_and_windows_rows() -> None:
    x = dimensions((2, 5, 12), ("b", "n", "c"))
    heads = reshaped(x, (2, 5, 3, 4))
    assert [root(dim[0].axis).name for dim in heads] == ["b", "n", "c", "c"]
    moved = (heads[0], heads[2], heads[1], heads[3])
    back = reshaped((moved[0], moved[2], moved[1], moved[3]), (2, 5, 12))
    assert names_of(back) == "b n c"
    assert back[2][0].axis is x[2][0].axis


def test_a_view_that_mixes_dimensions_forgets_their_names() -> None:
    mixed = reshaped(dimensions((2, 3, 4), ("b", "c", "t")), (4, 6))
    assert shape_of(mixed) == [4, 6]
    assert "c" not in names_of(mixed).split()
    assert names_of(reshaped(dimensions((2, 3), ("b", "c")), (3, 2))) == "? ?"


def test_a_batch_of_one_is_not_lost_in_a_view() -> None:
    x = dimensions((1, 5, 8), ("b", "n", "c"))
    flat = reshaped(x, (5, 8))
    assert names_of(flat) == "n c"
    assert names_of(reshaped(flat, (1, 5, 8))) == "b n c"
    assert names_of(reshaped(dimensions((1, 1, 8), ("b", "n", "c")), (1, 8))) == "b c"


def test_a_new_dimension_of_one_step_has_no_name_and_harms_none() -> None:
    """Channel attention: `b c` seen as `b 1 c` and back."""
    pooled = dimensions((2, 6), ("b", "c"))
    row = reshaped(pooled, (2, 1, 6))
    assert names_of(row) == "b ? c"
    assert names_of(reshaped(row, (2, 6, 1))) == "b c ?"
    assert names_of(reshaped(row, (2, 6))) == "b c"


def test_parts_one_after_another_are_found_again() -> None:
    grid = dimensions((3, 4), ("y", "x"))
    tokens = (*grid[0], *grid[1])
    row = joined([(None, 1), (tokens, 12), (None, 2)])
    assert length(row) == 15
    assert sliced(row, 1, 13) == tokens
    assert sliced(row, 0, 15) is row
    assert length(sliced(row, 1, 15)) == 14
    assert sliced(sliced(row, 1, 15), 0, 12) == tokens
    again = joined([(row, 15), (None, 1)])
    assert sliced(again, 1, 13) == tokens
    assert names_of((sliced(row, 2, 9),)) == "n"


def test_more_or_fewer_places_are_the_same_axis() -> None:
    rows = dimension(8, "y")
    assert resized(rows, 8) is rows
    assert resized(rows, 4)[0].axis is rows[0].axis
    windows = reshaped((rows,), (2, 4))
    folded = (*windows[1], *windows[0])
    assert root(resized(folded, 3)[0].axis) is rows[0].axis


def test_names_in_words() -> None:
    b, y, x, other = (dimension(2, name) for name in ("b", "y", "x", ""))
    assert names_of((b, (*y, *x), other)) == "b n ?"
    assert names_of(((*b, *y),)) == "b*y"


def test_empty_dimensions_are_new() -> None:
    assert shape_of(dimensions((0, 3), ("b",))) == [0, 3]
