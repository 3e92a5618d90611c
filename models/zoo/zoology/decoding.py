"""Steps of mixers: what each keeps of the tokens before, in a memory that every call moves on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ....probe.errors import OptionError
from ...layers import Memory, check_length


def windowed(
    mixed: Callable[[Tensor], Tensor], x: Tensor, memory: Memory, most: int | None = None
) -> Tensor:
    """What a causal mixer gives for tokens that follow others: it mixes a window of both again.

    x      `b n c`, the tokens of this call
    memory inputs of earlier calls as `x`, the last `most` of them, or all
    """
    whole = torch.cat([memory["x"], x], 1) if memory else x
    memory["x"] = whole if most is None else whole[:, max(whole.shape[1] - most, 0) :]
    return mixed(whole)[:, -x.shape[1] :]


def count_on(x: Tensor, memory: Memory | None, l_max: int | None) -> None:
    """Count the tokens seen in a memory. Raises OptionError for more than l_max of them."""
    seen = x.shape[1]
    if memory is not None:
        seen += int(memory["seen"]) if memory else 0
        memory["seen"] = torch.tensor(seen)
    if l_max is not None:
        check_length(seen, l_max)


def no_steps(name: str, reason: str) -> OptionError:
    """The error of a mixer that cannot go on from what it has seen."""
    return OptionError(
        f"a cache was given, but {name} {reason}: call the model on whole sequences, without one"
    )
