"""A picture beside a picture: queries that targets name, and models that take two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import limelight as ll
from limelight.probe.errors import OptionError, TargetError
from limelight.reports import render
from limelight.reports.explanation.page_data import page_data

PLAIN = {"size": 8, "mean": 0.5, "std": 0.25}


class Embeds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).relu().mean((2, 3)))


class Compares(nn.Module):
    """sum_p u_p a_p b_p: how alike two pictures are."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.u = nn.Parameter(torch.rand(3, 8, 8))
        self.conv = nn.Conv2d(3, 3, 1)  # tells the channels of both

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (self.u * self.conv(a) * self.conv(b)).flatten(1).sum(1)[:, None]


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    draw = np.random.default_rng(0)
    paths = [tmp_path / f"{name}.png" for name in ("left", "right", "query")]
    for path in paths:
        Image.fromarray(draw.integers(0, 255, (8, 8, 3), np.uint8)).save(path)
    return paths


def test_a_query_has_the_map_of_its_own_similarity(photos: list[Path]) -> None:
    *samples, query = photos
    net = Embeds().eval()
    page = ll.explain(net, samples, ["gradient", "gradcam"], target=ll.similar(query), **PLAIN)
    assert page.partners == {"left": ("left: query",), "right": ("right: query",)}
    assert {m.target for m in page.maps} == {"similarity to query"}
    x, q = (ll.preprocess(net, paths, **PLAIN) for paths in (samples, query))
    with torch.no_grad():
        embedded, wanted = net(x), net(q)
    there = ll.maps(net, x, ["gradient", "gradcam"], target=ll.similar(wanted))
    back = ll.maps(
        net, q.expand(2, -1, -1, -1), ["gradient", "gradcam"], target=ll.similar(embedded)
    )
    for want, name in ((there, "{}"), (back, "{}: query")):
        for m in want:
            (got,) = page.maps.where(
                sample=name.format(("left", "right")[int(m.sample)]), method=m.method
            )
            torch.testing.assert_close(got.values, m.values)
            assert got.about.score == pytest.approx(m.about.score, abs=1e-6)
    for one, other in (("left", "left: query"), ("right", "right: query")):
        pair = [page.maps.where(sample=s)[0].about.score for s in (one, other)]
        assert pair[0] == pytest.approx(pair[1], abs=1e-6), "the score of both is the same"
    assert page.about.notes[-1].startswith("the maps of a query are those of its own similarity")


def test_a_query_lies_in_the_page_once(photos: list[Path]) -> None:
    *samples, query = photos
    page = ll.explain(Embeds().eval(), samples, "gradient", target=ll.similar(query), **PLAIN)
    data = page_data(page)
    names = [s["name"] for s in data["samples"]]
    assert names == ["left", "right", "left: query", "right: query"]
    assert [s.get("partners") for s in data["samples"]] == [[2], [3], None, None]
    text = render(page)
    assert text.count('src="data:image/webp') == 3
    assert text.count('class="thumb"') == 2
    assert "on 2 samples." in text
    assert '"same":2' in text


def test_several_queries_and_a_part(photos: list[Path]) -> None:
    class Parts(Embeds):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"pooled": super().forward(x), "twice": 2 * x.flatten(1)}

    sample, *queries = photos
    targets = [ll.similar(str(query), at="pooled") for query in queries]
    page = ll.explain(Parts().eval(), sample, "gradient", target=targets, **PLAIN)
    assert page.partners == {"left": ("left: right", "left: query")}
    assert {(m.sample, m.target) for m in page.maps} == {
        ("left", "similarity to right of pooled"),
        ("left", "similarity to query of pooled"),
        ("left: right", "similarity to right of pooled"),
        ("left: query", "similarity to query of pooled"),
    }


def test_a_model_of_two_pictures_shows_both(photos: list[Path], tmp_path: Path) -> None:
    rows = [{"a": photos[0].name, "b": photos[1].name}, {"a": photos[1].name, "b": photos[2].name}]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    listed = ll.samples(tmp_path / "pairs.jsonl", inputs={"a": "picture:a", "b": "picture:b"})
    net = Compares().eval()
    options: dict[str, Any] = {"target": 0, **PLAIN}
    both = ll.explain(net, listed, "gradient", sites=["input", "input.b"], **options)
    names = list(both.partners)
    assert both.partners == {name: (f"{name}: b",) for name in names}
    assert len(names) == 2
    assert {m.sample for m in both.maps} == {*names, *(f"{name}: b" for name in names)}
    one = ll.explain(net, listed, "gradient", sites="input", **options)
    assert {m.sample for m in one.maps} == set(names)
    assert {p.sample for p in one.photos} == {p.sample for p in both.photos}, "also without a map"


def test_where_a_query_cannot_be_embedded(photos: list[Path], tmp_path: Path) -> None:
    query = ll.similar(photos[2])
    with pytest.raises(TargetError, match=r"needs the model to embed a picture.*similar\(net"):
        ll.maps(Embeds().eval(), torch.rand(1, 3, 8, 8), "gradient", target=query)
    with pytest.raises(OptionError, match=r"these are no photos: give limelight.similar\(net"):
        ll.explain(nn.Linear(3, 2), inputs=torch.rand(1, 3), methods="gradient", target=query)
    rows = [{"a": photos[0].name, "b": photos[1].name}]
    (tmp_path / "pairs.jsonl").write_text(json.dumps(rows[0]))
    listed = ll.samples(tmp_path / "pairs.jsonl", inputs={"a": "picture:a", "b": "picture:b"})
    with pytest.raises(OptionError, match="takes the picture alone for no input"):
        ll.explain(Compares().eval(), listed, "gradient", target=query, **PLAIN)
