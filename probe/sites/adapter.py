"""What a model family calls its layers and its tokens, so that no user writes a reshape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from ..entry_points import load_group
from .structure import attention, first_norm, layers, prefix_tokens


@dataclass(frozen=True)
class Adapter:
    """How to read one model.

    family   whose models are read so: "limelight", "timm", ...; "unknown" where it was guessed
    hidden   sites that a layer-wise method means by "layers", in execution order
    heads    modules that hold attention (their ports q, k, v, map and heads)
    prefix   leading tokens that are not patches (class, distillation, register tokens)
    final    what the word `last` means, where it is not the last hidden site: a classifier that
             reads the class token alone leaves no gradient at the patches of the last block
    labels   class names, index for index
    axes     (address, axes) pairs for values whose axes no op tells: ("stem", "b f t c")
    notes    what had to be guessed; carried into every result
    """

    family: str
    hidden: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    prefix: int | None = None
    final: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    axes: tuple[tuple[str, str], ...] = ()
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
    inner = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    matched = next((a for read in _readers if (a := read(inner)) is not None), None)
    return _seen_through(matched or _guess(inner))


def _guess(model: nn.Module) -> Adapter:
    hidden, kind = layers(model)
    prefix = prefix_tokens(model)
    return Adapter(
        "unknown",
        hidden=hidden,
        heads=attention(model),
        prefix=prefix,
        final=first_norm(model, hidden) if prefix else (),
        notes=(f"layers guessed: {kind}",),
    )


def _seen_through(compiled: Adapter) -> Adapter:
    """Paths without the names that compiled parts add."""

    def clean(paths: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(path.replace("_orig_mod.", "") for path in paths)

    if not any("_orig_mod" in path for path in compiled.hidden + compiled.heads + compiled.final):
        return compiled
    hidden, heads, final = clean(compiled.hidden), clean(compiled.heads), clean(compiled.final)
    return replace(compiled, hidden=hidden, heads=heads, final=final)
