"""Which op a torch function is, and what a call of it overwrites."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch._ops import OpOverload

from .table import name_of, spec_of

# Reads and switches that return tensors but compute nothing.
_QUIET = {
    "requires_grad_", "retain_grad", "register_hook", "rename_", "share_memory_", "is_inference",
    "as_subclass", "untyped_storage", "data_ptr", "is_contiguous", "numpy", "__array__", "grad_fn",
    "has_names", "stride", "storage_offset", "size", "dim", "numel", "__len__", "__repr__",
    "__format__", "__bool__", "item", "tolist", "element_size", "is_floating_point", "is_complex",
    "get_device", "__deepcopy__", "__reduce_ex__", "pin_memory", "result_type", "is_nonzero",
    "broadcast_shapes", "is_tensor", "is_storage", "can_cast",
}  # fmt: skip
_ATTRIBUTES = {"T", "mT", "H", "mH", "real", "imag"}


@dataclass(frozen=True, slots=True)
class Op:
    """A function's canonical name; whether it writes into its first argument, or may.

    kernel  whether it is an op of limelight's own, with a face that tells what it is
    """

    name: str
    inplace: bool = False
    switch: int | None = None
    kernel: bool = False

    def overwrites(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether this call writes into its first argument."""
        if self.inplace:
            return True
        if self.switch is None:
            return False
        return bool(args[self.switch] if len(args) > self.switch else kwargs.get("inplace"))

    def targets(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
        """The tensors that this call writes into."""
        written = tensors(kwargs.get("out"))
        if self.overwrites(args, kwargs):
            written += tensors(args[0] if args else kwargs.get("input"))
        return written


def describe(function: Callable[..., Any]) -> Op | None:
    """The op a function is; None for attribute reads and other calls that compute nothing."""
    name = getattr(function, "__name__", "")
    if isinstance(function, OpOverload):  # of torch.ops: `relu.default`
        name = name.partition(".")[0]
    if name in ("__get__", "__set__", "__delete__"):
        read = getattr(getattr(function, "__self__", None), "__name__", "")
        return Op(name_of(read)) if name == "__get__" and read in _ATTRIBUTES else None
    if not name or name in _QUIET:
        return None
    if hasattr(function, "face"):
        return Op(function.face.name, kernel=True)
    dunder = name.startswith("__") and name.endswith("__")
    word = name.strip("_") if dunder else name
    inplace = word in _INPLACE_DUNDERS if dunder else word.endswith("_")
    word = word.rstrip("_").lstrip("_")
    return Op(name_of(word), inplace or word == "setitem", _switch(function))


_INPLACE_DUNDERS = {
    name.strip("_")
    for name in dir(Tensor)
    if name.startswith("__i") and name.endswith("__") and hasattr(Tensor, "__" + name[3:])
}


def _switch(function: Callable[..., Any]) -> int | None:
    """The place of an `inplace` argument in a function's signature."""
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return None
    return names.index("inplace") if "inplace" in names else None


def rectifies(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call is ReLU-like: it keeps what is positive and dampens what is not."""
    floor = spec_of(op.name).rectifies
    if isinstance(floor, bool):
        return floor
    low = args[1] if len(args) > 1 else kwargs.get(floor)
    return isinstance(low, (int, float)) and low == 0


def tensors(value: Any) -> list[Tensor]:
    """The tensors among the arguments or results of a call, lists and tuples opened."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (tuple, list)):
        return [t for part in value for t in tensors(part)]
    if isinstance(value, dict):
        return [t for part in value.values() for t in tensors(part)]
    return []
