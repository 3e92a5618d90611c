"""What is wanted where: patterns asked for, answered per site and remembered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from ..errors import SiteError
from ..sites import HEAD_PORTS, Pattern, Site
from ..trace import Edit, reads_channels

Keep = Literal["device", "cpu", "call"]
Place = tuple[str, str, int]


class Request(NamedTuple):
    """What to do at one site: capture its value, and where to; change it first."""

    capture: bool
    keep: Keep
    edits: tuple[tuple[int | None, Edit], ...]


@dataclass
class Requests:
    """All patterns that a probe watches and edits."""

    watched: dict[Pattern, Keep] = field(default_factory=dict)
    edited: list[tuple[Pattern, Edit]] = field(default_factory=list)
    axes: dict[Pattern, str] = field(default_factory=dict)  # that sites were asked for with
    version: int = 0
    _named: dict[tuple[str, str], list[Pattern]] = field(default_factory=dict)
    _wild: list[Pattern] = field(default_factory=list)
    _cache: dict[Place, Request | None] = field(default_factory=dict)
    plain: dict[tuple[int, ...], dict[str, tuple[tuple[int, ...], Site]]] = field(
        default_factory=dict
    )  # by picture and module: outputs that are captured and nothing else, and their shape
    _order: dict[str | None, list[int]] = field(default_factory=dict)  # edits by path; None: wild
    _ports: dict[str, dict[str | None, list[Pattern]]] = field(default_factory=dict)
    _heads: dict[str, bool] = field(default_factory=dict)
    _enters: dict[str, bool] = field(default_factory=dict)

    def watch(self, patterns: Iterable[Pattern], keep: Keep) -> None:
        for pattern in patterns:
            if keep == "call" and pattern.port != "out":
                raise SiteError(
                    f"keep='call' holds whole calls of modules, and {str(pattern)!r} is a port of "
                    "one: watch the module"
                )
            if pattern.axes:
                self.axes[pattern] = pattern.axes
            if pattern not in self.watched:
                self._file(pattern)
            self.watched[pattern] = keep
        self._forget()

    def _file(self, pattern: Pattern) -> None:
        """Where `_find` looks: patterns that name their place are not searched one by one."""
        if pattern.concrete:
            self._named.setdefault((pattern.path, pattern.port), []).append(pattern)
        else:
            self._wild.append(pattern)

    def edit(self, pattern: Pattern, edit: Edit) -> None:
        self.edited.append((pattern, edit))
        self._order.setdefault(pattern.path if pattern.concrete else None, []).append(
            len(self.edited) - 1
        )
        self._forget()

    def _forget(self) -> None:
        self.version += 1
        self._cache.clear()
        self.plain.clear()
        self._ports.clear()
        self._heads.clear()
        self._enters.clear()

    def by_channel(self) -> list[Pattern]:
        """The sites where something is asked for by the number of a channel."""
        asked = [p for p in self.watched if p.index is not None]
        asked += [p for p, edit in self.edited if p.index is not None or reads_channels(edit)]
        return [p for p in asked if p.port not in HEAD_PORTS]

    def patterns(self) -> list[Pattern]:
        return [*self.watched, *(pattern for pattern, _ in self.edited)]

    def at(self, path: str, port: str, call: int) -> Request | None:
        """What is wanted at a site; None for nothing."""
        place = (path, port, call)
        try:
            return self._cache[place]
        except KeyError:
            request = self._cache[place] = self._find(Site(*place))
            return request

    def _find(self, site: Site) -> Request | None:
        turns = sorted((*self._order.get(site.path, ()), *self._order.get(None, ())))
        edits = tuple((p.index, e) for p, e in (self.edited[i] for i in turns) if p.matches(site))
        near = (*self._named.get((site.path, site.port), ()), *self._wild)
        keeps = [self.watched[p] for p in near if p.matches(site)]
        if not edits and not keeps:
            return None
        keep: Keep = "cpu" if set(keeps) == {"cpu"} else "device"
        return Request(bool(keeps), keep, edits)

    def _with_port(self, path: str, *names: str) -> list[Pattern]:
        """The patterns that may mean one of these ports of a module, or a part of it."""
        key = names[0]
        if key not in self._ports:
            by_path: dict[str | None, list[Pattern]] = {}
            for p in self.patterns():
                if "*" in p.port or "?" in p.port or p.port.partition(".")[0] in names:
                    by_path.setdefault(p.path if p.concrete else None, []).append(p)
            self._ports[key] = by_path
        return [*self._ports[key].get(path, ()), *self._ports[key].get(None, ())]

    def heads(self, path: str) -> bool:
        """Whether any head port (q, k, v, map, heads) of a module is wanted."""
        if path not in self._heads:
            self._heads[path] = any(
                p.matches(Site(path, port, p.call or 0))
                for p in self._with_port(path, *HEAD_PORTS)
                for port in HEAD_PORTS
            )
        return self._heads[path]

    def enters(self, path: str) -> bool:
        """Whether anything that enters a module is wanted."""
        if path not in self._enters:
            self._enters[path] = any(
                p.matches(Site(path, port, p.call or 0))
                for p in self._with_port(path, "in")
                for port in ("in", p.port)
                if port.partition(".")[0] == "in"
            )
        return self._enters[path]

    def calls(self, path: str) -> bool:
        """Whether whole calls of a module are wanted."""
        return any(
            keep == "call" and p.matches(Site(path, "out", p.call or 0))
            for p, keep in self.watched.items()
        )

    @property
    def names_inputs(self) -> bool:
        """Whether an input is wanted by its name."""
        return any(p.path == "" and p.port.startswith("in.") for p in self.patterns())

    @property
    def inside(self) -> bool:
        """Whether anything inside a forward is wanted: ops, marks, heads."""
        return any(not is_border(p.port) for p in self.patterns())


def is_border(port: str) -> bool:
    """Whether a port is a module's border: `in`, `out`, or one tensor of several there."""
    return port.partition(".")[0] in ("in", "out")
