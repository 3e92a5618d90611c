"""`limelight tiles`: which tiles of keys a kernel visits for a neighbourhood."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..probe.errors import OptionError
from .options import Force
from .terminal import console_for, new_table

EPILOG = (
    "\b\nExamples:\n  limelight tiles 32768 --window 2048 --stride 256 --q-tile 256 --kv-tile 128\n"
    "  limelight tiles 30x48x80 --window 18x24x24 --stride 16x8x8 --q-tile 4x8x8 --kv-tile 2x8x8\n"
    "  limelight tiles 64x48 --window 16x12 --dilation 2x3 -o tiles.html"
)


def tiles(
    grid: Annotated[str, typer.Argument(metavar="GRID", help="Tokens by axis: 4096, 64x48, ...")],
    window: Annotated[str, typer.Option(help="Keys that a query sees, by axis or once for all.")],
    stride: Annotated[str, typer.Option(help="Queries that share a window.")] = "1",
    dilation: Annotated[str, typer.Option(help="Steps between the keys of a window.")] = "1",
    causal: Annotated[
        str, typer.Option(metavar="yes|no", help="By axis as yesxno, or once for all.")
    ] = "no",
    q_tile: Annotated[
        str | None,
        typer.Option(help="Tokens of a tile of queries. [default: 128; 8x16; 4x4x8]"),
    ] = None,
    kv_tile: Annotated[
        str | None, typer.Option(help="Tokens of a tile of keys. [default: as queries]")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page.")] = Path("tiles.html"),
    force: Force = False,
) -> None:
    """Count the tiles that a kernel visits for a neighbourhood, and draw which, on one page."""
    from ..reports.tiles_page import tile_visits
    from .inputs import writable

    writable(out, "-o", (".html", ".htm"), force=force)
    sides = _numbers("GRID", grid)
    q = _numbers("--q-tile", q_tile or _USUAL.get(len(sides), "1"), len(sides))
    found = tile_visits(
        sides,
        _numbers("--window", window, len(sides)),
        _numbers("--stride", stride, len(sides)),
        _numbers("--dilation", dilation, len(sides)),
        _answers(causal, len(sides)),
        q_tile=q,
        kv_tile=q if kv_tile is None else _numbers("--kv-tile", kv_tile, len(sides)),
    )
    written = found.save(out, force=force)
    console, table = console_for(), new_table("figure", "value")
    for name, value in found.figures.items():
        table.add_row(name, value)
    console.print(table)
    size = written.stat().st_size / 1e6
    console.print(f"{written}: the map of tiles, {size:.1f} MB", soft_wrap=True)


_USUAL = {1: "128", 2: "8x16", 3: "4x4x8"}  # 128 tokens


def _numbers(name: str, text: str, count: int = 0) -> tuple[int, ...]:
    """`64x48` as numbers; one number stands for all axes where `count` says how many."""
    parts = text.split("x")
    if not all(part.isascii() and part.isdecimal() and int(part) for part in parts):
        raise OptionError(f"{name} {text!r} is not understood: write whole numbers as 64x48")
    numbers = tuple(int(part) for part in parts)
    return numbers * count if count and len(numbers) == 1 else numbers


def _answers(text: str, count: int) -> tuple[bool, ...]:
    parts = text.split("x")
    if not set(parts) <= {"yes", "no"}:
        raise OptionError(f"--causal {text!r} is not understood: write yes, no, or yesxno by axis")
    answers = tuple(part == "yes" for part in parts)
    return answers * count if len(answers) == 1 else answers
