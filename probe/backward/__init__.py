"""The graph of a forward, and its backwards."""

from .regimes import regime
from .tape import Tape
