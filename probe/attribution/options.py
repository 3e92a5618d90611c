"""Options of functions: read from a signature, converted from text, refused with a near name."""

from __future__ import annotations

import hashlib
import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from math import inf, isfinite
from numbers import Real
from typing import (
    Annotated,
    Any,
    Literal,
    NoReturn,
    ParamSpec,
    TypeVar,
    Union,
    get_args,
    get_origin,
)

import torch
from torch import Tensor

from ..errors import OptionError, near

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Range:
    """The numbers that an option may be, as `Annotated[float, Range(0, 1)]` says it.

    open  whether `low` itself is none of them
    """

    low: float
    high: float = inf
    open: bool = False

    def __contains__(self, value: float) -> bool:
        return (self.low < value if self.open else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        if self.high < inf:
            return f"{self.low:g} {'<' if self.open else '<='} it <= {self.high:g}"
        return f"more than {self.low:g}" if self.open else f"{self.low:g} or more"


class RangeError(OptionError):
    """A number that an option may not be, though it is one."""


Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
Spread = Annotated[float, Range(0)]
Positive = Annotated[float, Range(0, open=True)]
Share = Annotated[float, Range(0, 1)]
_SPANS: Mapping[str, Any] = {
    "Count": Count, "Natural": Natural, "Spread": Spread, "Positive": Positive, "Share": Share
}  # fmt: skip

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class TensorOption:
    """A copy of a tensor as an option: equal to those of the same content, short in words."""

    tensor: Tensor = field(compare=False, repr=False)
    words: str

    @staticmethod
    def of(tensor: Tensor) -> TensorOption:
        held = tensor.detach().clone()
        raw = held.cpu().contiguous().flatten().view(torch.uint8).numpy()
        content = hashlib.sha256(f"{held.dtype} {tuple(held.shape)}".encode() + raw.tobytes())
        size = "x".join(str(n) for n in held.shape) or "1"
        return TensorOption(held, f"tensor {size} {content.hexdigest()[:12]}")

    def __str__(self) -> str:
        return self.words


@lru_cache(maxsize=1024)
def options_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The keywords of a function, in order, with their types and defaults."""
    parameters = inspect.signature(function, eval_str=True).parameters
    keywords = {n: p for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    return types.MappingProxyType(keywords)


def in_range(function: Callable[P, R]) -> Callable[P, R]:
    """A call whose keywords of types such as `Count` lie where these say. Raises OptionError."""
    spans = {
        name: _SPANS[hint]
        for name, hint in function.__annotations__.items()
        if isinstance(hint, str) and hint in _SPANS
    }

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for key in spans.keys() & kwargs.keys():
            kwargs[key] = convert(function.__name__, key, kwargs[key], spans[key])
        return function(*args, **kwargs)

    return checked


def positional(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of the parameters of a function that are no keywords."""
    parameters = inspect.signature(function).parameters
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(n for n, p in parameters.items() if p.kind in kinds)


def split_spec(spec: str) -> tuple[str, list[str]]:
    """`name:variant,key=value` as `name` and `["=variant", "key=value"]`."""
    head, *words = [word.strip() for word in spec.split(",")]
    name, colon, variant = head.partition(":")
    return name.strip(), ([f"={variant.strip()}"] if colon else []) + words


def bare_name(spec: str) -> str:
    """The name in front of variant and options: `normgrad` of `normgrad:scaling,k=3`."""
    return split_spec(spec)[0]


def convert(owner: str, key: str, value: Any, hint: Any) -> Any:
    """A value checked against, and text read as, the type of an option. Raises OptionError."""
    if hint is None or hint is Any or hint is inspect.Parameter.empty:
        return value
    if get_origin(hint) is Annotated:
        return _in_range(owner, key, convert(owner, key, value, get_args(hint)[0]), hint)
    if get_origin(hint) is Literal:
        return _one_of(owner, key, value, get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return _any_of(owner, key, value, get_args(hint))
    if hint is Tensor and isinstance(value, Tensor | TensorOption):
        return value if isinstance(value, TensorOption) else TensorOption.of(value)
    if get_origin(hint) is tuple:
        return _several(owner, key, value, get_args(hint)[0])
    if hint is bool and isinstance(value, str) and value.lower() in _TRUTH:
        return _TRUTH[value.lower()]
    if hint in (int, float) and isinstance(value, (str, Real)):
        return _number(owner, key, value, hint)
    if hint in (int, float, bool, str, Tensor) and not isinstance(value, hint):
        _refuse(owner, key, value, hint)
    return value


def _in_range(owner: str, key: str, value: Any, hint: Any) -> Any:
    """A value that lies where the hint says. Raises OptionError."""
    (span,) = (mark for mark in hint.__metadata__ if isinstance(mark, Range))
    if value not in span:
        raise RangeError(f"{owner} takes {key} of {span}, not {key}={value!r}")
    return value


def _several(owner: str, key: str, value: Any, hint: Any) -> Any:
    """Values of one kind; as text `4x8x8`."""
    words = value.split("x") if isinstance(value, str) else value
    if not isinstance(words, list | tuple):
        raise OptionError(f"{owner}: {key} is several values, not {value!r}")
    return tuple(convert(owner, key, word, hint) for word in words)


def written(value: Any) -> str:
    """An option as text that `convert` reads: several numbers as `4x8x8`."""
    numbers = isinstance(value, tuple) and all(isinstance(v, int | float) for v in value)
    return "x".join(map(str, value)) if numbers and value else str(value)


def _one_of(owner: str, key: str, value: Any, choices: tuple[Any, ...]) -> Any:
    for choice in choices:
        if value == choice or str(choice) == value:
            return choice
    names = [str(choice) for choice in choices]
    raise OptionError(
        f"{owner}: {key} is one of {', '.join(names)}, not {value!r}" + near(str(value), names)
    )


def _any_of(owner: str, key: str, value: Any, hints: tuple[Any, ...]) -> Any:
    if type(None) in hints and value in (None, "none", "None"):
        return None
    some = [hint for hint in hints if hint is not type(None)]
    for hint in some:
        try:
            return convert(owner, key, value, hint)
        except OptionError as error:
            if len(some) == 1 or isinstance(error, RangeError):
                raise
    choices = [choice for hint in hints if get_origin(hint) is Literal for choice in get_args(hint)]
    if choices and isinstance(value, str):
        return _one_of(owner, key, value, tuple(choices))
    raise OptionError(f"{owner}: {key} cannot be {value!r}")


def _number(owner: str, key: str, value: Any, hint: type) -> int | float:
    """Text or a number as an int or a float; no bool, and no int of what has a fraction."""
    try:
        if isinstance(value, bool) or (hint is int and not float(value).is_integer()):
            _refuse(owner, key, value, hint)
        number = float(value) if hint is float else int(value)
    except (ValueError, OverflowError):
        _refuse(owner, key, value, hint)
    if not isfinite(number):
        raise OptionError(f"{owner}: {key} is a finite number, not {value!r}")
    return number


def _refuse(owner: str, key: str, value: Any, hint: type) -> NoReturn:
    raise OptionError(f"{owner}: {key} is {_KINDS.get(hint, hint.__name__)}, not {value!r}")
