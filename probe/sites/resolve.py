"""From what a user writes to the sites of one model: words, wildcards, second names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from .adapter import Adapter
from .site import Pattern, Site, no_match, parse, part_of_model


def resolve(
    address: str | Site | Pattern,
    modules: Mapping[str, nn.Module],
    canonical: Mapping[nn.Module, str],
    adapter: Callable[[], Adapter],
) -> list[Pattern]:
    """The patterns an address or a word means. Raises SiteError when no module answers to it.

    modules    every module by each of its paths
    canonical  the first path of each module, the one that sites carry
    """
    pattern = parse(address)
    if pattern == parse("input"):
        return [Pattern("", "in", 0)]
    if pattern.path not in modules:
        pattern = part_of_model(pattern)
    if pattern.path not in modules and pattern.concrete:
        words = _word(str(address), adapter)
        if words:
            return [p for word in words for p in resolve(word, modules, canonical, adapter)]
    return _meant(pattern, address, modules, canonical)


def _meant(
    pattern: Pattern,
    address: object,
    modules: Mapping[str, nn.Module],
    canonical: Mapping[nn.Module, str],
) -> list[Pattern]:
    if pattern.concrete and pattern.path in modules:
        name = canonical[modules[pattern.path]]
        if name == pattern.path:
            return [pattern]

    def meant(path: str) -> bool:
        return pattern.matches(Site(path, pattern.port, pattern.call or 0))

    matches = [module for path, module in modules.items() if meant(path)]
    if not matches:
        raise no_match(address, modules)
    names = {canonical[module] for module in matches}
    if all(meant(name) for name in names):
        return [pattern]
    return [Pattern(name, pattern.port, pattern.call, pattern.index) for name in sorted(names)]


def _word(address: str, adapter: Callable[[], Adapter]) -> tuple[str, ...]:
    if address == "hidden":
        return adapter().hidden
    if address == "last":
        return adapter().final or adapter().hidden[-1:]
    if address == "heads":
        return tuple(f"{path}:heads" for path in adapter().heads)
    return ()
