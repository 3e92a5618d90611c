"""What several ops share: softmax, precision, statistics of maps, Triton launches and rows."""

from .map_statistics import Rows, distances, entropy, fits, peak, reduced
from .precision import wide
from .softmax import fused, normal, transformed, written

__all__ = [
    "Rows",
    "distances",
    "entropy",
    "fits",
    "fused",
    "normal",
    "peak",
    "reduced",
    "transformed",
    "wide",
    "written",
]
