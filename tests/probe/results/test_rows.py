"""Maps as rows: what each form keeps, and that both come back through one converter."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from limelight.probe.results.map_values import About
from limelight.probe.results.rows import READABLE, map_columns, map_of_row, row_of_map
from limelight.probe.results.saliency_map import SaliencyMap
from limelight.probe.sites.site import Site
from limelight.reports.runs.store import schema

ABOUT = About("net", options=(("n", "16"),), score=1.5, of_class=3, kept=0.5)


def one(values: torch.Tensor, axes: str = "y x") -> SaliencyMap:
    site = Site("blocks.3.attn", "heads", 1, 6, "b h n d")
    return SaliencyMap(values, axes, "dog.jpg", "207", "normgrad", site, (0, 0, 32, 48), ABOUT)


def through_a_table(m: SaliencyMap, precision: str) -> SaliencyMap:
    """A map as a row that Arrow has held."""
    table = pa.Table.from_pylist([row_of_map(m, precision)], pa.schema(map_columns(precision)))
    return map_of_row(table.to_pylist()[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_wide_forms_lose_nothing(dtype):
    values = torch.tensor([[1.5, -math.inf, math.nan], [1e30, 0.0, -2.25]]).to(dtype)
    back = through_a_table(one(values), "float64" if dtype == torch.float64 else "float32")
    assert back.values.dtype == dtype
    torch.testing.assert_close(back.values, values, rtol=0, atol=0, equal_nan=True)
    assert (back.about, back.extent, back.axes) == (ABOUT, (0, 0, 32, 48), "y x")
    assert back.site == one(values).site
    assert back.site.axes == "b h n d"


@given(
    size=st.floats(1e-30, 1e30), seed=st.integers(0, 99), shape=st.sampled_from([(), (3,), (2, 5)])
)
def test_the_compact_form_keeps_eleven_bits_of_the_largest_value(size, seed, shape):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size
    m = one(values, " ".join("yxz"[: len(shape)]))
    back = through_a_table(m, "float16")
    largest = values.abs().max().item()
    assert back.values.dtype == torch.float32
    assert (back.values - values).abs().max().item() <= largest * 2**-11
    assert str(back.site) == str(m.site)
    assert (back.sample, back.target, back.method) == ("dog.jpg", "207", "normgrad")


def test_the_compact_form_scales_by_finite_values_only():
    row = row_of_map(one(torch.tensor([[4.0, math.nan, -math.inf, -8.0]])), "float16")
    assert (row["lo"], row["hi"], row["scale"]) == (-8, 4, 8)
    np.testing.assert_array_equal(row["values"], np.float16([0.5, np.nan, -np.inf, -1]))
    none = row_of_map(one(torch.tensor([[math.nan]])), "float16")
    assert (none["lo"], none["hi"], none["scale"]) == (None, None, 0)
    assert through_a_table(one(torch.zeros(1, 2)), "float16").values.tolist() == [[0, 0]]


def test_rows_have_the_columns_of_their_form():
    m = one(torch.ones(2, 3))
    for precision in ("float16", "float32", "float64"):
        assert set(row_of_map(m, precision)) == set(map_columns(precision))
    assert set(READABLE) < set(map_columns("float32"))
    extra = set(schema().names) - set(map_columns("float16"))
    assert extra == {
        *("index", "source", "label", "y", "x", "crop", "class", "score", "kept", "error")
    }
    for name, kind in map_columns("float16").items():
        assert schema().field(name).type == kind


def test_a_shape_that_does_not_fit_is_an_error():
    row = row_of_map(one(torch.ones(2, 3)), "float16")
    with pytest.raises(RuntimeError):
        map_of_row({**row, "shape": [7, 7]})
    assert map_of_row({**row, "shape": [3, 2]}).values.shape == (3, 2)
