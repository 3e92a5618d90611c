"""Figures of long convolutions: filters in time and in frequency, static and adaptive energy."""

from __future__ import annotations

import torch

from ....methods.attention import LayerFilters, mixing_filters
from ....models.card import Figure
from ....probe.errors import MethodError
from ..contents import Curve, FigureRow
from .picture import Picture, Rows, some_of, spread_over

_CHANNELS, _LAYERS, _LEAST = 6, 4, 1e-12


def filters(picture: Picture, figure: Figure) -> Rows:
    """Each layer's filter over lags, and its power over frequencies."""
    found = mixing_filters(picture.model, picture.x, picture.axes)
    kept, rows = spread_over(found, _LAYERS), []
    for one in kept:
        title = one.path or "the operator"
        rows.append(_in_time(title, one))
        curves = []
        for name in one.parts:
            at, power = one.power(name)
            curves.append(Curve(name, at, power.clamp(min=_LEAST).log10()))
        y = "power, mean of channels, log10"
        rows.append(FigureRow(title, curves=tuple(curves), x="cycles a token", y=y))
    return rows, some_of(len(kept), len(found), "layers")


def _in_time(title: str, one: LayerFilters) -> FigureRow:
    """Taps of some channels; of a static and an adaptive filter, their root mean square."""
    if len(one.parts) == 1:
        (taps,) = one.parts.values()
        shown, y = spread_over(range(len(taps)), _CHANNELS), "tap"
        lines = {f"channel {i}": taps[i] for i in shown}
    else:
        lines = {name: taps.square().mean(0).sqrt() for name, taps in one.parts.items()}
        y = "tap, root mean square of channels"
    curves = [Curve(name, torch.arange(float(len(v))), v) for name, v in lines.items()]
    return FigureRow(title, curves=tuple(curves), x="lag in tokens", y=y)


def energies(picture: Picture, figure: Figure) -> Rows:
    """What the static filter and the one made of the input hold, over depth."""
    found = [
        one
        for one in mixing_filters(picture.model, picture.x, picture.axes)
        if {"static", "adaptive"} <= set(one.parts)
    ]
    if not found:
        raise MethodError("no filter of this model is made of its input")
    depth = torch.arange(float(len(found)))
    curves = [
        Curve(name, depth, torch.stack([one.energy(name).mean().log10() for one in found]))
        for name in ("static", "adaptive")
    ]
    y = "energy, mean of channels, log10"
    return [FigureRow("", curves=tuple(curves), x="layers", y=y)], ""
