"""Context-aware saliency of a picture, and its foci of attention."""

from .foci import contours, foci
from .rendering import rendered
from .saliency import context_aware
