"""What a map holds: values with all that is needed to read, draw and repeat them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import isfinite
from typing import Any, Self

import torch
from torch import Tensor

from ..errors import LimelightError
from ..sites import Site
from .resize import interpolate

_SPACE = ("t", "f", "z", "y", "x")
_CAUTION = "caution: "
Size = int | Sequence[int] | None


def cautions_in(notes: Iterable[str]) -> tuple[str, ...]:
    """Those notes that say why a result means little, without the word that marks them."""
    return tuple(n.removeprefix(_CAUTION) for n in notes if n.startswith(_CAUTION))


@dataclass(frozen=True)
class About:
    """Where a map comes from: enough to compute it again.

    score     the target's value, of_class the class it is about, kept the relevance that arrived
    notes     what was assumed; those that begin with "caution: " say that the map means little
    features  names of the features or channels of the input, for a map at an input
    """

    model: str = ""
    weights: str = ""
    preprocessing: str = ""
    options: tuple[tuple[str, str], ...] = ()
    seed: int = 0
    dtype: str = "float32"
    versions: tuple[tuple[str, str], ...] = ()
    created: str = ""
    score: float | None = None
    of_class: int | None = None
    kept: float | None = None
    notes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()

    @property
    def cautions(self) -> tuple[str, ...]:
        """Why the map means little: random weights, a uniform output, values not finite."""
        return cautions_in(self.notes)

    @property
    def lost(self) -> bool:
        """Whether the score is nan or infinite, so that there is no map."""
        return self.score is not None and not isfinite(self.score)

    def cautioned(self, *reasons: str) -> About:
        """The same with further reasons for caution."""
        return replace(self, notes=(*self.notes, *(_CAUTION + reason for reason in reasons)))


@dataclass(frozen=True, eq=False, repr=False)
class MapValues:
    """The numbers of a map, and what they are of; a `SaliencyMap` also shows them.

    values  raw and signed, at native size, on the CPU
    axes    what its dimensions mean: `y x`, `t`, `t y x`, `n` (tokens), `c` (features), `h q k`;
            a map per channel has `c` in front of its places; "" for one number, without places
    extent  the part of the model's input it covers: where it starts along each axis of places,
            then where it ends: top, left, bottom, right in pixels
    """

    values: Tensor
    axes: str
    sample: str
    target: str
    method: str
    site: Site
    extent: tuple[float, ...] = ()
    about: About = field(default=About(), repr=False)

    def __post_init__(self) -> None:
        if self.values.ndim != len(self.axes.split()):
            raise LimelightError(
                f"a map of {self.method!r} at {self.site} has shape {tuple(self.values.shape)}, "
                f"but axes {self.axes!r}; give one axis a dimension"
            )

    @property
    def signed(self) -> bool:
        """Whether any value is negative."""
        return bool((self.values < 0).any())

    @property
    def places(self) -> tuple[str, ...]:
        """The axes without the channels in front."""
        axes = tuple(self.axes.split())
        return axes[1:] if len(axes) > 1 and axes[0] == "c" else axes

    def resize(self, size: Size = None, mode: str = "linear") -> Self:
        """The map at a size, one number an axis of places, by default that of the input it covers.

        Linear along each axis; channels stay. Raises LimelightError for features and tokens, which
        have no places between them, at another number, and where no size is known.
        """
        shape = tuple(self.values.shape[self.values.ndim - len(self.places) :])
        if not self.places or not set(self.places) <= set(_SPACE):
            whole = size is None or (size == () if not shape else self._size(size) == shape)
            if self.places in ((), ("n",), ("c",)) and whole:
                return self
            if not self.places:
                raise LimelightError(
                    f"size {size} was asked of the map of {self.method!r} at {self.site}, which is "
                    "one number without places; leave the size out"
                )
            raise LimelightError(
                f"only maps over places in space and time can be resized, not {self.axes!r}"
            )
        wanted = self._size(size)
        values = self.values.to(torch.promote_types(self.values.dtype, torch.float32))
        lead = (None,) * (2 + len(self.places) - values.ndim)
        large = interpolate(values[lead], wanted, mode)
        if values.numel() and bool((values == values.flatten()[0]).all()):
            large = torch.full_like(large, float(values.flatten()[0]))  # no place apart by rounding
        large = large.reshape(*values.shape[: -len(shape)], *wanted)
        return replace(self, values=large)

    def on_input(self) -> Tensor:
        """The values at the size of the input, or as they are where no size of it is known."""
        try:
            return self.resize().values
        except LimelightError:
            return self.values

    def _size(self, size: Size) -> tuple[int, ...]:
        """Places along each axis: those asked for, or those of the input that the map covers."""
        count = len(self.places)
        if size is None and len(self.extent) != 2 * count:
            raise LimelightError(
                f"the map of {self.method!r} at {self.site} over {self.axes!r} does not say which "
                "part of the input it covers; give its size"
            )
        if size is None:
            starts, ends = self.extent[:count], self.extent[count:]
            return tuple(round(end - start) for start, end in zip(starts, ends, strict=True))
        asked = (size,) if isinstance(size, int) else tuple(size)
        if len(asked) != count:
            raise LimelightError(
                f"size {asked} was asked of a map over {self.axes!r}; give one number for each of "
                f"{', '.join(self.places)}"
            )
        return asked


_TUPLES = ("options", "versions", "notes", "features")


def about_of(raw: Mapping[str, Any]) -> About:
    """What `dataclasses.asdict` and JSON made of an About; names it does not have are passed by."""
    names = {f.name for f in fields(About)}
    kept = {name: value for name, value in raw.items() if name in names}
    for name in _TUPLES:
        kept[name] = tuple(tuple(v) if isinstance(v, list) else v for v in kept.get(name, ()))
    return About(**kept)


def range_text(lo: float, hi: float) -> str:
    """A range in words: `-0.2 .. 1.4`."""
    return f"{lo:.3g} .. {hi:.3g}"
