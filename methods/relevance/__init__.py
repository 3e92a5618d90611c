"""Methods that read relevance: LRP, excitation backprop, salient relevance."""

from .salient_relevance import foci
