"""Results: raw maps at native size with all that is needed to read, draw and repeat them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, overload

import torch
from torch import Tensor

from ..errors import LimelightError
from ..sites import Site, parse, part_of_model
from .map_values import Size, range_text
from .rows import READABLE, row_of_map
from .saliency_map import SaliencyMap

if TYPE_CHECKING:
    from pandas import DataFrame

    from .figure import Figure


class Maps(Sequence[SaliencyMap]):
    """An ordered collection of maps that can be filtered, stacked, tabulated, saved and shown.

    Example:
        >>> maps = ll.maps(net, x, ["gradcam", "gradient"], target=1)
        >>> len(maps), len(maps.where(method="gradcam")), maps.where(method="gradcam").stack().shape
        (4, 2, torch.Size([2, 6, 6]))
    """

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
        asked = None if site is None else parse(site)
        patterns = () if asked is None else (asked, part_of_model(asked))
        return Maps(
            m
            for m in self._maps
            if fnmatchcase(m.method, method)
            and fnmatchcase(m.target, target)
            and fnmatchcase(m.sample, sample)
            and (
                not patterns or any(p.matches(m.site) and p.index == m.site.index for p in patterns)
            )
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

    def resize(self, size: Size = None, mode: str = "linear") -> Maps:
        """Every map at one size, a number an axis of places, by default that of the input."""
        return Maps(m.resize(size, mode) for m in self._maps)

    def each(self, change: Callable[[SaliencyMap], SaliencyMap]) -> Maps:
        """The maps after a change to each."""
        return Maps(change(m) for m in self._maps)

    def to_pandas(self) -> DataFrame:
        """A table, one row a map: labels, size, range, and the values as a flat list."""
        import pandas

        rows = [row_of_map(m, "float32") for m in self._maps]
        return pandas.DataFrame(rows, columns=list(READABLE))

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write `.safetensors` or `.parquet` (lossless, for `load`), a sheet as `.png`, or a figure
        for a paper as `.pdf` or `.svg`; see `Figure.save` for its width.

        force  also over a file that was not written here
        """
        from . import files

        return files.save(self, Path(path), force=force)

    def figure(self, columns: int | None = None) -> Figure:
        """The maps as a plotly figure with values under the pointer, each on a range of its own.

        columns  maps side by side, 4 unless told; 48 maps at most, and the rest is counted
        `figure.save("maps.pdf")` prints it, at the width of a column and without a browser.
        Raises LimelightError without plotly: pip install 'limelight[figures]'.

        Example:
            >>> maps = ll.maps(net, x, ["gradcam", "gradient"], target=1)
            >>> maps.figure().save("maps.svg").name
            'maps.svg'
        """
        from .figure import figure
        from .map_panels import panel_of

        return figure([panel_of(m) for m in self], columns)

    @staticmethod
    def load(path: str | Path) -> Maps:
        """Read what `save` wrote as `.safetensors` or `.parquet`."""
        from . import files

        return Maps(files.load(Path(path)))

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
        lines += [f"caution: {reason}" for reason in self._cautions]
        return "\n".join(line.rstrip() for line in lines)

    @property
    def _cautions(self) -> list[str]:
        return list(dict.fromkeys(reason for m in self for reason in m.about.cautions))

    def __repr__(self) -> str:
        methods = sorted({m.method for m in self})
        cautions = "".join(f"; caution: {reason}" for reason in self._cautions)
        return f"Maps({len(self)} maps of {', '.join(methods) or 'nothing'}{cautions})"

    def _repr_html_(self) -> str:
        from . import sheet

        return sheet.html(self)


def _size(m: SaliencyMap) -> str:
    return " x ".join(str(n) for n in m.values.shape)


def _range(m: SaliencyMap) -> str:
    if not m.values.numel():
        return "empty"
    return range_text(m.values.min().item(), m.values.max().item())
