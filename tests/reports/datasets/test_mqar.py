"""Multi-query associative recall: the published integers, places and slices."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from shared import TESTS

import limelight as ll
from limelight.probe.errors import OptionError
from limelight.reports.datasets import mqar_seeds

CASE = json.loads((TESTS / "parity" / "zoology.mqar.json").read_text())
ARRAYS = np.load(TESTS / "parity" / "zoology.mqar.npz")
SIZES = {"vocab_size": 64, "num_examples": 5, "input_seq_len": 32, "num_kv_pairs": 4}


@pytest.mark.parametrize("number", range(len(CASE["config"]["configs"])))
def test_integers_are_the_published_ones(number):
    state = torch.random.get_rng_state()
    found = ll.mqar(**CASE["config"]["configs"][number])
    np.testing.assert_array_equal(found.inputs, ARRAYS[f"c{number}.inputs"])
    np.testing.assert_array_equal(found.labels, ARRAYS[f"c{number}.labels"])
    assert torch.equal(state, torch.random.get_rng_state())


def test_seeds_of_segments_are_the_published_ones():
    train, test = mqar_seeds(123, 5, 7)
    np.testing.assert_array_equal(train, ARRAYS["train_seeds"])
    np.testing.assert_array_equal(test, ARRAYS["test_seeds"])


def test_without_a_seed_other_tokens_come_from_the_global_stream():
    torch.manual_seed(5)
    drawn = ll.mqar(**SIZES)
    torch.testing.assert_close(drawn.inputs, ll.mqar(**SIZES, torch_seed=5).inputs)
    assert not torch.equal(drawn.inputs, ll.mqar(**SIZES, torch_seed=6).inputs)


def test_places_say_where_keys_and_values_lie():
    found = ll.mqar(**SIZES, random_non_queries=False, seed=3)
    keys = found.inputs.gather(1, found.queries)
    torch.testing.assert_close(keys, found.inputs[:, found.values - 1])
    wanted = found.labels.gather(1, found.queries)
    torch.testing.assert_close(wanted, found.inputs[:, found.values])
    assert ((found.labels != -100).sum(1) == 4).all()
    assert (found.queries >= 8).all()
    assert (keys < 32).all()
    assert (wanted >= 32).all()
    torch.testing.assert_close(found.gaps, found.queries - torch.tensor([1, 3, 5, 7]))
    assert len(found) == 5


def test_accuracy_and_loss_by_hand():
    found = ll.mqar(**SIZES, seed=1, torch_seed=0)
    sure = 20.0 * torch.nn.functional.one_hot(found.labels.clamp(min=0), 64)
    assert found.accuracy(sure) == 1.0
    assert float(found.loss(sure)) < 1e-5
    wrong = sure.clone()
    wrong[0, found.queries[0, 2]] = 0.0
    assert found.accuracy(wrong) == pytest.approx((4 + 0.75) / 5)
    gap = int(found.gaps[0, 2])
    by_gap = found.accuracy_by_gap(wrong, [0, gap, gap + 1, 32])
    count = int((found.gaps == gap).sum())
    assert by_gap[gap, gap + 1] == pytest.approx(1 - 1 / count)
    assert all(share == 1 for slice_, share in by_gap.items() if slice_ != (gap, gap + 1))
    assert float(found.loss(torch.zeros(5, 32, 64))) == pytest.approx(np.log(64))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"input_seq_len": 31}, "even length"),
        ({"vocab_size": 32}, "even length below"),
        ({"num_kv_pairs": 9}, "four tokens a pair"),
        ({"num_kv_pairs": 0}, "at least one pair"),
        ({"power_a": 0.0}, "above 0"),
        ({"num_examples": 0}, "at least 1"),
        ({"num_passes": 2}, "leave it at 1"),
    ],
)
def test_sizes_that_do_not_fit_are_told(change, match):
    with pytest.raises(OptionError, match=match):
        ll.mqar(**{**SIZES, **change})


def test_logits_of_other_sequences_are_told():
    with pytest.raises(OptionError, match="do not fit sequences"):
        ll.mqar(**SIZES).accuracy(torch.zeros(5, 31, 64))
