"""The modules of a model as they were when it was looked at: paths, second names, adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache
from inspect import Parameter, signature
from itertools import chain

import torch
from torch import nn

from ..errors import ProbeError
from ..sites import Adapter, ModuleTree, Pattern, Site, adapt, modules_by_path, resolve, tree_of


def argument_names(model: nn.Module) -> tuple[str, ...]:
    """What a model calls its positional arguments; nothing where it does not say."""
    forward = getattr(model, "_orig_mod", model).forward
    own = getattr(forward, "__func__", None)  # whose signature holds `self` too
    return _positional(forward) if own is None else _of_class(own)[1:]


@lru_cache(maxsize=1024)
def _of_class(function: Callable[..., object]) -> tuple[str, ...]:
    return _positional(function)


def _positional(function: Callable[..., object]) -> tuple[str, ...]:
    """The names of the positional arguments of a function."""
    try:
        parameters = signature(function).parameters.values()
    except (TypeError, ValueError):
        return ()
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(p.name for p in parameters if p.kind in kinds)


def takes_ids(model: nn.Module) -> bool:
    """Whether whole numbers are ids to a model: it has embeddings. To others they are values."""
    return any(
        isinstance(module, (nn.Embedding, nn.EmbeddingBag)) for module in tree_of(model).modules
    )


class ModelModules:
    """What is learnt about a model's modules; made anew when they are no longer the same.

    by_path   every module; one with several names answers to all of them
    first     the first name of each module
    aliases   second names and their first
    """

    def __init__(
        self,
        model: nn.Module,
        tree: ModuleTree,
        adapter: Adapter | None = None,
        axes: Mapping[str, str] | None = None,
    ) -> None:
        self.model, self.tree = model, tree
        self._given, self._axes = adapter, axes or {}
        self.said = tuple(self._axes.items())
        self.by_path = modules_by_path(tree)
        self.first: dict[nn.Module, str] = {}
        for path, module in self.by_path.items():
            self.first.setdefault(module, path)
        self.aliases = {p: self.first[m] for p, m in self.by_path.items() if p != self.first[m]}

    def meant_by(self, pattern: Pattern) -> list[tuple[nn.Module, str]]:
        """The modules of a pattern, each with its first name."""
        named = self.by_path.get(pattern.path) if pattern.concrete else None
        if named is not None and self.first[named] == pattern.path:
            return [(named, pattern.path)]
        return [
            (module, path)
            for module, path in self.first.items()
            if pattern.matches(Site(path, pattern.port, pattern.call or 0))
        ]

    @cached_property
    def adapter(self) -> Adapter:
        """What the model's family calls its layers and tokens."""
        return adapt(self.model) if self._given is None else self._given

    @cached_property
    def argument_names(self) -> tuple[str, ...]:
        """What the model calls its positional arguments; nothing where it does not say."""
        return argument_names(self.model)

    @cached_property
    def takes_ids(self) -> bool:
        """Whether the model embeds whole numbers."""
        return takes_ids(self.model)

    @cached_property
    def declared(self) -> dict[Pattern, str]:
        """Axes that the caller or the adapter declares, by the sites they are meant for."""
        return {
            pattern: names
            for address, names in (*self._axes.items(), *self.adapter.axes)
            for pattern in resolve(address, self.by_path, self.first, lambda: self.adapter)
        }


def check_devices(model: nn.Module) -> None:
    """Refuse weights without values, and a default device that the model is not on.

    The default device is the one of `with torch.device(...)` or `torch.set_default_device`; the CPU
    goes with every model. Weights that a hook of accelerate brings for the forward may be absent.
    """
    name, first = type(model).__name__, next(model.parameters(), None)
    if first is not None and first.is_meta and not any(map(_is_offloaded, model.modules())):
        raise ProbeError(f"{name} is on the meta device, without values: load its weights first")
    chosen = torch.get_default_device()
    if chosen.type == "cpu":
        return
    devices = {tensor.device.type for tensor in chain(model.parameters(), model.buffers())}
    where = f"{name} is on {' and '.join(sorted(devices))}" if devices else f"{name} has no weights"
    if chosen.type not in devices and (devices or chosen.type == "meta"):
        raise ProbeError(
            f"torch's default device is {str(chosen)!r} here, and {where}: call this outside of "
            "`with torch.device(...)`, after torch.set_default_device(None)"
        )


def _is_offloaded(module: nn.Module) -> bool:
    return hasattr(module, "_hf_hook")
