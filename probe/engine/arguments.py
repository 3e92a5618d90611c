"""Arguments of calls that cannot be what was meant, refused before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral

from ..errors import OptionError, SiteError
from ..sites import Site


def check_arguments(*, sites: object = None, axes: object = None, seed: object = 0) -> None:
    """Raise OptionError for a seed or axes of another kind, SiteError for sites that name none."""
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise OptionError(f"seed is a whole number, not {seed!r}")
    empty = isinstance(sites, str | list | tuple) and not sites
    if empty:
        raise SiteError(
            f"sites={sites!r} names no site; leave it out for each method's usual place"
        )
    if axes is None:
        return
    said = axes.items() if isinstance(axes, Mapping) else [(None, None)]
    if not all(isinstance(at, str | Site) and isinstance(words, str) for at, words in said):
        raise OptionError(
            f"axes names dimensions by site, as {{'input': 'b c y x'}}, and is not {axes!r}"
        )
