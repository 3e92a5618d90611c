"""Targets: one scalar per sample, read from any output, or a sentence that says why not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import limelight as ll
from limelight.probe.errors import TargetError
from limelight.probe.targets import targets
from limelight.probe.targets.class_scores import by_name

LOGITS = torch.tensor([[1.0, 5.0, 2.0], [7.0, 0.0, 3.0]])
TEXT = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
DENSE = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
MASKS = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(0))
NAMES = by_name(["cat", "dog", "Tea pot"])


@pytest.mark.parametrize(
    ("target", "output", "expected"),
    [
        (ll.label(2), LOGITS, LOGITS[:, 2]),
        (ll.label(np.int64(2)), LOGITS, LOGITS[:, 2]),
        (ll.label([2, 0]), LOGITS, torch.tensor([2.0, 7.0])),
        (ll.label(torch.tensor([2, 0])), LOGITS, torch.tensor([2.0, 7.0])),
        (ll.label("tea POT"), LOGITS, LOGITS[:, 2]),
        (ll.label(["dog", 0]), LOGITS, torch.tensor([5.0, 7.0])),
        (ll.label(1, of="probability"), LOGITS, LOGITS.softmax(1)[:, 1]),
        (ll.label(1, of="log_probability"), LOGITS, LOGITS.log_softmax(1)[:, 1]),
        (ll.label(torch.tensor(2)), LOGITS, LOGITS[:, 2]),
        (ll.label(np.array([2, 0])), LOGITS, torch.tensor([2.0, 7.0])),
        (ll.label([torch.tensor(2), np.int64(0)]), LOGITS, torch.tensor([2.0, 7.0])),
        (np.int64(2), LOGITS, LOGITS[:, 2]),
        (torch.tensor(2), LOGITS, LOGITS[:, 2]),
        (torch.tensor([2, 0]), LOGITS, torch.tensor([2.0, 7.0])),
        (np.array([2, 0], dtype=np.uint8), LOGITS, torch.tensor([2.0, 7.0])),
        (ll.label(1, position=-1), TEXT, TEXT[:, -1, 1]),
        (ll.label(1, dense=True), TEXT, TEXT[:, 1].sum(1)),
        (ll.label(1, dense=True), DENSE, DENSE[:, 1].sum((1, 2))),
        (ll.label(1, of="probability"), DENSE, DENSE.softmax(1)[:, 1].sum((1, 2))),
        (ll.label(1, of="log_probability"), DENSE, DENSE.log_softmax(1)[:, 1].sum((1, 2))),
        (ll.label(1, of="sigmoid"), LOGITS, LOGITS[:, 1].sigmoid()),
        (ll.label(1, of="sigmoid"), DENSE, DENSE[:, 1].sigmoid().sum((1, 2))),
        (ll.label(0, of="probability"), LOGITS[:, :1], LOGITS[:, 0].sigmoid()),
        (ll.label(0, of="probability"), LOGITS[:, 0], LOGITS[:, 0].sigmoid()),
        (ll.label(0, of="log_probability"), LOGITS[:, :1], LOGITS[:, 0].sigmoid().log()),
        (ll.top(position=1), TEXT, TEXT[:, 1].amax(1)),
        (ll.ranked(0, dense=True), TEXT, TEXT.sum(2).amax(1)),
        (ll.ranked(-1, of="probability"), LOGITS, LOGITS.softmax(1).amin(1)),
        (ll.margin(1, 0, of="probability"), LOGITS, LOGITS.softmax(1) @ torch.tensor([-1.0, 1, 0])),
        (ll.margin(np.int64(1), torch.tensor(0)), LOGITS, torch.tensor([4.0, -7.0])),
        (ll.contrast([[1, 2], [0]], [[0], [1, 2]]), LOGITS, torch.tensor([2.5, 5.5])),
        (
            ll.contrast([[1, 2], [0]], [[0], [1, 2]], of="probability"),
            LOGITS,
            LOGITS.softmax(1) @ torch.tensor([-1.0, 1, 1]) * torch.tensor([1.0, -1]),
        ),
        (
            ll.contrast([[1], [2]], [[0], [0]], position=2),
            TEXT,
            TEXT[[0, 1], 2, [1, 2]] - TEXT[:, 2, 0],
        ),
        (ll.label(1), DENSE, DENSE[:, 1].sum((1, 2))),
        (ll.label(0), LOGITS[:, 1], LOGITS[:, 1]),
        (ll.label(1), {"loss": LOGITS[0, 0], "logits": LOGITS}, LOGITS[:, 1]),
        (ll.label(1, at="0"), (LOGITS, DENSE), LOGITS[:, 1]),
        (ll.label(1, at="1"), (LOGITS, DENSE), DENSE[:, 1].sum((1, 2))),
        (ll.top(at="out"), {"aux": DENSE, "out": LOGITS}, torch.tensor([5.0, 7.0])),
        (ll.margin(1, 0, at="out"), {"aux": DENSE, "out": LOGITS}, torch.tensor([4.0, -7.0])),
        (ll.top(), LOGITS, torch.tensor([5.0, 7.0])),
        (ll.ranked(1), LOGITS, torch.tensor([2.0, 3.0])),
        (ll.ranked(-1), LOGITS, torch.tensor([1.0, 0.0])),
        (ll.margin(1, 0), LOGITS, torch.tensor([4.0, -7.0])),
        (ll.margin([1, 2], "cat"), LOGITS, torch.tensor([4.0, -4.0])),
        (ll.margin(["dog", "cat"], ["cat", 2]), LOGITS, torch.tensor([4.0, 4.0])),
        (ll.token(3), TEXT, TEXT[:, -1, 3]),
        (ll.token([3, 1], 2), TEXT, torch.stack([TEXT[0, 2, 3], TEXT[1, 2, 1]])),
        (ll.token([3, 1], [0, -1]), TEXT, torch.stack([TEXT[0, 0, 3], TEXT[1, -1, 1]])),
        (ll.token("dog", torch.tensor([2, 1])), TEXT, TEXT[[0, 1], [2, 1], 1]),
        (ll.token(3, [1, 2], of="probability"), TEXT, TEXT.softmax(2)[[0, 1], [1, 2], 3]),
        (ll.token(3, 0, of="probability"), TEXT, TEXT[:, 0].softmax(1)[:, 3]),
        (ll.choice(2, 5), TEXT, TEXT[:, 2, 5]),
        (ll.choice(-1, [5, 0], of="probability"), TEXT, TEXT[:, -1].softmax(1)[[0, 1], [5, 0]]),
        (lambda out: out.square().sum(1), LOGITS, LOGITS.square().sum(1)),
    ],
)
def test_values(target, output, expected):
    found = targets(target)[0].resolve(NAMES)
    torch.testing.assert_close(found(output), expected)


@pytest.mark.parametrize(
    ("target", "output"),
    [
        (ll.label([2, 0]), LOGITS),
        (ll.token([2, 0], [1, 3]), TEXT),
        (ll.margin([1, 2], [0, 0]), LOGITS),
        (ll.region(MASKS, [1, 0]), DENSE),
        (ll.region(MASKS, 1), DENSE),
        (ll.similar(LOGITS.flip(0)), LOGITS),
        (ll.top(), LOGITS),
        (ll.label(1), LOGITS),
    ],
)
def test_a_target_splits_with_its_batch(target, output):
    whole = target(output)
    target.check(2)
    for i in range(2):
        torch.testing.assert_close(target.take([i])(output[i : i + 1]), whole[i : i + 1])
    torch.testing.assert_close(target.take([1, 1])(output[[1, 1]]), whole[[1, 1]])
    fixed = target.fix(output)
    torch.testing.assert_close(fixed(output), whole)


def test_a_fixed_target_keeps_its_classes():
    fixed = ll.top().fix(LOGITS)
    assert torch.equal(fixed(LOGITS.flip(1)), torch.tensor([5.0, 3.0]))
    assert fixed.titles(LOGITS, ["a", "b", "c"]) == ["top 1: b (1)", "top 1: a (0)"]


def test_several_targets_and_their_names():
    found = targets([ll.top(2), 1, "dog", lambda out: out[:, 0]])
    assert [t.name for t in found] == ["top 1", "top 2", "class 1", "dog", "<lambda>"]
    assert ll.label(2).titles(LOGITS, []) == ["class 2", "class 2"]
    assert ll.label(2).titles(LOGITS, ["a", "b", "c"]) == ["c (2)", "c (2)"]
    assert ll.margin(1, 0).titles(LOGITS, []) == ["1 - 0", "1 - 0"]
    assert [t.name for t in targets([np.int64(2), torch.tensor([0, 1])])] == ["class 2", "label"]
    assert targets(torch.tensor([2, 0]))[0].titles(LOGITS, []) == ["class 2", "class 0"]
    assert ll.token("x", 2).name == "token 'x' at 2"
    assert ll.choice(2, 5).name == "5 at step 2"


def test_names_say_which_part_is_read():
    output = {"up5": LOGITS, "out": LOGITS}
    assert ll.label(2, at="up5").titles(output, ["a", "b", "c"]) == ["c (2) of up5"] * 2
    assert ll.top(at="up5").titles(output, []) == ["top 1: class 1 of up5", "top 1: class 0 of up5"]
    assert ll.margin(1, 0, at="up5").titles(output, []) == ["1 - 0 of up5"] * 2
    assert (
        ll.label("top hat").resolve(by_name(["top hat"])).titles(LOGITS, ["top hat"])
        == ["top hat (0)"] * 2
    )


@pytest.mark.parametrize(
    ("make", "output", "error"),
    [
        (
            lambda: ll.label("dg"),
            LOGITS,
            "class name 'dg' is unknown; did you mean 'dog'?",
        ),
        (lambda: ll.label(3), LOGITS, "class 3 was asked, but the model has 3 classes"),
        (
            lambda: ll.label(10**10),
            LOGITS,
            "class 10000000000 was asked, which no model has: count classes from 0",
        ),
        (lambda: ll.label(-1), LOGITS, "classes are named or counted from 0, not -1"),
        (lambda: ll.label(1.5), LOGITS, "classes are named or counted from 0, not 1.5"),
        (lambda: ll.label([]), LOGITS, "classes are named or counted from 0, not []"),
        (
            lambda: ll.label([0, 1, 2]),
            LOGITS,
            "target 'label' is given for 3 samples, but the batch has 2",
        ),
        (
            lambda: ll.region(MASKS[[0, 0, 0]], 1),
            DENSE,
            "target '1 in a region' is given for 3 samples, but the batch has 2",
        ),
        (lambda: ll.top(0), LOGITS, "top(k) counts from 1, not 0"),
        (lambda: ll.ranked(5), LOGITS, "top 6 was asked, but the model has 3 classes"),
        (
            lambda: ll.margin([0, 1], [0, 1, 2]),
            LOGITS,
            "margin takes one class or as many as samples on each side, not 2 and 3",
        ),
        (
            lambda: ll.token(1, 9),
            TEXT,
            "position=9 needs an output b n c with that position, but the output is (2, 4, 6)",
        ),
        (
            lambda: ll.choice(1, 9),
            TEXT,
            "class 9 was asked, but the model has 6 classes",
        ),
        (lambda: ll.token(1, [0, 4]), TEXT, "position 4 was asked, but the output has 4 positions"),
        (
            lambda: ll.token(1, [0, 1, 2]),
            TEXT,
            'target "token 1 at each sample\'s position" is given for 3 samples, but the batch has '
            "2",
        ),
        (
            lambda: ll.token(1, [0.5]),
            TEXT,
            "positions are whole numbers, one per sample, not [0.5]",
        ),
        (
            lambda: ll.token(1, [0, 1]),
            LOGITS,
            "positions need an output b n c, but the output is (2, 3)",
        ),
        (
            lambda: lambda out: out + torch.ones(5),
            LOGITS,
            "target '<lambda>' fails on this output (The size of tensor a (3) must match the size "
            "of tensor b (5) at non-singleton dimension 1); samples may pass a few or one at a "
            "time: a function must find what it needs of each in the output",
        ),
        (lambda: ll.label(True), LOGITS, "classes are named or counted from 0, not True"),
        (
            lambda: ll.label(torch.tensor([1.0])),
            LOGITS,
            "classes are named or counted from 0, not tensor([1.])",
        ),
        (
            lambda: ll.label(np.array([-1])),
            LOGITS,
            "classes are named or counted from 0, not array([-1])",
        ),
        (
            lambda: ll.label(1, of="prob"),
            LOGITS,
            "of='prob' is unknown: write one of logit, probability, log_probability, sigmoid; "
            "did you mean 'probability'?",
        ),
        (
            lambda: ll.label(1, dense=True, position=1),
            TEXT,
            "dense=True means b c and places, position= means b n c: give one",
        ),
        (
            lambda: ll.label(1, position="last"),
            TEXT,
            "dense is true or false and position a whole number, not False and 'last'",
        ),
        (
            lambda: ll.label(1, dense=True),
            LOGITS,
            "a place needs a dense output b c and t, y x or z y x, but the output is (2, 3)",
        ),
        (
            lambda: 1,
            TEXT,
            "a class was asked for, but an output (2, 4, 6) may be positions b n c or classes over "
            "places, b c t: write position=-1 (or limelight.token) or dense=True, name another "
            "part by at=, or give a function of the output",
        ),
        (
            lambda: 1,
            (LOGITS, {"more": DENSE}),
            "the model returned several parts, 0 (2, 3), 1.more (2, 3, 4, 5): name the one that is "
            "meant, at='0' say, or give a function of the output",
        ),
        (
            lambda: ll.Target("<lambda>", lambda out, _: out[:, :1].T),
            LOGITS,
            "target '<lambda>' must give one number per sample, shape (2,), but gave (1, 2)",
        ),
        (
            lambda: lambda out: out.sum(),
            LOGITS,
            "target '<lambda>' must give one number per sample, shape (2,), but gave ()",
        ),
        (
            lambda: lambda out: 3.0,
            LOGITS,
            "target '<lambda>' must give one number per sample, shape (2,), but gave float",
        ),
        (
            lambda: 1,
            torch.tensor(1.0),
            "a class was asked for, but the model returns a single number for the batch",
        ),
        (lambda: 1, {"n": 3}, "the model returned dict without a tensor in it"),
        (
            lambda: None,
            LOGITS,
            "None is no target: give a class, limelight.top(), or a function of the output",
        ),
        (
            lambda: True,
            LOGITS,
            "True is no target: give a class, limelight.top(), or a function of the output",
        ),
        (
            lambda: torch.tensor([0.5]),
            LOGITS,
            "tensor([0.5000]) is no target: give a class, limelight.top(), or a function of the "
            "output",
        ),
        (
            lambda: [],
            LOGITS,
            "[] is no target: give a class, limelight.top(), or a function of the output",
        ),
    ],
)
def test_errors(make, output, error):
    with pytest.raises(TargetError) as found:
        targets(make())[0].resolve(NAMES)(output)
    assert str(found.value) == error


def test_names_need_names():
    with pytest.raises(TargetError, match="this model has no class names, give the number"):
        ll.label("cat").resolve(by_name([]))
    with pytest.raises(TargetError, match=r"'crane' is ambiguous: it names \[0, 1\]; give the num"):
        ll.label("crane").resolve(by_name(["crane", "Crane"]))


def test_a_probe_looks_names_up():
    net = nn.Sequential(nn.Linear(2, 3))
    with ll.Probe(net) as p:
        p.watch("0:in")
        p(torch.ones(2, 2))
        with pytest.raises(TargetError, match="'cat' is unknown; this model has no class names"):
            p.backward("cat")


def test_targets_made_in_inference_mode():
    net = nn.Linear(3, 3)
    with torch.inference_mode():
        found = [ll.label([1, 0]), ll.similar(torch.ones(3)), ll.margin(1, 0)]
    for target in found:
        assert ll.trace(net, LOGITS, "input", target=target)["input"].grad is not None
