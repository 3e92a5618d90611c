"""One map: values with all that is needed to read, draw and repeat them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from ..errors import LimelightError
from ..sites import Site


@dataclass(frozen=True)
class About:
    """Where a map comes from: enough to compute it again.

    score     the target's value, of_class the class it is about, kept the relevance that arrived
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


@dataclass(frozen=True, eq=False)
class SaliencyMap:
    """One map: what one method says about one sample, target and site.

    values  raw and signed, at native size, on the CPU
    axes    what its dimensions mean: `y x`, `n` (tokens), `h q k`
    extent  the part of the model's input it covers: top, left, bottom, right in pixels
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

    def resize(self, size: tuple[int, int] | None = None, mode: str = "bilinear") -> SaliencyMap:
        """The map at `size` (rows, columns), by default that of the input it covers."""
        if self.axes != "y x":
            raise LimelightError(f"only maps over y and x can be resized, not {self.axes!r}")
        size = size or (
            round(self.extent[2] - self.extent[0]),
            round(self.extent[3] - self.extent[1]),
        )
        smooth = {} if mode == "nearest" else {"align_corners": False}
        values = F.interpolate(self.values.float()[None, None], size, mode=mode, **smooth)
        return replace(self, values=values[0, 0])


_TUPLES = ("options", "versions", "notes")


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
