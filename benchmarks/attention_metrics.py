"""What metrics of attention cost beside plain attention, at 784 and 3136 tokens.

`python benchmarks/attention_metrics.py [--rounds 7]`: entropy and mean distance of every query
beside the result, against SDPA alone and against the whole map. Times are medians of paired ratios
of CPU time with one thread, peaks are resident sizes of a fresh process each, errors are against
the whole map in float64. On a GPU see `statistics beside softmax` in kernels.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial

import memory
import torch
import torch.nn.functional as F
from measure import Ratio, Row, machine, rounds
from torch import Tensor

from limelight.kernels.attention.reference import attention_statistics
from limelight.kernels.shared import distances

HEADS, WIDTH = 3, 64  # of DeiT-tiny
SIDES = (28, 56)
TIME, SPACE, ERROR = 1.5, 0.1, 1e-6
Given = tuple[Tensor, Tensor, Tensor]
Found = dict[str, Tensor]


def given(side: int, dtype: torch.dtype = torch.float32) -> Given:
    """q, k and v; their maps are uneven, as those of a trained model are."""
    draw = torch.Generator().manual_seed(side)
    shape = (1, HEADS, side * side, WIDTH)
    q, k, v = (torch.randn(shape, generator=draw).to(dtype) for _ in range(3))
    return 2 * q, k, v


def sdpa(x: Given) -> object:
    return F.scaled_dot_product_attention(*x)


def ours(x: Given) -> Found:
    return attention_statistics(*x, grid=grid(x))[1]


def whole(x: Given) -> Found:
    """The map first, the numbers from it; in float64 that is what is true."""
    q, k, v = x
    share = (q @ k.mT * WIDTH**-0.5).softmax(-1)
    _ = share @ v
    far = distances(grid(x), 1, q.device, q.dtype)
    return {"entropy": torch.special.entr(share).sum(-1), "distance": (share * far).sum(-1)}


def grid(x: Given) -> tuple[int, int]:
    side = round(x[0].shape[2] ** 0.5)
    return side, side


VARIANTS: dict[str, Callable[[Given], object]] = {"sdpa": sdpa, "ours": ours, "whole": whole}


def error(side: int) -> float:
    """The largest relative error of any head's mean, entropy or distance."""
    found, true = ours(given(side)), whole(given(side, torch.float64))
    off = [
        (found[name].double().mean(-1) / value.mean(-1) - 1).abs().max()
        for name, value in true.items()
    ]
    return float(torch.stack(off).max())


def rows(count: int) -> Iterator[Row]:
    for side in SIDES:
        what = f"attention metrics, {side * side} tokens, {HEADS} heads"
        with torch.no_grad():
            off, x = error(side), given(side)
            works = {n: partial(run, x) for n, run in VARIANTS.items()}
            times = rounds(works, count, repeats=max(1, 8 * 784 // side**2))
        own = Ratio.of(times["ours"], times["sdpa"])
        yield Row(
            f"{what}: largest relative error", f"{off:.0e}", f"at most {ERROR:g}", off <= ERROR
        )
        yield Row.most(f"{what}: time over SDPA alone", own.median, TIME, own)
        held = Ratio.of(times["whole"], times["sdpa"])
        yield Row(f"{what}: with the whole map, over SDPA", f"{held} x", "for comparison", True)
        peaks = {n: peak(side, n) / memory.MIB for n in VARIANTS}
        share = peaks["ours"] / peaks["whole"]
        figure = f"{share:.3f} ({', '.join(f'{n} {p:.1f}' for n, p in peaks.items())} MiB)"
        goal = side == SIDES[-1]
        yield Row(
            f"{what}: peak memory over that with the whole map",
            figure,
            f"at most {SPACE:g}" if goal else "for comparison",
            not goal or share <= SPACE,
        )


def peak(side: int, variant: str) -> int:
    """Bytes above idle of one variant in a process of its own."""
    return memory.peak_of([sys.executable, __file__, "--child", variant, "--side", str(side)])[0]


def child(variant: str, side: int) -> None:
    """Warm up on few tokens, wait, run once."""
    with torch.no_grad():
        VARIANTS[variant](given(7))
        x = given(side)
        print(0, flush=True)
        sys.stdin.readline()
        kept = VARIANTS[variant](x)
    del kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--child", default="", help=argparse.SUPPRESS)
    parser.add_argument("--side", type=int, default=28, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.side)
        return
    print(machine())
    for row in rows(options.rounds):
        print(
            f"{row.what}: {row.figure}; {row.goal}: {'met' if row.met else 'NOT met'}", flush=True
        )


if __name__ == "__main__":
    main()
