"""What the page needs to draw a sample that is no photo, and what a model says of places."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from .contents import Areas, Sample

Json = dict[str, Any]
_MOST_STEPS = 1 << 18  # numbers of a series, two bytes each
_MOST_VOXELS = 1 << 20  # numbers of a volume or of a map over one, a byte each
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


def base64_text(content: bytes) -> str:
    """Bytes as text for JSON."""
    return b64encode(content).decode("ascii")


_FORMS: dict[str, Callable[[Sample], Json]] = {
    "table": _table,
    "series": _series,
    "volume": _volume,
}
