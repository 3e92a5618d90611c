"""Results: raw maps at native size with all that is needed to read, draw and repeat them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import LimelightError
from .site import Site, parse

if TYPE_CHECKING:
    from pandas import DataFrame


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


class Maps(Sequence[SaliencyMap]):
    """An ordered collection of maps that can be filtered, stacked, tabulated, saved and shown."""

    def __init__(self, maps: Iterable[SaliencyMap] = ()) -> None:
        self._maps = tuple(maps)

    @overload
    def __getitem__(self, index: int) -> SaliencyMap: ...
    @overload
    def __getitem__(self, index: slice) -> Maps: ...
    def __getitem__(self, index: int | slice) -> SaliencyMap | Maps:
        return Maps(self._maps[index]) if isinstance(index, slice) else self._maps[index]

    def __len__(self) -> int:
        return len(self._maps)

    def __iter__(self) -> Iterator[SaliencyMap]:
        return iter(self._maps)

    def __add__(self, other: Maps) -> Maps:
        return Maps((*self._maps, *other))

    def where(
        self,
        *,
        method: str = "*",
        site: str | Site | None = None,
        target: str = "*",
        sample: str = "*",
    ) -> Maps:
        """The maps whose labels match; wildcards allowed. Raises nothing when none do."""
        pattern = None if site is None else parse(site)
        return Maps(
            m
            for m in self._maps
            if fnmatchcase(m.method, method)
            and fnmatchcase(m.target, target)
            and fnmatchcase(m.sample, sample)
            and (pattern is None or (pattern.matches(m.site) and pattern.index == m.site.index))
        )

    def stack(self) -> Tensor:
        """All values in one tensor, first dimension the maps. Raises when the shapes differ."""
        shapes = {tuple(m.values.shape) for m in self._maps}
        if len(shapes) != 1:
            raise LimelightError(
                f"{len(self)} maps of shapes {sorted(shapes)} do not stack; pick one site with "
                "where(site=...) or call resize() first"
            )
        return torch.stack([m.values for m in self._maps])

    def resize(self, size: tuple[int, int] | None = None, mode: str = "bilinear") -> Maps:
        """Every map at one size, by default that of the model's input."""
        return Maps(m.resize(size, mode) for m in self._maps)

    def each(self, change: Callable[[SaliencyMap], SaliencyMap]) -> Maps:
        """The maps after a change to each."""
        return Maps(change(m) for m in self._maps)

    def to_pandas(self) -> DataFrame:
        """A table, one row a map: labels, size, range, and the values as a flat list."""
        import pandas

        return pandas.DataFrame([_row(m) for m in self._maps], columns=_COLUMNS)

    def save(self, path: str | Path) -> Path:
        """Write `.safetensors` or `.parquet` (lossless, for `load`), or a `.png` sheet."""
        from . import storage

        return storage.save(self, Path(path))

    @staticmethod
    def load(path: str | Path) -> Maps:
        """Read what `save` wrote as `.safetensors` or `.parquet`."""
        from . import storage

        return storage.load(Path(path))

    def __str__(self) -> str:
        rows = [
            (m.method, str(m.site), m.target, m.sample, m.axes, _size(m), _range(m)) for m in self
        ]
        head = ("method", "site", "target", "sample", "axes", "size", "range")
        width = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        lines = [
            "  ".join(word.ljust(n) for word, n in zip(row, width, strict=True))
            for row in (head, *rows)
        ]
        return "\n".join(line.rstrip() for line in lines)

    def __repr__(self) -> str:
        methods = sorted({m.method for m in self})
        return f"Maps({len(self)} maps of {', '.join(methods) or 'nothing'})"

    def _repr_html_(self) -> str:
        from . import sheet

        return sheet.html(self)


_COLUMNS = [
    "sample",
    "target",
    "method",
    "site",
    "axes",
    "shape",
    "lo",
    "hi",
    "values",
    "extent",
    "about",
]


def _row(m: SaliencyMap) -> tuple[object, ...]:
    flat = m.values.float().flatten()
    lo, hi = (flat.min().item(), flat.max().item()) if flat.numel() else (float("nan"),) * 2
    about = json.dumps(asdict(m.about))
    shape = list(m.values.shape)
    return (
        m.sample,
        m.target,
        m.method,
        str(m.site),
        m.axes,
        shape,
        lo,
        hi,
        flat.numpy(),
        list(m.extent),
        about,
    )


def _size(m: SaliencyMap) -> str:
    return " x ".join(str(n) for n in m.values.shape)


def _range(m: SaliencyMap) -> str:
    if not m.values.numel():
        return "empty"
    return f"{m.values.min().item():.3g} .. {m.values.max().item():.3g}"
