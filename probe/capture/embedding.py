"""Token models: gradients start at the embedding, where the input stops being integers."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..ops import Op
from ..sites import Site
from .op_mode import OpMode


def embedding(mode: OpMode, op: Op, func: Any, args: Any, kwargs: Any) -> Any:
    """Make the output of an embedding the input that gradients are taken for."""
    recording = mode.recording
    out = mode.call(op, func, args, kwargs)
    if not isinstance(out, Tensor) or not recording.tokens:
        return out
    if recording.grad and not out.requires_grad:
        out = out.detach().requires_grad_().clone()
        recording.tape.claim([out], set(), "the embedding")
        edge = (out.grad_fn, out.output_nr)
        recording.axes.start(edge, out.shape, Site("", "in"), ids=True)
    return recording.visit("", "in", recording.count("", "embedded"), out)
