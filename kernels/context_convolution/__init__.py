"""Context convolution: every pixel and head brings the kernel of its own window."""

from .reference import context_convolution
from .tiles import window_starts

__all__ = ["context_convolution", "window_starts"]
