"""The scale of scores: what a model has made of its logits already, and what a target wants."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import TargetError, near

Of = Literal["logit", "probability", "log_probability", "sigmoid"]
Made = Literal["logits", "softmax", "sigmoid", "log_softmax", "log_sigmoid"]

_SQUASHED: dict[str, Made] = {
    "Softmax": "softmax",
    "Sigmoid": "sigmoid",
    "Hardsigmoid": "sigmoid",
    "LogSoftmax": "log_softmax",
    "LogSigmoid": "log_sigmoid",
}
_LOGARITHM: dict[Made, Made] = {"softmax": "log_softmax", "sigmoid": "log_sigmoid"}
_EXPONENT: dict[Made, Made] = {log: plain for plain, log in _LOGARITHM.items()}
# Nodes that hand on what they get: as it is, in part, or many beside one another.
_WHOLE = {
    "Alias", "Clamp", "ClampMax", "ClampMin", "Clone", "Expand", "Flip", "Permute", "ReshapeAlias",
    "Squeeze", "Swapaxes", "T", "ToCopy", "Transpose", "UnsafeView", "Unsqueeze", "View",
}  # fmt: skip
_PARTLY = {
    "AsStrided", "Gather", "Index", "IndexSelect", "Select", "Slice", "Split", "SplitWithSizes",
    "Unbind",
}  # fmt: skip
_BESIDE = {"Cat", "Stack"}
# Means of neighbours: those of probabilities are probabilities.
_MEANS = {
    "AdaptiveAvgPool2D", "AvgPool2D", "Mean", "MkldnnAdaptiveAvgPool2D", "UpsampleBilinear2D",
    "UpsampleLinear1D", "UpsampleNearest1D", "UpsampleNearest2D", "UpsampleNearest3D",
    "UpsampleTrilinear3D",
}  # fmt: skip
_LINEAR = {"Addmm", "Baddbmm", "Bmm", "Convolution", "Mm", "Mv"}


def check_scale(of: str) -> None:
    """Raise TargetError for a scale that does not exist."""
    if of not in get_args(Of):
        known = ", ".join(get_args(Of))
        raise TargetError(f"of={of!r} is unknown: write one of {known}{near(of, get_args(Of))}")


def scaled(values: Tensor, of: Of, made: Made) -> Tensor:
    """Values `b c ...`, on the scale `made`, on the scale `of`.

    A single class has no rival: its probability is the sigmoid. Raises TargetError where a
    sigmoid is asked of what one softmax has made of all classes.
    """
    if of == "logit":
        return values
    if of == "sigmoid":
        return _sigmoid(values, made)
    if made == "logits":
        if values.shape[1] == 1:
            return values.sigmoid() if of == "probability" else F.logsigmoid(values)
        return values.softmax(1) if of == "probability" else values.log_softmax(1)
    logarithms = made in _EXPONENT
    if of == "probability":
        return values.exp() if logarithms else values
    return values if logarithms else values.clamp_min(torch.finfo(values.dtype).tiny).log()


def _sigmoid(values: Tensor, made: Made) -> Tensor:
    if made in ("softmax", "log_softmax"):
        raise TargetError(
            "of='sigmoid' was asked, but the model makes probabilities by one softmax over its "
            "classes: write of='probability'"
        )
    if made == "logits":
        return values.sigmoid()
    return values.exp() if made == "log_sigmoid" else values


def found_scale(part: Tensor, values: Tensor) -> tuple[Made, tuple[str, ...]]:
    """On what scale an output is, and what had to be assumed.

    It is read off the graph that made it; where the graph says nothing, off the values if they are
    certain: numbers outside 0..1 are logits, rows that sum to 1 are probabilities.

    part    the output as the model returned it, with its graph where it has one
    values  the same, `b c ...`
    """
    v = values.detach()
    inside = bool(((v >= 0) & (v <= 1)).all())
    rows = inside and v.shape[1] > 1 and _sums_to_one(v)
    made, chosen, end = _from_graph(part.grad_fn)
    if made == "softmax" and not (chosen or rows):
        note = "the model ends in a softmax that is not over its classes: read as logits"
        return "logits", (note,)
    if made != "logits":
        return made, ()
    if rows:
        return "softmax", ("rows of the output sum to 1: read as probabilities",)
    if inside and end not in _LINEAR:
        note = "all outputs lie in 0..1, but no sigmoid was seen to make them: read as logits"
        return "logits", (note,)
    return "logits", ()


def _sums_to_one(values: Tensor) -> bool:
    near_enough = 1e-4 if values.dtype in (torch.float32, torch.float64) else 2e-2
    return bool(((values.float().sum(1) - 1).abs() <= near_enough).all())


def _from_graph(node: Any) -> tuple[Made, bool, str]:
    """What squashed the values, whether some of them were chosen since, and the node found."""
    name = "" if node is None else node.name().partition("Backward")[0]
    if name in _SQUASHED:
        return _SQUASHED[name], False, name
    parents = [parent for parent, _ in node.next_functions] if node is not None else []
    if name in _BESIDE:
        made, _, _ = _agreed(map(_from_graph, parents))
        return made, True, name
    if name in _WHOLE | _PARTLY | _MEANS | {"Exp", "Log"} and parents:
        made, chosen, end = _from_graph(parents[0])
        if name == "Exp":
            made = _EXPONENT.get(made, "logits")
        if name == "Log":
            made = _LOGARITHM.get(made, "logits")
        if name in _MEANS and made in _EXPONENT:
            made = "logits"
        return made, chosen or name in _PARTLY | _MEANS, end
    return "logits", False, name


def _agreed(found: Iterable[tuple[Made, bool, str]]) -> tuple[Made, bool, str]:
    every = list(found)
    alike = len({made for made, _, _ in every}) == 1
    return every[0] if alike else ("logits", True, "")
