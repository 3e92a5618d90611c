"""Token models: gradients start at the embedding, where the input stops being integers."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..ops import Op
from .op_mode import SPECIAL, Eye


def _embedding(eye: Eye, op: Op, func: Any, args: Any, kwargs: Any) -> Any:
    recording = eye.recording
    out = eye.call(op, func, args, kwargs)
    if not isinstance(out, Tensor) or not recording.tokens:
        return out
    if recording.grad and not out.requires_grad:
        leaf = out.detach().requires_grad_()
        out = leaf.clone()
        recording.lifted.append(leaf)
        recording.tape.claim([out], set(), "the embedding")
    return recording.visit(
        "", "in", recording.count("", "embedded"), out, "b n c" if out.ndim == 3 else ""
    )


SPECIAL["embedding"] = _embedding
