"""The graph of a forward, and its backwards."""

from .regimes import ModifiedBackward, modified_backward
from .tape import Tape
