"""mAP and CMC on galleries counted by hand, and against a count that walks the ranking."""

from __future__ import annotations

import math

import pytest
import torch

from limelight.methods.metrics import cosine_distances, retrieval
from limelight.probe.errors import OptionError


def test_average_precision_is_the_mean_of_precisions_at_each_match():
    found = retrieval(torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5]]), [7], [7, 1, 7, 2, 7])
    assert float(found.precision[0]) == pytest.approx((1 / 1 + 2 / 3 + 3 / 5) / 3)
    assert found.rank.tolist() == [1]


def test_pictures_of_the_same_person_by_the_same_camera_are_taken_out_first():
    distances = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    people, cameras = [7, 1, 7, 7], [0, 0, 1, 0]
    found = retrieval(distances, [7], people, [0], cameras)
    assert float(found.precision[0]) == pytest.approx(1 / 2)
    assert (found.rank.tolist(), found.cmc(1), found.cmc(2)) == ([2], 0.0, 1.0)
    assert retrieval(distances, [7], people).cmc(1) == 1.0


def test_a_person_whom_no_other_camera_saw_counts_nowhere():
    distances = torch.tensor([[0.1, 0.2], [0.2, 0.1]])
    found = retrieval(distances, [7, 8], [7, 8], [0, 0], [0, 1])
    assert math.isnan(float(found.precision[0]))
    assert found.rank.tolist() == [0, 1]
    assert (found.queries, found.mean_average_precision, found.cmc()) == (1, 1.0, 1.0)
    nothing = retrieval(distances[:1], [7], [1, 2])
    assert math.isnan(nothing.mean_average_precision)
    assert math.isnan(nothing.cmc())


def test_no_order_of_files_helps_among_equal_distances():
    distances = torch.zeros(1, 4)
    for gallery in ([7, 1, 1, 1], [1, 1, 1, 7]):
        found = retrieval(distances, [7], gallery)
        assert (float(found.precision[0]), found.rank.tolist()) == (0.25, [4])
    both = retrieval(torch.tensor([[0.1, 0.1, 0.3]]), [7], [7, 7, 1])
    assert (float(both.precision[0]), both.rank.tolist()) == (1.0, [2])


def test_it_agrees_with_walking_down_the_ranking():
    draw = torch.Generator().manual_seed(0)
    distances = torch.rand(20, 60, generator=draw)
    people, seen = (torch.randint(0, 8, (n,), generator=draw) for n in (20, 60))
    where, there = (torch.randint(0, 3, (n,), generator=draw) for n in (20, 60))
    found = retrieval(distances, people, seen, where, there)
    for q in range(20):
        hits, place, precisions, first = 0, 0, [], 0
        for g in distances[q].argsort().tolist():
            if seen[g] == people[q] and there[g] == where[q]:
                continue
            place += 1
            if seen[g] == people[q]:
                hits += 1
                first = first or place
                precisions.append(hits / place)
        assert float(found.precision[q]) == pytest.approx(sum(precisions) / len(precisions))
        assert int(found.rank[q]) == first
    shares = [found.cmc(k) for k in range(1, 61)]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_cosine_distances_are_between_lengths_of_one():
    a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    torch.testing.assert_close(cosine_distances(a, b), torch.tensor([[0.0, 1.0, 2.0]]))


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: retrieval(torch.zeros(1, 2), [1], [1]), r"distances \(1, 2\), 1 and 1 people"),
        (lambda: retrieval(torch.zeros(1, 1), [1], [1], [0]), "the cameras of one side alone"),
        (lambda: retrieval(torch.zeros(1, 1), [1], [1], [0], [0, 1]), "1 and 2 cameras"),
        (lambda: retrieval(torch.full((1, 1), math.nan), [1], [1]), "that are no number"),
        (lambda: retrieval(torch.zeros(1, 1), [1], [1]).cmc(0), r"cmc\(0\) was asked for"),
    ],
)
def test_what_does_not_fit_is_one_sentence(ask, words):
    with pytest.raises(OptionError, match=words):
        ask()
