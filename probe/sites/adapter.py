"""What a model family calls its layers and its tokens, so that no user writes a reshape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from ..entry_points import load_group
from .module_tree import tree_of
from .scripted import is_script
from .shape import ReadShapes
from .structure import attention, first_norm, layers, prefix_tokens


class Unsaid(tuple[str, ...]):
    """No names, because a reader did not speak of them: `()` says that there are none."""

    __slots__ = ()


UNSAID = Unsaid()


@dataclass(frozen=True)
class Adapter:
    """How to read one model. What is left out is read as it would be without this adapter.

    family   whose models are read so: "limelight", "timm", ...; "unknown" where it was guessed
    hidden   sites that a layer-wise method means by "layers", in execution order
    heads    modules that hold attention (their ports q, k, v, map and heads)
    prefix   leading tokens that are not patches (class, distillation, register tokens)
    final    what the word `last` means, where it is not the last hidden site: a classifier that
             reads the class token alone leaves no gradient at the patches of the last block
    labels   class names, index for index
    axes     (address, axes) pairs for values whose axes no op tells: ("stem", "b f t c")
    notes    what had to be guessed about the layers; carried into every result
    shapes   what the output draws over a picture, as the page of an explanation shows it: boxes

    Example:
        >>> ll.Adapter("mine", hidden=("layer*",), labels=("cat", "dog")).labels
        ('cat', 'dog')
    """

    family: str
    hidden: tuple[str, ...] = UNSAID
    heads: tuple[str, ...] = UNSAID
    prefix: int | None = None
    final: tuple[str, ...] = UNSAID
    labels: tuple[str, ...] = UNSAID
    axes: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    shapes: ReadShapes | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing is left to another reader."""
        names = (self.hidden, self.heads, self.final, self.labels)
        return not any(isinstance(n, Unsaid) for n in names)

    def over(self, other: Adapter) -> Adapter:
        """This adapter, with what it leaves out from another one.

        What `last` means belongs to the layers, and so do the notes: they come together.
        """
        layered = isinstance(self.hidden, Unsaid)
        return Adapter(
            self.family,
            _said(self.hidden, other.hidden),
            _said(self.heads, other.heads),
            other.prefix if self.prefix is None else self.prefix,
            _said(self.final, other.final if layered else UNSAID),
            _said(self.labels, other.labels),
            self.axes + other.axes,
            self.notes + (other.notes if layered else ()),
            self.shapes or other.shapes,
        )


def _said(own: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    return other if isinstance(own, Unsaid) else own


Reader = Callable[[nn.Module], Adapter | None]
_readers: list[Reader] = []


def adapter(read: Reader) -> Reader:
    """Register a reader: it answers with an Adapter for the models it knows, else None.

    Readers registered later are asked first, so a plug-in may overrule a built-in one; what its
    Adapter leaves out comes from the next reader that knows the model, and is guessed in the end:
    `Adapter("mine", labels=("cat", "dog"))` gives names and changes nothing else.

    Example:
        >>> @ll.adapter
        ... def mine(model):
        ...     "What `hidden` means in my family of models."
        ...     ours = type(model).__name__ == "Mine"
        ...     return ll.Adapter("mine", hidden=("layer*",)) if ours else None
    """
    _readers.insert(0, read)
    return read


def adapt(model: nn.Module) -> Adapter:
    """The adapter of a model: what its readers say, and a generic guess for the rest."""
    load_group("limelight.models")
    inner = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    known: Adapter | None = None
    for read in _readers:
        more = read(inner)
        if more is not None:
            known = more if known is None else known.over(more)
            if known.complete:
                break
    return _seen_through(_guessed(known or Adapter("unknown"), inner))


def _guessed(known: Adapter, model: nn.Module) -> Adapter:
    """An adapter whose gaps are filled by the structure of the model."""
    if known.complete:
        return known
    hidden, heads, final = known.hidden, known.heads, known.final
    prefix, notes = known.prefix, known.notes
    if is_script(model) and isinstance(hidden, Unsaid):
        hidden, notes = (), (*notes, "TorchScript: seen from outside only")
    if isinstance(hidden, Unsaid):
        hidden, kind = layers(model)
        notes = (*notes, f"layers guessed: {kind}")
    if prefix is None:
        prefix = prefix_tokens(model)
    if isinstance(final, Unsaid):
        named = {name for name, _ in tree_of(model).paths()}.issuperset(hidden[-1:])
        final = first_norm(model, hidden) if prefix and named else ()
    return replace(
        known,
        hidden=tuple(hidden),
        heads=attention(model) if isinstance(heads, Unsaid) else heads,
        prefix=prefix,
        final=final,
        labels=tuple(known.labels),
        notes=notes,
    )


def _seen_through(compiled: Adapter) -> Adapter:
    """Paths without the names that compiled parts add."""

    def clean(paths: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(path.replace("_orig_mod.", "") for path in paths)

    if not any("_orig_mod" in path for path in compiled.hidden + compiled.heads + compiled.final):
        return compiled
    hidden, heads, final = clean(compiled.hidden), clean(compiled.heads), clean(compiled.final)
    return replace(compiled, hidden=hidden, heads=heads, final=final)
