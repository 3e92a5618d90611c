"""Circuits: which attention heads do the work of a task, with the controls beside the methods."""

from . import acdc, attribution, code_attribution, patching, paths, published, simple

__all__ = ["acdc", "attribution", "code_attribution", "patching", "paths", "published", "simple"]
