"""Recurrent layers, whose arguments say what the first two dimensions of a sequence are."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..ops import Op
from .op_mode import OpMode

_UNPACKED = 9  # arguments of a call on padded sequences, batch_first the last of them


def recurrent(mode: OpMode, op: Op, func: Any, args: Any, kwargs: Any) -> Any:
    """Run an LSTM, a GRU or a plain recurrent layer, and note where time and batch lie."""
    out = mode.call(op, func, args, kwargs)
    if len(args) == _UNPACKED and isinstance(args[-1], bool):
        axes = "b t c" if args[-1] else "t b c"
        result = out[0] if isinstance(out, tuple) else out
        for x in (args[0], result):
            if isinstance(x, Tensor):
                mode.tell(x, axes, "a recurrent layer")
    return out
