"""Methods that read attention maps: rollout, attribution, locality, signs, heads of sequences."""

from .foveal import seen_from
from .learned_maps import LearnedCurves, MapSpectra, learned_curves, map_spectra
from .locality import upstream_nonlocality
from .masks import Connectivity, connectivity, connectivity_of
