"""The graph of a forward, and its backwards."""

from .fingerprint import fingerprint
from .regimes import ModifiedBackward, modified_backward
from .tape import Tape, tensors_of
