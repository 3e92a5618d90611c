"""Whether two graphs are of the same ops in the same order, told by a number."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.autograd.graph import Node

# What tells where axes go: of these settings, whichever a node has; of views also their size.
_SETTINGS = (
    "dim", "dim0", "dim1", "dimension", "dims", "end", "groups", "index", "keepdim",
    "normalized_shape", "start", "step", "storage_offset",
)  # fmt: skip
_SIZED = ("View", "UnsafeView", "ReshapeAlias", "Expand", "AsStrided", "Copy")
_read: dict[str, tuple[tuple[str, ...], bool]] = {}


def fingerprint(roots: Iterable[Node], edges: Iterable[tuple[Node, int]]) -> int:
    """A number of the nodes of a graph, how they hang together and how they treat axes.

    roots   where its backwards start
    edges   places in it that matter: the values that are watched, the output's tensors
    """
    number: dict[Node, int] = {}
    told: list[object] = []
    tell = told.append
    todo = list(roots)
    while todo:
        node = todo.pop()
        if node in number:
            tell(number[node])
            continue
        number[node] = len(number)
        name = node.name()
        tell(name)
        settings, sized = _read.get(name) or _settings(name, node)
        for setting in settings:
            tell(getattr(node, setting))
        if sized:
            tell(tuple(node._input_metadata[0].shape))
        for parent, nr in node.next_functions:
            if parent is None:
                tell(None)
            else:
                tell(nr)
                todo.append(parent)
    told += [(number.get(node), nr) for node, nr in edges]
    return hash(tuple(told))


def _settings(name: str, node: Node) -> tuple[tuple[str, ...], bool]:
    """The settings to read of nodes of a name; whether their size is read too."""
    saved = (f"_saved_{setting}" for setting in _SETTINGS)
    has = (setting for setting in saved if hasattr(node, setting))
    read = tuple(setting for setting in has if not _holds_tensors(getattr(node, setting)))
    _read[name] = read, name.startswith(_SIZED)
    return _read[name]


def _holds_tensors(value: object) -> bool:
    values = value if isinstance(value, tuple) else (value,)
    return any(isinstance(v, Tensor) for v in values)
