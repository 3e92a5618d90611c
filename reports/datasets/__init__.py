"""Data sets as samples, in the forms people keep them."""

from .masks import Size, mask_of, others, things_of
from .readers import samples
from .samples import Sample, Samples
