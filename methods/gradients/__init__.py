"""Methods that read the gradient at the input: plain, times input, guided, averaged over a path."""

from .baseline import Baseline, laid_out, reference
from .gradient import Reduce, reduce_channels
