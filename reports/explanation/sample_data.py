"""What the page needs to draw a sample that is no photo, and what a model says of places."""

from __future__ import annotations

import math
from base64 import b64encode
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ...probe.sites import Shape
from .contents import Areas, Photo, Sample, Shapes

Json = dict[str, Any]
_MOST_STEPS = 1 << 18  # numbers of a series, two bytes each
_MOST_VOXELS = 1 << 20  # numbers of a volume or of a map over one, a byte each
_MOST_SHAPES = 300  # beside those that a target reads
_CODES, _NO_CODE = 65534, 65535


def drawn_sample(sample: Sample) -> Json:
    """The numbers of a sample in the form of its kind."""
    return {"kind": sample.kind, **_FORMS[sample.kind](sample)}


def seen_sample(sample: Sample) -> str:
    """How large a sample is, in words."""
    channels, *places = sample.values.shape
    if sample.kind == "table":
        return f"{channels} features as the model sees them"
    of = "" if channels == 1 else f"{channels} channels of "
    if sample.kind == "series":
        return f"{of}{places[0]} steps as the model sees them"
    return f"{of}{' × '.join(map(str, places))} values ({sample.axes[2:]}) as the model sees them"


def _table(sample: Sample) -> Json:
    values = [v if np.isfinite(v) else None for v in sample.values.double().tolist()]
    return {"names": list(sample.features), "values": values}


def _series(sample: Sample) -> Json:
    """Each channel in steps of its own range; a long one as the least and the greatest of runs.

    every  how many steps each number stands for; runs of twice as many give two numbers
    """
    values = sample.values.double().numpy()
    every = -(-values.size // _MOST_STEPS)
    kept = _extremes(values, 2 * every) if every > 1 else values
    codes, base, step = zip(*map(_coded, kept), strict=True)
    return {
        "names": list(sample.features),
        "size": list(values.shape),
        "every": every,
        "base": list(base),
        "step": list(step),
        "bytes": base64_text(np.stack(codes).astype("<u2").tobytes()),
    }


def _extremes(values: NDArray[np.float64], run: int) -> NDArray[np.float64]:
    """The least and the greatest finite value of each run of steps, one after the other."""
    channels, steps = values.shape
    filled = np.full((channels, -(-steps // run) * run), np.nan)
    filled[:, :steps] = np.where(np.isfinite(values), values, np.nan)
    runs = filled.reshape(channels, -1, run)
    known = ~np.isnan(runs).all(-1)
    least = np.where(known, np.where(np.isnan(runs), np.inf, runs).min(-1), np.nan)
    most = np.where(known, np.where(np.isnan(runs), -np.inf, runs).max(-1), np.nan)
    return np.stack([least, most], axis=-1).reshape(channels, -1)


def _coded(row: NDArray[np.float64]) -> tuple[NDArray[np.float64], float, float]:
    """A channel as codes 0 to 65534 from `base` in steps of `step`, 65535 for no number."""
    finite = np.isfinite(row)
    if not finite.any():
        return np.full(row.shape, _NO_CODE), 0.0, 0.0
    base, top = float(row[finite].min()), float(row[finite].max())
    step = top / _CODES - base / _CODES
    codes = np.rint((np.where(finite, row, base) - base) / step) if step else np.zeros(row.shape)
    return np.where(finite, codes, _NO_CODE), base, step


def _volume(sample: Sample) -> Json:
    """In colour where it has three channels, else in the grey of their mean, a byte a value."""
    values = sample.values.float().nan_to_num()
    low, high = values.min(), values.max()
    values = (values - low) / (high - low) if high > low else torch.zeros_like(values)
    values = values if len(values) == 3 else values.mean(0, keepdim=True)
    small, _ = in_blocks(values)
    pixels = (small * 255).round().to(torch.uint8).permute(1, 2, 3, 0)
    return {
        "axes": sample.axes.removeprefix("c "),
        "size": list(sample.values.shape[1:]),
        "kept": list(small.shape[1:]),
        "channels": len(values),
        "bytes": base64_text(pixels.contiguous().numpy().tobytes()),
    }


def in_blocks(values: Tensor) -> tuple[Tensor, list[int]]:
    """Means over blocks of a volume `... z y x`, so few that a page bears them; the block's sides.

    The longest side is cut first, so that thin volumes keep their slices.
    """
    sides = list(values.shape[-3:])
    block = [1, 1, 1]
    while prod(kept := [-(-n // k) for n, k in zip(sides, block, strict=True)]) > _MOST_VOXELS:
        block[max(range(3), key=kept.__getitem__)] += 1
    if block == [1, 1, 1]:
        return values, block
    flat = values.reshape(1, -1, *sides)
    pooled = F.avg_pool3d(flat, block, ceil_mode=True, count_include_pad=False)
    return pooled.reshape(*values.shape[:-3], *pooled.shape[-3:]), block


def areas_data(areas: Areas) -> Json:
    """Classes by their share of the places, and their places as runs: a number, how many follow."""
    found, counts = areas.classes.unique(return_counts=True)
    order = counts.argsort(descending=True, stable=True)
    found, counts = found[order], counts[order]
    place = torch.zeros(int(found.max()) + 1, dtype=torch.int64)
    place[found] = torch.arange(len(found))
    flat = place[areas.classes.flatten()].numpy()
    starts = np.flatnonzero(np.diff(flat, prepend=-1))
    lengths = np.diff(starts, append=flat.size)
    runs = np.stack([flat[starts], lengths], axis=1).astype("<u4")
    numbers = found.tolist()
    return {
        "size": list(areas.classes.shape),
        "classes": [[areas.name(n), n] for n in numbers],
        "shares": (counts.double() / areas.classes.numel()).tolist(),
        "runs": base64_text(runs.tobytes()),
    }


def shapes_data(shapes: Shapes, photo: Photo, targets: Mapping[str, int]) -> Json:
    """Shapes in pixels of the photo, best score first, and which of them each target reads.

    Those that belong to another follow it: `of` is its place. `left_out` counts those that are too
    many, `crop` is the part of the file that the photo shows.
    """
    listed = list(shapes.shapes)
    read = {places for name in targets for places in shapes.read.get(name, ())}
    heads = [i for i, shape in enumerate(listed) if shape.of is None]
    heads.sort(key=lambda i: -_score(listed[i]))
    kept = [i for n, i in enumerate(heads) if n < _MOST_SHAPES or i in read]
    chosen = set(kept)
    kept += [i for i, shape in enumerate(listed) if shape.of in chosen]
    place = {i: n for n, i in enumerate(kept)}
    drawn = []
    for i in kept:
        shape = listed[i]
        entry: Json = {"kind": shape.kind, "points": _pixels(shape.points, shape.relative, photo)}
        entry |= {"label": shapes.name(shape.label), "score": _finite(shape.score)}
        drawn.append(entry | ({} if shape.of is None else {"of": place[shape.of]}))
    return {
        "drawn": drawn,
        "read": {
            str(number): sorted({place[i] for i in shapes.read[name] if i in place})
            for name, number in targets.items()
            if shapes.read.get(name)
        },
        "left_out": len(listed) - len(kept),
        "crop": list(photo.crop or ()),
    }


def _score(shape: Shape) -> float:
    """A score to sort by; the last where there is none."""
    score = _finite(shape.score)
    return -math.inf if score is None else score


def _finite(score: Any) -> float | None:
    return None if score is None or not math.isfinite(score) else float(score)


def _pixels(points: Tensor, relative: bool, photo: Photo) -> list[list[float]]:
    sides = torch.tensor(photo.image.size, dtype=torch.float64)
    placed = points.double() * sides if relative else points.double()
    return [[round(v, 1) for v in point] for point in placed.nan_to_num(0, 0, 0).tolist()]


def base64_text(content: bytes) -> str:
    """Bytes as text for JSON."""
    return b64encode(content).decode("ascii")


_FORMS: dict[str, Callable[[Sample], Json]] = {
    "table": _table,
    "series": _series,
    "volume": _volume,
}
