"""Figures of gates that choose blocks: beside pooled truth, their density, the mass they keep."""

from __future__ import annotations

import torch

from ....methods.attention import BlockGate, ComparesGates
from ....models.card import Figure
from ....probe.capture import guarded
from ....probe.errors import MethodError
from ....probe.sites import Site
from ..contents import Curve, FigureRow
from .picture import COLUMNS, Picture, Rows, labelled, some_of, spread_over

_RIVALS = ("kept", "oracle", "local", "random")


def beside_truth(picture: Picture, figure: Figure) -> Rows:
    """The gate's probabilities and the pooled attention it should predict, head by head."""
    every = _compared(picture)
    kept, rows = spread_over(range(len(every)), 3), []
    for layer in kept:
        one, site = every[layer], Site(f"layer {layer}", "gate")
        shown = spread_over(range(one.scores.shape[1]), COLUMNS // 2)
        for name, words in (("scores", "gate"), ("truth", "pooled attention")):
            whole = getattr(one, name)[0].tril()
            parts = [(f"head {i}", picture.table(whole[i], site, name)) for i in shown]
            label = labelled(f"layer {layer}, {words}", len(shown), len(whole), "heads")
            rows.append(FigureRow(label, tuple(parts), ends=(0.0, 1.0)))
    return rows, some_of(len(kept), len(every), "layers")


def density(picture: Picture, figure: Figure) -> Rows:
    """The share of causal blocks that each head's gate chooses: means over depth, heads as dots."""
    every = _compared(picture)
    depth = torch.arange(float(len(every)))
    shares = torch.stack([one.density[0].float().cpu() for one in every])  # layers, heads
    curves = [Curve("density", depth, shares.mean(1))]
    curves += [Curve(f"head {h}", depth, own, among=True) for h, own in enumerate(shares.T)]
    return [FigureRow("", curves=tuple(curves), x="layers", y="share of causal blocks")], ""


def mass(picture: Picture, figure: Figure) -> Rows:
    """Dense attention's mass in the blocks chosen, and in as many chosen otherwise."""
    every = _compared(picture)
    depth = torch.arange(float(len(every)))
    curves = []
    for name in _RIVALS:
        means = [getattr(one, name)[0].float().mean().cpu() for one in every]
        curves.append(Curve(name, depth, torch.stack(means)))
    return [FigureRow("", curves=tuple(curves), x="layers", y="mass, mean of heads")], ""


def _compared(picture: Picture) -> list[BlockGate]:
    if not isinstance(picture.model, ComparesGates):
        raise MethodError("this model has no gates to compare with dense attention")
    with guarded(picture.model, grad=False, evaluate=True):
        return list(picture.model.compare_gates(picture.x))
