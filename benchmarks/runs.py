"""What a data-set run costs beside bare passes and beside a loop written by hand; its memory.

`python benchmarks/runs.py FOLDER [--only cost,engines,memory,perturbing]` reads photos from a
folder, again and again up to a count. Costs are ratios of CPU time; engines of wall time, for
actors are processes of their own: leave the machine to it. Where Quantus is installed (pip install
quantus) its pixel flipping is timed beside ours.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import perturbing
import psutil
import torch
from measure import Ratio, Row, machine

import limelight as ll
from limelight.models.inputs.images import images
from limelight.reports.datasets.samples import Sample, Samples
from limelight.reports.runs.run import run

METHODS = ["gradcam", "normgrad", "gradient", "linear_approx", "layercam"]
SITES = ["_blocks.4", "_blocks.8", "_blocks.12", "_blocks.15"]
PARTS = ("cost", "engines", "memory", "perturbing")
BATCH, SHARD = 16, 32
MIB = 1 << 20
Tell = Callable[[int, int, str], None]


def cpu() -> float:
    """CPU seconds of this process and of the workers that have ended."""
    own, ended = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime


def bare(net: torch.nn.Module, paths: Sequence[Path]) -> None:
    """Pictures in, one forward, one backward to the input."""
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    for start in range(0, len(paths), BATCH):
        x = ll.preprocess(net, paths[start : start + BATCH]).requires_grad_()
        net(x).max(1).values.sum().backward()
    for parameter in net.parameters():
        parameter.requires_grad_(True)


def by_hand(net: torch.nn.Module, paths: Sequence[Path]) -> None:
    """The same maps as a run's, batch by batch, in one Parquet file: no plan, no resuming."""
    import pandas
    import pyarrow
    from pyarrow import parquet

    folder, writer = Path(tempfile.mkdtemp()), None
    for start in range(0, len(paths), BATCH):
        x = ll.preprocess(net, paths[start : start + BATCH])
        maps = ll.maps(net, x, METHODS, sites=SITES, batch=BATCH)
        rows = [(m.sample, m.method, str(m.site), m.values.half().numpy().ravel()) for m in maps]
        frame = pandas.DataFrame(rows, columns=["sample", "method", "site", "values"])
        table = pyarrow.Table.from_pandas(frame)
        if writer is None:
            writer = parquet.ParquetWriter(
                folder / "maps.parquet", table.schema, compression="zstd"
            )
        writer.write_table(table)
    if writer is not None:
        writer.close()
    shutil.rmtree(folder)


def ours(net: torch.nn.Module, data: Samples, tell: Tell | None = None, **options: object) -> None:
    """The whole run: 5 methods at 4 layers, streamed to Parquet."""
    folder = Path(tempfile.mkdtemp())
    given = {"sites": SITES, "batch": BATCH, "shard": SHARD, "workers": 0, **options}
    try:
        run(folder / "run", net, data, METHODS, progress=tell, **given)  # type: ignore[arg-type]
    finally:
        shutil.rmtree(folder)


def timed(work: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    work()
    return clock() - start


def samples(paths: Sequence[Path], count: int) -> tuple[Samples, list[Path]]:
    """So many photos, each again and again; under names of their own."""
    listed = [paths[n % len(paths)] for n in range(count)]
    return Samples(Sample(f"{n}", str(p)) for n, p in enumerate(listed)), listed


def cost(net: torch.nn.Module, paths: list[Path], count: int, rounds: int) -> Iterator[Row]:
    """CPU time of a run over that of the bare passes, and of the loop by hand over a run's."""
    data, listed = samples(paths, count)
    works = {
        "ours": lambda: ours(net, data),
        "bare": lambda: bare(net, listed),
        "hand": lambda: by_hand(net, listed),
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds):
        for name in works if turn % 2 else reversed(list(works)):
            times[name].append(timed(works[name], cpu))
    what = f"run of {len(METHODS)} methods x {len(SITES)} layers over {count} photos"
    own = Ratio.of(times["ours"], times["bare"])
    yield Row.most(f"{what}: CPU time over bare forward and backward", own.median, 1.3, own)
    rate = Ratio.of(times["hand"], times["ours"])
    yield Row.least(f"{what}: rate over that of a loop by hand", rate.median, 0.95, rate)


def engines(net: torch.nn.Module, paths: list[Path], count: int, rounds: int) -> Iterator[Row]:
    """Ray's rate with one actor after its start-up, over that of the run in this process."""
    try:
        import ray  # noqa: F401
    except ImportError:
        yield Row("Ray engine", "Ray is not installed", "pip install 'limelight[ray]'", False)
        return
    data, listed = samples(paths, count)
    own, hand, rays, starts = [], [], [], []
    for _ in range(rounds):
        own.append(count / timed(lambda: ours(net, data), time.perf_counter))
        rate, start = actor(net, data)
        rays.append(rate)
        starts.append(start)
        hand.append(count / timed(lambda: by_hand(net, listed), time.perf_counter))
    what = f"Ray engine, one actor, {count} photos"
    held = Ratio.of(rays, own)
    yield Row.least(f"{what}: rate after start-up over the run in-process", held.median, 0.8, held)
    held = Ratio.of(rays, hand)
    yield Row.least(f"{what}: rate after start-up over the loop by hand", held.median, 0.8, held)
    span = f"{statistics.median(starts):.1f} ({min(starts):.1f} to {max(starts):.1f})"
    yield Row.most(f"{what}: start-up", statistics.median(starts), 15, span, "s")


def actor(net: torch.nn.Module, data: Samples) -> tuple[float, float]:
    """Photos a second beyond the first shard, and seconds that are not spent on photos.

    From a run of one shard and one of all: parts reach this process in bundles, so that the times
    at which they do say nothing of the rate. NaN where other work on the machine made the short run
    the longer one.
    """
    ray = {"engine": "ray", "workers": 1}
    single = timed(lambda: ours(net, data[:SHARD], **ray), time.perf_counter)
    whole = timed(lambda: ours(net, data, **ray), time.perf_counter)
    if whole <= single:
        return float("nan"), float("nan")
    rate = (len(data) - SHARD) / (whole - single)
    return rate, single - SHARD / rate


def memory(net: torch.nn.Module, paths: list[Path], count: int) -> Iterator[Row]:
    """The median resident size in the second tenth of a run and in its last; and the largest.

    Single readings catch a batch in the middle of a pass, now and then 3 % above the rest.
    """
    process, sizes = psutil.Process(), []
    data, _ = samples(paths, count)
    ours(net, data, lambda *_: sizes.append(process.memory_info().rss), shard=min(SHARD, BATCH))
    tenth = max(1, len(sizes) // 10)
    early, late = (statistics.median(s) for s in (sizes[tenth : 2 * tenth], sizes[-tenth:]))
    drift = late / early - 1
    largest = max(sizes[tenth:]) / MIB
    figure = (
        f"{drift:+.1%} ({early / MIB:.0f} MiB early, {late / MIB:.0f} late, most {largest:.0f})"
    )
    yield Row(f"resident memory over a run of {count} photos", figure, "at most 1 %", drift <= 0.01)


def table(found: Sequence[Row]) -> str:
    lines = ["| what | measured | goal | met |", "| --- | --- | --- | --- |"]
    lines += [f"| {r.what} | {r.figure} | {r.goal} | {'yes' if r.met else 'no'} |" for r in found]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=256, help="photos of cost and engines")
    parser.add_argument("--images", type=int, default=2000, help="photos of the memory's run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=224, help="of deletion and insertion")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    net = ll.load("efficientnet_lite0", weights="imagenet")
    paths = list(images(options.folder))
    bare(net, paths[:BATCH])
    print(f"{machine()}; {os.getloadavg()[0]:.1f} processes at work", flush=True)
    wanted, found = options.only.split(","), []
    parts = {
        "cost": lambda: cost(net, paths, options.count, options.rounds),
        "engines": lambda: engines(net, paths, options.count, options.rounds),
        "memory": lambda: memory(net, paths, options.images),
        "perturbing": lambda: perturbing.rows(net, paths, options.rounds, options.steps),
    }
    for name in wanted:
        for row in parts[name]():
            found.append(row)
            print(f"{row.what}: {row.figure}; goal {row.goal}", flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
