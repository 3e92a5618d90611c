"""What several ops share: softmax, precision, statistics of maps, blocks of rows, Triton."""

from .map_statistics import Rows, distances, entropy, fits, peak, reduced
from .precision import wide
from .recomputed import by_rows
from .softmax import fused, normal, transformed, written

__all__ = [
    "Rows",
    "by_rows",
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
