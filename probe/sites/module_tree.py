"""A model's modules as they are now, and what was read off them while they were the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast
from weakref import WeakKeyDictionary, ref

import torch
from torch import nn

P = ParamSpec("P")
R = TypeVar("R")


class ModuleTree:
    """Modules, each once, and how they hang together: two trees are equal if nothing changed."""

    __slots__ = ("_facts", "_names", "modules")

    def __init__(self, model: nn.Module) -> None:
        self.modules = [model]
        self._facts: dict[object, object] | None = None
        self._names: list[object] = []
        seen = {model: 0}
        for module in self.modules:  # grows while it is walked
            children = module._modules
            self._names.append(len(children))
            for name, child in children.items():
                if child is not None and child not in seen:
                    seen[child] = len(self.modules)
                    self.modules.append(child)
                self._names += (name, None if child is None else seen[child])

    @property
    def shape(self) -> list[object]:
        """How many children each module has, their names and which modules they are."""
        return self._names

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ModuleTree)
            and self._names == other._names
            and self.modules == other.modules
        )

    __hash__ = None  # type: ignore[assignment]

    def paths(self) -> list[tuple[str, int]]:
        """Every path, second names among them, as `named_modules(remove_duplicate=False)` has."""
        return cast(list[tuple[str, int]], self.known("paths", lambda: list(self._paths())))

    def _paths(self) -> Iterator[tuple[str, int]]:
        number = {module: n for n, module in enumerate(self.modules)}
        for path, module in self.modules[0].named_modules(remove_duplicate=False):
            yield path, number[module]

    def known(self, key: object, read: Callable[[], object]) -> object:
        """What was read off these modules under a key, read now if it is the first time."""
        if self._facts is None:
            self._facts = _facts(self)
        if key not in self._facts:
            self._facts[key] = read()
        return self._facts[key]


class _Remembered:
    """What is known of a tree; it keeps no module alive."""

    __slots__ = ("facts", "modules", "shape")

    def __init__(self, tree: ModuleTree) -> None:
        self.shape = tree.shape
        self.modules = [ref(module) for module in tree.modules[1:]]
        self.facts: dict[object, object] = {}

    def fits(self, tree: ModuleTree) -> bool:
        return self.shape == tree.shape and all(
            known() is module for known, module in zip(self.modules, tree.modules[1:], strict=True)
        )


_remembered: WeakKeyDictionary[nn.Module, _Remembered] = WeakKeyDictionary()

# Trees of models that nobody adds a module to or takes one away from, until this is set back.
UNCHANGED: ContextVar[tuple[ModuleTree, ...]] = ContextVar("limelight_trees", default=())


def _facts(tree: ModuleTree) -> dict[object, object]:
    model = tree.modules[0]
    known = _remembered.get(model)
    if known is None or not known.fits(tree):
        known = _remembered[model] = _Remembered(tree)
    return known.facts


def tree_of(model: nn.Module) -> ModuleTree:
    """The tree of a model, walked anew unless nobody changes it meanwhile."""
    return next((t for t in UNCHANGED.get() if t.modules[0] is model), None) or ModuleTree(model)


def of_structure(
    read: Callable[Concatenate[nn.Module, P], R],
) -> Callable[Concatenate[nn.Module, P], R]:
    """Remember what a function reads off a model's module tree alone, until that changes."""

    @wraps(read)
    def remembered(model: nn.Module, /, *args: P.args, **kwargs: P.kwargs) -> R:
        key: Any = (read, args, tuple(kwargs.items()))
        return cast(R, tree_of(model).known(key, lambda: read(model, *args, **kwargs)))

    return remembered


def modules_by_path(tree: ModuleTree) -> dict[str, nn.Module]:
    """Every module by path; compiled wrappers are seen through, scripts take no hooks."""
    by_path: dict[str, nn.Module] = {}
    for name, number in tree.paths():
        module = tree.modules[number]
        if type(module).__name__ == "OptimizedModule" or isinstance(module, torch.jit.ScriptModule):
            continue
        path = name
        if "_orig_mod" in name:
            path = ".".join(word for word in name.split(".") if word != "_orig_mod")
        by_path.setdefault(path, module)
    return by_path
