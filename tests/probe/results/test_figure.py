"""Figures hold the numbers of what they show, and print at the width of a column."""

from __future__ import annotations

import re
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import limelight as ll
from limelight.probe.errors import LimelightError, OptionError
from limelight.probe.results.figure import figure
from limelight.probe.results.map_panels import panel_of
from limelight.probe.results.panels import Bars, Heat, Lines
from limelight.reports.scoring.scores import Scores

go = pytest.importorskip("plotly.graph_objects")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def maps() -> ll.Maps:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return ll.maps(net, torch.randn(1, 3, 8, 12), ["gradcam", "input_x_gradient"], target=1)


def test_a_figure_holds_the_values_of_its_maps(maps):
    made = maps.figure()
    assert isinstance(made, go.Figure)
    for m, drawn in zip(maps, made.data, strict=True):
        np.testing.assert_array_equal(np.asarray(drawn.z, dtype=float), m.values.double().numpy())
    signed = made.data[1]
    assert signed.zmin == -signed.zmax < 0  # zero has one colour
    assert made.data[0].zmin >= 0
    words = [note.text for note in made.layout.annotations]
    assert "gradcam" in words[0]
    assert "class 1" in words[0]
    assert made.layout.yaxis.autorange == "reversed"  # rows go down


def test_every_kind_of_map_is_a_panel():
    def of(values, axes):
        return panel_of(ll.SaliencyMap(values, axes, "0", "class 1", "m", ll.Site("input")))

    assert isinstance(of(torch.randn(9), "t"), Lines)
    bars = of(torch.arange(50.0), "c")
    assert isinstance(bars, Bars)
    assert len(bars.names) == 40
    assert "40 strongest of 50" in bars.note
    assert bars.names[0] == "10"
    assert isinstance(of(torch.tensor(2.0), ""), Bars)
    tiles = of(torch.randn(4, 5, 6), "z y x")
    assert isinstance(tiles, Heat)
    assert tiles.even
    assert tiles.values.shape == (11, 13)
    assert figure([bars, tiles, of(torch.randn(9), "t")]).layout.height > 200


@pytest.mark.parametrize("ending", [".pdf", ".svg", ".png"])
@pytest.mark.parametrize(("width", "inches"), [("single", 3.3), ("double", 6.9), (4.5, 4.5)])
def test_a_figure_prints_at_the_width_of_a_column(maps, tmp_path, ending, width, inches):
    made, path = maps.figure(), tmp_path / f"figure{ending}"
    assert made.save(path, width=width) == path
    if ending == ".png":
        with Image.open(path) as picture:
            assert picture.width == round(inches * 300)
    elif ending == ".svg":
        assert f'width="{inches * 72:g}pt"' in path.read_text()
        assert "gradcam" in path.read_text()  # letters stay letters
    else:
        found = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", path.read_bytes())
        assert float(found[1]) == pytest.approx(inches * 72, abs=0.01)
        streams = re.findall(rb"stream\r?\n(.*?)endstream", path.read_bytes(), re.S)
        assert any(b"BT" in _plain(stream) for stream in streams)
    again = tmp_path / f"again{ending}"
    made.save(again, width=width)
    assert again.read_bytes() == path.read_bytes()
    made.save(path, width=width)  # over its own file


def _plain(stream: bytes) -> bytes:
    try:
        return zlib.decompress(stream)
    except zlib.error:
        return b""


def test_maps_save_figures_too_and_nothing_foreign_is_lost(maps, tmp_path):
    assert maps.save(tmp_path / "maps.pdf").read_bytes().startswith(b"%PDF")
    assert "<svg" in maps[0].figure().save(tmp_path / "map.svg").read_text()
    mine = tmp_path / "mine.svg"
    mine.write_text("<svg/>")
    with pytest.raises(OptionError, match="was not written by limelight"):
        maps.figure().save(mine)
    assert mine.read_text() == "<svg/>"
    maps.figure().save(mine, force=True)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"path": "x.jpg"}, "written as .pdf, .svg, .png"),
        ({"path": "x.pdf", "width": "wide"}, "a column is single or double"),
        ({"path": "x.pdf", "width": 0}, "1 to 40 inches"),
        ({"path": "x.pdf", "font": 1}, "3 to 30 points"),
    ],
)
def test_what_cannot_be_printed_is_told(maps, tmp_path, how, words):
    path = tmp_path / how.pop("path")
    with pytest.raises(OptionError, match=words):
        maps.figure().save(path, **how)
    assert not path.exists()


def test_many_maps_say_how_many_are_left_out(maps):
    made = ll.Maps([maps[0]] * 60).figure()
    assert len(made.data) == 48
    assert "12 of 60 panels are left out" in made.layout.annotations[47].text
    with pytest.raises(LimelightError, match="nothing was asked"):
        ll.Maps().figure()


def test_a_map_is_an_array_and_a_picture(maps):
    m = maps[1]
    np.testing.assert_array_equal(np.asarray(m), m.values.numpy())
    assert np.asarray(m, dtype="float16").dtype == np.float16
    assert m.to_pil().size == (12, 8)
    photo = Image.new("RGB", (24, 16), "white")
    bare, whole = m.overlay(photo, opacity=0), m.overlay(photo, opacity=1)
    assert bare.size == whole.size == (24, 16)
    assert bare.getcolors() == [(384, (255, 255, 255))]
    assert len(whole.getcolors()) > 5
    with pytest.raises(OptionError, match="from 0 to 1"):
        m.overlay(photo, opacity=2)
    series = ll.SaliencyMap(torch.zeros(3), "t", "0", "1", "m", ll.Site("input"))
    with pytest.raises(LimelightError, match="lie over a photo"):
        series.overlay(photo)
    assert len(repr(m)) < 160
    assert "<img" in m._repr_html_()


def test_a_ledger_draws_where_relevance_ends():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    books = ll.ledger(net, torch.randn(1, 4), "lrp:epsilon", target=1)
    made = books.figure()
    drawn = {bar.name: dict(zip(bar.y, bar.x, strict=True)) for bar in made.data}
    assert drawn["arrives"]["at the input"] == pytest.approx(books.arrived)
    for entry in books:
        if abs(entry.bias) > 0:
            assert drawn["biases"][f"{entry.op} {entry.place}"] == pytest.approx(entry.bias)
    assert f"{books.kept:.1%}" in made.layout.annotations[0].text
    assert len(repr(books)) < 80
    assert books._repr_html_().count("<tr") >= len(books)


def test_a_circuit_draws_its_heads():
    found = ll.circuit(ll.load("induction_2l"), "induction", ["attribution", "norm"], count=4)
    score, exact = found.figure("norm").data
    values = found.score("norm").values.reshape(2, 4)
    np.testing.assert_allclose(np.asarray(score.z, dtype=float), values.numpy())
    np.testing.assert_allclose(
        np.asarray(exact.z, dtype=float), found.truth.effects.reshape(2, 4).numpy()
    )
    assert len(repr(found)) < 120
    assert "<table" in found._repr_html_()


def test_scores_draw_means_with_intervals():
    rows = [
        {"sample": str(i), "target": f"class {i}", "asked": "top", "metric": "sparseness",
         "method": method, "site": site, "value": i + (method == "b") * 10.0}
        for i in range(3) for method in "ab" for site in ("x", "y")
    ]  # fmt: skip
    table = Scores(rows)
    assert isinstance(table[table["method"] == "a"], Scores)
    one, two = table.figure().data
    assert (one.name, two.name) == ("a", "b")
    assert list(one.x) == ["x", "y"]
    assert list(one.y) == [1.0, 1.0]
    assert list(two.y) == [11.0, 11.0]
    assert all(0 < high <= 1 for high in one.error_y.array)
    with pytest.raises(LimelightError, match="nothing was asked"):
        table.figure("pointing")


def test_traces_and_plans_show_themselves_in_a_notebook(maps):
    net = nn.Sequential(nn.Linear(4, 3))
    x = torch.randn(2, 4)
    assert "<pre>" in ll.trace(net, x, "0")._repr_html_()
    assert "forward" in ll.plan(net, x, "gradient")._repr_html_()
