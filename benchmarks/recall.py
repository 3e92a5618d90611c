"""What sequence mixers can look up, and where their maps look meanwhile: `make recall`.

`python benchmarks/recall.py [--quick] [--log FILE] [--workers 2] [--tables] [--write FILE]`

Trunks of two layers learn multi-query recall, a training for each mixer, width, length and seed;
each is asked for its accuracy, its state in bytes, and whether the last map's mass lies where
patching an activation moves the answer. Beside it: sigmoid scores on digits, SeerAttention's gates
on a small story model, Orchid against a BaseConv of its size. Every training that ends is a line of
the log, and is not repeated: the study may be stopped and called again.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from recall_parts import SCORES, gates, sigmoid, stories
from recall_tables import document
from recall_training import TRUNKS, last_recall, recall

MIXERS = [name for name in TRUNKS if name != "Orchid"]
WHOLE, QUICK = 900, 600  # steps of a training


@dataclass(frozen=True)
class Job:
    """One training: which part of the study, of which model, and how long at most.

    steps   of the optimiser, or epochs where it is digits
    """

    part: str
    model: str
    seed: int
    steps: int
    width: int = 0
    length: int = 0
    pairs: int = 0

    def run(self) -> dict[str, Any]:
        sizes = self.width, self.length, self.pairs, self.seed, self.steps
        if self.part == "recall":
            return recall(self.model, *sizes)
        if self.part == "last query":
            return last_recall(self.model, *sizes)
        if self.part == "sigmoid":
            return sigmoid(self.model, self.seed, self.steps)
        folder = stories()
        return {"skipped": True} if folder is None else gates(folder, self.seed, self.steps)


def whole() -> Iterator[Job]:
    """Three seeds of each; of width 128 and of length 64 one, for these take most of the hour."""
    for seed in range(3):
        for model in SCORES:
            yield Job("sigmoid", model, seed, 12)
        for width in (32, 64, 16):
            for model in MIXERS:
                yield Job("recall", model, seed, WHOLE, width, 32, 4)
        for model in ("Orchid", "BaseConv"):
            yield Job("last query", model, seed, WHOLE, 32, 32, 4)
        if seed == 0:
            yield Job("gates", "stories260k", 0, 200)
    for width, length, pairs in ((32, 64, 8), (64, 64, 8), (128, 32, 4)):
        for model in MIXERS:
            yield Job("recall", model, 0, WHOLE, width, length, pairs)


def quick() -> Iterator[Job]:
    """One seed, one width, fewer steps; no Hyena and H3, whose steps take three times as long."""
    for model in SCORES:
        yield Job("sigmoid", model, 0, 4)
    for model in MIXERS:
        if model not in ("Hyena", "H3"):
            yield Job("recall", model, 0, QUICK, 32, 32, 4)
    for model in ("Orchid", "BaseConv"):
        yield Job("last query", model, 0, 100, 32, 32, 4)
    yield Job("gates", "stories260k", 0, 15)


def read(log: Path) -> dict[Job, dict[str, Any]]:
    """The trainings of a log; a last line that was cut off is not there."""
    found = {}
    lines = log.read_text().splitlines(keepends=True) if log.is_file() else []
    for line in lines:
        if line.endswith("\n"):
            told = json.loads(line)
            found[Job(**told.pop("job"))] = told
    return found


def ran(job: Job) -> tuple[Job, dict[str, Any]]:
    torch.set_num_threads(1)
    return job, job.run()


def run(jobs: Sequence[Job], log: Path, workers: int = 1) -> dict[Job, dict[str, Any]]:
    """Trains what the log has not, a line each; all that there then is of these jobs.

    A gates job that was skipped for want of the story model is no line, so that it may follow.
    """
    done = read(log)
    if log.is_file() and not (text := log.read_text()).endswith("\n"):
        log.write_text(text[: text.rfind("\n") + 1])  # a line that was cut off
    todo = [job for job in jobs if job not in done]
    with ExitStack() as stack:
        file, results = stack.enter_context(log.open("a")), map(ran, todo)
        if workers > 1:
            pool = stack.enter_context(get_context("spawn").Pool(workers))
            results = pool.imap_unordered(ran, todo)
        for number, (job, found) in enumerate(results, 1):
            if not found.get("skipped"):
                file.write(json.dumps({"job": asdict(job), **found}) + "\n")
                file.flush()
            done[job] = found
            told = found.get("last", found.get("accuracy"))
            print(f"{number} of {len(todo)}: {job} {told}", flush=True)
    return {job: done[job] for job in jobs if job in done}


def write(path: Path, found: dict[Job, dict[str, Any]], total: int) -> None:
    """The tables between the marks of a Markdown file, the chart beside it."""
    start, end = "<!-- recall -->\n", "<!-- /recall -->"
    head, _, rest = path.read_text().partition(start)
    _, mark, tail = rest.partition(end)
    if not mark:
        raise SystemExit(f"{path} has no marks {start.strip()} and {end}: add both")
    text, chart = document(found, total)
    path.write_text(f"{head}{start}{text}\n{end}{tail}")
    path.with_suffix(".svg").write_text(chart)


def main() -> None:
    torch.set_num_threads(1)
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    ask.add_argument("--quick", action="store_true", help="one seed, one width, fewer steps")
    ask.add_argument("--log", type=Path, help="recall.jsonl, or recall-quick.jsonl")
    ask.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    ask.add_argument("--tables", action="store_true", help="train nothing: what the log holds")
    ask.add_argument("--write", type=Path, help="a Markdown file with marks; else it is printed")
    given = ask.parse_args()
    jobs = list(quick() if given.quick else whole())
    log = given.log or Path("recall-quick.jsonl" if given.quick else "recall.jsonl")
    if given.tables:
        found = {job: told for job, told in read(log).items() if job in jobs}
    else:
        found = run(jobs, log, given.workers)
    if given.write:
        write(given.write, found, len(jobs))
    else:
        print(document(found, len(jobs))[0])


if __name__ == "__main__":
    main()
