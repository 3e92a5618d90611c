"""What a TransNeXt can be built with: sizes of its grids, and the errors of those it cannot."""

from __future__ import annotations

from collections.abc import Sequence

from ....probe.errors import OptionError
from ...card import sides
from ...layers import grid_of
from .positions import Pair

Size = int | tuple[int, int]


def check_options(
    depths: Sequence[int],
    embed_dims: Sequence[int],
    num_heads: Sequence[int],
    mlp_ratios: Sequence[float],
    sr_ratios: Sequence[int],
    window_size: Sequence[int | None],
) -> None:
    """Raise OptionError for lists of other lengths, heads that do not divide, windows without
    a middle, and ratios below 1."""
    lists = {
        "embed_dims": embed_dims,
        "num_heads": num_heads,
        "mlp_ratios": mlp_ratios,
        "sr_ratios": sr_ratios,
        "window_size": window_size,
    }
    for name, given in lists.items():
        if len(given) != len(depths):
            raise OptionError(
                f"{name}={list(given)} has {len(given)} entries for {len(depths)} stages: "
                "give one a stage"
            )
    for s, (dim, heads, ratio) in enumerate(zip(embed_dims, num_heads, sr_ratios, strict=True), 1):
        if heads < 1 or dim < 1 or dim % heads:
            raise OptionError(
                f"a width of {dim} at stage {s} does not divide into {heads} heads: change "
                "embed_dims or num_heads"
            )
        if ratio < 1 or mlp_ratios[s - 1] <= 0:
            raise OptionError(
                f"stage {s} has sr_ratio {ratio} and mlp_ratio {mlp_ratios[s - 1]}: give a "
                "whole sr_ratio from 1 on and an mlp_ratio above 0"
            )
        side = window_size[s - 1]
        if ratio > 1 and (side is None or side < 1 or side % 2 == 0):
            raise OptionError(
                f"stage {s} looks around each token in a window of {side}: give an odd side, "
                "or sr_ratio 1 to attend to all tokens"
            )


def check_rates(**rates: float) -> None:
    """Raise OptionError for a rate that is no share."""
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise OptionError(f"{name}={rate} is no share of what is dropped: give 0 up to 1")


def stage_grids(name: str, size: Size, patch_size: int, stages: int) -> list[Pair]:
    """Rows and columns of tokens at each stage.

    Raises OptionError for a picture that does not divide.
    """
    if patch_size < 1:
        raise OptionError(f"patches of {patch_size} pixels hold nothing: give patch_size from 1 on")
    step = patch_size << (stages - 1)
    height, width = sides(size)
    if height < step or width < step or height % step or width % step:
        raise OptionError(
            f"{name}={size} does not divide into {stages} stages that start at patches of "
            f"{patch_size}: give sides that are multiples of {step}"
        )
    return [grid_of(size, patch_size << s) for s in range(stages)]


def pooled_grid(stage: int, grid: Pair, ratio: int, fixed: Size | None) -> Pair:
    """Rows and columns of a stage's pooled keys.

    Raises OptionError for none, and for more than there are tokens.
    """
    pool = (grid[0] // ratio, grid[1] // ratio) if fixed is None else sides(fixed)
    if any(not 1 <= keys <= tokens for keys, tokens in zip(pool, grid, strict=True)):
        asked = f"sr_ratio {ratio}" if fixed is None else f"fixed_pool_size={fixed}"
        raise OptionError(
            f"{asked} makes {pool[0]} x {pool[1]} pooled keys of the {grid[0]} x {grid[1]} tokens "
            f"of stage {stage}: give at least one and no more than there are tokens"
        )
    return pool


def check_pretrained(grids: Sequence[Pair]) -> None:
    """Raise OptionError where distances have no unit: a grid of one row or column."""
    for stage, grid in enumerate(grids, 1):
        if min(grid) < 2:
            raise OptionError(
                f"pretrain_size, img_size unless given, leaves a grid of {grid[0]} x {grid[1]} at "
                f"stage {stage}, which has no distance to measure others by: give twice that size"
            )
