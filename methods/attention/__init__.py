"""Methods that read attention maps: rollout, attribution, locality, signs, heads of sequences."""

from .filters import LayerFilters, MakesFilters, mixing_filters
from .foveal import seen_from
from .gates import BlockGate, ComparesGates
from .learned_maps import LearnedCurves, MapSpectra, learned_curves, map_spectra
from .locality import upstream_nonlocality
from .masks import Connectivity, connectivity, connectivity_of
