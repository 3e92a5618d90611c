"""An explanation: maps together with the pictures and the answers they belong to."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

from ...probe.errors import LimelightError
from .contents import Contents

_MOST_IN_A_NOTEBOOK = 4_000_000


@dataclass(frozen=True, eq=False)
class Explanation(Contents):
    """What a model looks at in some samples; shown in a notebook, saved as one HTML page."""

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the page as `.html`; maps alone are kept with `.maps.save(...)`.

        force  also over a file that was not written here
        """
        from ...probe.results import replaceable, write
        from .page import render

        path = Path(path)
        if path.suffix.lower() not in (".html", ".htm"):
            raise LimelightError(
                f"an explanation was to be saved as {path.name!r}, but it is an HTML page; "
                "choose the ending .html, or save its maps with explanation.maps.save(...)"
            )
        replaceable(path, force)
        return write(path, render(self).encode("utf-8"))

    def __repr__(self) -> str:
        others = f", {len(self.samples)} other samples" if self.samples else ""
        cautions = "".join(f"; caution: {caution}" for caution in self.cautions)
        return f"Explanation({self.maps!r}, {len(self.photos)} photos{others}{cautions})"

    def _repr_html_(self) -> str:
        from ...probe.results.sheet import html
        from .page import render

        page = render(self)
        if len(page) > _MOST_IN_A_NOTEBOOK:
            return html(self.maps)
        return (
            f'<iframe title="limelight" sandbox="allow-scripts" srcdoc="{escape(page)}" '
            'style="width:100%;height:880px;border:0"></iframe>'
        )
