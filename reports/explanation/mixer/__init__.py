"""What a token mixer does: the figures that a model's card names, on one picture."""

from .mixer import figures_of, mixer_of, mixer_on
from .section import section
