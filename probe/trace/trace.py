"""What a forward left behind: values by site, and what could not be seen."""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

from ..errors import SiteError
from ..sites import Pattern, Site, no_match, parse, part_of_model
from .module_call import ModuleCall
from .value import Hole, Value


@dataclass(eq=False)
class Trace(Mapping[Site, Value]):
    """Values by site, in the order in which the forward reached them.

    `trace["layer1.0"]` is the one Value an address means; `where` takes wildcards.
    calls: by path and number, whole calls of the modules watched with keep="call".
    packed: calls of modules that returned more than the tensor which is their value.
    aliases: second names of modules and their first.

    Example:
        >>> t = ll.trace(net, x, "0")
        >>> t["0"].act.shape, len(t.holes)
        (torch.Size([2, 6, 6, 6]), 0)
    """

    values_by_site: dict[Site, Value] = field(default_factory=dict)
    output: Any = None
    edits: list[tuple[Site, str]] = field(default_factory=list)
    holes: list[Hole] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    calls: dict[tuple[str, int], ModuleCall] = field(default_factory=dict)
    packed: set[tuple[str, int]] = field(default_factory=set)
    aliases: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, address: str | Site | Pattern) -> Value:
        pattern = self._read(address)
        matches = [v for s, v in self.values_by_site.items() if pattern.matches(s)]
        if not matches:
            raise no_match(address, self.values_by_site)
        if len(matches) > 1:
            names = ", ".join(str(v.site) for v in matches[:4])
            raise SiteError(
                f"{str(address)!r} means {len(matches)} sites "
                f"({names}{', ...' * (len(matches) > 4)}); "
                "name one, or take them all with where()"
            )
        return matches[0].at(pattern.index)

    def where(self, address: str | Site | Pattern) -> Trace:
        """The part of the trace that an address with wildcards means. Raises SiteError if none."""
        pattern = self._read(address)
        matches = {s: v for s, v in self.values_by_site.items() if pattern.matches(s)}
        if not matches:
            raise no_match(address, self.values_by_site)
        if pattern.index is not None:
            parts = [v.at(pattern.index) for v in matches.values()]
            matches = {v.site: v for v in parts}
        return replace(self, values_by_site=matches)

    def _read(self, address: str | Site | Pattern) -> Pattern:
        """An address as a pattern; a module's second name stands for its first."""
        pattern = parse(address)
        if not any(site.path == pattern.path for site in self.values_by_site):
            pattern = part_of_model(pattern)
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

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"

    def __str__(self) -> str:
        rows = [f"{s}  {v.axes}  {v.shape}" for s, v in self.values_by_site.items()]
        rows += [f"unseen: {hole}" for hole in self.holes] + [
            f"note: {note}" for note in self.notes
        ]
        return "\n".join(rows)

    __repr__ = __str__
