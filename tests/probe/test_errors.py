"""Errors are one sentence that fits a screen, whatever was given."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import limelight as ll
from limelight.probe.errors import LimelightError

LONG = "x" * 5000


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    "call",
    [
        lambda x: ll.maps(net(), x, LONG),
        lambda x: ll.maps(net(), x, "gradcam", sites=LONG),
        lambda x: ll.maps(net(), x, "gradient", target=LONG),
        lambda x: ll.maps(net(), x, f"smoothgrad,n={LONG}"),
        lambda x: ll.maps(net(), x, f"smoothgrad,{LONG}=1"),
        lambda x: ll.explain(net(), f"{LONG}.jpg"),
        lambda x: ll.explain(net(), "/".join([LONG[:200]] * 30) + ".jpg"),
        lambda x: ll.explain(net(), ll.example("flower"), labels=LONG),
        lambda x: ll.load(LONG),
        lambda x: ll.load("resnet18", weights=LONG),
        lambda x: ll.samples(LONG),
        lambda x: ll.run(LONG, net(), [ll.example("flower")], "gradient"),
        lambda x: ll.task(LONG, 64),
    ],
)
def test_what_has_no_end_is_cut_in_the_middle(call):
    with pytest.raises(LimelightError) as found:
        call(torch.zeros(1, 3, 8, 8))
    said = str(found.value)
    assert "more]" in said
    assert len(said) < 1000


def test_a_sentence_of_many_words_is_cut_and_a_short_one_stays():
    assert str(LimelightError("as it is")) == "as it is"
    assert len(str(LimelightError("word " * 1000))) < 2100
    assert LimelightError("a", 3).args == ("a", 3)
