"""Models that are not ours, by name: of timm, torchvision, Hugging Face, any function."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import nn

from ...probe.errors import ModelError, near
from ...probe.sites import remember_initial
from ..card import Card
from ..weights import choose, fit
from .hub import from_hub

LIBRARIES = ("timm", "torchvision", "hf")


def check_builder(spec: str) -> None:
    """Raise ModelError unless `module:function` is a function that a package of the user defines.

    It must be annotated to return a module, or say so in its docstring: what a file names is
    called, and `os:system` is a function too.
    """
    source, _, name = spec.partition(":")
    if source.partition(".")[0] in sys.stdlib_module_names:
        raise ModelError(f"{spec!r} is of Python itself and builds no model: name one of yours")
    found = _import(source, name)
    own = inspect.isfunction(found) and found.__module__ == source
    if not own or not _returns_module(found):
        raise ModelError(
            f"{spec!r} is no function that {source!r} defines and that says it returns a module: "
            "annotate it with -> torch.nn.Module"
        )


def _returns_module(function: Callable[..., Any]) -> bool:
    returned = function.__annotations__.get("return")
    if isinstance(returned, type):
        return issubclass(returned, nn.Module)
    word = str(returned or "").rpartition(".")[2]
    return word == "Module" or "nn.Module" in (function.__doc__ or "")


def load_foreign(spec: str, weights: str | None, hyper: Mapping[str, object]) -> nn.Module:
    """A model of timm, torchvision, Hugging Face or any function; a weights file must fit it."""
    source, _, name = spec.partition(":")
    libraries = {"timm": _timm, "torchvision": _torchvision, "hf": _huggingface}
    published = source in libraries and weights in (None, "imagenet")
    make = libraries[source](name, published) if source in libraries else _import(source, name)
    try:
        net = make if isinstance(make, nn.Module) else make(**hyper)
    except ModelError:
        raise
    except Exception as error:
        reason = _one_line(f"{type(error).__name__}: {error}")
        raise ModelError(f"model {spec!r} could not be built ({reason})") from error
    if not isinstance(net, nn.Module):
        raise ModelError(f"{spec!r} gives a {type(net).__name__}, not a torch.nn.Module")
    chosen = None if published or weights in (None, "none") else choose(Card(spec, ""), weights)
    if chosen is not None:
        fit(net, chosen)
    elif source in libraries and not published:
        remember_initial(net)
    return net


def _timm(name: str, published: bool) -> Callable[..., Any]:
    timm = _library("timm")
    if not timm.is_model(name):
        hint = near(name.partition(".")[0], timm.list_models())
        raise ModelError(f"timm has no model {name!r}{hint}")
    return partial(timm.create_model, name, pretrained=published)


def _torchvision(name: str, published: bool) -> Callable[..., Any]:
    library = _library("torchvision.models")
    names = library.list_models()
    if name not in names:
        raise ModelError(f"torchvision has no model {name!r}{near(name, names)}")
    return partial(library.get_model, name, weights="DEFAULT" if published else None)


def _huggingface(name: str, published: bool) -> Callable[..., Any]:
    library = _library("transformers")
    return lambda **hyper: from_hub(library, name, published=published, hyper=hyper)


def _library(name: str) -> ModuleType:
    package = name.partition(".")[0]
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ModelError(f"{package} is not installed here: pip install {package}") from error
    except Exception as error:
        reason = _one_line(f"{type(error).__name__}: {error}")
        raise ModelError(f"{package} could not be imported ({reason}): install it anew") from error


def _import(source: str, name: str) -> Any:
    """What `module:name` means, the current folder included."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = import_module(source)
    except Exception as error:
        reason = _one_line(f"{type(error).__name__}: {error}")
        raise ModelError(f"module {source!r} could not be imported ({reason})") from error
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            hint = near(part, dir(value))
            raise ModelError(f"{source!r} holds no {name!r}{hint}")
        value = getattr(value, part)
    return value


def _one_line(text: str) -> str:
    return " ".join(text.split())
