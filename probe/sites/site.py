"""Where in a model: a module, one of its ports, one of its calls, one head or channel."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache

from ..errors import SiteError, near

HEAD_PORTS = ("q", "k", "v", "map", "heads")
_ADDRESS = re.compile(
    r"(?P<path>[^:@\[\]]*)(?::(?P<port>[^:@\[\]]+))?(?:\[(?P<index>\d+)\])?(?:@(?P<call>\d+))?"
)


@dataclass(frozen=True)
class Site:
    """A place whose value can be read, differentiated and edited.

    path   the module, `blocks.3.attn`; the whole model is the empty path
    port   `out`, `in`, `q k v map heads`, a name the model marks, an op such as `add.1`,
           or one tensor of several such as `out.logits`
    call   n-th use of a module that a forward uses more than once
    index  one head of a head port, one channel of any other
    axes   what the dimensions mean, `b c y x`; never part of the identity

    Example:
        >>> str(ll.Site("blocks.3.attn", "map"))
        'blocks.3.attn:map'
    """

    path: str
    port: str = "out"
    call: int = 0
    index: int | None = None
    axes: str = field(default="", compare=False)

    def __hash__(self) -> int:  # of the two fields that tell nearly all sites apart
        return hash((self.path, self.port))

    def __str__(self) -> str:
        whole, head = self.index is None, self.port in HEAD_PORTS
        word, dot, part = self.port.partition(".")
        if self.path == "" and word in ("in", "out"):
            text = f"{word}put{dot}{part}"
        else:
            text = self.path if whole and self.port == "out" else f"{self.path}:{self.port}"
        if not whole:
            text += f".{self.index}" if head else f"[{self.index}]"
        return text + (f"@{self.call}" if self.call else "")


@dataclass(frozen=True)
class Pattern:
    """A site as asked for: wildcards in path and port, any call unless one is named.

    `*` and `?` stay within one name of the path, `**` crosses the dots.
    """

    path: str
    port: str = "out"
    call: int | None = None
    index: int | None = None
    axes: str = field(default="", compare=False)
    word: str = field(default="", compare=False)  # that it is one of several meanings of

    @property
    def concrete(self) -> bool:
        text = self.path + self.port
        return "*" not in text and "?" not in text

    def matches(self, site: Site) -> bool:
        """Whether this pattern means `site` (its index aside)."""
        return (
            (self.call is None or self.call == site.call)
            and _means(self.path, site.path)
            and _means(self.port, site.port)
        )

    def __str__(self) -> str:
        site = str(Site(self.path, self.port, self.call or 0, self.index))
        return site + ("@0" if self.call == 0 else "")


def parse(address: str | Site | Pattern) -> Pattern:
    """Read `blocks.3.attn:heads.6`, `features.10:out[17]`, `act@2`, `layer?.**`, `input`.

    Raises SiteError when the text is no address.
    """
    if isinstance(address, Pattern):
        return address
    if isinstance(address, Site):
        return Pattern(address.path, address.port, address.call, address.index, address.axes)
    return _parse(address)


@lru_cache(maxsize=4096)
def _parse(address: str) -> Pattern:
    match = _ADDRESS.fullmatch(address.strip())
    if match is None:
        raise SiteError(
            f"{address!r} is no site: write a module path and, if needed, a port, a channel "
            "and a call, as in 'blocks.3.attn:heads.6', 'features.10:out[17]' or 'act@1'"
        )
    path, port = match["path"], match["port"] or "out"
    index = None if match["index"] is None else int(match["index"])
    if path in ("input", "output") and match["port"] is None:
        path, port = "", "in" if path == "input" else "out"
    name, _, tail = port.partition(".")
    if name in HEAD_PORTS and tail.isdigit():
        port, index = name, int(tail)
    call = None if match["call"] is None else int(match["call"])
    return Pattern(path, port, call, index)


def part_of_model(pattern: Pattern) -> Pattern:
    """`input.mask` as one of the model's inputs, where no module has such a path."""
    word, dot, part = pattern.path.partition(".")
    if word not in ("input", "output") or not dot or pattern.port != "out":
        return pattern
    return replace(pattern, path="", port=f"{word.removesuffix('put')}.{part}")


def _means(pattern: str, name: str) -> bool:
    wild = "*" in pattern or "?" in pattern
    return _glob(pattern).fullmatch(name) is not None if wild else pattern == name


@lru_cache(maxsize=4096)
def _glob(pattern: str) -> re.Pattern[str]:
    if pattern == "*":  # one name; the whole model has none
        return re.compile("[^.]+")
    parts = {"**": ".*", "*": "[^.]*", "?": "[^.]"}
    words = re.split(r"(\*\*|\*|\?)", pattern)
    return re.compile("".join(parts.get(word, re.escape(word)) for word in words))


def no_match(asked: object, sites: Iterable[Site | str]) -> SiteError:
    """The error for a pattern that matched nothing, with the nearest sites."""
    names = [name for site in sites if (name := str(site))]
    hint = near(str(asked), names)
    if not hint:
        hint = f"; there are {len(names)} sites" + (f", such as {names[0]!r}" if names else "")
    return SiteError(f"site {str(asked)!r} matched nothing in this model{hint}")
