"""Context-aware saliency of photographs on one core: CPU seconds, and rank correlation of "fast".

    python benchmarks/context_aware.py PHOTOS --count 20 --side 224

PHOTOS is a folder of JPEG files; without it the two sample photographs of scikit-learn are used.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from limelight.methods.context_aware import cielab
from limelight.methods.context_aware.patches import cut, grid, sides
from limelight.methods.context_aware.saliency import Saliency, context_aware


def photographs(folder: Path | None, side: int) -> Iterator[Tensor]:
    """Square photographs in [0, 1], `3 y x`."""
    if folder is None:
        from sklearn.datasets import load_sample_images

        pictures = (Image.fromarray(image) for image in load_sample_images().images)
    else:
        pictures = (Image.open(path).convert("RGB") for path in sorted(folder.glob("*.jpg")))
    for picture in pictures:
        small = picture.resize((side, side), Image.Resampling.BILINEAR)
        yield torch.from_numpy(np.array(small)).permute(2, 0, 1) / 255


def timed(work: Callable[[], Saliency], rounds: int) -> tuple[Saliency, float]:
    """What the work gives, and the median of its CPU seconds."""
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        found = work()
        seconds.append(time.process_time() - start)
    return found, statistics.median(seconds)


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation of two maps, ties in the order they come."""
    ranks = torch.stack([v.flatten().argsort(stable=True).argsort().double() for v in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])


def row_loop(image: Tensor, queries: int = 200) -> float:
    """CPU seconds of scale 1 by a loop over queries: a few are timed, all are told."""
    planes = cielab.stretched(cielab.lab(image.double())).float()
    h, w = planes.shape[1:]
    all_rows, all_columns = grid(torch.arange(h), torch.arange(w))
    keys = cut(
        planes, 7, *grid(torch.arange(3, h - 3, 3), torch.arange(3, w - 3, 3)), sides(planes)
    )
    some = torch.linspace(0, h * w - 1, queries).long()
    asked = cut(planes, 7, all_rows[some], all_columns[some], sides(planes))
    start = time.process_time()
    for value, at in zip(asked.values, asked.at, strict=True):
        far = (keys.values - value).square().sum(1).sqrt()
        near = (keys.at - at).square().sum(1).sqrt()
        (far / (1 + 3 * near)).topk(64, largest=False).values.mean()
    return (time.process_time() - start) / queries * h * w


def measured(image: Tensor, rounds: int) -> tuple[float, float, float, float]:
    """Seconds of "exact" and "fast", and the rank correlations of their means and values."""
    exact, slow = timed(lambda: context_aware(image), rounds)
    fast, quick = timed(lambda: context_aware(image, neighbours="fast"), rounds)
    return slow, quick, spearman(exact.mean, fast.mean), spearman(exact.values, fast.values)


def main() -> None:
    """Print one line a photograph, then the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", nargs="?", type=Path)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    images = list(islice(photographs(asked.photos, asked.side), asked.count))
    context_aware(images[0], neighbours="fast")
    print(f"a loop over the queries of scale 1 alone: {row_loop(images[0]):.0f} s (extrapolated)")
    print("exact s   fast s   Spearman: mean    values")
    rows = []
    for image in images:
        rows.append(measured(image, asked.rounds))
        print("{:7.2f} {:8.3f} {:16.4f} {:9.4f}".format(*rows[-1]), flush=True)
    for name, found in zip(
        ("exact s", "fast s", "Spearman mean", "Spearman values"),
        zip(*rows, strict=True),
        strict=True,
    ):
        middle = statistics.median(found)
        print(f"{name}: least {min(found):.4f}, median {middle:.4f}, most {max(found):.4f}")


if __name__ == "__main__":
    main()
