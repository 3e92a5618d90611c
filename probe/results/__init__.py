"""Raw maps: one map, a collection, files, contact sheets, colour scales."""

from .colour_scales import STEPS, extremes, span, steps, table
from .files import write
from .maps import Maps
from .saliency_map import About, SaliencyMap
from .sheet import plane
