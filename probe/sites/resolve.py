"""From what a user writes to the sites of one model: words, wildcards, second names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TypeAlias, TypeVar

from torch import nn

from ..errors import SiteError
from .adapter import Adapter
from .scripted import is_script, script_around, sealed, sealed_part
from .site import Pattern, Site, no_match, parse, part_of_model

Address: TypeAlias = str | Site | Pattern | nn.Module
"""Where in a model: text, a site, or one of its modules."""

AddressLike = TypeVar("AddressLike", bound=Address)
"""Keys of a mapping by address: all text, or any mixture."""

_WORDS = {"hidden": "layers", "last": "layers", "heads": "attention"}


def addresses(sites: Address | Iterable[Address]) -> list[Address]:
    """One address or several, as a list.

    A module is one, however many it holds, but for an nn.ModuleList: it is never called itself.
    """
    if isinstance(sites, nn.ModuleList):
        return [address for part in sites for address in addresses(part)]
    if isinstance(sites, (str, Site, Pattern, nn.Module)):
        return [sites]
    if not isinstance(sites, Iterable):
        raise SiteError(
            f"sites= names {sites!r}, which is no address: give words such as 'layer4', modules of "
            "the model, or a list of them"
        )
    return [address for part in sites for address in addresses(part)]


def named(model: nn.Module, address: Address) -> str | Site:
    """An address that holds no module: its first path. Raises SiteError for another model's."""
    if not isinstance(address, nn.Module):
        return str(address) if isinstance(address, Pattern) else address
    return _path(address, {module: path for path, module in model.named_modules()})


def _path(module: nn.Module, canonical: Mapping[nn.Module, str]) -> str:
    inner = getattr(module, "_orig_mod", module)  # what torch.compile wraps
    for part in (module, inner):
        if part in canonical:
            return str(Site(canonical[part]))
    if any(is_script(root) for root in canonical):
        raise sealed(f"a module ({type(module).__name__})")
    raise SiteError(
        f"a {type(module).__name__} was given as a site, but it is no part of this model: give a "
        "module of the very model that runs, or its path as text"
    )


def resolve(
    address: Address,
    modules: Mapping[str, nn.Module],
    canonical: Mapping[nn.Module, str],
    adapter: Callable[[], Adapter],
) -> list[Pattern]:
    """The patterns an address or a word means. Raises SiteError when no module answers to it.

    modules    every module by each of its paths
    canonical  the first path of each module, the one that sites carry
    """
    if isinstance(address, nn.ModuleList):
        return [p for a in addresses(address) for p in resolve(a, modules, canonical, adapter)]
    if isinstance(address, nn.Module):
        address = _path(address, canonical)
    pattern = parse(address)
    if pattern == parse("input"):
        return [Pattern("", "in", 0)]
    if pattern.path not in modules:
        pattern = part_of_model(pattern)
    _check_open(pattern, str(address), modules)
    if pattern.path not in modules and pattern.concrete and str(address) in _WORDS:
        words = _word(str(address), adapter)
        if not words:
            raise _unknown(str(address), modules)
        found = [p for word in words for p in resolve(word, modules, canonical, adapter)]
        return [replace(p, word=str(address)) for p in found]
    return _meant(pattern, address, modules, canonical)


def _check_open(pattern: Pattern, address: str, modules: Mapping[str, nn.Module]) -> None:
    """Raise SiteError for a place inside a script."""
    root = modules.get("")
    path = None if root is None else script_around(root, pattern.path)
    border = pattern.port.partition(".")[0] in ("in", "out", "**", "*")
    if path == "" and not (border and pattern.matches(Site("", pattern.port, pattern.call or 0))):
        raise sealed(f"site {address!r}")
    if path:
        raise sealed_part(address, path)


def _unknown(word: str, modules: Mapping[str, nn.Module]) -> SiteError:
    """The error for a word whose meaning in this model nobody knows."""
    paths = [path for path in modules if path]
    some = f"; there are {len(paths)} modules, such as {paths[0]!r}" if paths else ""
    return SiteError(
        f"site {word!r} means nothing in this model, whose {_WORDS[word]} the probe does not know: "
        f"name a site{some}"
    )


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
