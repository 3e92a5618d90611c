"""What a model raises when it is given what it does not take, as a sentence of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dis import opname
from functools import wraps
from itertools import chain
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from torch import Tensor, nn

from ..capture import argument_names, input_tensors
from ..errors import LimelightError, ProbeError
from .batch import Batch
from .plan import is_out_of_memory

P = ParamSpec("P")
R = TypeVar("R")

_BUILT_IN = (
    AssertionError, AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip


def worded(call: Callable[P, R]) -> Callable[P, R]:
    """A call `(model, x, ...)` whose errors from inside the model say what the model was given.

    Errors that the model's own code raises, of full memory and of edits come through as they are.
    """

    @wraps(call)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        model = args[0] if args else kwargs.get("model")
        if not isinstance(model, nn.Module):
            raise ProbeError(f"a probe needs a torch.nn.Module, not {type(model).__name__}")
        try:
            return call(*args, **kwargs)
        except _BUILT_IN as error:
            if type(error) not in _BUILT_IN or is_out_of_memory(error):
                raise
            if not _raised_inside(error, model):
                raise
            x = kwargs.get("inputs", args[1] if len(args) > 1 else kwargs.get("x"))
            raise _sentence(model, x, error) from error

    return checked


def _raised_inside(error: BaseException, model: nn.Module) -> bool:
    """Whether torch or Python raised an error while the model ran, and no edit of the caller's."""
    inside, step = False, error.__traceback__
    while step is not None:
        frame, module = step.tb_frame, step.tb_frame.f_globals.get("__name__", "")
        if module.endswith("probe.trace.edits"):
            return False
        inside |= module == "torch.nn.modules.module" and frame.f_locals.get("self") is model
        last, step = step, step.tb_next
    return inside and not _meant(last)


def _meant(step: TracebackType) -> bool:
    """Whether the code of a model says itself what is wrong, by a `raise`."""
    code, module = step.tb_frame.f_code, step.tb_frame.f_globals.get("__name__", "")
    raised = opname[code.co_code[step.tb_lasti]] == "RAISE_VARARGS"
    return raised and module.partition(".")[0] != "torch"


def _sentence(model: nn.Module, x: object, error: BaseException) -> LimelightError:
    args, kwargs = _arguments(x)
    said = " ".join(str(error).partition("\n")[0].split()).rstrip(".")
    return ProbeError(
        f"{type(model).__name__} does not run on {_given(args, kwargs)} ({type(error).__name__}: "
        f"{said[:200]}); {_advice(model, args, kwargs)}"
    )


def _arguments(x: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(x, Batch):
        return x.args, dict(x.kwargs)
    if isinstance(x, Mapping):
        return (), {str(name): value for name, value in x.items()}
    return x if isinstance(x, tuple) else (x,), {}


def _given(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Arguments in words: types and shapes."""
    words = [_word(value) for value in args] + [f"{n}={_word(v)}" for n, v in kwargs.items()]
    return ", ".join(words) or "nothing"


def _word(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return type(value).__name__


def _advice(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """What to do, as far as the arguments tell."""
    weight = next((p for p in chain(model.parameters(), model.buffers())), None)
    if any(t.is_meta for t in chain(model.parameters(), model.buffers())):
        return "some of its weights are on the meta device and hold no values: load them first"
    tensors = list(input_tensors(args, dict(kwargs)).values())
    names = argument_names(model)
    strange = [name for name in kwargs if names and name not in names]
    if strange or (names and len(args) + len(kwargs) > len(names)):
        return f"its forward takes {', '.join(names)}"
    if any(isinstance(value, list) for value in args):
        return "a batch is one tensor: torch.stack the samples of a list"
    first = tensors[0] if tensors else None
    if first is None or weight is None:
        return "give tensors as the model takes them, the batch first"
    if first.device != weight.device:
        return f"its weights are on {weight.device}: move the input there"
    if first.dtype != weight.dtype and weight.is_floating_point():
        kind = str(weight.dtype).removeprefix("torch.")
        return f"its weights are {kind}: give x.to(torch.{kind}), or ids where the model takes ids"
    batch = " (one sample is a batch of one: x[None])" if first.ndim < 4 else ""
    takes = f"; its forward takes {', '.join(names)}" if len(names) > 1 else ""
    return f"give a batch as the model takes it{batch}{takes}"
