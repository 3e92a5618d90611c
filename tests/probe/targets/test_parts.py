"""Parts of outputs by path, and what is said where a path leads nowhere."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from limelight.probe.errors import TargetError
from limelight.probe.targets.parts import main_part, part_at, parts_of

A, B, C = torch.zeros(2, 3), torch.ones(2, 4, 5), torch.ones(6)
Pair = namedtuple("Pair", "scores boxes")


@dataclass
class Heads:
    up: Tensor
    more: list[Tensor]


@pytest.mark.parametrize(
    ("output", "path", "part"),
    [
        ({"out": A, "aux": B}, "out", A),
        ((A, (B, C)), "1.0", B),
        ([{"boxes": A, "scores": C}, {"boxes": B, "scores": C}], "1.boxes", B),
        (Heads(A, [B, C]), "more.1", C),
        (Heads(A, [B, C]), "up", A),
        (Pair(A, B), "boxes", B),
        (Pair(A, B), "0", A),
        (SimpleNamespace(head=SimpleNamespace(up5=B)), "head.up5", B),
        ({"layer.1": A, "layer": {"2": B}}, "layer.1", A),
        ({"layer.1": A, "layer": {"2": B}}, "layer.2", B),
        ({3: A, 4: B}, "4", B),
        ((A, B), "-1", B),
        ({"head": (A, None)}, "head", A),
    ],
)
def test_a_path_names_a_part(output, path, part):
    assert part_at(output, path) is part


@pytest.mark.parametrize(
    ("output", "part"),
    [
        (A, A),
        ((A,), A),
        ({"out": A}, A),
        ((A, None), A),
        (OrderedDict(loss=C, logits=A, states=(B, C)), A),
        (SimpleNamespace(logits=A, boxes=B), A),
        (OrderedDict(logits_per_image=A, logits_per_text=A.T, text_embeds=B), A),
        ({"out": A, "same": A}, A),
    ],
)
def test_what_is_meant_where_nothing_is_named(output, part):
    assert main_part(output) is part


@pytest.mark.parametrize(
    ("output", "path", "error"),
    [
        (
            {"out": A, "aux": (B, C)},
            "ou",
            "at='ou' names no part of what the model returned: out (2, 3), aux.0 (2, 4, 5), "
            "aux.1 (6,); did you mean 'out'?",
        ),
        (
            {"out": A, "aux": (B, C)},
            "aux",
            "at='aux' holds several parts, aux.0 (2, 4, 5), aux.1 (6,): name one of them",
        ),
        (
            A,
            "0",
            "at='0' names no part: the model returns one tensor, (2, 3); leave at= out",
        ),
        (
            (A, B),
            "0.0",
            "at='0.0' names no part of what the model returned: 0 (2, 3), 1 (2, 4, 5); did you "
            "mean '0'?",
        ),
        ({"n": 3}, "n", "at='n' names no part of what the model returned: a dict without a tensor "
         "in it"),
        ([A, B], "2", "at='2' names no part of what the model returned: 0 (2, 3), 1 (2, 4, 5)"),
        ([A, B], "_a", "at='_a' names no part of what the model returned: 0 (2, 3), 1 (2, 4, 5)"),
    ],
)  # fmt: skip
def test_a_path_that_leads_nowhere(output, path, error):
    with pytest.raises(TargetError) as found:
        part_at(output, path)
    assert str(found.value) == error


def test_several_parts_are_listed_up_to_a_number():
    with pytest.raises(TargetError) as found:
        main_part([{"boxes": torch.zeros(i, 4), "scores": torch.zeros(i)} for i in range(1, 6)])
    assert str(found.value) == (
        "the model returned several parts, 0.boxes (1, 4), 0.scores (1,), 1.boxes (2, 4), "
        "1.scores (2,), 2.boxes (3, 4), 2.scores (3,), 3.boxes (4, 4), 3.scores (4,), ...: name "
        "the one that is meant, at='0.boxes' say, or give a function of the output"
    )


def test_one_tensor_at_two_places_is_one_part():
    assert list(parts_of({"a": A, "b": [A, B]})) == ["a", "b.1"]
