"""What an output is: batch, classes and places, known from the input and the output's type."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from limelight.probe.errors import TargetError
from limelight.probe.targets import Given, Reading, scores

draw = torch.Generator().manual_seed(0)
LOGITS = torch.randn(2, 3, generator=draw)
TEXT = torch.randn(2, 4, 6, generator=draw)
PICTURE = torch.randn(2, 3, 4, 5, generator=draw)
VOLUME = torch.randn(2, 3, 4, 5, 6, generator=draw)
NOTE = "output (2, 4, 6) read as b n v, at its last position"


@dataclass
class CausalLMOutput:
    logits: Tensor
    hidden: Tensor


@dataclass
class DetectionOutput:
    logits: Tensor
    boxes: Tensor


@pytest.mark.parametrize(
    ("reading", "output", "samples", "expected"),
    [
        (Reading(), LOGITS, 2, LOGITS),
        (Reading(), LOGITS[:, 0], 2, LOGITS[:, :1]),
        (Reading(), LOGITS[:, 0], None, LOGITS[:, :1]),
        (Reading(), LOGITS[0], 1, LOGITS[:1]),
        (Reading(), LOGITS[0, 0], 1, LOGITS[:1, :1]),
        (Reading(), PICTURE, 2, PICTURE.sum((2, 3))),
        (Reading(), VOLUME, 2, VOLUME.sum((2, 3, 4))),
        (Reading(dense=True), TEXT, 2, TEXT.sum(2)),
        (Reading(position=1), TEXT, 2, TEXT[:, 1]),
        (Reading(tokens=4), TEXT, 2, TEXT[:, -1]),
        (Reading(tokens=9), TEXT, 2, TEXT[:, -1]),
        (Reading(tokens=4, dense=True), TEXT, 2, TEXT.sum(2)),
        (Reading(tokens=4), LOGITS, 2, LOGITS),
        (Reading(), CausalLMOutput(TEXT, PICTURE), 2, TEXT[:, -1]),
        (Reading(of="probability"), PICTURE, 2, PICTURE.softmax(1).sum((2, 3))),
        (Reading(of="probability", tokens=4), TEXT, 2, TEXT[:, -1].softmax(1)),
        (Reading("field"), PICTURE, 2, PICTURE),
        (Reading("field", of="sigmoid"), TEXT, 2, TEXT.sigmoid()),
        (Reading("part"), VOLUME, 2, VOLUME),
        (Reading("part", "1"), (LOGITS, TEXT), 2, TEXT),
    ],
)
def test_scores(reading, output, samples, expected):
    torch.testing.assert_close(reading(output, samples), expected)


@pytest.mark.parametrize(
    ("reading", "output", "samples", "error"),
    [
        (Reading(), TEXT, 2, "may be positions b n c or classes over places"),
        (Reading(tokens=6), TEXT, 2, "may be positions b n c or classes over places"),
        (Reading(), DetectionOutput(TEXT, PICTURE), 2, "may be positions b n c"),
        (Reading("classes", "logits"), CausalLMOutput(TEXT, PICTURE), 2, "may be positions b n c"),
        (Reading(), LOGITS[0, 0], 2, "a single number for the batch"),
        (Reading(), LOGITS, 3, "the input has 3 samples and the output is (2, 3)"),
        (Reading("part"), LOGITS, 3, "the input has 3 samples and the output is (2, 3)"),
        (Reading(), LOGITS[:, 0], 3, "the input has 3 samples and the output is (2,)"),
        (Reading(), VOLUME[None], None, "an output (1, 2, 3, 4, 5, 6) may be"),
        (Reading("field"), LOGITS, 2, "a place needs a dense output b c and t, y x or z y x"),
        (Reading(position=4), TEXT, 2, "position=4 needs an output b n c with that position"),
    ],
)
def test_what_is_not_known_is_refused(reading, output, samples, error):
    with pytest.raises(TargetError) as found:
        reading(output, samples)
    assert error in str(found.value)


def test_token_ids_tell_that_positions_come_first_and_a_note_says_so():
    told = Reading().told(Given(2, tokens=4))
    assert told.settled(TEXT, Given(2)).notes == (NOTE,)
    assert told.settled(TEXT, Given(2)).settled(TEXT, Given(2)).notes == (NOTE,)
    assert Reading().settled(CausalLMOutput(TEXT, PICTURE), Given(2)).notes == (NOTE,)
    assert told.settled(LOGITS, Given(2)).notes == ()
    assert Reading(position=-1).told(Given(2, 4)).settled(TEXT, Given(2)).notes == ()
    torch.testing.assert_close(scores(TEXT, Given(2, 4)), TEXT[:, -1])


def test_a_reading_keeps_what_one_graph_has_told():
    asked = Reading(of="probability")
    z = (LOGITS * 0.1 + 0.5).clamp(0, 1).requires_grad_()
    for made, known in ((z.sigmoid(), "sigmoid"), (z @ torch.eye(3), "logits")):
        settled = asked.settled(made, Given(2))
        assert (settled.made, settled.notes, settled.open) == (known, (), False)
        bare = made.detach()
        want = bare if known == "sigmoid" else bare.softmax(1)
        torch.testing.assert_close(settled(bare, 2), want)
    assert not Reading().open
    assert not Reading("part", of="probability").open


def test_axes_say_where_the_classes_of_a_model_of_ids_lie():
    """`b v n` is no `b n v`, however long both are: its classes are summed over the tokens."""
    logits = torch.arange(24.0).reshape(2, 3, 4)
    told = Reading(tokens=4, axes="b c n")
    torch.testing.assert_close(told(logits, 2), logits.sum(2))
    assert told.notes == told.settled(logits, Given(2)).notes == ()
    last = Reading(tokens=3, axes="b n c")
    torch.testing.assert_close(last(logits, 2), logits[:, -1])
