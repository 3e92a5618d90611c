"""Contact sheets: every map beside its neighbours, as a picture or for a notebook."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..errors import LimelightError, OptionError
from .colour_scales import Array, extremes, paint
from .map_values import MapValues, range_text

if TYPE_CHECKING:
    from PIL import Image

Row = tuple[str, str]
Column = tuple[str, str]
_GAP, _LINE = 10, 15
_PAPER, _INK, _FAINT = (255, 255, 255), (28, 29, 33), (110, 112, 120)
_MOST_CELLS, _MOST_PIXELS = 300, 24_000_000
_HTML_CELLS, _HTML_BYTES, _HTML_SIDE = 160, 250_000, 96
_MOST_SLICES = 9
_SPACE = {"z", "y", "x"}  # axes of one scale; others are drawn as long as they need


@dataclass(frozen=True)
class _Grid:
    rows: list[Row]
    columns: list[Column]
    cells: dict[tuple[Row, Column], MapValues]


def png(maps: Sequence[MapValues], columns: int | None = None, cell: int = 160) -> Image.Image:
    """A picture with a row for each sample and target and a column for each method and site.

    After `columns` columns (10 unless told) the rest follows below. What exceeds 300 cells or
    24 megapixels is left out, and the last line says how much.
    """
    if not len(maps):
        raise LimelightError("a sheet of no maps was asked for; filter less before drawing")
    if not 24 <= cell <= 1024 or (columns is not None and not 1 <= columns <= 60):
        raise OptionError(
            f"a sheet with columns={columns} and cell={cell} cannot be drawn; use 1 to 60 columns "
            "and cells of 24 to 1024 pixels"
        )
    grid = _grid(maps)
    wide = min(columns or 10, len(grid.columns), max(1, _MOST_PIXELS // cell**2))
    bands = _bands(grid, wide, min(_MOST_CELLS, max(1, _MOST_PIXELS // cell**2)))
    return _draw(grid, bands, wide, cell, len(maps))


def _grid(maps: Sequence[MapValues]) -> _Grid:
    """Maps by row and column; a second map under the same labels gets a column of its own."""
    seen: Counter[tuple[Row, Column]] = Counter()
    cells = {}
    for m in maps:
        row, column = (m.sample, m.target), (m.method, str(m.site))
        seen[row, column] += 1
        nth = seen[row, column]
        cells[row, column if nth == 1 else (f"{m.method} ({nth})", column[1])] = m
    rows = list(dict.fromkeys(row for row, _ in cells))
    order = {method: i for i, method in enumerate(dict.fromkeys(c[0] for _, c in cells))}
    columns = sorted(dict.fromkeys(c for _, c in cells), key=lambda c: order[c[0]])
    return _Grid(rows, columns, cells)


def _bands(grid: _Grid, wide: int, most: int) -> list[tuple[list[Row], list[Column]]]:
    bands = []
    for start in range(0, len(grid.columns), wide):
        columns = grid.columns[start : start + wide]
        rows = [r for r in grid.rows if any((r, c) in grid.cells for c in columns)][
            : most // len(columns)
        ]
        most -= len(rows) * len(columns)
        if rows:
            bands.append((rows, columns))
        if most < 1:
            break
    return bands


def _draw(
    grid: _Grid, bands: list[tuple[list[Row], list[Column]]], wide: int, cell: int, total: int
) -> Image.Image:
    from PIL import Image

    label = max(cell * 3 // 4, 96)
    head, step = 2 * _LINE + _GAP, cell + _LINE + _GAP
    height = sum(head + len(rows) * step for rows, _ in bands) + 2 * _GAP + _LINE
    sheet = Image.new("RGB", (label + wide * (cell + _GAP) + 2 * _GAP, height), _PAPER)
    pen, y, drawn = _Pen(sheet), _GAP, 0
    for rows, columns in bands:
        places = {c: _GAP + label + i * (cell + _GAP) for i, c in enumerate(columns)}
        for column, x in places.items():
            pen.heading((x, y), column, cell)
        for k, row in enumerate(rows):
            pen.heading((_GAP, y + head + k * step), row, label - _GAP)
            for column in (c for c in columns if (row, c) in grid.cells):
                at = (places[column], y + head + k * step)
                _cell(sheet, pen, grid.cells[row, column], at, cell)
                drawn += 1
        y += head + len(rows) * step
    if drawn < total:
        rest = f"{total - drawn} of {total} maps are left out"
        pen.text((_GAP, y), rest, sheet.width - 2 * _GAP, _FAINT)
    return sheet


def _cell(sheet: Image.Image, pen: _Pen, m: MapValues, at: tuple[int, int], cell: int) -> None:
    from PIL import Image

    picture = _picture(m)
    if picture is not None:
        size = _size(m, picture, cell)
        corner = (at[0] + (cell - size[0]) // 2, at[1] + (cell - size[1]) // 2)
        shrinks = max(picture.size) > cell  # every value counts, however long a series is
        how = Image.Resampling.BOX if shrinks else Image.Resampling.NEAREST
        sheet.paste(picture.resize(size, how), corner)
    pen.text((at[0], at[1] + cell + 2), caption(m), cell, _FAINT)


class _Pen:
    """Text that is cut to the room it has."""

    def __init__(self, sheet: Image.Image) -> None:
        from PIL import ImageDraw, ImageFont

        self._draw = ImageDraw.Draw(sheet)
        self._font = ImageFont.load_default(11)

    def heading(self, at: tuple[int, int], words: tuple[str, str], room: int) -> None:
        self.text(at, words[0], room)
        self.text((at[0], at[1] + _LINE), words[1], room, _FAINT)

    def text(
        self, at: tuple[int, int], words: str, room: int, ink: tuple[int, int, int] = _INK
    ) -> None:
        words = " ".join(words.encode("utf-8", "replace").decode().split())[:200]
        if self._draw.textlength(words, self._font) > room:
            while words and self._draw.textlength(words + "…", self._font) > room:
                words = words[:-1]
            words += "…"
        self._draw.text(at, words, ink, self._font)


def _picture(m: MapValues) -> Image.Image | None:
    from PIL import Image

    values = plane(sliced(m))
    return Image.fromarray(paint(values, _ends(m))) if values.size else None


def picture_of(m: MapValues) -> Image.Image:
    """A map in colours, a pixel a value. Raises LimelightError for one without values."""
    picture = _picture(m)
    if picture is None:
        raise LimelightError(f"the map of {m.method!r} at {m.site} is empty: there is no picture")
    return picture


def over(m: MapValues, photo: Image.Image | str | Path, opacity: float) -> Image.Image:
    """A map over a grey photo; see `MapValues.overlay`."""
    from PIL import Image

    if m.places != ("y", "x") or m.values.ndim != 2:
        raise LimelightError(
            f"the map of {m.method!r} at {m.site} lies over {m.axes!r}: only maps over rows and "
            "columns of a picture lie over a photo"
        )
    if not 0 <= opacity <= 1:
        raise OptionError(f"opacity={opacity} was asked; it goes from 0 to 1")
    below = Image.open(photo) if not isinstance(photo, Image.Image) else photo
    grey = below.convert("L").convert("RGB")
    shown = m.resize((grey.height, grey.width)).values.detach().double().cpu().numpy()
    return Image.blend(grey, Image.fromarray(paint(shown, _ends(m))), opacity)


def _ends(m: MapValues) -> tuple[float, float] | None:
    return extremes(m.values.detach().double().cpu().numpy())


def caption(m: MapValues) -> str:
    """The range in words, `-0.2 .. 1.4`, `constant 0`, `no number`; which slices are drawn."""
    ends = _ends(m)
    if ends is None:
        return "no number" if m.values.numel() else "empty"
    lo, hi = ends
    words = f"constant {lo:.3g}" if lo == hi else range_text(lo, hi)
    pairs = zip(m.axes.split(), sliced(m).values.shape, m.values.shape, strict=True)
    return ", ".join(
        [words, *(f"{few} of {all_} along {a}" for a, few, all_ in pairs if few < all_)]
    )


def sliced(m: MapValues) -> MapValues:
    """The map with at most nine slices of a volume or a film, evenly apart, the strongest in it."""
    values = m.values
    axes = m.axes.split()
    for dim, axis in enumerate(axes[:-2]):
        count = values.shape[dim]
        if axis not in ("t", "z") or count <= _MOST_SLICES or not values.numel():
            continue
        kept = ((torch.arange(_MOST_SLICES) + 0.5) * count / _MOST_SLICES).long()
        strength = values.detach().abs().nan_to_num().movedim(dim, 0).flatten(1).amax(1)
        strongest = int(strength.argmax())
        kept[int((kept - strongest).abs().argmin())] = strongest
        values = values.index_select(dim, kept.to(values.device))
    return replace(m, values=values)


def html(maps: Sequence[MapValues]) -> str:
    """The sheet as a table with pictures in it, some 300 kB at most; it says what is left out."""
    if not len(maps):
        return "<p>No maps.</p>"
    grid = _grid(maps)
    columns = grid.columns[:_HTML_CELLS]
    body, left, drawn = [], _HTML_BYTES, 0
    for row in grid.rows[: max(1, _HTML_CELLS // len(columns))]:
        cells = []
        for column in columns:
            m = grid.cells.get((row, column))
            cell = _html_cell(m) if m is not None and left > 0 else ""
            drawn, left = drawn + bool(cell), left - len(cell)
            cells.append(f"<td style='padding:4px 6px;vertical-align:top'>{cell}</td>")
        body.append(f"<tr>{_heading(row, 'row')}{''.join(cells)}</tr>")
        if left <= 0:
            break
    head = "<tr><td></td>" + "".join(_heading(c, "col") for c in columns) + "</tr>"
    rest = (
        f"<p>{len(maps) - drawn} of {len(maps)} maps are left out.</p>" if drawn < len(maps) else ""
    )
    style = "overflow-x:auto;max-width:100%;font:12px/1.4 system-ui,sans-serif;color:inherit"
    table = "<table style='border-collapse:collapse;background:none'>"
    page = f"<div style='{style}'>{table}{head}{''.join(body)}</table>{rest}</div>"
    return page.encode("utf-8", "replace").decode()


def _heading(words: tuple[str, str], scope: str) -> str:
    top, below = (escape(w if len(w) <= 60 else w[:59] + "…") for w in words)
    return (
        f"<th scope='{scope}' style='text-align:left;padding:4px 6px;vertical-align:top;"
        f"font-weight:600;min-width:88px;overflow-wrap:break-word'>{top}"
        f"<div style='font-weight:400;opacity:.7'>{below}</div></th>"
    )


def _html_cell(m: MapValues) -> str:
    from PIL import Image

    text = f"<span style='opacity:.7;white-space:nowrap'>{escape(caption(m))}</span>"
    picture = _picture(m)
    if picture is None:
        return text
    width, height = _size(m, picture, _HTML_SIDE)
    if max(picture.size) > _HTML_SIDE:
        picture.thumbnail((_HTML_SIDE, _HTML_SIDE), Image.Resampling.BOX)
    sink = BytesIO()
    picture.save(sink, "PNG", optimize=True)
    name = escape(f"{m.method} at {m.site} for {m.target}, {m.sample}: {caption(m)}"[:200])
    return (
        f"<img alt='{name}' width='{width}' height='{height}' style='image-rendering:pixelated;"
        f"display:block' src='data:image/png;base64,{b64encode(sink.getvalue()).decode()}'>{text}"
    )


def _size(m: MapValues, picture: Image.Image, side: int) -> tuple[int, int]:
    """Width and height of a picture whose longer side is `side`; what has one axis is a strip."""
    axes = m.axes.split()
    least = max(side // 4, 1)
    if len(axes) == 1:
        return side, least
    scale = side / max(picture.size)
    least = 1 if set(axes[-2:]) <= _SPACE else least
    return max(round(picture.width * scale), least), max(round(picture.height * scale), least)


def plane(m: MapValues) -> Array:
    """The values as one picture `y x`: one axis as a row, leading axes as tiles, NaN between."""
    values = m.values.detach().double().cpu().numpy()
    if values.ndim < 3:
        return np.atleast_2d(values)
    tiles = values.reshape(-1, *values.shape[-2:])
    wide = int(np.ceil(np.sqrt(len(tiles))))
    tall = -(-len(tiles) // wide) if wide else 0
    rows, columns = tiles.shape[1:]
    out = np.full((tall * (rows + 1), wide * (columns + 1)), np.nan)
    for i, tile in enumerate(tiles):
        y, x = i // wide * (rows + 1), i % wide * (columns + 1)
        out[y : y + rows, x : x + columns] = tile
    return out[: max(tall * (rows + 1) - 1, 0), : max(wide * (columns + 1) - 1, 0)]
