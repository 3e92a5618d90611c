"""Targets that compare the output with something given, against their formulas."""

from __future__ import annotations

import pytest
import torch

import limelight as ll
from limelight.probe.errors import TargetError

draw = torch.Generator().manual_seed(0)
LOGITS = torch.randn(2, 3, generator=draw)
PICTURE, REFERENCE = torch.randn(2, 2, 3, 4, 5, generator=draw)
MASK, MASKS = torch.rand(4, 5, generator=draw), torch.rand(2, 4, 5, generator=draw)
VOLUME, VOLUME_REFERENCE = torch.randn(2, 2, 3, 4, 5, 6, generator=draw)
GAP = PICTURE - REFERENCE


def weighed(gap, mask):
    return (gap * mask).sum((1, 2, 3)) / mask.expand_as(gap).sum((1, 2, 3))


@pytest.mark.parametrize(
    ("target", "output", "expected"),
    [
        (ll.similar(LOGITS[1]), LOGITS, torch.cosine_similarity(LOGITS, LOGITS[1:])),
        (ll.similar(LOGITS.flip(0)), LOGITS, torch.cosine_similarity(LOGITS, LOGITS.flip(0))),
        (ll.similar(LOGITS[:1], at="pooled"), {"hidden": PICTURE, "pooled": LOGITS},
         torch.cosine_similarity(LOGITS, LOGITS[:1])),
        (ll.difference(REFERENCE), PICTURE, GAP.abs().mean((1, 2, 3))),
        (ll.difference(REFERENCE[0].numpy()), PICTURE,
         (PICTURE - REFERENCE[0]).abs().mean((1, 2, 3))),
        (ll.difference(REFERENCE, error="squared"), PICTURE, GAP.square().mean((1, 2, 3))),
        (ll.difference(REFERENCE, MASK), PICTURE, weighed(GAP.abs(), MASK)),
        (ll.difference(REFERENCE, MASK > 0.5, error="squared"), PICTURE,
         weighed(GAP.square(), MASK > 0.5)),
        (ll.difference(REFERENCE, MASKS), PICTURE, weighed(GAP.abs(), MASKS[:, None])),
        (ll.difference(VOLUME_REFERENCE[0], MASK[..., None].expand(4, 5, 6), per_sample=False),
         VOLUME, ((VOLUME - VOLUME_REFERENCE[0]).abs() * MASK[..., None]).sum((1, 2, 3, 4))
         / (MASK.sum() * 6 * 3)),
        (ll.difference(REFERENCE[..., 0], per_sample=True), PICTURE[..., 0],
         GAP[..., 0].abs().mean((1, 2))),
        (ll.difference(REFERENCE, at="1"), (LOGITS, PICTURE), GAP.abs().mean((1, 2, 3))),
    ],
)  # fmt: skip
def test_values(target, output, expected):
    torch.testing.assert_close(target(output, 2), expected)


@pytest.mark.parametrize(
    "target", [ll.difference(REFERENCE, MASKS), ll.difference(REFERENCE, MASK)]
)
def test_a_target_splits_with_its_batch(target):
    whole = target(PICTURE, 2)
    for i in range(2):
        torch.testing.assert_close(target.take([i])(PICTURE[i : i + 1], 1), whole[i : i + 1])


@pytest.mark.parametrize(
    ("make", "output", "error"),
    [
        (
            lambda: ll.similar(torch.ones(4)),
            LOGITS,
            "an embedding of 4 numbers does not compare with an output (2, 3)",
        ),
        (
            lambda: ll.similar(torch.ones(1, 2, 4)),
            LOGITS,
            "an embedding is d numbers, or b d, one per sample, not (1, 2, 4)",
        ),
        (
            lambda: ll.difference(REFERENCE[..., :2]),
            PICTURE,
            "a reference of (3, 4, 2) does not compare with an output (2, 3, 4, 5)",
        ),
        (
            lambda: ll.difference(REFERENCE, MASK[:2]),
            PICTURE,
            "a mask of (2, 5) does not fit an output (2, 3, 4, 5)",
        ),
        (
            lambda: ll.difference(REFERENCE, torch.zeros(4, 5)),
            PICTURE,
            "the mask of a difference is empty: mark at least one place",
        ),
        (
            lambda: ll.difference(REFERENCE, error="l1"),
            PICTURE,
            "error='l1' is unknown: write 'absolute' or 'squared'",
        ),
        (
            lambda: ll.difference(REFERENCE[[0, 1, 0]]),
            PICTURE,
            "target 'absolute difference' is given for 3 samples, but the batch has 2",
        ),
    ],
)
def test_errors(make, output, error):
    with pytest.raises(TargetError) as found:
        make()(output, 2)
    assert str(found.value) == error


def test_names():
    assert ll.similar(LOGITS[0], at="pooled").name == "similarity of pooled"
    assert ll.difference(REFERENCE).name == "absolute difference"
    assert ll.difference(REFERENCE, MASK, error="squared").name == "squared difference in a region"
