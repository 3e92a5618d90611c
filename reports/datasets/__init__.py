"""Data sets as samples, in the forms people keep them."""

from .masks import Size, annotations_of, mask_of, others
from .readers import samples
from .samples import Sample, Samples
