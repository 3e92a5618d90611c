"""Inputs of whole numbers: gradients start where they become floats.

Token ids do in an embedding, and its result is the input that is explained. Bytes that a network
scales itself do in a cast or in arithmetic, and keep their places.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..ops import Op
from ..sites import Site
from .ids import ids_of
from .op_mode import OpMode
from .recording import Recording


def embedding(mode: OpMode, op: Op, func: Any, args: Any, kwargs: Any) -> Any:
    """Make the output of an embedding the input that gradients are taken for."""
    recording = mode.recording
    out = mode.call(op, func, args, kwargs)
    if not isinstance(out, Tensor):
        return out
    if recording.tokens:
        return _of_ids(recording, out, ids_of(recording, (args, kwargs)))
    name = _whole_input(recording, (*args, *kwargs.values()))
    return out if name is None else _start(recording, out, recording.input_site(name), ids=True)


def _of_ids(recording: Recording, out: Tensor, name: str | None) -> Tensor:
    """What an embedding gave for the ids of an input; for counters and buffers it is a constant."""
    if name is None and recording.main_ids:
        recording.passed_by += 1
        return out
    main = name in (None, recording.explained)
    recording.met = recording.met or main
    return _start(recording, out, Site("", "in" if main else f"in.{name}"), ids=True)


def from_bytes(mode: OpMode, op: Op, func: Any, args: Any, kwargs: Any) -> Any:
    """Make the first float values of an input of bytes the input that gradients are taken for."""
    recording = mode.recording
    out = mode.call(op, func, args, kwargs)
    name = _whole_input(recording, args)
    if name is None or not isinstance(out, Tensor) or not out.is_floating_point():
        return out
    return _start(recording, out, recording.input_site(name))


BYTE_HANDLERS: dict[str, Callable[..., Any]] = dict.fromkeys(
    ("to", "float", "double", "half", "bfloat16", "type", "type_as", "div", "mul", "add", "sub"),
    from_bytes,
)


def _whole_input(recording: Recording, given: Any) -> str | None:
    """The name of the input of whole numbers that is among the arguments of an op."""
    for x in given:
        if isinstance(x, Tensor) and not (x.is_floating_point() or x.is_complex()):
            name = recording.whole_numbers.get(x.data_ptr())
            if name is not None:
                return name
    return None


def _start(recording: Recording, out: Tensor, site: Site, *, ids: bool = False) -> Tensor:
    if recording.grad and not out.requires_grad:
        out = out.detach().requires_grad_().clone()
        recording.tape.claim([out], set(), "the embedding" if ids else "the input")
        recording.axes.start(out, site, ids=ids)
    call = recording.count("", "embedded" if site.port == "in" else site.port)
    return recording.visit("", site.port, call, out)
