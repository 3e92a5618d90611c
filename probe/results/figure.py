"""Figures of results: plotly's, to look into, and matplotlib's, to print."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

from ..errors import LimelightError
from .colour_scales import table
from .panels import SERIES, Bars, Heat, Lines, Panel, limited
from .replacing import replaceable, write

try:
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots
except ImportError as error:
    raise LimelightError("figures need plotly: pip install 'limelight[figures]'") from error

_MOST = 48
_SIDE = 230  # pixels of a panel


class Figure(go.Figure):  # type: ignore[misc]
    """A plotly figure that also prints: `figure.save("figure.pdf")`."""

    def save(
        self,
        path: str | Path,
        *,
        width: str | float = "single",
        font: float = 8.0,
        columns: int | None = None,
        force: bool = False,
    ) -> Path:
        """Write the panels as `.pdf`, `.svg` or `.png`, by matplotlib and without a browser.

        width    of the page's column: "single" (3.3 inches), "double" (6.9), or inches
        font     size of the letters in points; they stay letters in PDF and SVG
        columns  panels side by side, by default as many as have room
        force    also over a file that was not written here
        Raises OptionError for other endings, widths and sizes.
        """
        from .paper import drawn

        target = replaceable(path, force)
        ending = Path(path).suffix.lower()
        return write(target, drawn(self._panels, ending, width=width, font=font, columns=columns))


def figure(panels: Sequence[Panel], columns: int | None = None) -> Figure:
    """Panels side by side, `columns` in a row (4 unless told); 48 at most, and the rest is named.

    Raises LimelightError where there is nothing to show, or no plotly.
    """
    if not panels:
        raise LimelightError("a figure of nothing was asked for; filter less before drawing")
    shown = limited(panels, _MOST)
    wide = min(columns or (4 if all(isinstance(p, Heat) for p in shown) else 2), len(shown))
    tall = ceil(len(shown) / wide)
    titles = ["<br>".join(_titled(panel)) for panel in shown]
    made = Figure(
        make_subplots(
            tall, wide, subplot_titles=titles, vertical_spacing=min(0.3, 0.4 / tall),
            horizontal_spacing=0.24 / wide,
        )
    )  # fmt: skip
    made._panels = tuple(shown)
    for number, panel in enumerate(shown):
        _draw(made, panel, number // wide + 1, number % wide + 1, wide)
    longest = max((len(panel.names) for panel in shown if isinstance(panel, Bars)), default=0)
    made.update_layout(
        template="plotly_white", width=110 + wide * (_SIDE + 70), bargap=0.25, barmode="relative",
        height=90 + tall * max(_SIDE + 90, 40 + 18 * longest), font={"size": 12},
        margin={"l": 60, "r": 20, "t": 70, "b": 45},
    )  # fmt: skip
    made.update_annotations(font_size=12)
    return made


def _titled(panel: Panel) -> list[str]:
    """The words over a panel: its title, and smaller what it is of, a line or two."""
    below = [panel.note, panel.under if isinstance(panel, Heat) else ""]
    return [panel.title, *(f"<sub>{line}</sub>" for line in below if line)]


def _draw(made: Figure, panel: Panel, row: int, column: int, wide: int) -> None:
    place = {"row": row, "col": column}
    if isinstance(panel, Heat):
        _heat(made, panel, place, (row - 1) * wide + column)
    elif isinstance(panel, Bars):
        for n, (name, values) in enumerate(panel.shown.items()):
            bars = go.Bar(
                y=list(panel.names), x=list(values), name=name, orientation="h",
                marker_color=SERIES[n % len(SERIES)], showlegend=len(panel.shown) > 1,
                hovertemplate=f"%{{y}}: %{{x:.4g}} {panel.unit}<extra>{name}</extra>",
            )  # fmt: skip
            made.add_trace(bars, **place)
        made.update_yaxes(autorange="reversed", **place)
        made.update_xaxes(title_text=panel.unit, **place)
    else:
        _lines(made, panel, place)


def _heat(made: Figure, panel: Heat, place: dict[str, int], number: int) -> None:
    lo, hi, scale = panel.range
    colours = table(scale)
    rows, columns = panel.ticks
    y, x, value = panel.names
    heat = go.Heatmap(
        z=panel.values, zmin=lo, zmax=hi if hi > lo else lo + 1, showscale=False,
        colorscale=[[i / 254, f"rgb({r},{g},{b})"] for i, (r, g, b) in enumerate(colours)],
        y=list(rows) or None, x=list(columns) or None, hoverongaps=False,
        hovertemplate=f"{y} %{{y}}, {x} %{{x}}<br>{value} %{{z:.4g}}<extra></extra>",
    )  # fmt: skip
    made.add_trace(heat, **place)
    for i, j in panel.marks:
        made.add_shape(
            type="rect", x0=j - 0.5, x1=j + 0.5, y0=i - 0.5, y1=i + 0.5,
            line={"color": "#2f6f0a", "width": 2}, **place,
        )  # fmt: skip
    made.update_yaxes(
        autorange="reversed", showgrid=False, zeroline=False, title_text=y if rows else None,
        showticklabels=bool(rows), constrain="domain", **place,
    )  # fmt: skip
    if panel.even:
        made.update_yaxes(scaleanchor=f"x{number if number > 1 else ''}", **place)
    made.update_xaxes(
        showgrid=False, zeroline=False, title_text=x if columns else None,
        showticklabels=bool(columns), constrain="domain", **place,
    )  # fmt: skip


def _lines(made: Figure, panel: Lines, place: dict[str, int]) -> None:
    for n, (name, values) in enumerate(panel.series.items()):
        low, high = panel.intervals.get(name, (None, None))
        error: dict[str, Any] | None = None
        if low is not None and high is not None:
            error = {
                "array": [h - v for h, v in zip(high, values, strict=True)],
                "arrayminus": [v - b for b, v in zip(low, values, strict=True)],
                "symmetric": False,
            }
        line = go.Scatter(
            x=list(panel.at), y=list(values), name=name, error_y=error, mode="lines+markers",
            line_color=SERIES[n % len(SERIES)], showlegend=len(panel.series) > 1,
            hovertemplate=f"%{{x}}: %{{y:.4g}}<extra>{name}</extra>",
        )  # fmt: skip
        made.add_trace(line, **place)
    made.update_xaxes(title_text=panel.names[0], **place)
    made.update_yaxes(title_text=panel.names[1], **place)
