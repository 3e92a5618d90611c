"""Photos that are on every machine where limelight is."""

from __future__ import annotations

from importlib.util import find_spec
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
    found = find_spec("sklearn")  # found and not imported, which would take a second
    if found is None or found.origin is None:
        raise ImageError("examples are photos of scikit-learn, which is not installed")
    return Path(found.origin).parent / "datasets" / "images" / f"{name}.jpg"
