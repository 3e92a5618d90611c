"""What a network takes, by trial: zeros of some channels and sizes, until it accepts them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...probe.capture import check_devices, exclusive, guarded
from ...probe.errors import ImageError

_SIDES = (32, 28, 64, 96, 128, 299, 384, 512, 16, 48, 112, 160, 192, 227, 240, 256, 260, 300, 320,
          331, 336, 380, 448, 456, 480, 528, 600, 640, 768, 1024)  # fmt: skip
USUAL = tuple((side, side) for side in _SIDES)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_REFUSALS = (RuntimeError, ValueError, AssertionError, IndexError)
_LONG = 200

Size = tuple[int, int]


def first_channels(model: nn.Module) -> int | None:
    """The channels that the first convolution takes, in the order of modules (or of weights)."""
    for part in model.modules():
        if isinstance(part, _CONVOLUTIONS):
            return part.in_channels
    if isinstance(model, torch.jit.ScriptModule):
        return next((p.shape[1] for p in model.parameters() if p.ndim == 4), None)
    return None


def accepted(model: nn.Module, channels: Sequence[int], sizes: Sequence[Size]) -> tuple[int, Size]:
    """The first channels and size that the model runs on. Raises ImageError where it refuses all.

    It runs in eval mode and without gradients, on one sample of zeros.
    """
    check_devices(model)
    refusals: dict[tuple[int, Size], Exception] = {}
    with exclusive(model), guarded(model, grad=False, evaluate=True):
        for count in channels:
            for size in sizes:
                error = _run(model, torch.zeros(1, count, *size))
                if error is None:
                    return count, size
                refusals[count, size] = error
    raise _refused(model, refusals)


def _run(model: nn.Module, x: Tensor) -> Exception | None:
    """Why the model does not run on an input; None if it does."""
    try:
        with torch.no_grad():
            model(input_for(model, x))
    except torch.OutOfMemoryError:
        raise
    except _REFUSALS as error:
        if "allocate memory" in str(error):
            raise
        return error
    return None


def input_for(model: nn.Module, x: Tensor) -> Tensor:
    """A batch on the model's device, floats in its precision."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), None)
    if weight is None:
        return x
    return x.to(weight) if x.is_floating_point() else x.to(weight.device)


def _refused(model: nn.Module, refusals: dict[tuple[int, Size], Exception]) -> ImageError:
    (count, size), error = next(iter(refusals.items()))
    words = " ".join(str(error).split()) or type(error).__name__
    words = words if len(words) <= _LONG else words[:_LONG] + "..."
    others = len(refusals) - 1
    wanted = first_channels(model)
    takes = "" if wanted is None else f", whose first convolution takes {wanted} channels,"
    takes = takes.replace("1 channels", "1 channel")
    return ImageError(
        f"{type(model).__name__}{takes} refuses a photo of {count} x {size[0]} x {size[1]} "
        f"({words})"
        + (f" and {others} more that were tried" if others else "")
        + ": say size=, and "
        "mean= and std= with a number a channel; or transform=, a function that makes its input "
        "of a photo; or hand over tensors as inputs="
    )
