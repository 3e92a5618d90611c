"""What a model's module tree tells of its layers, attention and tokens, without running it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from torch import nn

from .module_tree import of_structure, tree_of

_LISTS = (nn.ModuleList, nn.Sequential)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_STAGES = ("blocks", "layers", "stages")
_PARTS = ("Channel", "Spatial", "Pool", "Output", "Gate", "Conv", "Proj", "Outlook", "Covariance")
_without_map = {"Linear"}  # no softmax; families add the names of their own classes
_BEFORE = ("norm1", "ln_1", "norm_1", "layernorm_before", "layer_norm1", "layer_norm_1")
_PREFIXES = (
    "cls_token", "class_token", "class_embedding", "dist_token", "distillation_token",
    "reg_token", "register_tokens",
)  # fmt: skip


def without_map(*names: str) -> None:
    """Register parts of class names whose attention has no map that the probe could show.

    It is no softmax, or one in five dimensions, by einsum, or with heads folded into the batch.
    """
    _without_map.update(names)


@of_structure
def layers(model: nn.Module) -> tuple[tuple[str, ...], str]:
    """What a layer-wise method may mean by layers, and in words what they are."""
    paths = tuple(blocks(model))
    if paths:
        return paths, "the outermost blocks"
    paths = tuple(n for n, m in model.named_modules() if isinstance(m, _CONVOLUTIONS))
    if paths:
        return paths, "every convolution"
    paths = tuple(n for n, m in model.named_modules() if isinstance(m, nn.Linear))
    return paths, "every linear layer"


def blocks(module: nn.Module, path: str = "") -> list[str]:
    """The outermost blocks below a module, in order; stages are opened, blocks are not."""
    paths: list[str] = []
    named = ((n, getattr(c, "_orig_mod", c)) for n, c in module.named_children())
    parts = [(n, c) for n, c in named if _composite(c) and n[:3] != "aux"]
    kinds = Counter(type(c) for _, c in parts if not isinstance(c, _LISTS) or _convolves(c))
    chain = isinstance(module, _LISTS)
    for name, part in parts:
        place = f"{path}.{name}" if path else name
        repeated = chain or kinds[type(part)] > 1
        if isinstance(part, _LISTS):
            whole = repeated and not isinstance(part, nn.ModuleList)
            paths += blocks(part, place) or [place] * whole
        elif repeated:
            paths += _stage(part, place, opened=not chain) or [place]
        else:
            paths += blocks(part, place)
    return paths


def _stage(part: nn.Module, path: str, *, opened: bool) -> list[str]:
    """The blocks of a stage; none where the part is a block itself.

    opened   whether a list by any name makes a stage, as in two stacks that stand side by side
    """
    for name, inner in part.named_children():
        if isinstance(inner, nn.ModuleList) if opened else name in _STAGES:
            kinds = {type(c) for c in inner.children() if _composite(c)}
            if isinstance(inner, _LISTS) and kinds and (len(kinds) == 1 or name != "layers"):
                return blocks(inner, f"{path}.{name}")
    return []


def _composite(module: nn.Module) -> bool:
    """Whether a module has parts and, somewhere in them, a matrix of weights."""
    return bool(module._modules) and any(p.ndim > 1 for p in module.parameters())


def _convolves(module: nn.Module) -> bool:
    return any(isinstance(c, _CONVOLUTIONS) for c in module.children())


def attention(model: nn.Module) -> tuple[str, ...]:
    """Modules named after attention, the innermost of those that lie in one another."""
    return _attention(model, frozenset(_without_map))


@of_structure
def _attention(model: nn.Module, without: frozenset[str]) -> tuple[str, ...]:
    named = {n: type(m).__name__ for n, m in model.named_modules() if _attends(m)}
    outer = {parent for name in named for parent in _parents(name)}
    return tuple(
        name
        for name, kind in named.items()
        if name not in outer and not any(part in kind for part in without)
    )


def _attends(module: nn.Module) -> bool:
    name = type(module).__name__
    return (
        ("Attention" in name or "Attn" in name)
        and bool(module._modules)
        and not name.endswith("Block")
        and not any(word in name for word in _PARTS)
    )


def _parents(name: str) -> Iterator[str]:
    while name:
        name = name.rpartition(".")[0]
        yield name


def prefix_tokens(model: nn.Module) -> int | None:
    """How many learned tokens stand before the patches, by their parameters; None without any."""
    lengths = {
        name.rstrip("_0123456789"): parameter.shape[-2] if parameter.ndim > 1 else 1
        for module in tree_of(model).modules
        for name, parameter in module._parameters.items()
        if parameter is not None and name.rstrip("_0123456789") in _PREFIXES
    }
    return sum(lengths.values()) or None


def first_norm(model: nn.Module, hidden: Sequence[str]) -> tuple[str, ...]:
    """The norm that the last hidden block begins with; nothing where it begins otherwise."""
    for path in hidden[-1:]:
        for name, part in model.get_submodule(path).named_children():
            if "norm" in type(part).__name__.lower():
                return (f"{path}.{name}",) if name in _BEFORE else ()
    return ()


def expand(model: nn.Module, patterns: Iterable[str]) -> tuple[str, ...]:
    """The modules that site patterns mean, pattern by pattern, in the model's order."""
    return _expand(model, tuple(patterns))


@of_structure
def _expand(model: nn.Module, patterns: tuple[str, ...]) -> tuple[str, ...]:
    from .site import Site, parse

    names = [name for name, _ in model.named_modules()]
    asked = [parse(pattern) for pattern in patterns]
    return tuple(
        name
        for wanted in asked
        for name in names
        if wanted.matches(Site(name, wanted.port, wanted.call or 0))
    )
