"""What was tried and what held: `make soak`, or `python -m soak [NAME ...] [--seed 0] [--share 1]`.

Each file of this folder has a `trial(count, seed)` that returns how many attempts it made and how
many of them ended as they should: with a right result, or with one sentence. Ends with 1 unless
all held.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module

import torch

COUNTS = {
    "leaks": 300,
    "interrupts": 300,
    "threads": 80,
    "pictures": 200,
    "plans": 60,
    "weights": 60,
    "listings": 60,
    "folders": 40,
    "kills": 50,
}
LONG = {"mutations": 50}  # only by name: as long as all others together
EVERY = COUNTS | LONG


def main() -> int:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(EVERY))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the usual number of attempts")
    asked = parser.parse_args()
    if unknown := sorted(set(asked.names) - set(EVERY)):
        parser.error(f"{unknown[0]!r} is no trial: write {', '.join(EVERY)}")
    print("| trial | tried | held | seconds |\n| --- | --- | --- | --- |", flush=True)
    lost = 0
    for name in asked.names or COUNTS:
        start = time.perf_counter()
        count = max(1, round(EVERY[name] * asked.share))
        tried, held = import_module(f"soak.{name}").trial(count, asked.seed)
        lost += tried - held
        print(f"| {name} | {tried} | {held} | {time.perf_counter() - start:.0f} |", flush=True)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
