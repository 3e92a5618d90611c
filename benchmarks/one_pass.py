"""Many maps from one pass, beside captum, pytorch-grad-cam and TransformerLens: `make bench`.

Every figure is a ratio of CPU times inside one process, so that the machine matters little; the
table goes to the terminal and to RESULTS.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import hooks
import imports
import memory
import networks
import relevance
from measure import Ratio, Row, machine, rounds
from networks import Case

RESULTS = Path(__file__).with_name("RESULTS.md")
INTRO = """# Benchmarks

Written by `make bench`: random weights, one thread, variants interleaved in one process and their
order turned around from round to round; medians of paired ratios of CPU time, ranges in brackets.
The unit F is one forward and one backward to the input with frozen weights. The maps timed are
compared with plain autograd in float64, and counted, before the clock starts.
"""


def speed(case: Case, count: int) -> Iterator[Row]:
    """Time all maps of a network against one pass and against the peers."""
    error = networks.check(case)
    variants = {
        "pass": networks.frozen(case, networks.one_pass),
        "ours": lambda: networks.ours(case),
        "best": lambda: networks.peers_at_best(case),
    }
    times = rounds(variants, count)
    cost = Ratio.of(times["ours"], times["pass"])
    best = Ratio.of(times["best"], times["ours"])
    batch = len(case.x)
    what = f"{case.name}, {case.count} maps, batch {batch}"
    yield Row.most(
        f"{what}: limelight (largest error {error:.0e})", cost.median, case.limit, cost, "F"
    )
    yield Row.least(f"{what}: peers, all layers in one call, over limelight", best.median, 4, best)
    times = rounds(
        {"ours": variants["ours"], "each": lambda: networks.peers_by_layer(case)}, count, warm=False
    )
    each = Ratio.of(times["each"], times["ours"])
    yield Row.least(f"{what}: peers, one call a layer, over limelight", each.median, 20, each)


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| what | measured | goal | met |", "| --- | --- | --- | --- |"]
    lines += [f"| {r.what} | {r.figure} | {r.goal} | {'yes' if r.met else 'no'} |" for r in rows]
    return "\n".join(lines)


def parts(wanted: list[str], count: int) -> Iterator[Row]:
    """The rows of the parts asked for."""
    if "imports" in wanted:
        yield from imports.rows(count)
    if "hooks" in wanted:
        yield from hooks.rows(8 * count)
    networks.grad_cam()
    for case in (Case.resnet18, Case.vgg16):
        if "speed" in wanted:
            yield from speed(case(), count)
        if "memory" in wanted:
            yield from memory.rows(case.__name__)
    if "relevance" in wanted:
        yield from relevance.rows(count)


def main() -> None:
    """Run the parts, print each row as it comes, and write the table when all of them ran."""
    every = ["imports", "hooks", "speed", "memory", "relevance"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *every], help="default: all")
    parser.add_argument("--rounds", type=int, default=7, help="at least 5 for figures to report")
    asked = parser.parse_args()
    wanted, named, rows = asked.parts or every, machine(), []
    print(named)
    for row in parts(wanted, asked.rounds):
        rows.append(row)
        print(f"{'ok  ' if row.met else 'MISS'} {row.what}: {row.figure} ({row.goal})", flush=True)
    if set(wanted) == set(every):
        RESULTS.write_text(f"{INTRO}\nMachine: {named}.\n\n{table(rows)}\n")


if __name__ == "__main__":
    main()
