"""Plug-ins by entry points; limelight's own methods and models come in by the same door."""

from __future__ import annotations

import warnings
from functools import cache
from importlib.metadata import entry_points


@cache
def load_group(group: str) -> None:
    """Import every plug-in of an entry-point group once; a broken one warns and is left out."""
    for entry in entry_points(group=group):
        try:
            entry.load()
        except Exception as error:
            warnings.warn(
                f"plug-in {entry.value!r} of group {group!r} could not be loaded: {error}",
                stacklevel=3,
            )
