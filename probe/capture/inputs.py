"""Inputs as the places where gradients start."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..ops import tensors
from ..trace import exchange, leaves
from .recording import Recording


def picture_size(args: Any, kwargs: Any) -> tuple[int, ...]:
    """Rows and columns of the first image-like argument."""
    for tensor in tensors((args, kwargs)):
        if tensor.ndim in (4, 5) and tensor.is_floating_point():
            return tuple(tensor.shape[-2:])
    return ()


def starts_with_tokens(args: Any, kwargs: Any) -> bool:
    """Whether the first tensor is made of integers: then embeddings are the input."""
    first = next((t for _, t in leaves((args, kwargs))), None)
    return first is None or not (first.is_floating_point() or first.is_complex())


def lift(recording: Recording, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Float arguments as non-leaf copies that require a gradient, where one is wanted.

    Tensors made in inference mode are copied in any case: outside it they can take part in little.
    """

    def change(_: str, x: Tensor) -> Tensor:
        x = x.clone() if x.is_inference() else x
        if not recording.grad or not (x.is_floating_point() or x.is_complex()):
            return x
        copy = x.detach().requires_grad_().clone()
        recording.tape.claim([copy], set(), "the input")
        return copy

    lifted: tuple[Any, Any] = exchange((args, kwargs), change)
    return lifted
