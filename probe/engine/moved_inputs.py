"""Which inputs a method perturbs, and what stands still meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..axes import Layout
from ..results import About
from ..sites import Pattern, Site
from .batch import Batch

INPUT = Site("", "in")


@dataclass(frozen=True)
class MovedInput:
    """An input that moves along a path: its site and name, where it ends, how methods read it."""

    site: Site
    name: str
    x: Tensor
    layout: Layout


def inputs_among(patterns: Iterable[Pattern], batch: Batch) -> list[Site]:
    """The inputs among the sites that were asked for; the explained one where there is none."""
    ports = ("in", *(f"in.{name}" for name in batch.rows))
    sites = [
        Site("", port)
        for pattern in patterns
        for port in ([pattern.port] if pattern.concrete else ports)
        if port.partition(".")[0] == "in" and pattern.matches(Site("", port))
    ]
    main = Site("", f"in.{batch.explained}")
    return list(dict.fromkeys(INPUT if site == main else site for site in sites)) or [INPUT]


def name_at(site: Site, batch: Batch) -> str:
    """The name of the tensor at an input's site."""
    return batch.explained if site == INPUT else site.port.partition(".")[2]


def noting_still(
    about: About, batch: Batch, moved: Sequence[str], *, together: bool = True
) -> About:
    """Provenance of moving some inputs: which others could have moved.

    together  whether those that `sites=` names move at once, and not one after the other
    """
    still = [name for name in batch.movable if name in batch.rows and name not in moved]
    if not still:
        return about
    names = ", ".join("input" if n == batch.explained else f"input.{n}" for n in still)
    note = f"{names} stood still" + ("; name it in sites= to move it too" if together else "")
    return replace(about, notes=(*about.notes, note))
