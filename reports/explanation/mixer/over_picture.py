"""Figures of a mixer that lie over the picture, and tables as pictures of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from ....methods.attention import connectivity_of, seen_from
from ....methods.metrics import OfTokens
from ....models.card import Card, Figure
from ....models.inputs import drawn
from ....probe.attribution import Heads
from ....probe.capture import guarded
from ....probe.errors import MethodError
from ....probe.results import SaliencyMap
from ....probe.sites import Site, adapt
from ..contents import FigureRow
from .picture import COLUMNS, Picture, Rows, labelled, over_picture, some_of, spread_over


def values(picture: Picture, figure: Figure) -> Rows:
    """One picture a site: the mean size of its channels, or their norm."""
    found = over_picture(picture.maps(figure, f"activation,reduce={figure.draw}"))
    kept = spread_over(found)
    row = FigureRow("", tuple((str(m.site), m) for m in kept), alike=False)
    return [row], some_of(len(kept), len(found), "sites")


def maps_of(picture: Picture, figure: Figure) -> Rows:
    """The maps of methods at sites, each on its own scale."""
    found = [m for name in figure.methods for m in over_picture(picture.maps(figure, name))]
    kept = spread_over(found)
    row = FigureRow("", tuple((f"{m.method} at {m.site}", m) for m in kept), alike=False)
    return [row], some_of(len(kept), len(found), "maps")


def pictures(picture: Picture, figure: Figure) -> Rows:
    """Values of one or three channels in their colours, on the scale of the model's input."""
    card = getattr(picture.model, "card", None)
    scale = (card.mean, card.std) if isinstance(card, Card) else ()
    found = at_sites(picture, figure.sites)
    for site, x in found:
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise MethodError(f"{site} holds {tuple(x.shape)}, no picture of 1 or 3 channels")
    kept = spread_over(found, COLUMNS)
    row = FigureRow("", images=tuple((str(site), drawn(x[0], *scale)) for site, x in kept))
    return [row], some_of(len(kept), len(found), "sites")


def channels(picture: Picture, figure: Figure) -> Rows:
    """The channels of each site."""
    found = over_picture(picture.maps(figure, "activation,channels=true"))
    kept, rows = spread_over(found), []
    for m in kept:
        shown = spread_over(range(len(m.values)), COLUMNS)
        parts = [(str(i), replace(m, values=m.values[i], axes="y x")) for i in shown]
        label = labelled(str(m.site), len(shown), len(m.values), "channels")
        rows.append(FigureRow(label, tuple(parts)))
    return rows, some_of(len(kept), len(found), "sites")


def attention(picture: Picture, figure: Figure) -> Rows:
    """What the centre or the class token attends to, head by head, below zero too."""
    every = [h for h in picture.heads(figure) if h.grid or h.pooled]
    if figure.draw == "class":
        every = [h for h in every if h.prefix]
    if not every:
        raise MethodError("no attention of this model lies over the picture")
    kept, rows = spread_over(every), []
    for heads in kept:
        shown = spread_over(range(heads.shape[1]), COLUMNS)
        parts = [
            (f"head {i}", picture.map(_row(heads, figure.draw, i), heads.site, figure.draw))
            for i in shown
        ]
        label = labelled(heads.site.path, len(shown), heads.shape[1], "heads")
        rows.append(FigureRow(label, tuple(parts)))
    return rows, some_of(len(kept), len(every), "layers")


def _row(heads: Heads, of: str, head: int) -> Tensor:
    """A row of a head's map over the picture, `y x`."""
    if of == "class" and heads.grid is not None:
        return heads.rows(slice(0, 1))[0, head, 0, heads.prefix :].unflatten(0, heads.grid)
    return seen_from(heads, 0.5, 0.5, head)[0]


def connectivity(picture: Picture, figure: Figure) -> Rows:
    """What the centre sees, its softmax without the mask and behind it, of some heads."""
    every = [h for h in picture.heads(figure) if h.grid]
    if not every:
        raise MethodError("no attention of this model lies over the picture")
    kept, rows = spread_over(every), []
    for heads in kept:
        shown = spread_over(range(heads.shape[1]), COLUMNS // 3)
        label = labelled(heads.site.path, len(shown), heads.shape[1], "heads")
        parts = [part for head in shown for part in _connected(picture, heads, head)]
        rows.append(FigureRow(label, tuple(parts), alike=False))
    return rows, some_of(len(kept), len(every), "layers")


def _connected(picture: Picture, heads: Heads, head: int) -> list[tuple[str, SaliencyMap]]:
    assert heads.grid is not None
    height, width = heads.grid
    found = connectivity_of(heads, heads.prefix + height // 2 * width + width // 2)
    words = {"seen": "what it sees", "softmax": "softmax without the mask", "map": "with it"}
    return [
        (f"head {head}: {text}", picture.map(found.picture(name)[0, head], heads.site, name))  # type: ignore[arg-type]
        for name, text in words.items()
    ]


def tables(picture: Picture, figure: Figure) -> Rows:
    """Values or parameters as they are, the last two dimensions a picture each."""
    found = _parameters(picture.model, figure.sites) or at_sites(picture, figure.sites)
    kept, rows = spread_over(found), []
    for site, x in kept:
        planes = x.flatten(0, -3) if x.ndim > 2 else x[None]
        shown = spread_over(range(len(planes)), COLUMNS)
        parts = [
            (str(i) if len(planes) > 1 else "", picture.table(planes[i], site, "table"))
            for i in shown
        ]
        label = labelled(str(site), len(shown), len(planes), "tables")
        rows.append(FigureRow(label, tuple(parts)))
    return rows, some_of(len(kept), len(found), "places")


def _parameters(model: nn.Module, patterns: Sequence[str]) -> list[tuple[Site, Tensor]]:
    return [
        (Site(name), p)
        for name, p in model.named_parameters()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
        and p.ndim > 1
        and min(p.shape[-2:]) > 1
    ]


def at_sites(picture: Picture, patterns: Sequence[str]) -> list[tuple[Site, Tensor]]:
    """The values at some sites. Raises MethodError where there is none."""
    return [(v.site, v.act) for v in picture.values(patterns) if v.act.ndim > 1]


def token_shares(picture: Picture, figure: Figure) -> Rows:
    """What each token adds to the logit of the likeliest class."""
    model = picture.model
    if not isinstance(model, OfTokens):
        raise MethodError("in this model tokens meet before the logits, so that none has a share")
    with guarded(model, grad=False, evaluate=True), torch.no_grad():
        best = int(picture.through(model)[0].argmax())
        shares = model.token_shares(picture.x)[0, best]
    names = adapt(model).labels
    label = names[best] if best < len(names) else f"class {best}"
    shown = picture.map(shares, Site("", "out"), figure.draw)
    return [FigureRow("", ((f"to {label}", shown),), alike=False)], ""
