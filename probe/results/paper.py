"""Figures for papers: panels at the width of a column, as PDF, SVG or PNG, by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from math import ceil, isfinite
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import LimelightError, OptionError
from .colour_scales import table
from .panels import SERIES, Bars, Heat, Lines, Panel
from .replacing import GENERATOR

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTHS = {"single": 3.3, "double": 6.9}  # inches
ENDINGS = (".pdf", ".svg", ".png")
_DOTS = 300  # an inch


def drawn(
    panels: Sequence[Panel],
    ending: str,
    *,
    width: str | float = "single",
    font: float = 8.0,
    columns: int | None = None,
) -> bytes:
    """Panels as the content of a file; see `Figure.save`. The same panels make the same bytes."""
    inches = _inches(width)
    if ending not in ENDINGS:
        raise OptionError(
            f"a figure was asked as {ending!r}, but figures are written as {', '.join(ENDINGS)}"
        )
    if not 3 <= font <= 30:
        raise OptionError(f"font={font} was asked; letters have 3 to 30 points")
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise LimelightError(
            "figures for papers need matplotlib: pip install 'limelight[figures]'"
        ) from error
    settings: Any = {
        "font.size": font, "axes.titlesize": font, "axes.labelsize": font, "xtick.labelsize": font,
        "ytick.labelsize": font, "legend.fontsize": font, "axes.linewidth": 0.6,
        "pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": GENERATOR,
    }  # fmt: skip
    wide = columns or _side_by_side(panels, inches)
    tall = ceil(len(panels) / wide)
    heights = [
        max(_height(p, inches / wide, font) for p in panels[r * wide : (r + 1) * wide])
        for r in range(tall)
    ]
    with rc_context(settings):
        made = Figure(figsize=(inches, sum(heights)), layout="constrained")
        axes = made.subplots(tall, wide, squeeze=False, gridspec_kw={"height_ratios": heights})
        for place, panel in zip(axes.flat, panels, strict=False):
            _draw(place, panel, inches / wide, font)
        for place in axes.flat[len(panels) :]:
            place.set_axis_off()
        sink = BytesIO()
        made.savefig(sink, format=ending[1:], dpi=_DOTS, metadata=_metadata(ending))
    return sink.getvalue()


def _inches(width: str | float) -> float:
    inches = WIDTHS.get(width) if isinstance(width, str) else float(width)
    if inches is None or not (isfinite(inches) and 1 <= inches <= 40):
        raise OptionError(
            f"width={width!r} was asked; a column is {' or '.join(WIDTHS)}, or 1 to 40 inches"
        )
    return inches


def _metadata(ending: str) -> dict[str, Any]:
    if ending == ".pdf":
        return {"Creator": GENERATOR, "CreationDate": None}
    return {"Creator": GENERATOR, "Date": None} if ending == ".svg" else {"Software": GENERATOR}


def _side_by_side(panels: Sequence[Panel], inches: float) -> int:
    least = 1.1 if all(isinstance(panel, Heat) for panel in panels) else 3.0
    return max(1, min(len(panels), int(inches / least)))


def _height(panel: Panel, inches: float, font: float) -> float:
    line = font * 1.3 / 72
    head = line * (1.2 + len(_titled(panel, inches, font)))
    if isinstance(panel, Bars):
        return head + line * (len(panel.names) + 3)
    if isinstance(panel, Lines):
        return head + 0.62 * inches
    rows, columns = panel.values.shape
    return head + inches * (min(2.0, max(0.25, rows / max(columns, 1))) if panel.even else 0.6)


def _titled(panel: Panel, inches: float, font: float) -> list[str]:
    """Title and note in lines that are no wider than the panel."""
    room = max(8, int(0.92 * inches * 72 / (0.56 * font)))
    return [line for text in (panel.title, panel.note) for line in wrap(text, room)]


def _draw(place: Axes, panel: Panel, inches: float, font: float) -> None:
    place.set_title("\n".join(_titled(panel, inches, font)), loc="left")
    if isinstance(panel, Heat):
        _heat(place, panel)
        return
    for side in ("top", "right"):
        place.spines[side].set_visible(False)
    if isinstance(panel, Bars):
        _bars(place, panel)
    else:
        _lines(place, panel, max(2, int(inches * 72 / (4.5 * font))))
    if len(panel.shown if isinstance(panel, Bars) else panel.series) > 1:
        place.legend(frameon=False)


def _heat(place: Axes, panel: Heat) -> None:
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Rectangle

    lo, hi, scale = panel.range
    colours = ListedColormap(table(scale) / 255.0).with_extremes(bad="0.55")
    place.imshow(
        np.ma.masked_invalid(panel.values), cmap=colours, vmin=lo, vmax=hi if hi > lo else lo + 1,
        interpolation="nearest", aspect="equal" if panel.even else "auto",
    )  # fmt: skip
    for i, j in panel.marks:
        place.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=SERIES[0]))
    for ticks, name, put, say in (
        (panel.ticks[0], panel.names[0], place.set_yticks, place.set_ylabel),
        (panel.ticks[1], panel.names[1], place.set_xticks, place.set_xlabel),
    ):
        put(range(len(ticks)), list(ticks))
        if ticks:
            say(name)
    if panel.under:
        place.set_xlabel(panel.under, loc="left")


def _bars(place: Axes, panel: Bars) -> None:
    at = np.arange(len(panel.names))
    above, below = np.zeros(len(at)), np.zeros(len(at))
    for n, (name, values) in enumerate(panel.shown.items()):
        numbers = np.nan_to_num(np.asarray(values, dtype=float))
        start = np.where(numbers < 0, below, above)
        place.barh(at, numbers, left=start, label=name, color=SERIES[n % len(SERIES)])
        above, below = above + numbers.clip(min=0), below + numbers.clip(max=0)
    place.set_yticks(at, list(panel.names))
    place.invert_yaxis()
    place.set_xlabel(panel.unit)


def _lines(place: Axes, panel: Lines, room: int) -> None:
    for n, (name, values) in enumerate(panel.series.items()):
        colour = SERIES[n % len(SERIES)]
        at = np.arange(len(panel.at))
        place.plot(at, values, marker="o", markersize=2.5, linewidth=1, color=colour, label=name)
        if name in panel.intervals:
            low, high = panel.intervals[name]
            place.fill_between(at, low, high, color=colour, alpha=0.18, linewidth=0)
    step = ceil(len(panel.at) / room)
    words = [f"{x:g}" if isinstance(x, float | int) else str(x) for x in panel.at]
    long = max(map(len, words), default=0) > 5
    place.set_xticks(range(0, len(words), step), words[::step], rotation=40 if long else 0,
                     ha="right" if long else "center", rotation_mode="anchor")  # fmt: skip
    place.set_xlabel(panel.names[0])
    place.set_ylabel(panel.names[1])
