"""The row of an attention map that a model reads, laid out on the picture where it sees one."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...probe.axes import Grid, Layout, find_grid
from ...probe.errors import SiteError
from ...probe.probe import Probe
from ...probe.sites import Site


def read_row(probe: Probe, joint: Tensor, runner: Any = None) -> Tensor:
    """The row of the class token, else the mean row, on the grid; else the last row.

    joint   `b q k` over all tokens
    runner  knows where tokens lie from the ops that made them, and notes what had to be assumed;
            without it, or where those do not tell, the picture's proportions say it
    """
    grid = _grid(probe, joint.shape[-1], runner)
    if grid is None:
        return joint[:, -1]
    row = joint[:, 0] if grid.prefix else joint.mean(1)
    places = row[:, grid.prefix : grid.prefix + grid.rows * grid.columns]
    return places.unflatten(1, (grid.rows, grid.columns))


def _grid(probe: Probe, tokens: int, runner: Any) -> Grid | None:
    """Where tokens lie on the picture; None where the model sees none, or where nothing tells."""
    sizes, prefix = probe.input_sizes, probe.adapter.prefix or 0
    if not {"y", "x"} <= set(sizes):
        return None
    grid = None if runner is None else _made(runner, probe.adapter.heads[-1], tokens)
    if grid is not None:
        return grid
    grid = find_grid(tokens, (sizes["y"], sizes["x"]), prefix)
    if runner is not None:
        runner.note(
            f"{tokens} tokens lie on no grid of the picture that is known: the last token's row"
            if grid is None
            else f"token grid by the picture's proportions: {grid}"
        )
    return grid


def _made(runner: Any, path: str, tokens: int) -> Grid | None:
    """The grid of what enters an attention layer, by the ops that made it."""
    try:
        layout: Layout = runner.layout_of(Site(path, "in"))
    except SiteError:
        return None
    if layout.axes != "y x" or layout.grid is not None or len(layout.runs) > 1:
        return None
    rows, columns = layout.shape[2:]
    start, stop = next(((start, stop) for _, start, stop in layout.runs), (0, tokens))
    fits = stop - start == rows * columns and stop <= tokens
    return Grid(rows, columns, start) if fits and (layout.runs or stop == tokens) else None
