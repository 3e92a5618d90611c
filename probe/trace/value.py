"""One captured value: its activation, its gradient, and what could not be seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.graph import Node

from ..axes import ValueAxes
from ..errors import ProbeError, SiteError
from ..sites import HEAD_PORTS, Site


@dataclass(frozen=True)
class Hole:
    """A stretch of the autograd graph that no seen op, edit or lift accounts for."""

    node: str
    near: str

    def __str__(self) -> str:
        return f"{self.node} feeding {self.near}"


class Value:
    """The activation at a site and, after a backward, its gradient.

    `act` raises ProbeError when something the probe could not see has overwritten it.
    version: of `act` when it was captured, if that was earlier than now.
    rows, count: of an attention map, some of its query rows and how many there are; they are
    computed without the others.
    known_axes: what its forward knows of axes.
    grids: of an attention map, rows and columns of its first keys and of the pooled ones behind
    them, where its op has keys of both kinds.
    """

    __slots__ = (
        "_act", "_version", "count", "edge", "flipped", "gradient", "grids", "known_axes", "rows",
        "site",
    )  # fmt: skip

    def __init__(
        self,
        site: Site,
        act: Tensor | Callable[[], Tensor],
        edge: tuple[Node, int] | None,
        version: int | None = None,
        known_axes: ValueAxes | None = None,
    ) -> None:
        self.site = site
        self.edge = edge
        self.gradient: Tensor | Callable[[], Tensor | None] | None = None
        self.flipped = False  # its edge carries the transpose (keys, which enter as k')
        self.rows: Callable[[slice], Tensor] | None = None
        self.count = 0
        self.grids: tuple[tuple[int, int], ...] = ()
        self.known_axes = known_axes
        self._act = act
        if version is None:
            version = act._version if isinstance(act, Tensor) else 0
        self._version = version

    def hold(self, act: Tensor | Callable[[], Tensor]) -> None:
        """Keep an activation, or a function that computes it when it is read."""
        self._act = act
        self._version = act._version if isinstance(act, Tensor) else 0

    def spend(self) -> None:
        """Free the stored tensor: its maps are made, and nothing will read it again."""
        site = self.site  # not `self`, which would make a cycle that only the collector frees

        def gone() -> Tensor:
            raise ProbeError(f"the value at {site} was freed once its maps were made")

        self.hold(gone)

    @property
    def held(self) -> Tensor | None:
        """The stored tensor itself; None for values computed when read."""
        return self._act if isinstance(self._act, Tensor) else None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.act.shape)

    @property
    def axes(self) -> str:
        """What its dimensions mean, `b c y x`; `?` for those that nothing tells."""
        if self.site.axes or self.known_axes is None:
            return self.site.axes
        return self.known_axes.names(self)

    @property
    def stale(self) -> bool:
        """Whether the stored tensor was overwritten after it had been captured."""
        return isinstance(self._act, Tensor) and self._act._version != self._version

    @property
    def act(self) -> Tensor:
        if not isinstance(self._act, Tensor):
            self.hold(self._act())
            return self.act
        if self.stale:
            raise ProbeError(
                f"the value at {self.site} was overwritten where the probe cannot see (a script or "
                f"another thread); watch an earlier site, or rewrite that in-place operation"
            )
        return self._act

    @property
    def grad(self) -> Tensor | None:
        return self.gradient() if callable(self.gradient) else self.gradient

    def at(self, index: int | None) -> Value:
        """One head or channel of the value."""
        if index is None or index == self.site.index:
            return self
        site, dim, act = *self._indexed(index), self.act
        part = Value(site, act.select(dim, index), None)
        part.gradient = lambda: None if self.grad is None else self.grad.select(dim, index)
        return part

    def marked(self, index: int) -> Tensor:
        """A tensor of the value's shape: one at a head or channel, zero elsewhere."""
        marks = torch.zeros_like(self.act)
        marks.select(self._indexed(index)[1], index).fill_(1)
        return marks

    def _indexed(self, index: int) -> tuple[Site, int]:
        """The site of a head or channel, and its dimension. Raises SiteError if there is none."""
        site = Site(self.site.path, self.site.port, self.site.call, index, self.axes)
        dim, shape = index_dim(site, self.act.ndim), self.act.shape
        if not -shape[dim] <= index < shape[dim]:
            raise SiteError(f"{site} was asked, but {self.site} has {shape[dim]} of them")
        return site, dim

    def __repr__(self) -> str:
        return f"Value({self.site}, {self.axes!r}, {self.shape})"


def any_stale(values: list[Value]) -> bool:
    """Whether one of these stored tensors was overwritten."""
    return any([v._act._version != v._version for v in values if isinstance(v._act, Tensor)])


def index_dim(site: Site, ndim: int) -> int:
    """The dimension that a site's index counts: heads for head ports, else channels."""
    if site.port in HEAD_PORTS:
        if ndim != 4:
            raise SiteError(f"{site} has {ndim} dimensions and no head axis; index it yourself")
        return 1
    axes = site.axes.split()
    if "c" not in axes:
        whole = str(replace(site, index=None))
        raise SiteError(
            f"which dimension of {whole} holds its channels is not known (read as {site.axes!r}); "
            f"say it, as in axes={{{whole!r}: 'b c y x'}}"
        )
    return axes.index("c")
