"""Weights for a model: chosen by tag or file, fitted strictly, told apart by a fingerprint."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...probe.errors import WeightsError, near
from ...probe.sites import Tokenizer
from ..card import Card, Source, State
from . import gguf as gguf_files
from .download import converted, fetch, nearest
from .fingerprint import fingerprint
from .state_files import SUFFIXES, read_state
from .tokenizer_files import read_tokenizer, tokenizer_beside

__all__ = ["Chosen", "choose", "fingerprint", "fit", "hyper_from_file", "no_init"]


@dataclass(frozen=True)
class Chosen:
    """Weights that were found and read: what they are called, where they came from, the tensors.

    hyper      hyper-parameters that the file itself tells, or its source
    tokenizer  the one that came with it
    path       the file, which may have a tokenizer beside it
    """

    label: str
    source: Source | None
    state: State
    hyper: Mapping[str, object] = field(default_factory=dict)
    tokenizer: Tokenizer | None = None
    path: Path | None = None


def choose(card: Card, weights: str | Path | None) -> Chosen | None:
    """Find and read the weights that were asked for; None for random ones.

    Raises WeightsError for an unknown tag, a missing file, a failed download or a bad file.
    """
    if weights is None:
        return None
    if not isinstance(weights, str | Path):
        raise WeightsError(
            f"weights of {card.name!r} cannot be {weights!r}: give None, a tag or a file"
        )
    source = card.weights.get(weights) if isinstance(weights, str) else None
    if source is None:
        path = _file(card, weights)
        return _read(str(path), path)
    source = nearest(source)
    chosen = _read(tag := str(weights), fetch(card.name, tag, source), source)
    if not source.tokenizer:
        return chosen
    beside = replace(source, file=source.tokenizer, sha256="")
    return replace(chosen, tokenizer=read_tokenizer(fetch(card.name, tag, beside)))


def _read(label: str, path: Path, source: Source | None = None) -> Chosen:
    """A file's tensors and what it tells beside them; a package's GGUF file is kept converted."""
    if path.suffix.lower() in gguf_files.SUFFIXES:
        gguf = gguf_files.read_gguf(path)
        if source is not None:
            gguf_files.keep(gguf, converted(source), path.name)
        return Chosen(label, source, gguf.state, gguf.hyper, gguf.tokenizer)
    state = read_state(path, source.key if source else "")
    if source is not None and source.convert:
        state = source.convert(state)
    return Chosen(label, source, state, {} if source is None else source.hyper, path=path)


def hyper_from_file(
    chosen: Chosen | None, defaults: Mapping[str, object], given: Mapping[str, object]
) -> dict[str, object]:
    """The hyper-parameters that weights themselves tell.

    defaults   those that make the model what it is; given, the caller's, go before both
    Raises WeightsError where the file's differ from the model's own: not all show in shapes.
    """
    if chosen is None:
        return {}
    other = [
        f"{key}={value!r} for {defaults[key]!r}"
        for key, value in chosen.hyper.items()
        if key not in given and defaults.get(key) is not None and defaults[key] != value
    ]
    if other:
        raise WeightsError(
            f"weights {chosen.label!r} were trained with other hyper-parameters "
            f"({_first(other)}): build the model with those"
        )
    return dict(chosen.hyper)


def _file(card: Card, weights: str | Path) -> Path:
    path = Path(weights).expanduser()
    if os.path.isfile(path):  # unlike Path.is_file, quiet about impossible names
        return path
    if os.path.isdir(path):
        raise WeightsError(f"weights {str(weights)!r} is a folder: give the file inside it")
    if (
        isinstance(weights, Path)
        or path.suffix in (*SUFFIXES, *gguf_files.SUFFIXES)
        or len(path.parts) > 1
    ):
        beside = path.parent.iterdir() if path.parent.is_dir() else []
        hint = near(path.name, (p.name for p in beside))
        raise WeightsError(f"weights file {str(weights)!r} does not exist{hint}")
    tags = ", ".join(repr(tag) for tag in card.weights) or "none"
    raise WeightsError(
        f"model {card.name!r} has no published weights {weights!r}, and no such file exists; "
        f"its tags: {tags}{near(weights, card.weights)}"
    )


def fit(model: nn.Module, chosen: Chosen, *, fresh_head: str = "") -> None:
    """Copy the weights into the model, all of them or none; a model of text gets the tokenizer.

    fresh_head   classifier that may start anew where the file has another number of classes
    Raises WeightsError listing what is missing, unexpected or of another shape.
    """
    convert: Callable[[State], State] | None = getattr(model, "convert_state", None)
    state = dict(convert(dict(chosen.state)) if convert else chosen.state)
    model_state = model.state_dict()
    dropped = _drop_head(state, model_state, fresh_head)
    for name in model_state:
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, model_state[name])
    _compare(model, chosen.label, state, model_state)
    model.load_state_dict(state)
    if hasattr(model, "tokenizer"):
        beside = tokenizer_beside(chosen.path) if chosen.path else None
        read = chosen.tokenizer or beside
        if read is not None:
            model.tokenizer = read  # type: ignore[assignment]
    if dropped:
        _renew(model.get_submodule(fresh_head))
        warnings.warn(
            f"weights {chosen.label!r} have another number of classes: {fresh_head!r} of the "
            "model starts with random weights",
            stacklevel=3,
        )


def _drop_head(state: State, model_state: Mapping[str, Tensor], head: str) -> bool:
    weight, bias = f"{head}.weight", f"{head}.bias"
    if not head or weight not in state or weight not in model_state:
        return False
    if state[weight].shape == model_state[weight].shape:
        return False
    state.update({name: model_state[name] for name in (weight, bias) if name in model_state})
    return True


def _renew(head: nn.Module) -> None:
    for part in head.modules():
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()


def _compare(
    model: nn.Module, label: str, state: Mapping[str, Tensor], model_state: Mapping[str, Tensor]
) -> None:
    shapes = [
        f"{name} {tuple(state[name].shape)} for {tuple(model_state[name].shape)}"
        for name in model_state
        if name in state and state[name].shape != model_state[name].shape
    ]
    groups = {
        "missing": [name for name in model_state if name not in state],
        "unexpected": [name for name in state if name not in model_state],
        "of another shape": shapes,
        "of another kind of number": [
            f"{name} {state[name].dtype} for {there.dtype}"
            for name, there in model_state.items()
            if name in state and there.is_floating_point() > state[name].is_floating_point()
        ],
    }
    problems = [f"{len(names)} {kind} ({_first(names)})" for kind, names in groups.items() if names]
    if problems:
        raise WeightsError(
            f"weights {label!r} do not fit {type(model).__name__}: {', '.join(problems)}; "
            "build the model with the hyper-parameters that the file was trained with, or with "
            "weights=None"
        )


def _first(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


class _NoInit(TorchFunctionMode):
    """Leaves parameters as allocated: every in-place write to a Parameter is skipped."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name.endswith("_") and not name.endswith("__") and name != "requires_grad_":
            target = args[0] if args else (kwargs or {}).get("tensor")
            if isinstance(target, nn.Parameter):
                return target
        return func(*args, **(kwargs or {}))


@contextmanager
def no_init() -> Iterator[None]:
    """Build modules without initialising their parameters, for weights that come right after.

    Torch's random state stays: initialisers that draw until values fit judge what lies in memory.
    """
    with torch.random.fork_rng(devices=()), _NoInit():
        yield
