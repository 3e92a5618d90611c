"""Figures of a mixer that are lines: spectra, heads over depth, learned functions, ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from ....methods.attention import learned_curves, map_spectra
from ....methods.metrics import radial_spectrum
from ....models.card import Figure
from ....probe.errors import MethodError
from ..contents import Curve, FigureRow
from .over_picture import at_sites
from .picture import COLUMNS, Picture, Rows, labelled, over_picture, some_of, spread_over

_FUNCTIONS, _POINTS = 6, 61
_LEAST = 1e-6


def spectrum(picture: Picture, figure: Figure) -> Rows:
    """Power over frequency, as a share of each site's own."""
    found = over_picture(picture.maps(figure, "activation,channels=true"))
    kept, curves = spread_over(found, COLUMNS), []
    for m in kept:
        at, power = radial_spectrum(m.values[None])
        curves.append(Curve(str(m.site), at, _logarithm(power[0] / power[0].nansum())))
    y = "power over that of all frequencies, log10"
    row = FigureRow("", curves=tuple(curves), x="cycles a token", y=y)
    return [row], some_of(len(kept), len(found), "sites")


def shares(picture: Picture, figure: Figure) -> Rows:
    """The sum of a method's map at each site over that of all, a point each."""
    found = [m for name in figure.methods for m in over_picture(picture.maps(figure, name))]
    sums = torch.stack([m.values.double().sum() for m in found])
    total = sums.sum()
    if not total.isfinite() or total.abs() <= _LEAST * sums.abs().sum():
        raise MethodError("the sums of the maps cancel, so that there is nothing to share")
    curves = [
        Curve(str(m.site), torch.tensor([float(n)]), part[None])
        for n, (m, part) in enumerate(zip(found, sums / total, strict=True), 1)
    ]
    return [FigureRow("", curves=tuple(curves), x="sites", y="share of the sum")], ""


def sorted_channels(picture: Picture, figure: Figure) -> Rows:
    """The mean of each channel, the largest first: a line a site."""
    found = list(picture.maps(figure, "activation,channels=true"))
    kept, curves = spread_over(found, COLUMNS), []
    for m in kept:
        if m.axes.split()[:1] != ["c"]:
            raise MethodError(f"{m.site} has values over {m.axes!r}, not of channels")
        means = m.values.double().reshape(len(m.values), -1).nanmean(1).sort(descending=True).values
        curves.append(Curve(str(m.site), torch.arange(1.0, len(means) + 1), means))
    row = FigureRow("", curves=tuple(curves), x="channels by rank", y="mean over places")
    return [row], some_of(len(kept), len(found), "sites")


def heads(picture: Picture, figure: Figure) -> Rows:
    """Methods of attention heads over depth: the mean of each layer in a line, heads as dots."""
    curves = []
    for method in figure.methods:
        found = list(picture.maps(figure, method))
        depth = torch.arange(float(len(found)))
        means = torch.stack([m.values.double().nanmean() for m in found])
        if means.isnan().all():
            raise MethodError(f"{method} has no value for any head of this model")
        curves.append(Curve(method, depth, means))
        most = max(len(m.values) for m in found) if len(figure.methods) == 1 else 0
        for head in range(most if most > 1 else 0):
            here = [float(m.values[head]) if head < len(m.values) else torch.nan for m in found]
            curves.append(Curve(f"head {head}", depth, torch.tensor(here), among=True))
    return [FigureRow("", curves=tuple(curves), x="layers", y="mean of heads")], ""


def steps(picture: Picture, figure: Figure) -> Rows:
    """Values `b n` at sites, over their steps."""
    found = at_sites(picture, figure.sites)
    for site, x in found:
        if x.ndim != 2:
            raise MethodError(f"{site} has values {tuple(x.shape)}, not one for each step")
    kept = spread_over(found, COLUMNS)
    curves = tuple(
        Curve(str(site), torch.arange(float(x.shape[1])), x[0].detach().double().cpu())
        for site, x in kept
    )
    row = FigureRow("", curves=curves, x="steps", y="value")
    return [row], some_of(len(kept), len(found), "sites")


def functions(picture: Picture, figure: Figure) -> Rows:
    """Learned functions, of each set some of its first head and number."""
    found = learned_curves(picture.model, points=_POINTS)
    kept, rows = spread_over(found), []
    for one in kept:
        held = one.values[0, :, 0]
        shown = spread_over(range(len(held)), _FUNCTIONS)
        curves = [Curve(f"{i}", one.x, held[i]) for i in shown]
        label = labelled(f"{one.path}, first head, number 0", len(shown), len(held), "functions")
        rows.append(FigureRow(label, curves=tuple(curves), x="score", y="value"))
    return rows, some_of(len(kept), len(found), "sets")


def singular_values(picture: Picture, figure: Figure) -> Rows:
    """Singular values over the largest, the mean of heads."""
    found = map_spectra(picture.model, picture.x)
    kept, rows = spread_over(found), []
    for one in kept:
        parts = {"scores": one.scores, "reduced scores": one.reduced, "map": one.map}
        curves = []
        for name, values in parts.items():
            if values is not None:
                line = _logarithm((values[0] / values[0, :, :1]).nanmean(0))
                curves.append(Curve(name, torch.arange(1.0, len(line) + 1), line))
        rows.append(
            FigureRow(one.site, curves=tuple(curves), x="number", y="of the largest, log10")
        )
    return rows, some_of(len(kept), len(found), "layers")


def _logarithm(shares: Tensor) -> Tensor:
    """To base 10; no number where there is next to nothing."""
    return shares.where(shares > _LEAST, torch.nan).log10()
