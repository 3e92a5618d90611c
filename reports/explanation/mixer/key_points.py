"""Figures of attention to key points: where these lie, lines to them, scores without them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ....models.card import Figure
from ....probe.errors import MethodError
from ....probe.probe import Probe
from ....probe.sites import Site
from ....probe.trace import Edit, zero
from ..contents import FigureRow
from .picture import COLUMNS, Picture, Rows, labelled, some_of, spread_over

_SIDE, _STEPS = 128, 512  # pixels of the longer side of a drawing, and points of a line
_PORTS = ("points", "places", "map")


def points(picture: Picture, figure: Figure) -> Rows:
    """Key points by place, and lines to them from the middle, of each attention's first call.

    A line is as bright as the attention to its end; where lines cross, the brighter is seen.
    """
    ports = [f"{pattern}:{port}@0" for pattern in figure.sites for port in _PORTS]
    with Probe(picture.model, grad=False, axes=picture.axes) as probe:
        probe.watch(*ports)
        picture.through(probe)
        seen = {(v.site.path, v.site.port): v.act for v in probe.trace.values()}
    paths = list(dict.fromkeys(path for path, _ in seen))
    kept = spread_over(paths)
    rows = [_row(picture, figure, path, [seen[path, port] for port in _PORTS]) for path in kept]
    return rows, some_of(len(kept), len(paths), "layers")


def _row(picture: Picture, figure: Figure, path: str, seen: Sequence[Tensor]) -> FigureRow:
    ends, places, shares = seen
    height, width = picture.x.shape[-2:]
    scale = _SIDE / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    away = places - places.new_tensor([width / 2, height / 2])
    middle = int(away.square().sum(1).argmin())
    each, start, ends = shares[0, :, middle], places[middle] * scale, ends[0] * scale
    heads = spread_over(range(len(each)), COLUMNS - 2)
    drawn = {
        "key points": _counted(ends, size),
        "mean of heads": _lines(start, ends, each.mean(0), size),
    }
    drawn |= {f"head {i}": _lines(start, ends, each[i], size) for i in heads}
    parts = [(words, picture.map(x, Site(path), figure.draw)) for words, x in drawn.items()]
    return FigureRow(labelled(path, len(heads), len(each), "heads"), tuple(parts), alike=False)


def _pixels(at: Tensor, size: tuple[int, int]) -> Tensor:
    """The numbers of pixels that hold positions `... 2`, x before y; those outside are moved in."""
    x, y = at.unbind(-1)
    rows, columns = y.floor().long().clamp(0, size[0] - 1), x.floor().long().clamp(0, size[1] - 1)
    return rows * size[1] + columns


def _counted(ends: Tensor, size: tuple[int, int]) -> Tensor:
    """How many positions `k 2` lie in each pixel, `y x`; each is drawn over 3 x 3."""
    found = torch.bincount(_pixels(ends, size), minlength=size[0] * size[1])
    counts = found.unflatten(0, size).float()[None, None]
    return F.max_pool2d(counts, 3, 1, 1)[0, 0]


def _lines(start: Tensor, ends: Tensor, shares: Tensor, size: tuple[int, int]) -> Tensor:
    """Lines from a position to others `k 2`, of their shares `k`, `y x`."""
    along = torch.linspace(0, 1, _STEPS, device=ends.device, dtype=ends.dtype)[:, None, None]
    pixels = _pixels(start + along * (ends - start), size).flatten()
    drawn = torch.zeros(size[0] * size[1], device=ends.device, dtype=torch.float32)
    values = shares.float().expand(_STEPS, -1).flatten()
    return drawn.scatter_reduce(0, pixels, values, "amax").unflatten(0, size)


def without(picture: Picture, figure: Figure) -> Rows:
    """The largest channel of each site's first call, the same where others are cut, the loss."""
    rows = []
    for site, whole in _largest(picture, figure, {}).items():
        less = _largest(picture, figure, {pattern: zero for pattern in figure.cut})[site]
        drawn = {"as it is": whole, "cut": less, "difference": whole - less}
        parts = [(words, picture.map(x, site, figure.draw)) for words, x in drawn.items()]
        rows.append(FigureRow(str(site), tuple(parts), alike=False))
    return rows, ""


def _largest(picture: Picture, figure: Figure, edits: dict[str, Edit]) -> dict[Site, Tensor]:
    with Probe(picture.model, grad=False, axes=picture.axes) as probe:
        probe.watch(*(f"{pattern}@0" for pattern in figure.sites)).edit(edits)
        picture.through(probe)
        found = {value.site: value.act for value in probe.trace.values()}
    flat = [site for site, value in found.items() if value.ndim != 4]
    if flat:
        raise MethodError(f"{flat[0]} has no values over the picture")
    return {site: value[0].amax(0) for site, value in found.items()}
