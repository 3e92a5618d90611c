"""One map from the maps of several layers: weighted sum or weighted geometric mean.

Rebuffi et al., arXiv 2004.02866. Each map is resized to the input and scaled to S in [0, 1]; with
n = w / sum(w) the sum is sum_l n_l S_l and the product prod_l S_l^n_l, in which a 0 at any layer
stays 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ..probe.errors import OptionError, near
from ..probe.results import Maps, SaliencyMap, Size
from ..probe.sites import Site
from .layer_weights import MODELS, POINTING, TABLES

How = Literal["product", "sum"]
Scale = Literal["sample", "batch"]
Weights = str | Sequence[float] | Mapping[str, float]
Key = tuple[str, str, str]
NAMES = ("uniform", "linear", *TABLES, "pointing_accuracy")


def combine(
    maps: Maps,
    how: How = "product",
    weights: Weights = "uniform",
    *,
    scale: Scale = "sample",
    size: Size = None,
) -> Maps:
    """One map per sample, target and method, from all its sites.

    weights  `uniform`; `linear`, k / L for the k-th of L sites; `accuracy`, `activation`,
             `activation_in` or `pointing_accuracy`, published for VGG16 and ResNet-50; a number per
             site in order; or a mapping from site to number
    scale    each map by its own range, or, as the paper's code does, by that of the whole batch
    size     places of the result along each axis, rows and columns, by default those of the input

    A constant map becomes zeros. Raises OptionError where options and maps do not fit.

    Example:
        >>> maps = ll.maps(net, x, "normgrad", sites=["0", "1"], target=1)
        >>> len(ll.combine(maps, "product"))
        2
    """
    _check("how", how, ("product", "sum"))
    _check("scale", scale, ("sample", "batch"))
    groups = _groups(maps)
    scaled = _scaled(groups, scale, size)
    return Maps(_combined(groups[key], scaled[key], how, weights, scale) for key in groups)


def _check(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise OptionError(
            f"combine: {name} is one of {', '.join(choices)}, not {value!r}{near(value, choices)}"
        )


def _groups(maps: Maps) -> dict[Key, list[SaliencyMap]]:
    groups: dict[Key, list[SaliencyMap]] = {}
    for m in maps:
        group = groups.setdefault((m.sample, m.target, m.method), [])
        if any(m.site == other.site for other in group):
            raise OptionError(
                f"combine got two maps of {m.method!r} at {m.site} for sample {m.sample!r} and "
                f"target {m.target!r}; give the samples different names"
            )
        group.append(m)
    return groups


def _scaled(
    groups: Mapping[Key, list[SaliencyMap]], scale: Scale, size: Size
) -> dict[Key, list[Tensor]]:
    resized = {key: _resized(group, size) for key, group in groups.items()}
    if scale == "sample":
        return {key: [unit(v, v.min(), v.max()) for v in values] for key, values in resized.items()}
    batches: dict[tuple, list[Tensor]] = defaultdict(list)
    ranks = _ranks(groups)
    for key, values in resized.items():
        for m, v in zip(groups[key], values, strict=True):
            batches[(key[2], ranks[key], m.site)].append(v)
    low = {k: min(v.min() for v in values) for k, values in batches.items()}
    high = {k: max(v.max() for v in values) for k, values in batches.items()}

    def rescaled(key: Key, m: SaliencyMap, v: Tensor) -> Tensor:
        place = (key[2], ranks[key], m.site)
        return unit(v, low[place], high[place])

    return {
        key: [rescaled(key, m, v) for m, v in zip(groups[key], vs, strict=True)]
        for key, vs in resized.items()
    }


def _ranks(keys: Iterable[Key]) -> dict[Key, int]:
    """Which target of its sample and method each key is: those of one rank are one batch."""
    seen: dict[tuple[str, str], int] = defaultdict(int)
    ranks = {}
    for key in keys:
        ranks[key] = seen[key[0], key[2]]
        seen[key[0], key[2]] += 1
    return ranks


def _resized(group: list[SaliencyMap], size: Size) -> list[Tensor]:
    axes, extents = {m.axes for m in group}, {m.extent for m in group}
    if len(axes) != 1:
        raise OptionError(
            f"combine needs maps over the same axes, but those of {group[0].method!r} are over "
            f"{' and '.join(map(repr, sorted(axes)))}; choose sites that have the same"
        )
    if axes == {""}:
        raise OptionError(
            f"combine scales maps over places, but {group[0].method!r} gave one number a sample at "
            f"{group[0].site}; choose sites that have places"
        )
    if size is None and (len(extents) != 1 or () in extents):
        raise OptionError(
            f"combine needs maps that cover the same part of the input, but those of "
            f"{group[0].method!r} cover {sorted(extents)}; give size=, a number for each of "
            f"{', '.join(group[0].places)}"
        )
    resized = [m.resize(size).values for m in group]
    if len({values.shape for values in resized}) != 1:
        raise OptionError(
            f"combine needs maps of as many channels or tokens each, but those of "
            f"{group[0].method!r} are of shapes {sorted(tuple(v.shape) for v in resized)}"
        )
    return resized


def unit(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Values scaled from [low, high] to [0, 1]; zeros where the two are equal."""
    return torch.zeros_like(values) if low == high else (values - low) / (high - low)


def _combined(
    group: list[SaliencyMap], scaled: list[Tensor], how: How, weights: Weights, scale: Scale
) -> SaliencyMap:
    sites = [str(m.site) for m in group]
    shares = torch.tensor(layer_weights(sites, group[0].method, weights), dtype=torch.float64)
    shares = (shares / shares.sum()).float()
    stacked = torch.stack(scaled)
    raised = shares.reshape(-1, *[1] * (stacked.ndim - 1))
    values = (raised * stacked).sum(0) if how == "sum" else (stacked**raised).prod(0)
    weights_text = (
        weights if isinstance(weights, str) else ",".join(f"{w:.5g}" for w in shares.tolist())
    )
    added = (("combine", how), ("combine.weights", weights_text), ("combine.scale", scale))
    about = replace(group[0].about, options=(*group[0].about.options, *added), kept=None)
    return replace(group[0], values=values, site=Site("+".join(sites)), about=about)


def layer_weights(sites: Sequence[str], method: str, weights: Weights) -> list[float]:
    """The weight of each site, not normalised. Raises OptionError."""
    if isinstance(weights, str):
        shares = _named(sites, method, weights)
    elif isinstance(weights, Mapping):
        shares = _looked_up(sites, {str(k): v for k, v in weights.items()}, "the weights given")
    else:
        shares = list(weights)
    if len(shares) != len(sites):
        raise OptionError(
            f"combine got {len(shares)} weights for the {len(sites)} sites {', '.join(sites)}; "
            "give one each"
        )
    if not all(w >= 0 for w in shares) or not 0 < sum(shares) < float("inf"):
        raise OptionError(f"combine needs finite weights of 0 or more, not all 0, but got {shares}")
    return shares


def _named(sites: Sequence[str], method: str, name: str) -> list[float]:
    _check("weights", name, NAMES)
    if name == "uniform":
        return [1.0] * len(sites)
    if name == "linear":
        return [k / len(sites) for k in range(1, len(sites) + 1)]
    if name == "pointing_accuracy" and method not in POINTING:
        raise OptionError(
            f"combine has no pointing_accuracy for method {method!r} (it has: "
            f"{', '.join(POINTING)}); give the weights as numbers"
        )
    rows = POINTING[method] if name == "pointing_accuracy" else TABLES[name]
    model = max(MODELS, key=lambda m: len(set(MODELS[m]) & set(sites)))
    return _looked_up(
        sites, dict(zip(MODELS[model], rows[model], strict=True)), f"{name} of {model}"
    )


def _looked_up(sites: Sequence[str], table: Mapping[str, float], what: str) -> list[float]:
    missing = [site for site in sites if site not in table]
    if missing:
        raise OptionError(
            f"combine found no weight for site {missing[0]!r} in {what} "
            f"(it has: {', '.join(table)}){near(missing[0], table)}"
        )
    return [float(table[site]) for site in sites]
