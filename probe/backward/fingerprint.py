"""Whether two graphs are of the same ops in the same order, told by a number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node

# What tells where axes go: of these settings, whichever a node has; of views also their size.
_SETTINGS = (
    "dim", "dim0", "dim1", "dimension", "dims", "end", "groups", "index", "keepdim",
    "normalized_shape", "start", "step", "storage_offset",
)  # fmt: skip
_SIZED = ("View", "UnsafeView", "ReshapeAlias", "Expand", "AsStrided", "Copy")
_read: dict[str, tuple[tuple[str, ...], bool]] = {}


def fingerprint(order: Sequence[Node], edges: Iterable[tuple[Node, int]]) -> int:
    """A number of the nodes of a graph, how they hang together and how they treat axes.

    order   all nodes, each after those it leads back to
    edges   places in it that matter: the values that are watched, the output's tensors
    """
    number: dict[Any, int | None] = {node: i for i, node in enumerate(order)}
    told: list[object] = [(number.get(node), nr) for node, nr in edges]
    number[None] = None
    for node in order:
        name = node.name()
        known = _read.get(name)
        settings, sized = _settings(name, node) if known is None else known
        told.append(name)
        for parent, nr in node.next_functions:
            told.append(number[parent])
            told.append(nr)
        for setting in settings:
            told.append(getattr(node, setting))
        if sized:
            told.append(tuple(node._input_metadata[0].shape))
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
