"""Methods that change the input and watch the score."""

from .copies import OnCopies, OnJointCopies, own_layout
from .windows import Size, grid, window_sizes
