"""Which inputs a method perturbs, and what stands still meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..attribution import Method
from ..axes import Layout
from ..errors import MethodError
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


def inputs_among(patterns: Iterable[Pattern], batch: Batch) -> tuple[list[Site], list[Pattern]]:
    """The inputs, or channels of them, among what was asked for; and what is no input."""
    ports = ("in", *(f"in.{name}" for name in batch.rows))
    main, sites, others = f"in.{batch.explained}", list[Site](), list[Pattern]()
    for pattern in patterns:
        found = [
            Site("", "in" if port == main else port, index=pattern.index)
            for port in ([pattern.port] if pattern.concrete else ports)
            if port.partition(".")[0] == "in" and pattern.matches(Site("", port))
        ]
        sites += found
        others += [] if found else [pattern]
    return list(dict.fromkeys(sites)), others


def name_at(site: Site, batch: Batch) -> str:
    """The name of the tensor at an input's site."""
    return batch.explained if site == INPUT else site.port.partition(".")[2]


def reads_layers(method: Method) -> bool:
    """Whether a method can be asked at layers, and not at inputs alone."""
    return method.kind != "pass" or not (method.perturbs or method.sites == "input")


def unread(name: str, asked: Iterable[object], *, shared: bool) -> str:
    """What is said of a method that reads inputs alone, where layers or channels were named.

    shared  whether other methods of the call read those. Raises MethodError where none does.
    """
    words = ", ".join(str(site) for site in asked)
    if not shared:
        raise MethodError(
            f"method {name!r} was asked at {words}, but it explains whole inputs; leave sites= "
            "out, or ask a method that reads layers and channels, such as gradcam or "
            "integrated_gradients"
        )
    return f"{name} explains whole inputs, and was not made at {words}"


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
