"""Maps: picked, stacked, resized, tabulated and printed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import limelight as ll
from limelight.probe.errors import LimelightError
from limelight.probe.results.map_values import About


def one(method="gradcam", site="layer1.0", sample="0", target="class 1", size=(2, 3), start=0.0):
    values = torch.arange(size[0] * size[1]).reshape(size) - 2.0 + start
    return ll.SaliencyMap(
        values, "y x", sample, target, method, ll.Site(site), (0.0, 0.0, 8.0, 12.0), About(seed=3)
    )


MAPS = ll.Maps(
    [
        one(),
        one(method="lrp:eps"),
        one(site="layer1.1"),
        one(site="layer2.0", size=(4, 6)),
        one(sample="dog.png", target="daisy (985)", start=5.0),
    ]
)


@pytest.mark.parametrize(
    ("asked", "places"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"method": "lrp*"}, [1]),
        ({"site": "layer1.*"}, [0, 1, 2, 4]),
        ({"site": "layer?.0"}, [0, 1, 3, 4]),
        ({"site": ll.Site("layer1.1")}, [2]),
        ({"sample": "dog*"}, [4]),
        ({"target": "daisy*"}, [4]),
        ({"method": "gradcam", "site": "**.0", "sample": "0"}, [0, 3]),
        ({"method": "nothing"}, []),
    ],
)
def test_where(asked, places):
    assert list(MAPS.where(**asked)) == [MAPS[i] for i in places]


def test_an_indexed_site_is_another_site():
    head = ll.SaliencyMap(
        torch.zeros(2, 2), "y x", "0", "t", "m", ll.Site("attn", "heads", index=1)
    )
    maps = ll.Maps([head])
    assert len(maps.where(site="attn:heads.1")) == 1
    assert len(maps.where(site="attn:heads.0")) == 0


def test_sequence():
    assert len(MAPS) == 5
    assert isinstance(MAPS[1:3], ll.Maps)
    assert list(MAPS[1:3] + MAPS[:1]) == [MAPS[1], MAPS[2], MAPS[0]]
    doubled = MAPS[:1].each(lambda m: ll.SaliencyMap(m.values * 2, m.axes, "", "", "", m.site))
    assert torch.equal(doubled[0].values, MAPS[0].values * 2)


def test_stack_and_resize():
    assert MAPS[:3].stack().shape == (3, 2, 3)
    with pytest.raises(LimelightError) as error:
        MAPS.stack()
    assert str(error.value) == (
        "5 maps of shapes [(2, 3), (4, 6)] do not stack; pick one site with where(site=...) or "
        "call resize() first"
    )
    assert MAPS.resize().stack().shape == (5, 8, 12)
    assert MAPS.resize((4, 4)).stack().shape == (5, 4, 4)
    nearest = MAPS[0].resize((4, 6), mode="nearest").values
    assert torch.equal(nearest, MAPS[0].values.repeat_interleave(2, 0).repeat_interleave(2, 1))


@pytest.mark.parametrize(
    ("axes", "shape", "size", "line"),
    [
        ("t", (4,), 12, (12,)),
        ("f t", (4, 6), (8, 3), (8, 3)),
        ("z y x", (2, 4, 3), (5, 8, 6), (5, 8, 6)),
        ("t z y x", (3, 2, 4, 3), (6, 5, 8, 6), (6, 5, 8, 6)),
        ("c t", (2, 4), 12, (2, 12)),
        ("c t y x", (2, 2, 4, 3), (5, 8, 6), (2, 5, 8, 6)),
    ],
)
def test_resizing_is_linear_along_each_axis(axes, shape, size, line):
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    found = ll.SaliencyMap(values, axes, "0", "t", "m", ll.Site("a")).resize(size)
    assert found.values.shape == line
    want = values.double().numpy()
    for axis, (old, new) in enumerate(zip(shape, line, strict=True)):
        at = ((np.arange(new) + 0.5) * old / new - 0.5).clip(0, old - 1)
        low = np.floor(at).astype(int)
        high, part = np.minimum(low + 1, old - 1), at - low
        part = part.reshape(-1, *[1] * (len(shape) - axis - 1))
        want = want.take(low, axis) * (1 - part) + want.take(high, axis) * part
    np.testing.assert_allclose(found.values.numpy(), want, rtol=1e-4, atol=1e-6)
    assert found.axes == axes


@pytest.mark.parametrize(
    ("axes", "shape", "extent"),
    [("t", (4,), (0, 12)), ("z y x", (2, 4, 3), (0, 0, 0, 4, 8, 9)), ("c t", (2, 4), (2, 14))],
)
def test_a_map_takes_the_size_of_what_it_covers(axes, shape, extent):
    m = ll.SaliencyMap(torch.rand(shape), axes, "0", "t", "m", ll.Site("a"), extent)
    count = len(extent) // 2
    covered = [round(extent[count + i] - extent[i]) for i in range(count)]
    assert list(m.resize().values.shape[-count:]) == covered
    assert ll.Maps([m]).resize(covered)[0].values.equal(m.resize().values)


def test_tokens_and_features_keep_their_number():
    for axes in ("n", "c"):
        tokens = ll.SaliencyMap(torch.zeros(3), axes, "0", "t", "m", ll.Site("a"))
        assert tokens.resize() is tokens.resize(3) is tokens
        with pytest.raises(LimelightError, match=f"in space and time can be resized, not '{axes}'"):
            tokens.resize(4)


def test_one_number_has_no_size():
    number = ll.SaliencyMap(torch.tensor(2.0), "", "0", "t", "gradcam", ll.Site("a"))
    assert number.resize() is number
    with pytest.raises(LimelightError, match="'gradcam' at a, which is one number without places"):
        number.resize(4)


def test_a_size_needs_a_number_for_each_axis():
    m = ll.SaliencyMap(torch.zeros(3, 4), "f t", "0", "t", "m", ll.Site("a"))
    with pytest.raises(
        LimelightError,
        match=r"size \(4,\) was asked of a map over 'f t'; give one number for each of f, t",
    ):
        m.resize(4)
    with pytest.raises(LimelightError, match="does not say which part of the input it covers"):
        m.resize()


def test_values_and_axes_agree():
    with pytest.raises(LimelightError) as error:
        ll.SaliencyMap(torch.zeros(2, 3), "n", "0", "t", "gradcam", ll.Site("a"))
    assert str(error.value) == (
        "a map of 'gradcam' at a has shape (2, 3), but axes 'n'; give one axis a dimension"
    )
    assert MAPS[0].signed
    assert not MAPS[4].signed


def test_table():
    table = MAPS.to_pandas()
    assert list(table.columns) == [
        "sample", "target", "method", "site", "axes", "shape", "lo", "hi", "values", "extent",
        "about",
    ]  # fmt: skip
    assert len(table) == 5
    row = table.iloc[3]
    assert (row["site"], row["shape"], row["lo"], row["hi"]) == ("layer2.0", [4, 6], -2.0, 21.0)
    assert row["values"].tolist() == MAPS[3].values.flatten().tolist()
    assert json.loads(row["about"])["seed"] == 3
    assert len(ll.Maps().to_pandas()) == 0


def test_text():
    lines = str(MAPS).splitlines()
    assert lines[0].split() == ["method", "site", "target", "sample", "axes", "size", "range"]
    assert len(lines) == 6
    assert "layer2.0" in lines[4]
    assert "4 x 6" in lines[4]
    assert "-2 .. 21" in lines[4]
    assert not any(line.endswith(" ") for line in lines)
    assert repr(MAPS) == "Maps(5 maps of gradcam, lrp:eps)"
    assert repr(ll.Maps()) == "Maps(0 maps of nothing)"
