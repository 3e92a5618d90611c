"""Every public name says what it is by an example, and the example runs."""

from __future__ import annotations

import doctest
import importlib
import inspect

import pytest
import torch
from torch import nn

import limelight as ll

PARSER = doctest.DocTestParser()


def examples(name: str) -> doctest.DocTest:
    text = inspect.cleandoc(getattr(ll, name).__doc__ or "")
    return PARSER.get_doctest(text, {}, name, None, 0)


@pytest.fixture
def space(tmp_path, monkeypatch) -> dict[str, object]:
    """What examples speak of: a small network, a batch, models of the package."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    return {
        "__name__": "examples",
        "ll": ll,
        "torch": torch,
        "nn": nn,
        "net": nn.Sequential(*layers).eval(),
        "x": torch.randn(2, 3, 8, 8),
        "lm": ll.load("induction_2l"),
        "ids": torch.tensor([[5, 9, 3, 7, 5]]),
        "digits": ll.load("convit_digits"),
    }


@pytest.fixture
def readers(monkeypatch) -> None:
    """What an example says of a family of models is forgotten."""
    module = importlib.import_module("limelight.probe.sites.adapter")
    monkeypatch.setattr(module, "_readers", [*module._readers])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ll.__all__)
def test_every_public_name_has_an_example_that_runs(name, space, readers, capsys):
    test = examples(name)
    assert test.examples, f"{name} has no example"
    test.globs = space
    found = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, clear_globs=False)
    assert found.failed == 0, capsys.readouterr().out
