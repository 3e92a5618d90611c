"""Scanpath scores against OAT's golden values and closed forms; the scanpath of a map's foci."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from shared import TESTS

import limelight as ll
from limelight.methods.metrics.multimatch import multimatch
from limelight.methods.metrics.scanpath import (
    SHELVES,
    Shelf,
    behaviour,
    behaviour_delta,
    fixation_map,
    from_foci,
    levenshtein,
    mean_behaviour,
    nss,
    sequence_score,
    sim,
)
from limelight.probe.errors import OptionError
from limelight.probe.sites.site import parse

CASE: dict[str, Any] = json.loads((TESTS / "parity" / "oat.metrics.json").read_text())
SHELF = Shelf(CASE["rows"], CASE["cols"], tuple(CASE["cell"]), CASE["y_offset"])
TOLERANCE = 1e-5
PATHS = some.lists(some.integers(0, 5), max_size=8)


@pytest.mark.parametrize("pair", CASE["pairs"])
def test_golden_pairs(pair):
    pred, gt, told = pair["pred"], pair["gt"], pair["multimatch"]
    assert sequence_score(pred, gt) == pytest.approx(pair["sequence_score"], abs=1e-7)
    assert levenshtein(pred, gt) == pair["levenshtein"]
    assert behaviour(pred, pair["target"])._asdict() == pytest.approx(pair["behaviour_pred"])
    assert behaviour(gt, pair["target"])._asdict() == pytest.approx(pair["behaviour_gt"])
    screen = told.pop("screen") if "screen" in told else SHELF.size
    assert list(SHELF.size) == list(screen)
    found = multimatch(SHELF.centres(gt), SHELF.centres(pred), SHELF.size)
    assert found._asdict() == pytest.approx(told, abs=TOLERANCE)


def test_golden_behaviour_over_trials():
    pred, gt, targets = ([p[key] for p in CASE["pairs"]] for key in ("pred", "gt", "target"))
    assert list(mean_behaviour(pred, targets)) == pytest.approx(CASE["mean_pred"])
    assert list(mean_behaviour(gt, targets)) == pytest.approx(CASE["mean_gt"])
    assert behaviour_delta(pred, gt, targets) == pytest.approx(CASE["delta"])
    twice = behaviour_delta(pred * 2, gt, targets * 2, gt_targets=targets)
    assert twice == pytest.approx(CASE["delta"])


@pytest.mark.parametrize("free", CASE["free"])
def test_golden_free_fixations(free):
    found = multimatch(free["a"], free["b"], tuple(free["screen"]))
    assert list(found) == pytest.approx(free["multimatch"], abs=TOLERANCE)
    assert found.mean == pytest.approx(sum(free["multimatch"][:4]) / 4, abs=TOLERANCE)


@settings(max_examples=60, deadline=None)
@given(PATHS, PATHS, PATHS)
def test_edit_distance_and_sequence_score_bound_each_other(a, b, c):
    common = sequence_score(a, b) * max(len(a), len(b)) if a or b else 0
    apart = levenshtein(a, b)
    assert apart == levenshtein(b, a)
    assert levenshtein(a, c) <= apart + levenshtein(b, c)
    assert max(len(a), len(b)) - common <= apart + 1e-9
    assert apart <= len(a) + len(b) - 2 * common + 1e-9


def test_known_distances():
    assert levenshtein(list(map(ord, "kitten")), list(map(ord, "sitting"))) == 3
    assert levenshtein([], [1, 2]) == 2
    assert sequence_score(torch.tensor([1, 2, 3, 4]), [2, 4]) == 0.5
    assert sequence_score([], [2, 4]) == 0
    assert math.isnan(sequence_score([], []))


def test_multimatch_of_one_path_moved_turned_and_slowed():
    path = torch.tensor([[100.0, 100, 0.2], [300, 100, 0.4], [300, 250, 0.1], [120, 250, 0.3]])
    screen = (400, 300)
    assert multimatch(path, path, screen) == (1, 1, 1, 1, 1)
    moved = path + torch.tensor([30.0, 40, 0])
    assert multimatch(path, moved, screen) == pytest.approx((1, 1, 1, 0.9, 1))
    slow = path * torch.tensor([1.0, 1, 2])
    assert multimatch(path, slow, screen) == pytest.approx((1, 1, 1, 1, 0.5))
    turned = path * torch.tensor([-1.0, -1, 1]) + torch.tensor([400.0, 300, 0])
    found = multimatch(path, turned, screen)
    assert found.length == pytest.approx(1)
    assert found.direction < 1


def test_directions_differ_by_the_smaller_angle():
    tilt = math.radians(1)
    left = [[k * -100.0, 0] for k in range(3)]
    up, down = (
        [[x * math.cos(tilt), sign * x * math.sin(tilt)] for x, _ in left] for sign in (1, -1)
    )
    found = multimatch(up, down, (300, 300))
    assert found.direction == pytest.approx(1 - 2 * tilt / math.pi, abs=1e-6)


def test_durations_of_zero_are_alike():
    path = np.array([[0, 0, 0], [50, 0, 0], [50, 50, 0]])
    assert multimatch(path, path, (100, 100)).duration == 1


def test_short_paths_are_filled_with_ones_or_undefined():
    short, path = [[50.0, 60.0]], [[10.0, 20], [80, 20], [80, 90]]
    filled = [*short, [1, 1], [1, 1]]
    assert multimatch(short, path, (100, 100)) == multimatch(filled, path, (100, 100))
    assert all(math.isnan(x) for x in multimatch(short, path, (100, 100), pad=False))


def test_alignment_is_the_cheapest_of_all_ways():
    from limelight.methods.metrics.multimatch import _aligned

    def cheapest(cost, y=0, x=0):
        if (y, x) == (cost.shape[0] - 1, cost.shape[1] - 1):
            return 0
        steps = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
        return min(
            cost[to] + cheapest(cost, *to)
            for to in steps
            if to[0] < cost.shape[0] and to[1] < cost.shape[1]
        )

    draw = np.random.default_rng(0)
    for shape in ((1, 1), (1, 4), (5, 1), (4, 5), (5, 5)):
        cost = draw.random(shape)
        i, j = _aligned(cost)
        assert (i[0], j[0]) == (0, 0)
        assert (i[-1] + 1, j[-1] + 1) == shape
        assert set(zip(np.diff(i), np.diff(j), strict=True)) <= {(0, 1), (1, 0), (1, 1)}
        assert cost[i, j][1:].sum() == pytest.approx(cheapest(cost))


def test_alignment_settles_ties_by_cost_then_index():
    from limelight.methods.metrics.multimatch import _aligned

    i, j = _aligned(np.zeros((3, 3), np.float32))
    assert list(zip(i, j, strict=True)) == [(0, 0), (1, 1), (2, 2)]
    i, j = _aligned(np.array([[0, 0, 5], [0, 5, 0], [5, 0, 0]], np.float32))
    assert list(zip(i, j, strict=True)) == [(0, 0), (0, 1), (1, 2), (2, 2)]


def test_behaviour_counts_stays():
    found = behaviour([3, 3, 3, 5, 3, 5, 5, 8], target=8)
    assert found == (1, 8, 3 / 8, 3 / 8, 2 / 8)
    assert behaviour([3, 3], 8) == (0, 2, 0.5, 0.5, 0)


def test_behaviour_that_humans_do_not_show():
    gt, plain, back = [[1, 2]], [[1, 2]], [[1, 2, 1, 2]]
    assert math.isnan(behaviour_delta(plain, gt, [2]))
    assert behaviour_delta(plain, gt, [2], skip=True) == 0
    assert behaviour_delta(back, gt, [2], skip=True) == math.inf


def test_shelves_place_and_find_objects():
    for shelf in SHELVES.values():
        every = list(range(shelf.rows * shelf.columns))
        assert shelf.objects(shelf.centres(every)) == every
        assert shelf.objects(torch.tensor([[-1.0, 500], [1e6, 500]])) == []
    wine = SHELVES["wine"]
    assert wine.centres([12]).tolist() == [[228, 152 + 449 * 1.5]]
    assert wine.size == (1680, 1050)
    assert wine.objects(torch.tensor([[10.0, 100]])) == []


def map_of_three() -> torch.Tensor:
    """Foci of 0.9 (two pixels joined at a corner), 1.0 and 0.9 (one pixel), and background."""
    values = torch.full((6, 8), 0.1)
    values[1, 1] = values[2, 2] = 0.9
    values[5, 0] = 1.0
    values[4, 6] = 0.9
    values[0, 7] = 0.5
    values[3, 5] = torch.nan
    return values


def test_foci_become_fixations_by_attention():
    path = from_foci(map_of_three())
    want = torch.tensor([[0.5, 5.5], [2, 2], [6.5, 4.5]])
    torch.testing.assert_close(path, want)
    assert len(from_foci(map_of_three(), 0.4)) == 4
    assert torch.equal(from_foci(map_of_three(), most=2), path[:2])
    assert from_foci(torch.zeros(4, 4)).shape == (0, 2)
    assert from_foci(-torch.ones(4, 4)).shape == (0, 2)


def test_foci_of_a_saliency_map_lie_in_its_input():
    found = ll.SaliencyMap(
        map_of_three(), "y x", "0", "top", "sr", parse("input"), extent=(10, 20, 70, 180)
    )
    want = torch.tensor([[30.0, 65], [60, 30], [150, 55]])
    torch.testing.assert_close(from_foci(found), want)
    mask, _ = ll.foci(found)
    rest = found.values.nan_to_num().masked_fill(~mask, 0)
    torch.testing.assert_close(from_foci(replace(found, values=rest)), want)


def test_pieces_match_opencv_also_for_a_spiral():
    cv2 = pytest.importorskip("cv2")
    from limelight.methods.metrics.scanpath import _pieces

    spiral = torch.zeros(41, 41, dtype=torch.bool)
    y = x = 20
    for turn in range(1, 20):
        for dy, dx in ((0, 1), (1, 0)) if turn % 2 else ((0, -1), (-1, 0)):
            for _ in range(2 * turn):
                if 0 <= y < 41 and 0 <= x < 41:
                    spiral[y, x] = True
                y, x = y + dy, x + dx
    draw = torch.rand(50, 70, generator=torch.Generator().manual_seed(0))
    for mask in (spiral, draw > 0.7, draw > 0.9, torch.ones(9, 5, dtype=torch.bool)):
        count, labels = cv2.connectedComponents(mask.numpy().astype(np.uint8), connectivity=8)
        found, labels = _pieces(mask), torch.from_numpy(labels)
        both = torch.stack([found[mask], labels[mask].long()]).unique(dim=1)
        assert both.shape[1] == count - 1
        assert not found[~mask].any()


def test_a_map_and_a_gaze_are_compared():
    values = map_of_three().nan_to_num()
    human = from_foci(values)
    assert multimatch(human, from_foci(values), (8, 6)) == (1, 1, 1, 1, 1)
    shelf = Shelf(3, 4, (2, 2))
    assert shelf.objects(human) == [8, 5, 11]
    mask = fixation_map(human, (6, 8))
    assert mask.sum() == 3
    score = nss(values[None], mask[None])
    z = (values - values.mean()) / values.std(correction=0)
    assert float(score) == pytest.approx(float(z[mask].mean()), abs=1e-5)
    assert nss(torch.ones(1, 6, 8), mask[None]).isnan().all()
    assert nss(values[None], torch.zeros(1, 6, 8)).isnan().all()


def test_sim_is_the_probability_of_the_choice():
    rows = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).softmax(1)
    chosen = [0, 3, 6, 3, 2]
    torch.testing.assert_close(sim(rows, chosen), rows[range(5), chosen])


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: behaviour([], 3), "without fixations"),
        (lambda: mean_behaviour([[1], [2]], [1]), "2 scanpaths with 1 targets"),
        (lambda: SHELVES["wine"].centres([3, 22]), "object 22; give 0 to 21"),
        (lambda: multimatch([], [[1, 2]], (9, 9)), "one or more fixations"),
        (lambda: multimatch([[1, 2, 3, 4]], [[1, 2]], (9, 9)), r"shape \(1, 4\)"),
        (lambda: multimatch([[1, math.nan]], [[1, 2]], (9, 9)), "not finite"),
        (lambda: multimatch([[1, 2, -1]], [[1, 2]], (9, 9)), "negative time"),
        (lambda: multimatch([[1, 2]], [[1, 2]], (0, 9)), "width and height"),
        (lambda: from_foci(torch.ones(3)), "over y and x"),
        (lambda: from_foci(torch.ones(3, 3), 1.0), "below 1"),
    ],
)
def test_errors_say_what_to_do(ask, words):
    with pytest.raises(OptionError, match=words):
        ask()
