"""Shapes in an explanation: where they lie, which of them a target reads, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign import import_foreign, import_torchvision
from pages import data_of, picture
from PIL import Image
from torch import Tensor, nn

import limelight as ll
from limelight.probe.errors import OptionError
from limelight.probe.results.maps import Maps
from limelight.probe.results.saliency_map import SaliencyMap
from limelight.probe.sites import Site, detections
from limelight.reports import Explanation, Photo, render
from limelight.reports.explanation.contents import Shapes
from limelight.reports.explanation.page_data import page_data

PLAIN = {"size": 16, "resize": 16, "interpolation": "nearest", "mean": 0.0, "std": 1.0}


class Bright(nn.Module):
    """A detector: a box around the bright pixels, scored by their mean, and one on all."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        return [self.found(one) for one in x.mean(1)]

    def found(self, grey: Tensor) -> dict[str, Tensor]:
        bright = grey >= grey.max().clamp(max=0.5)
        rows, columns = bright.nonzero().unbind(1)
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        boxes = torch.tensor([[float(edge) for edge in box], [0.0, 0.0, 16.0, 16.0]])
        scores = torch.stack([grey[bright].mean(), grey.mean()]) * self.scale
        return {"boxes": boxes, "scores": scores, "labels": torch.tensor([1, 0])}


def second(output: list[dict[str, Tensor]]) -> Tensor:
    return torch.stack([part["scores"][1] for part in output])


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """32 rows and 64 columns, bright in columns 24 to 36 and rows 4 to 20."""
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[4:20, 24:36] = 255
    Image.fromarray(pixels).save(tmp_path / "lamp.png")
    return tmp_path / "lamp.png"


def explained(photo: Any, target: Any = second, **options: Any) -> Explanation:
    return ll.explain(
        Bright(), photo, "gradient", target=target, **{"output": "boxes", **PLAIN, **options}
    )


def shapes_in(page: Explanation, name: str = "lamp") -> dict[str, Any]:
    found: dict[str, Any] = next(s for s in page_data(page)["samples"] if s["name"] == name)[
        "shapes"
    ]
    return found


def test_boxes_lie_where_resize_and_crop_put_what_they_show(photo: Path) -> None:
    page = explained(photo, labels=["room", "lamp"])
    found = shapes_in(page)
    assert found["crop"] == [0, 16, 32, 48], "half the size, columns 16 to 48 of the file"
    lamp, room = found["drawn"]
    assert lamp == {"kind": "box", "points": [[4, 2], [10, 10]], "label": "lamp", "score": 1.0}
    assert room["points"] == [[0, 0], [16, 16]]
    assert room["score"] == pytest.approx(48 / 256)
    bright = np.asarray(page.photos[0].image)[..., 0] > 0
    (left, top), (right, bottom) = lamp["points"]
    assert bright[int(top) : int(bottom), int(left) : int(right)].all()
    assert bright.sum() == (right - left) * (bottom - top)


def test_relative_shapes_are_shares_of_the_picture(photo: Path) -> None:
    def read(output: Any) -> list[list[ll.Shape]]:
        corners = torch.tensor([[0.5, 0.25, 0.25, 0.5]])
        return [ll.Shape.boxes(corners, form="cxcywh", relative=True) for _ in output]

    found = shapes_in(explained(photo, output=read))["drawn"]
    assert found == [{"kind": "box", "points": [[6, 0], [10, 8]], "label": "", "score": None}]


@pytest.mark.parametrize(
    ("target", "places"),
    [
        (second, [1]),
        (ll.label(0, at="0.scores"), [0]),
        (ll.label(1, at="0.scores"), [1]),
        (lambda out: torch.stack([part["scores"].sum() for part in out]), [0, 1]),
        (lambda out: torch.stack([part["boxes"][0, 2] - part["boxes"][0, 0] + 0 * part["scores"][1]
                                  for part in out]), [0]),
    ],
)  # fmt: skip
def test_the_explained_ones_are_those_whose_numbers_the_target_reads(
    photo: Path, target: Any, places: list[int]
) -> None:
    page = explained(photo, target)
    (name,) = {m.target for m in page.maps}
    assert list(page.shapes["lamp"].read[name]) == places
    assert shapes_in(page)["read"] == {"0": places}


def test_every_sample_and_target_has_its_own(tmp_path: Path, photo: Path) -> None:
    other = tmp_path / "other.png"
    Image.open(photo).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(other)

    def apart(output: list[dict[str, Tensor]]) -> Tensor:
        order = torch.tensor([0, 1, 0])
        return torch.stack([p["scores"][k] for p, k in zip(output, order, strict=False)])

    page = explained([photo, other], [apart, second])
    assert page.shapes["lamp"].read == {"apart": (0,), "second": (1,)}
    assert page.shapes["other"].read == {"apart": (1,), "second": (1,)}
    assert shapes_in(page, "other")["drawn"][0]["points"] == [[6, 2], [12, 10]]


class Dense(nn.Module):
    """Two levels of scores and of sides, `b c y x`, as dense detectors have them."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList([nn.Conv2d(3, 6, 4, 4), nn.Conv2d(3, 6, 8, 8)])

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        out = [level(x) for level in self.levels]
        return {"scores": [o[:, :2] for o in out], "boxes": [o[:, 2:].exp() for o in out]}


def decoded(output: dict[str, list[Tensor]]) -> list[list[ll.Shape]]:
    """A box at every place of every level, the distance to its sides given there."""
    found: list[list[ll.Shape]] = [[] for _ in output["scores"][0]]
    for scores, sides, stride in zip(output["scores"], output["boxes"], (4, 8), strict=True):
        for i, shapes in enumerate(found):
            for y, x in np.ndindex(*scores.shape[2:]):
                best = scores[i, :, y, x].sigmoid().max(0)
                at, side = torch.tensor([x + 0.5, y + 0.5]) * stride, sides[i, :, y, x]
                corners = torch.stack([at - side[:2], at + side[2:]])
                shapes.append(ll.Shape(corners, label=int(best.indices), score=best.values))
    return found


def test_a_place_of_a_dense_detector_is_its_box(photo: Path) -> None:
    torch.manual_seed(0)
    net = Dense().eval()
    targets = [ll.box(1, 1, 0, "left", at="boxes"), ll.box(1, 1, 0, "bottom", at="boxes")]
    page = ll.explain(net, photo, "gradient", target=targets, output=decoded, **PLAIN)
    assert set(page.shapes["lamp"].read.values()) == {(16 + 2,)}
    best = page.shapes["lamp"].shapes[5].label
    page = ll.explain(net, photo, "gradient", target=ll.box(0, 1, 1, best, at="scores"),
                      output=decoded, **PLAIN)  # fmt: skip
    assert list(page.shapes["lamp"].read.values()) == [(5,)]


def test_parts_follow_their_shape_and_too_many_are_counted() -> None:
    corners = torch.rand(400, 4).sort(1).values * 30
    boxes = ll.Shape.boxes(corners, torch.linspace(0, 1, 400))
    line = ll.Shape(torch.tensor([[0.0, 0.0], [9.0, 9.0]]), "line", of=399)
    lost = ll.Shape(torch.tensor([[0.0, 0.0]]), "points", of=50)
    shapes = Shapes([*boxes, line, lost], {"yes": (1,)})
    m = SaliencyMap(torch.rand(4, 4), "y x", "s", "yes", "gradient", Site("", "in"))
    page = Explanation(Maps([m]), (Photo("s", picture(0, 32)),), shapes={"s": shapes})
    found = page_data(page)["samples"][0]["shapes"]
    assert len(found["drawn"]) == 300 + 1 + 1
    assert found["left_out"] == 402 - 302
    assert found["drawn"][0]["score"] == 1.0
    assert found["drawn"][300]["score"] == pytest.approx(1 / 399), "what a target reads is kept"
    assert (found["drawn"][301]["kind"], found["drawn"][301]["of"]) == ("line", 0)
    assert len(render(page)) < 160_000


def test_numbers_that_are_none_are_kept_from_the_page() -> None:
    corners = torch.tensor([[float("nan"), 0.0, float("inf"), 4.0]])
    shapes = Shapes(ll.Shape.boxes(corners, torch.tensor([float("nan")]), [7]))
    page = Explanation(Maps(), (Photo("s", picture(0, 32)),), shapes={"s": shapes})
    (box,) = data_of(render(page))["samples"][0]["shapes"]["drawn"]
    assert box == {"kind": "box", "points": [[0, 0], [0, 4]], "label": "class 7", "score": None}


def test_a_family_or_a_card_tells_without_being_asked(photo: Path) -> None:
    class Told(Bright):
        pass

    @ll.adapter
    def told(model: nn.Module) -> ll.Adapter | None:
        return ll.Adapter("told", shapes=detections) if isinstance(model, Told) else None

    page = ll.explain(Told(), photo, "gradient", target=second, **PLAIN)
    assert len(page.shapes["lamp"].shapes) == 2
    assert ll.explain(Bright(), photo, "gradient", target=second, **PLAIN).shapes == {}


def test_torchvision_detectors_are_known(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detection = import_foreign("torchvision.models.detection")
    from census.pictures import plain_nms

    if not import_torchvision().extension._has_ops():
        monkeypatch.setattr(import_torchvision().ops.boxes, "nms", plain_nms)
    torch.manual_seed(0)
    net = detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3, score_thresh=0.0,
        detections_per_img=3, topk_candidates=3,
    ).eval()  # fmt: skip
    page = ll.explain(net, photo, "gradient", target=second, sites="input", size=48)
    found = shapes_in(page)
    with torch.no_grad():
        (want,) = net(ll.preprocess(net, photo, size=48))
    assert (len(found["drawn"]), found["read"]) == (len(want["boxes"]), {"0": [1]})
    x = ll.preprocess(net, photo, size=48)
    assert (float(x.min()), float(x.max())) == (0.0, 1.0), "the detector normalises by itself"
    for box, drawn in zip(want["boxes"], found["drawn"], strict=True):
        assert np.ravel(drawn["points"]) == pytest.approx(box.numpy(), abs=0.06)
    assert any("normalises pictures itself" in note for note in page.about.notes)


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (lambda out: 3, "must return a list of limelight.Shape for each of the 1 pictures"),
        (lambda out: [], "must return a list of limelight.Shape for each of the 1 pictures"),
        (lambda out: [[1, 2]], "must return a list of limelight.Shape"),
        (lambda out: [[ll.Shape(torch.zeros(2, 2), of=4)]], "belongs to number 4 of 1 shapes"),
        ("box", "write 'classes', 'picture', 'boxes', or a function"),
    ],
)
def test_what_makes_no_shapes_is_refused(photo: Path, output: Any, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        explained(photo, output=output)


def test_shapes_need_pictures() -> None:
    net = nn.Linear(3, 2)
    with pytest.raises(OptionError, match="lies over pictures, and these inputs are none"):
        ll.explain(net, inputs=torch.rand(1, 3), methods="gradient", target=0, output="boxes")
