"""A page of tables and figures alone: small maps and charts, without samples to choose from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..html import fill, nonempty
from .contents import Mixer, MixerFigure
from .mixer import section
from .page_data import figures_data

STYLES = ("page.css", "charts.css", "dataset.css", "mixer.css")
SCRIPTS = ("paint.js", "choice.js", "ground.js", "mixer.js")


@dataclass(frozen=True)
class Table:
    """A table of texts: the first of each row is its name."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    about: str = ""


def render_figures(
    title: str,
    asked: str,
    tables: Sequence[Table],
    figures: Sequence[MixerFigure],
    provenance: Mapping[str, Iterable[str]],
) -> str:
    """The page as text, to be written as UTF-8; rows of the provenance without a text are left out.

    asked   the question in a sentence
    """
    return fill(
        "figures_page.html",
        STYLES,
        SCRIPTS,
        figures_data(figures),
        title=title,
        asked=asked,
        tables=tables,
        figures=section(Mixer("", tuple(figures))).figures,
        provenance=nonempty(provenance),
    )
