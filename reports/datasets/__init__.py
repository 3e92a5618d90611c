"""Data sets as samples, in the forms people keep them, and how a model's inputs come of them."""

from .columns import InputWords, kind_of_file
from .fitting import preparation
from .listings import is_listing
from .masks import Size, annotations_of, mask_of, others
from .mqar import Recall, mqar, mqar_seeds
from .orders import REFUSALS, axes_of
from .parts import Part, Parts
from .preparation import Preparation, Ready, Seen, described, is_ready, with_names
from .queries import embedding, prepared_query, with_embeddings
from .readers import samples
from .samples import Sample, Samples
from .signals import Signal
