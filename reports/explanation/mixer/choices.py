"""What drove the choices of a model that chooses step by step: relevance of its tokens."""

from __future__ import annotations

from dataclasses import replace

import torch

from ....models.card import Figure
from ....probe.capture import guarded
from ....probe.errors import MethodError
from ....probe.results import SaliencyMap
from ....probe.targets import choice
from ..contents import FigureRow
from .picture import COLUMNS, Picture, Rows, some_of, spread_over

RELEVANCE = "lrp:epsilon"


def choices(picture: Picture, figure: Figure) -> Rows:
    """A row for each site: its relevance for the likeliest choice of each step.

    The model's output is scores `b step k`. Raises MethodError for another.
    """
    with guarded(picture.model, grad=False, evaluate=True), torch.no_grad():
        scores = picture.through(picture.model)
    if not isinstance(scores, torch.Tensor) or scores.ndim != 3:
        raise MethodError("the model gives no scores b step k, so that it chooses nothing in steps")
    likeliest = scores[0].argmax(-1).tolist()
    shown = spread_over(range(len(likeliest)), COLUMNS)
    asked = [choice(step, likeliest[step]) for step in shown]
    found = picture.maps(figure, RELEVANCE, asked)
    rows = []
    for site in dict.fromkeys(m.site for m in found):
        here = [m for m in found if m.site == site]
        words = (f"step {step}: {likeliest[step]}" for step in shown)
        parts = tuple((w, _table(m)) for w, m in zip(words, here, strict=True))
        rows.append(FigureRow(str(site), parts))
    return rows, some_of(len(shown), len(likeliest), "steps")


def _table(m: SaliencyMap) -> SaliencyMap:
    """Values over tokens as a table: their places, or one row. Raises MethodError for others."""
    if m.values.ndim not in (1, 2):
        raise MethodError(f"{m.site} has values over {m.axes!r}, which make no table")
    values = m.values if m.values.ndim == 2 else m.values[None]
    return replace(m, values=values, axes="row column", extent=())
