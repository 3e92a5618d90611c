"""What a model raises when it is given what it does not take is one sentence of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.probe.errors import LimelightError, ProbeError

X = torch.randn(2, 3, 8, 8)


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.net(x * mask)


CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "maps": lambda model, x: ll.maps(model, x, "gradcam", sites="**"),
    "rise": lambda model, x: ll.maps(model, x, "rise,n=2"),
    "trace": lambda model, x: ll.trace(model, x, "**"),
    "patch": lambda model, x: ll.patch(model, x, {}),
    "ledger": lambda model, x: ll.ledger(model, x),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("model", "x", "words"),
    [
        (net(), X.byte(), r"on uint8 of shape \(2, 3, 8, 8\).*give x.to\(torch.float32\)"),
        (net(), X.long(), "on int64 of shape .*its weights are float32"),
        (net(), X.double(), "on float64 of shape .*its weights are float32"),
        (net(), X[0], r"on float32 of shape \(3, 8, 8\).*one sample is a batch of one: x\[None\]"),
        (net(), X[:, :1], r"on float32 of shape \(2, 1, 8, 8\).*as the model takes it$"),
        (net(), [X[0], X[1]], "on a list of 2.*torch.stack"),
        (net(), X.numpy(), r"holds no sample, it is ndarray.*torch.from_numpy\(x\)"),
        (net(), None, "holds no sample, it is NoneType and no tensor"),
        (net(), b"\xff\xd8", "holds no sample, it is bytes and no tensor"),
        (net(), (X, X), "its forward takes input"),
        (Masked(), {"x": X, "maks": X}, "maks=float32 of shape .*its forward takes x, mask"),
        (Masked(), {"x": X, "mask": "all"}, "mask=str .*its forward takes x, mask"),
        (Masked(), X, "missing .*its forward takes x, mask"),
        (net().to("meta"), X, "without values: load its weights"),
        (net(), X.to("meta"), "its weights are on cpu"),
        (lambda x: x, X, "needs a torch.nn.Module, not function"),
    ],
)
def test_what_a_model_was_given_is_said(call: str, model: Any, x: Any, words: str) -> None:
    with pytest.raises(LimelightError, match=words) as found:
        CALLS[call](model, x)
    assert "\n" not in str(found.value)


class OwnError(Exception):
    """An error of a user's model."""


class Raises(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Tensor) -> Tensor:
        raise self.error


def test_errors_that_are_not_about_the_input_come_through() -> None:
    with pytest.raises(OwnError):
        ll.maps(Raises(OwnError()), X, "gradient")
    with pytest.raises(ValueError, match=r"^no$"):
        ll.maps(Raises(ValueError("no")), X, "gradient")
    with pytest.raises(ProbeError) as found:
        ll.maps(net(), X.double(), "gradient")
    assert type(found.value.__cause__) is RuntimeError

    def broken(value: Tensor, site: ll.Site) -> Tensor:
        raise ValueError("of the edit")

    with pytest.raises(ValueError, match=r"^of the edit$"):
        ll.patch(net(), X, {"0": broken})
    with pytest.raises(ZeroDivisionError):
        ll.maps(net(), X, "gradient", target=lambda out: out[:, 0] / (1 // 0))
