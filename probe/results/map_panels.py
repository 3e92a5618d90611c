"""A map as a panel of a figure."""

from __future__ import annotations

from .map_values import MapValues
from .panels import Bars, Heat, Lines, Panel
from .sheet import caption, plane, sliced

_MOST_BARS = 40


def panel_of(m: MapValues) -> Panel:
    """Places in two dimensions as colours, a series as a line, features, tokens and heads as bars.

    Volumes, films and maps by channel are tiles of slices. Of more than 40 bars the strongest stay.
    """
    title, note = m.method, f"{m.site}, {m.sample}, {m.target}"
    axes, values = m.axes.split(), m.values.detach().double().cpu()
    if len(axes) == 1 and axes[0] in ("t", "y", "x", "z"):
        at = [float(i) for i in range(len(values))]
        return Lines(title, at, {m.method: values.tolist()}, names=(axes[0], ""), note=note)
    if len(axes) < 2:
        numbers = values.reshape(-1)
        names = list(m.about.features) if len(m.about.features) == len(numbers) else []
        words = names or [str(i) for i in range(len(numbers))]
        if len(words) > _MOST_BARS:
            kept = numbers.abs().nan_to_num().topk(_MOST_BARS).indices.sort().values.tolist()
            words, numbers = [words[i] for i in kept], numbers[kept]
            note += f", the {_MOST_BARS} strongest of {values.numel()}"
        return Bars(title, words, {m.method: numbers.tolist()}, note=note)
    even = set(axes[-2:]) <= {"z", "y", "x"} or axes[-2:] == ["q", "k"]
    picture = plane(sliced(m))
    named = (axes[-2], axes[-1], m.method)
    return Heat(title, picture, named, note=note, under=caption(m), even=even)
