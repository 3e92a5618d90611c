"""Neighbourhood attention in one to three dimensions, with dilation, stride and causality.

`neighborhood_attention` is the op; `neighborhood_lse` and `merge` join its result with attention
over other keys; `simulate` counts the tiles that a kernel visits for a window, `tile_map`
says which.
"""

from .axes import Axis, axes_of
from .reference import merge, neighborhood_attention, neighborhood_lse, neighborhood_map
from .visits import PARTLY, UNVISITED, WHOLE, Visits, axis_map, simulate, tile_map

__all__ = [
    "PARTLY",
    "UNVISITED",
    "WHOLE",
    "Axis",
    "Visits",
    "axes_of",
    "axis_map",
    "merge",
    "neighborhood_attention",
    "neighborhood_lse",
    "neighborhood_map",
    "simulate",
    "tile_map",
]
