"""An explanation: maps together with the pictures and the answers they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from ..probe.errors import LimelightError
from ..probe.ledger import Ledger
from ..probe.results import About, Maps

if TYPE_CHECKING:
    from PIL.Image import Image

_MOST_IN_A_NOTEBOOK = 4_000_000


@dataclass(frozen=True)
class Guess:
    """One of the classes a model holds likely."""

    label: str
    index: int
    probability: float


@dataclass(frozen=True, eq=False)
class Photo:
    """A picture as the model sees it.

    sample    the name that its maps carry
    image     the crop that entered the model, 8 bits a channel
    original  rows and columns of the file, when known
    crop      top, left, bottom, right of the crop in the file's pixels, when known
    """

    sample: str
    image: Image
    original: tuple[int, int] | None = None
    crop: tuple[float, ...] | None = None


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a model looks at in some samples; shown in a notebook, saved as one HTML page.

    top    the likeliest classes by sample, best first
    words  the tokens by sample, for maps over `n`
    title  the headline; by default it names the model
    about  what holds for all maps; by default each map's own
    skipped  pictures that could not be read, each with the reason
    ledgers  where the relevance of a method goes, by its name
    """

    maps: Maps
    photos: tuple[Photo, ...] = ()
    top: Mapping[str, Sequence[Guess]] = field(default_factory=dict)
    words: Mapping[str, Sequence[str]] = field(default_factory=dict)
    title: str = ""
    about: About | None = None
    skipped: tuple[tuple[str, str], ...] = ()
    ledgers: Mapping[str, Ledger] = field(default_factory=dict)

    def save(self, path: str | Path) -> Path:
        """Write the page as `.html`; maps alone are kept with `.maps.save(...)`."""
        from ..probe.storage import write
        from .page import render

        path = Path(path)
        if path.suffix.lower() not in (".html", ".htm"):
            raise LimelightError(
                f"an explanation was to be saved as {path.name!r}, but it is an HTML page; "
                "choose the ending .html, or save its maps with explanation.maps.save(...)"
            )
        return write(path, render(self).encode("utf-8"))

    def __repr__(self) -> str:
        return f"Explanation({self.maps!r}, {len(self.photos)} photos)"

    def _repr_html_(self) -> str:
        from ..probe.sheet import html
        from .page import render

        page = render(self)
        if len(page) > _MOST_IN_A_NOTEBOOK:
            return html(self.maps)
        return (
            f'<iframe title="limelight" sandbox="allow-scripts" srcdoc="{escape(page)}" '
            'style="width:100%;height:880px;border:0"></iframe>'
        )
