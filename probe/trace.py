"""What a forward left behind: values by site, and what could not be seen."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, Mapping, ValuesView
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node

from .errors import ProbeError, SiteError
from .ledger import Ledger
from .site import HEAD_PORTS, Pattern, Site, no_match, parse


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
    rows, count: of an attention map, some of its query rows and how many there are; they are
    computed without the others.
    """

    __slots__ = ("_act", "_version", "count", "edge", "flipped", "gradient", "rows", "site")

    def __init__(
        self, site: Site, act: Tensor | Callable[[], Tensor], edge: tuple[Node, int] | None
    ) -> None:
        self.site = site
        self.edge = edge
        self.gradient: Tensor | Callable[[], Tensor | None] | None = None
        self.flipped = False  # its edge carries the transpose (keys, which enter as k')
        self.rows: Callable[[slice], Tensor] | None = None
        self.count = 0
        self._act = act
        self._version = act._version if isinstance(act, Tensor) else 0

    def hold(self, act: Tensor | Callable[[], Tensor]) -> None:
        """Keep an activation, or a function that computes it when it is read."""
        self._act = act
        self._version = act._version if isinstance(act, Tensor) else 0

    def spend(self) -> None:
        """Free the stored tensor: its maps are made, and nothing will read it again."""

        def gone() -> Tensor:
            raise ProbeError(f"the value at {self.site} was freed once its maps were made")

        self.hold(gone)

    @property
    def held(self) -> Tensor | None:
        """The stored tensor itself; None for values computed when read."""
        return self._act if isinstance(self._act, Tensor) else None

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
        site = Site(self.site.path, self.site.port, self.site.call, index, self.site.axes)
        dim, act = index_dim(self.site, self.act.ndim), self.act
        if not -act.shape[dim] <= index < act.shape[dim]:
            raise SiteError(f"{site} was asked, but {self.site} has {act.shape[dim]} of them")
        part = Value(site, act.select(dim, index), None)
        part.gradient = lambda: None if self.grad is None else self.grad.select(dim, index)
        return part

    def __repr__(self) -> str:
        return f"Value({self.site}, {self.site.axes!r}, {tuple(self.act.shape)})"


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
    return axes.index("c") if "c" in axes else min(1, ndim - 1)


@dataclass(eq=False)
class Trace(Mapping[Site, Value]):
    """Values by site, in the order in which the forward reached them.

    `trace["layer1.0"]` is the one Value an address means; `where` takes wildcards.
    aliases: second names of modules and their first.
    """

    values_by_site: dict[Site, Value] = field(default_factory=dict)
    output: Any = None
    edits: list[tuple[Site, str]] = field(default_factory=list)
    holes: list[Hole] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    books: Ledger | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, address: str | Site | Pattern) -> Value:
        pattern = self._read(address)
        found = [v for s, v in self.values_by_site.items() if pattern.matches(s)]
        if not found:
            raise no_match(address, self.values_by_site)
        if len(found) > 1:
            names = ", ".join(str(v.site) for v in found[:4])
            raise SiteError(
                f"{str(address)!r} means {len(found)} sites ({names}{', ...' * (len(found) > 4)}); "
                "name one, or take them all with where()"
            )
        return found[0].at(pattern.index)

    def ledger(self) -> Ledger:
        """The books of the last relevance pass. Raises ProbeError when none were kept."""
        if self.books is None:
            raise ProbeError(
                "no ledger was kept; open the probe with Probe(model, ledger=True) and ask for "
                "relevance, or call limelight.ledger(model, x, ...)"
            )
        return self.books

    def where(self, address: str | Site | Pattern) -> Trace:
        """The part of the trace that an address with wildcards means. Raises SiteError if none."""
        pattern = self._read(address)
        found = {s: v for s, v in self.values_by_site.items() if pattern.matches(s)}
        if not found:
            raise no_match(address, self.values_by_site)
        if pattern.index is not None:
            parts = [v.at(pattern.index) for v in found.values()]
            found = {v.site: v for v in parts}
        return replace(self, values_by_site=found)

    def _read(self, address: str | Site | Pattern) -> Pattern:
        """An address as a pattern; a module's second name stands for its first."""
        pattern = parse(address)
        if pattern.path not in self.aliases:
            return pattern
        return replace(pattern, path=self.aliases[pattern.path])

    def __contains__(self, address: object) -> bool:
        pattern = self._read(address)  # type: ignore[arg-type]
        return any(pattern.matches(s) for s in self.values_by_site)

    def __iter__(self) -> Iterator[Site]:
        return iter(self.values_by_site)

    def items(self) -> ItemsView[Site, Value]:
        return self.values_by_site.items()

    def values(self) -> ValuesView[Value]:
        return self.values_by_site.values()

    def __len__(self) -> int:
        return len(self.values_by_site)

    def __str__(self) -> str:
        rows = [f"{s}  {s.axes}  {tuple(v.act.shape)}" for s, v in self.values_by_site.items()]
        rows += [f"unseen: {hole}" for hole in self.holes] + [
            f"note: {note}" for note in self.notes
        ]
        return "\n".join(rows)

    __repr__ = __str__
