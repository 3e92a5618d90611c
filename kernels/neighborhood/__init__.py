"""Neighbourhood attention in one to three dimensions, with dilation, stride and causality.

`neighborhood_attention` is the op; `neighborhood_lse` and `merge` join its result with attention
over other keys; `simulate` counts the tiles that a kernel visits for a window.
"""

from .axes import Axis, Visits, axes_of, simulate
from .reference import merge, neighborhood_attention, neighborhood_lse, neighborhood_map

__all__ = [
    "Axis",
    "Visits",
    "axes_of",
    "merge",
    "neighborhood_attention",
    "neighborhood_lse",
    "neighborhood_map",
    "simulate",
]
