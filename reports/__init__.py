"""Reports: explanations as pages that open anywhere, without a network."""

from .explanation import Areas, Explanation, Guess, Photo, Sample, explain, render

__all__ = ["Areas", "Explanation", "Guess", "Photo", "Sample", "explain", "render"]
