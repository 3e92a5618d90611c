"""What the dimensions of a value mean, and how methods see it: `b c` and then the positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..errors import SiteError
from .adapter import Adapter
from .site import Site

_PREFIXES = (0, 1, 2, 5, 4, 3, 8, 9, 16, 17)


def guess_axes(shape: Sequence[int], size: Sequence[int]) -> str:
    """Axes from a shape, given the rows and columns of the input image (or nothing).

    Four dimensions are `b c y x`, or `b y x c` where only that fits the picture's proportions.
    """
    if len(shape) == 4:
        return "b y x c" if _channels_last(shape, size) else "b c y x"
    return {1: "b", 2: "b c", 3: "b n c", 5: "b c t y x"}.get(
        len(shape), " ".join("b" + "?" * (len(shape) - 1))
    )


def _channels_last(shape: Sequence[int], size: Sequence[int]) -> bool:
    return _fits(shape[1:3], size) and not _fits(shape[2:], size)


def _fits(map_size: Sequence[int], size: Sequence[int]) -> bool:
    """Whether rows and columns of a map have the picture's proportions."""
    if len(size) < 2:
        return False
    (y, x), (rows, columns) = map_size, size[-2:]
    return abs(y * columns - x * rows) < max(rows, columns)


@dataclass(frozen=True)
class Grid:
    """How tokens lie on the picture: rows and columns after some prefix tokens."""

    rows: int
    columns: int
    prefix: int
    guessed: bool


def find_grid(tokens: int, size: Sequence[int], prefix: int | None) -> Grid | None:
    """The grid of `tokens` tokens over an image of `size`; None where no grid fits."""
    if len(size) < 2:
        return None
    for skip in _PREFIXES if prefix is None else dict.fromkeys((prefix, 0)):
        places = tokens - skip
        if places <= 0:
            continue
        rows = round((places * size[-2] / size[-1]) ** 0.5)
        if (
            rows
            and places % rows == 0
            and abs(rows / size[-2] * size[-1] / (places // rows) - 1) < 0.26
        ):
            return Grid(rows, places // rows, skip, guessed=prefix is None)
    return None


@dataclass(frozen=True)
class Layout:
    """From a site's own layout to the methods' and what remains of it in a map."""

    site: Site
    axes: str
    grid: Grid | None = None

    def canonical(self, x: Tensor) -> Tensor:
        """`b c` and the positions, float32, prefix tokens dropped, tokens on a grid as `y x`."""
        x = x.float()
        order = self.site.axes.split()
        if "c" in order and order.index("c") != 1:
            x = x.movedim(order.index("c"), 1)
        if self.grid is not None:
            x = x[:, :, self.grid.prefix :].unflatten(2, (self.grid.rows, self.grid.columns))
        return x


def layout(site: Site, shape: Sequence[int], size: Sequence[int], adapter: Adapter) -> Layout:
    """How to read a site. Raises SiteError where a value has no positions to map."""
    order = site.axes.split()
    if "c" not in order or len(order) < 3:
        raise SiteError(
            f"{site} has shape {tuple(shape)} and no positions to draw a map over; choose a site "
            "before the pooling, or a token sequence"
        )
    if adapter.last and len(shape) == 4 and _fits(shape[1:3], size):
        site, order = replace(site, axes="b y x c"), ["b", "y", "x", "c"]
    places = [a for a in order if a not in ("b", "c")]
    if places == ["n"]:
        grid = find_grid(shape[order.index("n")], size, adapter.prefix)
        return Layout(site, "y x" if grid else "n", grid)
    return Layout(site, " ".join(places))
