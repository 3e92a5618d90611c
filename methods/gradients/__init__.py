"""Methods that read the gradient at the input: plain, times input, guided, averaged over a path."""

from .integrated_gradients import Baseline, reference
