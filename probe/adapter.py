"""What a model family calls its layers and its tokens, so that no user writes a reshape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from .plugins import load_group


@dataclass(frozen=True)
class Adapter:
    """How to read one model.

    hidden   sites that a layer-wise method means by "layers", in execution order
    heads    modules that hold attention (their ports q, k, v, map and heads)
    prefix   leading tokens that are not patches (class, distillation, register tokens)
    last     channels-last maps: sites whose 4-D values are `b y x c`
    labels   class names, index for index
    notes    what had to be guessed; carried into every result
    """

    family: str
    hidden: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    prefix: int | None = None
    last: bool = False
    labels: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


Reader = Callable[[nn.Module], Adapter | None]
_readers: list[Reader] = []


def adapter(read: Reader) -> Reader:
    """Register a reader: it answers with an Adapter for the models it knows, else None.

    Readers registered later are asked first, so a plug-in may overrule a built-in one.
    """
    _readers.insert(0, read)
    return read


def adapt(model: nn.Module) -> Adapter:
    """The adapter of a model: its family's, or a generic one that says what it guessed."""
    load_group("limelight.models")
    for read in _readers:
        found = read(model)
        if found is not None:
            return found
    return Adapter("unknown", hidden=guess_hidden(model), notes=("layers guessed",))


def guess_hidden(model: nn.Module) -> tuple[str, ...]:
    """The outermost chains of composite blocks; where there are none, every convolution or linear."""
    for path, module in model.named_modules():
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module) >= 2:
            blocks = [
                n for n, child in module.named_children() if any(True for _ in child.children())
            ]
            if len(blocks) >= 2:
                return tuple(f"{path}.{n}" if path else n for n in blocks)
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    layers = tuple(n for n, m in model.named_modules() if isinstance(m, kinds))
    return layers or tuple(n for n, m in model.named_modules() if isinstance(m, nn.Linear))
