"""Whether a model still holds the random weights that it was built with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

RANDOM = "random weights: this model was never trained, and what it looks at means nothing"
_HELD = "_initial_weights"
_VALUES = 8


@dataclass(frozen=True)
class _Initial:
    """The first values of a few parameters by name, as they were drawn."""

    values: dict[str, Tensor]


def remember_initial(model: nn.Module) -> nn.Module:
    """Remember the weights that a model was just built with, so that results can say so."""
    drawn = [(n, p) for n, p in model.named_parameters() if p.ndim > 1 and not p.is_meta]
    chosen = {0, len(drawn) // 2, len(drawn) - 1} if drawn else set()
    model.__dict__[_HELD] = _Initial({drawn[i][0]: _first(drawn[i][1]) for i in sorted(chosen)})
    return model


def has_initial_weights(model: nn.Module) -> bool:
    """Whether the values remembered when the model was built stand where they stood.

    A copy, another device or precision keeps them; training and loading do not. False for a model
    of which nothing was remembered.
    """
    initial = getattr(getattr(model, "_orig_mod", model), _HELD, None)
    if not isinstance(initial, _Initial):
        return False
    inner = getattr(model, "_orig_mod", model)
    return bool(initial.values) and all(
        _holds(inner, name, values) for name, values in initial.values.items()
    )


def _holds(model: nn.Module, name: str, values: Tensor) -> bool:
    """Whether a parameter begins with these values; compiled parts answer to their own names."""
    try:
        return _alike(_first(model.get_parameter(name)), values)
    except AttributeError:
        return False


def _first(parameter: Tensor) -> Tensor:
    return parameter.detach().flatten()[:_VALUES].float().cpu().clone()


def _alike(one: Tensor, other: Tensor) -> bool:
    """Equal but for the rounding of a shorter type."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=2**-7, atol=0)
