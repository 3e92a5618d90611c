"""Raw maps: one map, a collection, files, contact sheets, colour scales."""

from .colour_scales import STEPS, extremes, span, steps, table
from .map_values import About, Size, cautions_in
from .maps import Maps
from .replacing import GENERATOR, replaceable, write
from .resize import interpolate
from .rows import Row, map_columns, map_of_row, marked_parquet, parquet_bytes, row_of_map
from .saliency_map import SaliencyMap
from .sheet import plane
