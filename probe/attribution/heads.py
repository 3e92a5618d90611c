"""Attention maps as metrics read them: in blocks of query rows, so that n x n is never held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...kernels.shared import Rows, reduced
from ..axes import find_grid
from ..errors import MethodError, SiteError
from ..results import About, SaliencyMap
from ..sites import Address, Pattern, Site, addresses, is_script, sealed
from ..trace import MapRows, leaves
from .forward import Forward
from .registry import BoundMethod

PORTS = ("map", "gate")


@dataclass(frozen=True, eq=False)
class Heads:
    """The attention of one module in one forward.

    rows     a slice of queries -> those rows of the map, `b h r m`
    shape    b, h, n queries, m keys
    grid     rows and columns of the keys after `prefix` other tokens; None where they lie on none
    patch    rows and columns of pixels that one key stands for
    stride   queries lie on the grid / stride; a fraction where keys are pooled tokens
    tokens   the ids that a language model read, `b n`
    gate     the op's gates, if it has some
    pooled   rows and columns of the tokens and of the pooled keys behind them, where keys are of
             both kinds; `grid` is None then
    op       the same rows from the arguments of the op; None where the map was written out
    """

    site: Site
    module: nn.Module
    rows: Rows
    shape: tuple[int, int, int, int]
    grid: tuple[int, int] | None = None
    prefix: int = 0
    patch: tuple[float, float] = (1.0, 1.0)
    stride: float = 1
    tokens: Tensor | None = None
    gate: Tensor | None = None
    pooled: tuple[tuple[int, int], tuple[int, int]] | None = None
    op: MapRows | None = None
    _statistics: dict[Any, dict[str, Tensor]] = field(default_factory=dict, repr=False)
    _negative: list[slice] = field(default_factory=list, repr=False)
    _no_shares: list[slice] = field(default_factory=list, repr=False)

    def statistics(self, radius: float | None = None, *, raw: bool = False) -> dict[str, Tensor]:
        """Entropy, and on a grid distance and mass within a radius, of every query: `b h n`.

        Class tokens are left out as queries and as keys; rows then add up to one again, unless
        they are wanted raw. A row with negative weights is no distribution and gives NaN; one that
        does not add up to one, as those of convolutions, has no entropy. Computed once for all
        metrics that ask the same.
        """
        key = radius, raw
        if key not in self._statistics:
            skip = self.prefix
            shares: list[Tensor] = []

            def rows(span: slice) -> Tensor:
                start, stop, _ = span.indices(self.shape[2] - skip)
                whole = self.rows(slice(start + skip, stop + skip))
                shares.append(adds_up(whole))
                if not bool(shares[-1].all()):
                    self._no_shares.append(span)
                part = whole[..., skip:]
                below = (part < 0).any(-1, keepdim=True)
                if below.any():
                    part = part.masked_fill(below, torch.nan)
                    self._negative.append(span)
                return part if raw or not skip else part / part.sum(-1, keepdim=True)

            found = reduced(
                rows, self.shape[2] - skip, grid=self.grid, radius=radius, stride=self.stride
            )
            found["entropy"] = found["entropy"].where(torch.cat(shares, -1), torch.nan)
            self._statistics[key] = found
        return self._statistics[key]

    @property
    def signed(self) -> bool:
        """Whether statistics met negative weights."""
        return bool(self._negative)

    @property
    def shareless(self) -> bool:
        """Whether statistics met rows that do not add up to one."""
        return bool(self._no_shares)

    def nothing(self) -> Tensor:
        """What a metric gives where it has no meaning."""
        return torch.full(self.shape[:2], torch.nan)


def adds_up(rows: Tensor) -> Tensor:
    """Whether the rows of a map are shares: their sums are one, or nothing is attended to."""
    total = rows.sum(-1, dtype=torch.float64)
    slack = max(1e-3, 8 * torch.finfo(rows.dtype).eps)
    return ((total - 1).abs() <= slack) | (rows == 0).all(-1)


def heads_of(probe: Forward, patterns: Sequence[Pattern], tokens: Tensor | None) -> list[Heads]:
    """Every captured map that the patterns mean, in execution order. Raises SiteError if none."""
    seen = []
    for site, value in probe.trace.items():
        if site.port != "map" or not any(p.matches(site) for p in patterns):
            continue
        rows = value.rows
        if rows is None:
            act = value.act
            rows = lambda span, act=act: act[:, :, span]  # noqa: E731
        first = rows(slice(0, 1))
        count = value.count or value.act.shape[2]
        gate = probe.trace.values_by_site.get(Site(site.path, "gate", site.call))
        heads = Heads(
            site,
            probe.modules[site.path],
            rows,
            (first.shape[0], first.shape[1], count, first.shape[-1]),
            tokens=tokens,
            gate=None if gate is None else gate.act,
            op=rows if isinstance(rows, MapRows) else None,
        )
        if value.grids:
            tokens_grid, pool = value.grids
            seen.append(replace(heads, pooled=(tokens_grid, pool)))
        else:
            seen.append(_placed(heads, probe))
    if not seen:
        raise SiteError("no attention map was seen: this model has no attention that is known")
    return seen


def _placed(heads: Heads, probe: Forward) -> Heads:
    """How the tokens lie on the picture."""
    _, _, n, m = heads.shape
    sizes, prefix = probe.input_sizes, probe.adapter.prefix or 0
    if "y" not in sizes or "x" not in sizes:
        return heads
    rows, columns = sizes["y"], sizes["x"]
    grid = find_grid(m, (rows, columns), prefix)
    if grid is None:
        return heads
    sides = (grid.rows, grid.columns)
    stride = _stride(n - grid.prefix, sides)
    if stride is None:
        return heads  # queries lie elsewhere: a class token that asks for all
    patch = (rows / grid.rows, columns / grid.columns)
    return replace(heads, grid=sides, prefix=grid.prefix, patch=patch, stride=stride)


def _stride(queries: int, keys: tuple[int, int]) -> float | None:
    """Steps of the keys' grid from query to query; a fraction where queries are the finer ones."""
    count = keys[0] * keys[1]
    if queries > count:
        fine = round((queries / count) ** 0.5)
        return 1 / fine if count * fine**2 == queries else None
    coarse = round((count / max(queries, 1)) ** 0.5)
    tiled = queries * coarse**2 == count and not any(side % coarse for side in keys)
    return coarse if tiled else None


def watched(probe: Forward, asked: Sequence[Address]) -> list[Pattern]:
    """Watch the maps of heads (and their gates) at what is asked; the patterns of the maps."""
    if "heads" in asked and not probe.adapter.heads:
        if is_script(probe.modules[""]):
            raise sealed("attention")
        raise MethodError(
            "attention was to be measured, but this model has no attention that the probe knows; "
            "name a module that holds some, as in sites='blocks.*.attn'"
        )
    maps = [replace(p, port="map") for address in asked for p in probe.resolve(address)]
    probe.watch(*maps)
    gated = [p for p in maps if _has_gate(probe, p)]
    probe.watch(*(replace(p, port="gate") for p in gated))
    return maps


def _has_gate(probe: Forward, pattern: Pattern) -> bool:
    """Whether a module has a parameter that gates its attention."""
    return any(
        pattern.matches(Site(path, "map", pattern.call or 0)) and hasattr(module, "gating_param")
        for path, module in probe.modules.items()
    )


def token_ids(args: Any, kwargs: Any) -> Tensor | None:
    """The first tensor of whole numbers among a model's arguments."""
    for _, x in leaves((args, dict(kwargs))):
        if x.dtype in (torch.int64, torch.int32) and x.ndim == 2:
            return x
    return None


def measured(
    every_heads: Sequence[Heads], bound: BoundMethod, samples: Sequence[str], about: About
) -> list[SaliencyMap]:
    """A metric at every map, one value a head, sample by sample."""
    values_by_sample = []
    about_bound = replace(about, options=tuple((k, str(v)) for k, v in bound.options))
    for heads in every_heads:
        values = bound(heads).detach().double().cpu()
        about_heads = replace(about_bound, notes=about_bound.notes + _assumed(heads, values))
        for i, sample in enumerate(samples):
            values_by_sample.append(
                SaliencyMap(values[i], "h", sample, "any", bound.name, heads.site, (), about_heads)
            )
    return values_by_sample


def _assumed(heads: Heads, values: Tensor) -> tuple[str, ...]:
    """What a reader must know: where tokens were taken to lie, why there may be no number."""
    notes = []
    if heads.grid:
        rows, columns = heads.grid
        where = f"{rows} x {columns} after {heads.prefix}"
        notes.append(f"tokens on the picture by its proportions: {where}")
        if heads.stride < 1:
            side = round(1 / heads.stride)
            notes[-1] += f"; each key stands for {side} x {side} queries"
    if values.isnan().any() and heads.signed:
        notes.append("rows of the map have negative weights: they are no distributions")
    elif heads.shareless:
        notes.append("rows of the map do not add up to one: they are no distributions")
    return tuple(notes)


def asked_sites(bound_sites: Any, sites: Any) -> list[Address]:
    """Where attention is read: the method's own sites, the call's, else all heads."""
    listed = bound_sites or sites or "heads"
    return ["heads" if str(one) == "hidden" else one for one in addresses(listed)]
