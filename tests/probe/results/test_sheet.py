"""Contact sheets: sizes, colours, captions, and bounds."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limelight.probe.errors import LimelightError, OptionError
from limelight.probe.results import colour_scales as colour
from limelight.probe.results import sheet
from limelight.probe.results.maps import Maps
from limelight.probe.results.saliency_map import SaliencyMap
from limelight.probe.results.sheet import plane
from limelight.probe.sites.site import Site


def one(
    values: torch.Tensor,
    axes: str = "y x",
    *,
    sample: str = "dog.jpg",
    method: str = "gradcam",
    site: str = "a",
) -> SaliencyMap:
    return SaliencyMap(values, axes, sample, "207", method, Site(site), ())


def pixels(picture: object) -> set[tuple[int, ...]]:
    return {tuple(p) for p in np.asarray(picture).reshape(-1, 3).tolist()}


def test_zero_is_neutral_in_the_diverging_scale() -> None:
    palette = colour.table("diverging")
    assert palette.shape == (255, 3)
    assert tuple(palette[127]) == (247, 247, 247)
    painted = colour.paint(np.array([[-3.0, 0.0, 1.0, 3.0]]))
    assert tuple(painted[0, 1]) == (247, 247, 247)
    assert tuple(painted[0, 0]) == tuple(palette[0])
    assert tuple(painted[0, 3]) == tuple(palette[254])
    assert painted[0, 2, 0] > painted[0, 2, 2], "a positive value leans to red"


@pytest.mark.parametrize("scale", ["sequential", "grey"])
def test_lightness_only_rises(scale: str) -> None:
    lightness = colour.oklab(colour.table(scale))[:, 0]
    assert np.all(np.diff(lightness) > -2e-3)
    assert lightness[-1] - lightness[0] > 0.7


def test_lightness_of_the_diverging_scale_peaks_at_zero() -> None:
    lightness = colour.oklab(colour.table("diverging"))[:, 0]
    assert np.all(np.diff(lightness[:128]) > -2e-3)
    assert np.all(np.diff(lightness[127:]) < 2e-3)


def test_a_known_map_gives_known_pixels() -> None:
    palette = colour.table("sequential")
    painted = colour.paint(np.array([[0.0, 1.0], [0.5, np.nan]]))
    assert painted.tolist() == [
        [palette[0].tolist(), palette[254].tolist()],
        [palette[127].tolist(), list(colour.NO_NUMBER)],
    ]
    picture = sheet.png(Maps([one(torch.tensor([[0.0, 1.0], [0.5, float("nan")]]))]), cell=40)
    found = pixels(picture)
    for ink in (palette[0], palette[254], palette[127], colour.NO_NUMBER):
        assert tuple(int(c) for c in ink) in found


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(), min_size=1, max_size=9))
def test_any_numbers_can_be_painted(numbers: list[float]) -> None:
    with np.errstate(all="raise", under="ignore"):
        painted = colour.paint(np.array([numbers]))
    assert painted.shape == (1, len(numbers), 3)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9))
def test_steps_keep_values_to_half_a_step(numbers: list[float]) -> None:
    values = np.array([numbers])
    lo, hi, _ = colour.span(*colour.extremes(values) or (0, 0))
    back = lo + colour.steps(values, lo, hi) * (hi - lo) / 254
    assert np.abs(back - values).max() <= (hi - lo) / 508 + 1e-9


def test_sheet_has_a_cell_for_each_map() -> None:
    maps = [
        one(torch.rand(4, 4), sample=s, method=m, site=p)
        for s in ("x", "y")
        for m in ("a", "b")
        for p in ("1", "2")
    ]
    picture = sheet.png(Maps(maps), cell=100)
    assert picture.size == (96 + 4 * 110 + 20, 40 + 2 * 125 + 35)
    wrapped = sheet.png(Maps(maps), columns=2, cell=100)
    assert wrapped.size == (96 + 2 * 110 + 20, 2 * (40 + 2 * 125) + 35)


def test_tokens_make_a_strip_and_leading_axes_make_tiles() -> None:
    assert plane(one(torch.arange(3.0), "n")).shape == (1, 3)
    assert plane(one(torch.tensor(2.0), "")).shape == (1, 1)
    tiles = plane(one(torch.ones(3, 2, 2), "h q k"))
    assert tiles.shape == (5, 5)
    assert np.isfinite(tiles).sum() == 12
    for values, axes in ((torch.arange(9.0), "n"), (torch.rand(2, 3, 3), "h q k")):
        assert sheet.png(Maps([one(values, axes)])).width > 160


@pytest.mark.parametrize(
    ("axes", "shape", "size"),
    [
        ("t", (50,), (100, 25)),
        ("c", (3,), (100, 25)),
        ("c t", (3, 50), (100, 25)),
        ("f t", (40, 10), (25, 100)),
        ("y x", (2, 50), (100, 4)),
        ("z y x", (4, 6, 6), (100, 100)),
        ("c z y x", (2, 2, 3, 3), (100, 100)),
    ],
)
def test_a_picture_of_each_kind_of_places(axes, shape, size) -> None:
    m = one(torch.rand(shape, generator=torch.Generator().manual_seed(0)), axes)
    picture = sheet._picture(m)
    assert sheet._size(m, picture, 100) == size
    assert sheet.png(Maps([m]), cell=100).height == 40 + 125 + 35
    assert "<img" in sheet.html(Maps([m]))


def test_of_many_slices_nine_are_drawn_the_strongest_in_them() -> None:
    values = torch.zeros(40, 5, 6)
    values[17, 2, 3] = -4.0
    for axes in ("z y x", "t y x"):
        m = one(values, axes)
        shown = sheet.sliced(m)
        assert shown.values.shape == (9, 5, 6)
        assert shown.values.min() == -4
        assert sheet.caption(m) == f"-4 .. 0, 9 of 40 along {axes[0]}"
    assert sheet.sliced(one(values, "h q k")).values.shape == values.shape
    assert sheet.caption(one(values[:9], "z y x")) == "constant 0"
    assert plane(one(values, "z y x")).size > plane(shown).size, "pages draw all of them"


def test_a_slice_is_painted_in_the_range_of_the_whole() -> None:
    values = torch.zeros(40, 2, 2)
    values[20], values[0, 0, 0] = 1.0, 0.5
    found = pixels(sheet._picture(one(values, "z y x")))
    palette = colour.table("sequential")
    assert {tuple(palette[0]), tuple(palette[254])} <= found


def test_a_long_series_keeps_its_peak_when_it_is_drawn_small() -> None:
    values = torch.zeros(4000)
    values[1234] = 1.0
    strip = (130, 110, 290, 150)  # below the heading, right of the label, a quarter as high as wide
    assert len(pixels(sheet.png(Maps([one(torch.zeros(4000), "t")])).crop(strip))) == 1
    assert len(pixels(sheet.png(Maps([one(values, "t")])).crop(strip))) > 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (torch.tensor([[-0.25, 1.5]]), "-0.25 .. 1.5"),
        (torch.zeros(2, 2), "constant 0"),
        (torch.full((2, 2), float("nan")), "no number"),
        (torch.zeros(0, 2), "empty"),
    ],
)
def test_captions_print_the_range(values: torch.Tensor, words: str) -> None:
    assert sheet.caption(one(values)) == words
    assert words in sheet.html(Maps([one(values)]))
    sheet.png(Maps([one(values)]))


def test_big_sheets_stay_bounded_and_say_so() -> None:
    maps = Maps(
        one(torch.rand(3, 3), sample=str(s), site=str(p)) for s in range(90) for p in range(20)
    )
    picture = sheet.png(maps, cell=60)
    assert picture.width * picture.height < 30_000_000
    page = sheet.html(maps)
    assert len(page) < 400_000
    assert "1640 of 1800 maps are left out" in page
    wide = sheet.html(Maps(one(torch.rand(2, 2), site=str(p)) for p in range(900)))
    assert len(wide) < 400_000
    assert "740 of 900 maps are left out" in wide


def test_notebook_of_large_noise_is_small() -> None:
    maps = Maps(one(torch.randn(224, 224), site=str(p)) for p in range(60))
    page = maps._repr_html_()
    assert len(page) < 400_000
    assert "maps are left out" in page


def test_notebook_escapes_names() -> None:
    evil = "<script>alert('x')</script>\" onload='y'"
    page = sheet.html(Maps([one(torch.rand(2, 2), sample=evil, method=evil, site=evil)]))
    assert "<script" not in page
    assert "onload='y'" not in page
    assert not re.search(r"https?://", page)


def test_two_maps_under_one_label_are_both_drawn() -> None:
    page = sheet.html(Maps([one(torch.rand(2, 2)), one(torch.rand(2, 2))]))
    assert page.count("<img") == 2
    assert "gradcam (2)" in page


def test_odd_names_do_not_stop_a_sheet() -> None:
    for name in ("", "\udcff", "\n\n", "犬" * 400):
        sheet.png(Maps([one(torch.rand(2, 2), sample=name)]))
        sheet.html(Maps([one(torch.rand(2, 2), sample=name)]))


def test_nothing_and_nonsense_are_refused() -> None:
    with pytest.raises(LimelightError, match="no maps"):
        sheet.png(Maps())
    assert "No maps" in Maps()._repr_html_()
    with pytest.raises(OptionError, match="cell=9999"):
        sheet.png(Maps([one(torch.rand(2, 2))]), cell=9999)
