"""Which tiles of keys a kernel visits for a neighbourhood (arXiv 2504.16922), on a page.

ll.tile_visits((64, 48), (16, 12), q_tile=(8, 8), kv_tile=(8, 8)).save("tiles.html")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from ...kernels.neighborhood import (
    UNVISITED,
    WHOLE,
    Axis,
    Visits,
    axes_of,
    axis_map,
    simulate,
    tile_map,
)
from ...probe.errors import OptionError
from ...probe.results import SaliencyMap, replaceable, write
from ...probe.sites import Site
from ..explanation import FigureRow, MixerFigure, Table, render_figures
from ..html import percent, significant

MOST_CELLS = 1 << 20
_ENDS = (float(UNVISITED), float(WHOLE))
Ints = int | Sequence[int]
_STATES = "Dark tiles are left out, bright ones are seen whole, between them elements are masked."


@dataclass(frozen=True)
class TileVisits:
    """A neighbourhood on a grid, the tiles of a kernel, and what it visits with them.

    axes     the grid's axes, each with its window, stride, dilation and causality
    visits   visited and dense tiles, both bounds of the speed-up, sparsity
    """

    axes: tuple[Axis, ...]
    q_tile: tuple[int, ...]
    kv_tile: tuple[int, ...]
    visits: Visits

    @property
    def map(self) -> Tensor:
        """0, 1 or 2 for tiles of keys that a tile of queries leaves out, sees partly, sees whole.

        `q k` in raster order over the axes; along an axis, dilation group after dilation group.
        """
        return tile_map(self.axes, self.q_tile, self.kv_tile)

    @property
    def whole_tiles(self) -> int:
        """Visited tiles in which no element is masked."""
        return prod(int((m == WHOLE).sum()) for m in self._maps)

    @property
    def figures(self) -> dict[str, str]:
        """What the command prints, by name."""
        v = self.visits
        share = self.whole_tiles / v.visited_tiles
        return {
            "visited tiles": f"{v.visited_tiles:,}",
            "of them seen whole": f"{self.whole_tiles:,} ({percent(share)})",
            "tiles of dense attention": f"{v.dense_tiles:,}",
            "speed-up by tiles, at most": f"{significant(v.tile_speedup)} x",
            "speed-up by pairs, at most": f"{significant(v.flop_speedup)} x",
            "sparsity": percent(v.sparsity),
            "fully block sparse": "yes" if v.block_sparse else "no",
        }

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the page; its path.

        force  also over a file that was not written here
        Raises OptionError for another ending than .html, and for a file that is to stay.
        """
        target = Path(path).expanduser()
        if target.suffix.lower() not in (".html", ".htm"):
            raise OptionError(f"{target.name!r} is to be an HTML page: choose the ending .html")
        replaceable(target, force)
        return write(target, render_tiles(self).encode("utf-8"))

    @property
    def _maps(self) -> list[Tensor]:
        return [axis_map(*each) for each in zip(self.axes, self.q_tile, self.kv_tile, strict=True)]


def tile_visits(
    grid: Sequence[int],
    kernel_size: Ints,
    stride: Ints = 1,
    dilation: Ints = 1,
    causal: bool | Sequence[bool] = False,
    *,
    q_tile: Ints,
    kv_tile: Ints,
) -> TileVisits:
    """Simulate the tiles of a neighbourhood attention: one to three axes, each option once or each.

    A tile of queries visits the tiles between the first and the last key that any of its queries
    sees, axis by axis and dilation group by dilation group; dense attention visits all.
    q_tile, kv_tile   tokens by axis that a program holds, and that it walks with
    Raises KernelError for windows and tiles that do not fit.

    Example:
        >>> visits = ll.tile_visits((32, 32), 8, stride=4, q_tile=4, kv_tile=4)
        >>> type(visits).__name__
        'TileVisits'
    """
    axes = axes_of(tuple(grid), kernel_size, stride, dilation, causal)
    q, kv = (
        (tile,) * len(axes) if isinstance(tile, int) else tuple(tile) for tile in (q_tile, kv_tile)
    )
    return TileVisits(axes, q, kv, simulate(axes, q, kv))


def render_tiles(tiles: TileVisits) -> str:
    """The page as text, to be written as UTF-8."""
    window, grid = (_by([getattr(a, n) for a in tiles.axes]) for n in ("kernel", "length"))
    asked = (
        f"Queries in tiles of {_by(tiles.q_tile)} walk over keys in tiles of {_by(tiles.kv_tile)}: "
        f"{tiles.visits.visited_tiles:,} of {tiles.visits.dense_tiles:,} tiles are visited."
    )
    rows = tuple(tiles.figures.items())
    return render_figures(
        f"A window of {window} on {grid} tokens",
        asked,
        [Table("What is visited", ("figure", "value"), rows), _axes_table(tiles)],
        _figures(tiles),
        {
            "Rule": [
                "a tile of queries visits the tiles from the first to the last key that any of "
                "its queries sees, in its own dilation group; dense attention has no groups"
            ],
            "Source": ["Generalized neighborhood attention, arXiv 2504.16922"],
        },
    )


def _axes_table(tiles: TileVisits) -> Table:
    names = ("length", "kernel", "stride", "dilation", "causal")
    rows = tuple(
        (f"axis {i}", *(_word(getattr(axis, name)) for name in names), str(q), str(k))
        for i, (axis, q, k) in enumerate(zip(tiles.axes, tiles.q_tile, tiles.kv_tile, strict=True))
    )
    return Table("Axes", ("axis", *names, "query tile", "key tile"), rows)


def _word(value: int | bool) -> str:
    return str(value) if not isinstance(value, bool) else "yes" if value else "no"


def _figures(tiles: TileVisits) -> list[MixerFigure]:
    figures, cells, note = [], prod(m.numel() for m in tiles._maps), ""
    if cells <= MOST_CELLS:
        row = FigureRow("", (_picture("", tiles.map),), ends=_ENDS, large=True)
        about = f"Tiles of queries down, tiles of keys across. {_STATES}"
        figures.append(MixerFigure("Visited tiles", about, (row,)))
        about = "What a tile of queries visits, over the grid of key tiles."
        if len(tiles.axes) > 1:
            figures.append(MixerFigure("From one tile", about, _one_by_one(tiles)))
    else:
        note = f"the map over all axes has {cells:,} cells, more than a page bears"
    if len(tiles.axes) > 1 or note:
        maps = [_picture(f"axis {i}", m) for i, m in enumerate(tiles._maps)]
        row = FigureRow("", tuple(maps), ends=_ENDS)
        about = "A tile is visited where it is on every axis. " + _STATES
        figures.append(MixerFigure("Axis by axis", about, (row,), note))
    return figures


def _one_by_one(tiles: TileVisits) -> tuple[FigureRow, ...]:
    """What the first, the middle and the last tile of queries visit."""
    found = {words: _planes(tiles, at) for words, at in _PLACES.items()}
    if len(tiles.axes) < 3:
        drawn = tuple(_picture(words, planes[0]) for words, planes in found.items())
        return (FigureRow("", drawn, ends=_ENDS),)
    return tuple(
        FigureRow(
            f"{words}, plane by plane along axis 0",
            tuple(_picture(str(i), plane) for i, plane in planes.items()),
            ends=_ENDS,
        )
        for words, planes in found.items()
    )


_PLACES = {"first tile": 0.0, "middle tile": 0.5, "last tile": 1.0}


def _planes(tiles: TileVisits, at: float) -> dict[int, Tensor]:
    """The tiles of keys that one tile of queries visits, `y x`, by their number on a third axis."""
    rows = [m[round(at * (len(m) - 1))] for m in tiles._maps]
    rows = [torch.full((1,), WHOLE, dtype=torch.uint8)] * (3 - len(rows)) + rows
    z, y, x = rows
    plane = torch.minimum(y[:, None], x)
    return {i: plane.clamp(max=int(state)) for i, state in enumerate(z) if state != UNVISITED}


def _picture(words: str, states: Tensor) -> tuple[str, SaliencyMap]:
    values = states.float()
    return words, SaliencyMap(values, "row column", "", "any", "tiles", Site("", "tiles"))


def _by(sides: Sequence[int]) -> str:
    return " × ".join(map(str, sides))
