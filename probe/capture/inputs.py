"""Inputs as the places where gradients start."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..trace import exchange, leaves
from .recording import Recording

_MASK = re.compile(r"(^|_|\.)(masks?|padding|pad|lengths?|flags?)($|_)|mask$")


def input_name(place: str) -> str:
    """How users call a tensor of (args, kwargs): `0`, `mask`, `features.2`."""
    return place.partition(".")[2]


def input_tensors(args: Any, kwargs: Any) -> dict[str, Tensor]:
    """Every tensor among a model's arguments, by name."""
    return {input_name(place): t for place, t in leaves((args, kwargs))}


def explained_input(
    tensors: Mapping[str, Tensor], *, fixed: Sequence[str] = (), names: Sequence[str] = ()
) -> str:
    """The name of the tensor that is explained: the first of values, else of ids; "" for none.

    The order of keywords does not matter but among equals.

    names  of the model's positional arguments
    """
    candidates = _no_masks(tensors, fixed, names)
    values = (name for name in candidates if not is_tokens(tensors[name]))
    return next(values, next(iter(candidates or tensors), ""))


def movable_inputs(
    tensors: Mapping[str, Tensor], *, fixed: Sequence[str] = (), names: Sequence[str] = ()
) -> tuple[str, ...]:
    """The names of the tensors that a path could move: floats that are no masks."""
    return tuple(
        name for name in _no_masks(tensors, fixed, names) if tensors[name].is_floating_point()
    )


def _no_masks(
    tensors: Mapping[str, Tensor], fixed: Sequence[str], names: Sequence[str]
) -> list[str]:
    """Masks are told by type and by name, their own or that of the model's argument, never by size.

    names  of the model's positional arguments
    """
    return [
        name
        for name, t in tensors.items()
        if name not in fixed and t.dtype != torch.bool and not _MASK.search(_argument(name, names))
    ]


def _argument(name: str, names: Sequence[str]) -> str:
    """What the model calls an argument that was given by position."""
    return names[int(name)] if name.isdecimal() and int(name) < len(names) else name


def is_tokens(t: Tensor | None) -> bool:
    """Whether an input may hold ids, whose embeddings are explained; bytes are always values."""
    return t is None or t.dtype in (torch.int64, torch.int32, torch.bool)


def is_whole(t: Tensor | None) -> bool:
    """Whether an input holds whole numbers: ids, or values that the model makes floats of."""
    return t is not None and not (t.is_floating_point() or t.is_complex())


def lift(recording: Recording, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Float arguments as non-leaf copies that require a gradient, where one is wanted.

    Tensors made in inference mode are copied in any case: outside it they can take part in little.
    The forward may write into copies; without gradients, floats that it sees are the caller's.
    """

    def change(place: str, x: Tensor) -> Tensor:
        x = x.clone() if x.is_inference() else x
        if is_whole(x):
            recording.whole_numbers[x.data_ptr()] = input_name(place)
            _remember(recording, x, input_name(place))
        if not recording.grad or not (x.is_floating_point() or x.is_complex()):
            return x
        copy = x.detach().requires_grad_().clone()
        recording.tape.claim([copy], set(), "the input")
        name = input_name(place)
        recording.axes.start(copy, recording.input_site(name), batch=recording.members.get(name))
        return copy

    lifted: tuple[Any, Any] = exchange((args, kwargs), change)
    return lifted


def _remember(recording: Recording, x: Tensor, name: str) -> None:
    """Hold whole numbers by name; of one tensor given twice, as the input that is explained."""
    if name == recording.explained:
        recording.main_ids = id(x)
    elif id(x) in recording.ids:
        return
    recording.ids[id(x)] = x, name
