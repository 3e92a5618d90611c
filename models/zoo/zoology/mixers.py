"""The sequence mixers by name: each file beside this one adds its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from ....probe.errors import OptionError, near

Maker = TypeVar("Maker", bound=Callable[..., nn.Module])
Spec = str | Mapping[str, Any]


@dataclass(frozen=True)
class MixerKind:
    """A sequence mixer: its short name, the published class's path, and what builds it.

    make(d_model, layer_idx=..., **options) -> a module from tokens `b n c` to the like. Its method
    `state_size(length)` gives the numbers that it keeps of a sequence, None where nobody says.
    """

    name: str
    path: str
    make: Callable[..., nn.Module]

    @property
    def options(self) -> tuple[str, ...]:
        """The keywords that a configuration may give."""
        return tuple(p.name for p in self._parameters)

    @property
    def required(self) -> tuple[str, ...]:
        """Those without a default."""
        return tuple(p.name for p in self._parameters if p.default is p.empty)

    @property
    def _parameters(self) -> tuple[inspect.Parameter, ...]:
        named = inspect.signature(self.make).parameters.values()
        return tuple(p for p in named if p.name not in ("d_model", "layer_idx"))


MIXERS: dict[str, MixerKind] = {}


def mixer(name: str, path: str) -> Callable[[Maker], Maker]:
    """Add what is below to the mixers.

    @mixer("attention", "zoology.mixers.attention.MHA")
    class MHA(nn.Module):
        def __init__(self, d_model: int, *, layer_idx: int, num_heads: int = 1) -> None: ...
    """

    def add(make: Maker) -> Maker:
        MIXERS[name] = MixerKind(name, path, make)
        return make

    return add


def build_mixer(spec: Spec, d_model: int, layer_idx: int) -> nn.Module:
    """The mixer of one layer from its short name, or from a configuration's name and kwargs.

    A list is a hybrid: layer i takes entry i modulo its length. Raises OptionError for a name or an
    option that is not known.
    """
    name, kwargs = named(spec, "sequence_mixer")
    kind = find(name)
    if unknown := [key for key in kwargs if key not in kind.options]:
        raise OptionError(
            f"mixer {kind.name!r} has no option {unknown[0]!r}{near(unknown[0], kind.options)}"
            f"; there are {', '.join(kind.options) or 'none'}"
        )
    if missing := [name for name in kind.required if name not in kwargs]:
        raise OptionError(
            f"mixer {kind.name!r} was asked without {missing[0]}: give {{'name': {kind.name!r}, "
            f"'kwargs': {{{missing[0]!r}: ...}}}}"
        )
    return kind.make(d_model, layer_idx=layer_idx, **kwargs)


def named(spec: Spec, what: str) -> tuple[str, Mapping[str, Any]]:
    """Name and options of `{"name": ..., "kwargs": {...}}`, or of a name alone."""
    if isinstance(spec, str):
        return spec, {}
    if not isinstance(spec, Mapping) or "name" not in spec or set(spec) - {"name", "kwargs"}:
        raise OptionError(
            f"{what} {spec!r} is neither a name nor {{'name': ..., 'kwargs': {{...}}}}: give one"
        )
    return str(spec["name"]), spec.get("kwargs") or {}


def find(name: str) -> MixerKind:
    """A mixer by its short name, the path of its published class, or that class's name."""
    for kind in MIXERS.values():
        if name in (kind.name, kind.path, kind.path.rpartition(".")[2]):
            return kind
    known = [word for kind in MIXERS.values() for word in (kind.name, kind.path)]
    raise OptionError(
        f"there is no sequence mixer {name!r}{near(name, known)}; there are {', '.join(MIXERS)}"
    )
