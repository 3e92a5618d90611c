"""The modules of a model as they were when it was looked at: paths, second names, adapter."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from inspect import Parameter, signature

import torch
from torch import nn

from ..sites import Adapter, Pattern, adapt, resolve


def names_of(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by path; compiled wrappers are seen through, scripts take no hooks."""
    by_path: dict[str, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        path = ".".join(word for word in name.split(".") if word != "_orig_mod")
        if type(module).__name__ != "OptimizedModule" and not isinstance(
            module, torch.jit.ScriptModule
        ):
            by_path.setdefault(path, module)
    return by_path


def argument_names(model: nn.Module) -> tuple[str, ...]:
    """What a model calls its positional arguments; nothing where it does not say."""
    try:
        parameters = signature(getattr(model, "_orig_mod", model).forward).parameters.values()
    except (TypeError, ValueError):
        return ()
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(p.name for p in parameters if p.kind in kinds)


def takes_ids(model: nn.Module) -> bool:
    """Whether whole numbers are ids to a model: it has embeddings. To others they are values."""
    return any(isinstance(module, (nn.Embedding, nn.EmbeddingBag)) for module in model.modules())


class ModuleTree:
    """Modules, each once, and how they hang together: two trees are equal if nothing changed."""

    __slots__ = ("_shape", "modules")

    def __init__(self, model: nn.Module) -> None:
        self.modules = [model]
        self._shape: list[object] = []
        seen = {model}
        for module in self.modules:  # grows while it is walked
            children = module._modules
            self._shape.append(len(children))
            for name, child in children.items():
                self._shape += (name, child)
                if child is not None and child not in seen:
                    seen.add(child)
                    self.modules.append(child)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModuleTree) and self._shape == other._shape

    __hash__ = None  # type: ignore[assignment]


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
        self.by_path = names_of(model)
        self.first: dict[nn.Module, str] = {}
        for path, module in self.by_path.items():
            self.first.setdefault(module, path)
        self.aliases = {p: self.first[m] for p, m in self.by_path.items() if p != self.first[m]}

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
