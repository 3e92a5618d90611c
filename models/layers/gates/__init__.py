"""Gates of feature maps: factors of channels and of places that are computed from the map."""

from .choice import GATES, gate
from .little import LittleAttention
from .polarized import Kind, PolarizedAttention, spatial_mask
from .squeeze_excite import SqueezeExcite, divisible
from .subspace import ULSAM, Subspace
