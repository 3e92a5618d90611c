"""The sample that figures of a mixer are about, and how many of many things they show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor, nn

from ....models.card import Figure
from ....probe.attribution import Axes, Heads, Targets
from ....probe.capture import input_tensors
from ....probe.engine import Batch, maps
from ....probe.errors import MethodError
from ....probe.probe import Probe
from ....probe.results import Maps, SaliencyMap
from ....probe.sites import Site
from ....probe.targets import Target
from ....probe.trace import Value
from ..contents import FigureRow

T = TypeVar("T")
Rows = tuple[list[FigureRow], str]
ROWS, COLUMNS = 6, 8


@dataclass(frozen=True, eq=False)
class Picture:
    """A model on one sample: the picture `1 c y x` or token ids `1 n`, and what else it is given.

    batch   of one sample, all that the model is given
    target  what is explained; by default the likeliest class
    """

    model: nn.Module
    batch: Batch
    sample: str
    axes: Axes
    target: Target | None = None

    @property
    def x(self) -> Tensor:
        """The picture itself, or what else is explained: ids as they are."""
        return input_tensors(self.batch.args, self.batch.kwargs)[self.batch.explained]

    def through(self, run: Callable[..., T]) -> T:
        """What the model, or a probe on it, returns."""
        return run(*self.batch.args, **self.batch.kwargs)

    def maps(self, figure: Figure, method: str, target: Targets = None) -> Maps:
        """What a method gives at the sites of a figure, or at its usual ones."""
        return maps(
            self.model,
            self.batch,
            [method],
            sites=list(figure.sites) or None,
            target=self.target if target is None else target,
            samples=[self.sample],
            axes=self.axes,
        )

    def heads(self, figure: Figure) -> list[Heads]:
        """The attention at the sites of a figure, or all there is, from one forward.

        Raises MethodError and SiteError where there is none.
        """
        from ....probe.attribution.heads import heads_of, watched

        with Probe(self.model, grad=False, axes=self.axes) as probe:
            patterns = watched(probe, list(figure.sites) or ["heads"])
            self.through(probe)
            return heads_of(probe, patterns, None)

    def values(self, sites: Sequence[str]) -> list[Value]:
        """What a forward holds at sites. Raises MethodError where there is nothing."""
        with Probe(self.model, grad=False, axes=self.axes) as probe:
            probe.watch(*sites)
            self.through(probe)
            found = probe.values(list(sites))
        if not found:
            raise MethodError(f"nothing of this model is called {', '.join(sites)}")
        return found

    def map(self, values: Tensor, site: Site, method: str) -> SaliencyMap:
        """Values `y x` that cover the picture."""
        extent = (0.0, 0.0, *map(float, self.x.shape[-2:]))
        return self._map(values, "y x", site, method, extent)

    def table(self, values: Tensor, site: Site, method: str) -> SaliencyMap:
        """Values of two dimensions that are no places of the picture."""
        return self._map(values, "row column", site, method, ())

    def _map(
        self, values: Tensor, axes: str, site: Site, method: str, extent: tuple[float, ...]
    ) -> SaliencyMap:
        kept = values.detach().float().cpu()
        return SaliencyMap(kept, axes, self.sample, "any", method, site, extent)


def over_picture(found: Maps) -> list[SaliencyMap]:
    """The maps that lie over the picture. Raises MethodError where one does not."""
    for m in found:
        if m.axes not in ("y x", "c y x"):
            raise MethodError(f"{m.site} has values over {m.axes!r}, not over the picture")
    return list(found)


def spread_over(items: Sequence[T], most: int = ROWS) -> list[T]:
    """A few of many, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def some_of(shown: int, count: int, what: str) -> str:
    """How many are shown, where it is not all: the first, the last, and others between them."""
    return "" if shown == count else f"{shown} of {count} {what}"


def labelled(label: str, shown: int, count: int, what: str) -> str:
    """A label with the same."""
    return ", ".join(filter(None, [label, some_of(shown, count, what)]))
