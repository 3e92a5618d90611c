"""Reports: explanations as pages that open anywhere, without a network."""

from .explanation import Explanation, Guess, Photo, explain, render

__all__ = ["Explanation", "Guess", "Photo", "explain", "render"]
