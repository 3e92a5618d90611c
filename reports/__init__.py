"""Reports: explanations as pages that open anywhere, without a network."""

from .explain import explain
from .explanation import Explanation, Guess, Photo
from .page import render

__all__ = ["Explanation", "Guess", "Photo", "explain", "render"]
