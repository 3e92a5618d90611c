"""OverLoCK: an overview of the picture guides kernels that every pixel brings itself."""

from .dilated import reparameterised
from .model import OverLoCK, overlock
from .pixel_kernels import PixelKernels, pixel_kernels
