"""What a data-set run costs beside the bare passes, and how far its memory drifts.

`python benchmarks/runs.py FOLDER` reads photos from a folder, again and again up to a count. The
unit is the CPU time of a hand-written loop: decode, preprocess, one forward and one backward.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import torch
from measure import Ratio

import limelight as ll
from limelight.methods.faithfulness import deletion, insertion
from limelight.methods.scorer import Scorer
from limelight.models.images import images
from limelight.reports.run import run
from limelight.reports.samples import Sample, Samples

METHODS = ["gradcam", "normgrad", "gradient", "linear_approx", "layercam"]
SITES = ["_blocks.4", "_blocks.8", "_blocks.12", "_blocks.15"]
BATCH = 16


def cpu() -> float:
    """CPU seconds of this process and of the workers that have ended."""
    own, ended = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime


def loop(net: torch.nn.Module, paths: Sequence[Path]) -> None:
    """The bare work: pictures in, one forward, one backward to the input of the last layer."""
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    for start in range(0, len(paths), BATCH):
        x = ll.preprocess(net, paths[start : start + BATCH]).requires_grad_()
        net(x).max(1).values.sum().backward()
    for parameter in net.parameters():
        parameter.requires_grad_(True)


def ours(net: torch.nn.Module, data: Samples, memory: list[int] | None = None) -> None:
    """The whole run: 5 methods at 4 layers, streamed to Parquet."""
    folder = Path(tempfile.mkdtemp())
    process = psutil.Process()

    def tell(done: int, total: int, name: str) -> None:
        if memory is not None:
            memory.append(process.memory_info().rss)

    try:
        run(folder / "run", net, data, METHODS, sites=SITES, batch=BATCH, workers=0, progress=tell)
    finally:
        shutil.rmtree(folder)


def seconds(work: Callable[[], object]) -> float:
    start = cpu()
    work()
    return cpu() - start


def perturbing(net: torch.nn.Module, x: torch.Tensor) -> float:
    """Seconds of deletion and insertion of one photo a copy at a time, over those in batches."""
    saliency = torch.rand(x.shape[1:], generator=torch.Generator().manual_seed(0))
    times = []
    for batch in (8, 1):
        scorer = Scorer(net, x, 0, batch=batch)
        start = time.perf_counter()
        deletion(saliency, scorer)
        insertion(saliency, scorer)
        times.append(time.perf_counter() - start)
    return times[1] / times[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    net = ll.load("efficientnet_lite0", weights="imagenet")
    found = images(options.folder)
    paths = [found[n % len(found)] for n in range(options.count)]
    data = Samples(Sample(f"{n}", str(p)) for n, p in enumerate(paths))
    loop(net, paths[:BATCH])
    pairs = []
    for _ in range(options.rounds):
        pairs.append((seconds(lambda: ours(net, data)), seconds(lambda: loop(net, paths))))
    cost = Ratio.of(*zip(*pairs, strict=True))  # type: ignore[arg-type]
    print(f"run of {len(METHODS)} methods x {len(SITES)} layers over the loop: {cost} (goal 1.3)")
    memory: list[int] = []
    ours(net, data, memory)
    drift = memory[-1] / memory[len(memory) // 4] - 1
    print(f"memory after the run over that at a quarter of it: {drift:+.1%} (goal 1 %)")
    gain = perturbing(net, ll.preprocess(net, paths[0])[0])
    print(f"deletion and insertion in batches, over one copy at a time: {gain:.1f} x faster")


if __name__ == "__main__":
    main()
