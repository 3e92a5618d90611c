"""Order 0 beside order 1: a method's class sensitivity, and that after the meta step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas

from ...methods.metrics import interval
from ..html import Cell, interval_text, three_digits

_META, _BASE = "meta", "normgrad"


@dataclass(frozen=True)
class MetaComparison:
    """One method at one site, as `base` and after the meta step; `change` over the same samples."""

    base: str
    method: str
    site: str
    zero: Cell
    one: Cell
    change: str
    between: str


def meta_comparisons(
    scores: pandas.DataFrame, cells: Mapping[tuple[str, str], Cell], sites: Sequence[str]
) -> tuple[MetaComparison, ...]:
    """A row for each method and site that stands in the scores with and without the meta step."""
    return tuple(_rows(scores, cells, sites))


def _rows(
    scores: pandas.DataFrame, cells: Mapping[tuple[str, str], Cell], sites: Sequence[str]
) -> Iterator[MetaComparison]:
    values = {
        key: part.groupby("index")["value"].first()
        for key, part in scores.groupby(["method", "site"], sort=False)
    }
    for name in dict.fromkeys(method for method, _ in values):
        base = base_of(name)
        if base is None:
            continue
        for site in sites:
            zero, one = cells.get((base, site)), cells.get((name, site))
            if zero is None or one is None:
                continue
            gain = (values[name, site] - values[base, site]).dropna()
            mean, low, high = interval(gain.tolist())
            ends = interval_text(low, high)
            yield MetaComparison(base, name, site, zero, one, three_digits(mean), ends)


def base_of(method: str) -> str | None:
    """The method that a meta method is the first order of; None for all others."""
    name, colon, base = method.partition(",")[0].partition(":")
    return None if name != _META else base if colon else _BASE
