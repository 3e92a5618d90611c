"""Raw maps: one map, a collection, files, contact sheets, colour scales."""

from .colour_scales import STEPS, extremes, span, steps, table
from .files import write
from .maps import Maps
from .replacing import GENERATOR, replaceable
from .resize import interpolate
from .rows import Row, map_columns, map_of_row, marked_parquet, parquet_bytes, row_of_map
from .saliency_map import About, SaliencyMap, Size, cautions_in
from .sheet import plane
