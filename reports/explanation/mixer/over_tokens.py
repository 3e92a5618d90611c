"""Figures of a mixer over a sequence: maps, values by token, heads that share keys or values."""

from __future__ import annotations

import torch
from torch import Tensor

from ....kernels.taylor import taylor_attention, taylor_denominator
from ....models.card import Figure
from ....probe.attribution import Heads
from ....probe.errors import MethodError
from ....probe.sites import Site
from ..contents import Curve, FigureRow
from .picture import COLUMNS, Picture, Rows, labelled, some_of, spread_over

_MOST_TOKENS, _GROUPS = 512, 8


def whole_maps(picture: Picture, figure: Figure) -> Rows:
    """The map of each layer, of some of its heads: queries down, keys across."""
    every = picture.heads(figure)
    longest = max(h.shape[2] for h in every)
    if longest > _MOST_TOKENS:
        raise MethodError(f"maps over {longest} tokens are more than a page bears")
    kept, rows = spread_over(every), []
    for heads in kept:
        shown = spread_over(range(heads.shape[1]), COLUMNS)
        whole = heads.rows(slice(None))[0]
        parts = [(f"head {i}", picture.table(whole[i], heads.site, "map")) for i in shown]
        label = labelled(heads.site.path, len(shown), heads.shape[1], "heads")
        rows.append(FigureRow(label, tuple(parts)))
    return rows, some_of(len(kept), len(every), "layers")


def values(picture: Picture, figure: Figure) -> Rows:
    """Values over tokens at each site: themselves where there is one a token, else their norm."""
    found = [v for v in picture.values(figure.sites) if v.act.ndim == 3]
    if not found:
        raise MethodError(f"no values over tokens are called {', '.join(figure.sites)}")
    kept, curves, single = spread_over(found, COLUMNS), [], True
    for value in kept:
        own = value.act[0].detach().float().cpu()
        single = single and own.shape[1] == 1
        line = own[:, 0] if own.shape[1] == 1 else own.norm(dim=-1)
        curves.append(Curve(str(value.site), torch.arange(float(len(line))), line))
    y = "value" if single else "norm over channels"
    row = FigureRow("", curves=tuple(curves), x="token", y=y)
    return [row], some_of(len(kept), len(found), "sites")


def denominators(picture: Picture, figure: Figure) -> Rows:
    """What Taylor attention divides by, over the tokens seen, the mean of heads."""
    curves = []
    for heads in picture.heads(figure):
        op = heads.op
        if op is None or op.mixing is not taylor_attention.face.mixing:
            continue
        q, k = op.argument("q"), op.argument("k")
        assert q is not None
        assert k is not None
        sums = taylor_denominator(q, k, scale=op.held.get("scale"))[0]
        seen = torch.arange(1, sums.shape[-1] + 1, device=sums.device)
        line = (sums / seen).mean(0).cpu()
        curves.append(Curve(heads.site.path, torch.arange(float(len(line))), line))
    if not curves:
        raise MethodError("no layer of this model is attention by a Taylor series")
    y = "mean weight of the tokens seen"
    return [FigureRow("", curves=tuple(curves), x="token", y=y)], ""


def decay_lengths(picture: Picture, figure: Figure) -> Rows:
    """After how many tokens channels keep 1/e of a weight, each layer's from short to long."""
    curves = []
    for m in picture.maps(figure, "decay_length"):
        lengths = m.values.double().sort().values
        if not lengths.isnan().all():
            known = lengths.isfinite() & (lengths > 0)
            line = lengths.where(known, torch.nan).log10()
            curves.append(Curve(m.site.path, torch.arange(float(len(line))), line))
    if not curves:
        raise MethodError("no layer of this model decays channel by channel")
    x, y = "channels, sorted", "tokens, log10"
    return [FigureRow("", curves=tuple(curves), x=x, y=y)], ""


def sharing(picture: Picture, figure: Figure) -> Rows:
    """Which head of keys and which of values each query head reads, layers alike together."""
    known: dict[tuple[int, int, int], list[Site]] = {}
    for heads in picture.heads(figure):
        if (counts := _counts(heads)) is not None:
            known.setdefault(counts, []).append(heads.site)
    if not known:
        raise MethodError("no layer of this model has heads of keys and values to share")
    rows = []
    for (queries, keys, held), sites in known.items():
        first, *others = sites
        parts = tuple(
            (f"{n} heads of {what}", picture.table(_reads(queries, n).T, first, "sharing"))
            for what, n in (("keys", keys), ("values", held))
        )
        label = f"{first.path} and {len(others)} more" if others else first.path
        rows.append(FigureRow(f"{label}, {queries} query heads across", parts, ends=(0.0, 1.0)))
    return rows, ""


def shared_entropies(picture: Picture, figure: Figure) -> Rows:
    """The entropy of each query head, those joined that read one head of keys, or of values."""
    every = [h for h in picture.heads(figure) if _counts(h) is not None]
    if not every:
        raise MethodError("no layer of this model has heads of keys and values to share")
    kept, rows = spread_over(every, 3), []
    for heads in kept:
        queries, keys, held = _counts(heads) or (0, 0, 0)
        entropy = heads.statistics()["entropy"][0].mean(-1).float().cpu()
        for what, groups in (("keys", keys), ("values", held)):
            size, shown = queries // groups, spread_over(range(groups), _GROUPS)
            curves = []
            for group in shown:
                place = slice(group * size, (group + 1) * size)
                x = torch.arange(float(queries))[place]
                curves.append(Curve(f"{what} {group}", x, entropy[place]))
            label = labelled(f"{heads.site.path}, by heads of {what}", len(shown), groups, "groups")
            rows.append(FigureRow(label, curves=tuple(curves), x="query head", y="entropy, nats"))
    return rows, some_of(len(kept), len(every), "layers")


def _counts(heads: Heads) -> tuple[int, int, int] | None:
    """Heads of queries, of keys and of values of an op that takes all three."""
    parts = [None if heads.op is None else heads.op.argument(name) for name in "qkv"]
    sizes = tuple(part.shape[1] for part in parts if part is not None)
    return sizes if len(sizes) == 3 else None


def _reads(queries: int, groups: int) -> Tensor:
    """One where query head h reads head h groups // queries, `queries groups`."""
    read = torch.arange(queries) * groups // queries
    return torch.nn.functional.one_hot(read, groups).float()
