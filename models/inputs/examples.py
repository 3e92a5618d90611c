"""Photos that are on every machine where limelight is."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from ...probe.errors import ImageError, near

PHOTOS = ("china", "flower")


def example(name: str = "flower") -> Path:
    """The path of an example photo of scikit-learn: "flower" (a dahlia) or "china" (a temple).

    Both are RGB JPEGs, 427 pixels high and 640 wide; their licence (CC BY 2.0) and authors stand in
    a README.txt beside them.

    Raises ImageError for another name.

    Example:
        >>> ll.example("flower").name
        'flower.jpg'
    """
    if name not in PHOTOS:
        raise ImageError(
            f"no example is called {name!r}: there are {' and '.join(PHOTOS)}{near(name, PHOTOS)}"
        )
    return Path(str(files("sklearn.datasets.images") / f"{name}.jpg"))
