"""Shapes over a picture: forms of boxes, what detectors return, what is none."""

from __future__ import annotations

import pytest
import torch

import limelight as ll
from limelight.probe.errors import OptionError
from limelight.probe.sites import detections

BOX = torch.tensor([[10.0, 20.0, 30.0, 60.0]])


@pytest.mark.parametrize(
    ("form", "corners"),
    [
        ("xyxy", [[10, 20], [30, 60]]),
        ("xywh", [[10, 20], [40, 80]]),
        ("cxcywh", [[-5, -10], [25, 50]]),
    ],
)
def test_each_form_of_a_box_has_two_corners(form, corners):
    (box,) = ll.Shape.boxes(BOX, form=form)
    assert box.points.tolist() == corners
    assert (box.kind, box.score, box.label, box.relative) == ("box", None, "", False)


def test_boxes_keep_scores_labels_and_their_gradients():
    scores = torch.tensor([0.5, 0.25], requires_grad=True)
    found = ll.Shape.boxes(BOX.expand(2, 4), scores, torch.tensor([3, 1]), relative=True)
    assert [(s.score.item(), s.label) for s in found] == [(0.5, 3), (0.25, 1)]
    assert all(s.relative and s.score.requires_grad for s in found)
    assert [s.label for s in ll.Shape.boxes(BOX, labels=["dog"])] == ["dog"]


def test_detections_are_boxes_and_the_points_of_each():
    joints = torch.arange(12.0).reshape(2, 2, 3)
    part = {"boxes": BOX.expand(2, 4), "scores": torch.ones(2), "labels": torch.tensor([1, 2])}
    boxes, both = detections([part, {**part, "keypoints": joints}])
    assert [s.kind for s in boxes] == ["box", "box"]
    assert [(s.kind, s.of) for s in both[2:]] == [("points", 0), ("points", 1)]
    assert both[3].points.tolist() == [[6, 7], [9, 10]]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ll.Shape(torch.zeros(2, 2), "circle"), "a 'box', 'points' or a 'line', not"),
        (lambda: ll.Shape(torch.zeros(3, 2)), r"a box has points two corners, 2 2, not \(3, 2\)"),
        (lambda: ll.Shape(torch.zeros(1, 2), "line"), r"a line has points two or more, n 2"),
        (lambda: ll.Shape(torch.zeros(4, 3), "points"), r"points has points n 2, not \(4, 3\)"),
        (lambda: ll.Shape.boxes(torch.zeros(4)), r"boxes are n 4, a row each, not \(4,\)"),
        (lambda: ll.Shape.boxes(BOX, torch.ones(2)), "2 scores were given for 1 boxes"),
        (lambda: ll.Shape.boxes(BOX, labels=["a", "b"]), "2 labels were given for 1 boxes"),
        (lambda: ll.Shape.boxes(BOX, form="yxyx"), "form='yxyx' is unknown: write 'xyxy'"),
        (lambda: detections(torch.zeros(1, 3)), "is no list with boxes, scores and labels"),
        (lambda: detections([{"boxes": BOX}]), "is no list with boxes, scores and labels"),
        (lambda: detections([]), "is no list with boxes, scores and labels"),
    ],
)
def test_what_is_no_shape(make, words):
    with pytest.raises(OptionError, match=words):
        make()
