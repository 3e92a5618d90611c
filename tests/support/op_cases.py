"""Arguments of every op of kernels/, at odd lengths, and how two ways of computing one compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import naive_ops as naive
import torch
from torch import Tensor

from limelight.kernels.aggregated.reference import aggregated_attention
from limelight.kernels.attention.reference import attention
from limelight.kernels.context_convolution.reference import context_convolution
from limelight.kernels.gated_convolution.reference import gated_convolution, global_filter
from limelight.kernels.gated_linear.reference import bidirectional_gla, gated_linear_attention
from limelight.kernels.kan.bases import BASES
from limelight.kernels.kan.reference import kan_attention
from limelight.kernels.long_convolution.reference import long_convolution
from limelight.kernels.neighborhood.reference import neighborhood_attention
from limelight.kernels.outlook.reference import outlook, windows
from limelight.kernels.routed.reference import routed_attention
from limelight.kernels.taylor.reference import taylor_attention
from limelight.kernels.windows import Window
from limelight.kernels.wkv.reference import wkv

Named = dict[str, Any]

TILES, CELLS = Window("block", (5, 7), (5, 14)), Window("grid", (5, 7), (5, 14))
HALO = Window("halo", (2, 3), (4, 6), halo=1)
WIDE_HALO = Window("halo", (2, 2), (2, 4), halo=3)  # further than the tiles next to it
THIN_HALO = Window("halo", (4, 4), (4, 8), halo=1, stride=2)
REGIONS = Window("block", (2, 3), (4, 6))  # 4 blocks of 6 tokens
LONG_REGIONS = Window("block", (7, 11), (14, 11))  # 2 blocks of 77


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sparse(*shape: int) -> Tensor:
    """A mask that hides three of four, and of the first head's second row all."""
    seen = draw(*shape, seed=8) > 0.67
    if shape[-2] > 1:
        seen[(*(0,) * (len(shape) - 2), 1)] = False
    return seen


def qkv(n=63, m=100, h=2, g=1, d=24, e=40, b=1) -> Named:
    """Lengths that are no multiples of a tile."""
    return {"q": draw(b, h, n, d), "k": draw(b, g, m, d, seed=1), "v": draw(b, g, m, e, seed=2)}


def other_heads(n: int, m: int, h: int, g: int, f: int, d: int = 8, e: int = 5) -> Named:
    """Keys of g heads, values of f."""
    return {**qkv(n, m, h=h, g=g, d=d, e=e, b=2), "v": draw(2, f, m, e, seed=2)}


def as_layers_give(named: Named) -> Named:
    """Heads side by side in memory, as projections leave them."""
    return {
        name: x.transpose(1, 2).contiguous().transpose(1, 2)
        if isinstance(x, Tensor) and x.is_floating_point() and x.ndim == 4
        else x
        for name, x in named.items()
    }


def halo(window: Window) -> Named:
    n, m = prod(window.query_grid), prod(window.grid)
    rows, columns = (draw(1, 2, n, side, seed=s) for s, side in enumerate(window.key_size, 5))
    return {**qkv(n, m, d=8, e=5), "window": window, "rows": rows, "columns": columns}


def neighbors(grid: tuple[int, ...], kernel_size, h=1, g=1, d=8, e=8, extra=0, **how) -> Named:
    n = prod(grid)
    named = qkv(n, n, h=h, g=g, d=d, e=e, b=how.pop("b", 1))
    if extra:
        b = len(named["q"])
        named |= {"extra_k": draw(b, g, extra, d, seed=3), "extra_v": draw(b, g, extra, e, seed=4)}
    return as_layers_give(named) | {"grid": grid, "kernel_size": kernel_size, **how}


def routed(n, blocks, m=None, h=2, b=1, d=5, e=4, apart=False, weighted=False, **how) -> Named:
    """An index with holes and twins."""
    shape = (b, h, blocks, 3) if apart else (b, blocks, 3)
    index = torch.randint(0, blocks, shape, generator=torch.Generator().manual_seed(n + d))
    index[..., 0, 1:] = -1  # a block sees one only
    if blocks > 2:
        index[..., 1, :] = index[..., 1, :1]  # another the same one several times
        index[..., 2, :] = -1  # a third nothing
    named = as_layers_give(qkv(n, m or n, h=h, g=h, d=d, e=e, b=b)) | {"index": index, **how}
    return named | {"weight": 0.2 + draw(*shape, seed=6).abs()} if weighted else named


def block_masked(n, block, h=4, g=2, b=1, d=5, e=4, apart=True, causal=True) -> Named:
    """A mask of blocks in which one row sees nothing; the last block may be short."""
    blocks = -(-n // block)
    mask = draw(*((b, h) if apart else (b,)), blocks, blocks, seed=7) > 0
    mask[..., 1, :] = False
    mask[..., -1, :] = True
    return as_layers_give(qkv(n, n, h=h, g=g, d=d, e=e, b=b)) | {
        "mask": mask,
        "block": block,
        "causal": causal,
    }


def scan(n, d=24, e=40, b=1, h=1, strength=0.5, both=False, **how) -> Named:
    named = qkv(n, n, h=h, g=h, d=d, e=e, b=b)
    gates = ("gate", "gate_back") if both else ("gate",)
    named |= {
        gate: -strength * draw(b, h, n, d, seed=seed).abs() for seed, gate in enumerate(gates, 3)
    }
    return as_layers_give(named) | how


def scores(n, d=24, e=40, b=1, h=1, **how) -> Named:
    return as_layers_give(qkv(n, n, h=h, g=h, d=d, e=e, b=b)) | how


def decaying(n, c=5, b=1, strength=0.3, loud=1.0) -> Named:
    """Keys and values of channels side by side, as projections leave them."""
    k, v = (draw(b, n, c, seed=seed).mT[..., None] for seed in (0, 1))
    decay = -strength * draw(c, seed=2).exp()
    return {"k": loud * k, "v": v, "decay": decay, "bonus": draw(c, seed=3)}


def looks(grid, kernel_size=3, stride=2, padding=1, b=1, h=2, e=5) -> Named:
    y, x = windows(grid, kernel_size, stride, padding)
    v = draw(b, h, prod(grid), e)
    weight = 3 * draw(b, h, y * x, kernel_size**2, kernel_size**2, seed=1)
    named = as_layers_give({"v": v})
    named["weight"] = weight.transpose(1, 2).contiguous().transpose(1, 2)
    options = {"kernel_size": kernel_size, "stride": stride, "padding": padding}
    return named | {"grid": grid, **options}


def learned(n=10, h=2, d=8, e=5, r=4, g=3, b=1, m=None, own=None, **how) -> Named:
    """Coefficients near the size that training leaves; of wavelets b is an offset and a scale."""
    m = m or n
    own, basis, order = own or h, how.get("basis", "fourier"), how.get("order", "w_phi")
    p, inputs = {"phi_w": (m, r), "phi": (m, m)}.get(order, (r, m))
    sizes = {"fourier": (g, g), "rational": (6, 4)}.get(basis, (1, 2))

    def pair(p: int, inputs: int, seed: int) -> tuple[Tensor, Tensor]:
        shapes = [(own, p, inputs, size) for size in sizes]
        a, b = (draw(*shape, seed=seed + i) * inputs**-0.5 for i, shape in enumerate(shapes))
        if basis not in ("fourier", "rational"):
            b = b + torch.tensor([0.0, 1.5])
        return a, b

    named = as_layers_give(qkv(n, m, h=h, g=h, d=d, e=e, b=b))
    named |= dict(zip("ab", pair(p, inputs, 3), strict=True))
    if order in ("w_phi", "phi_w"):
        named["W"] = draw(own, *((m, p) if order == "w_phi" else (inputs, m)), seed=5) * 0.5
    if order == "phi_phi":
        named |= dict(zip(("a2", "b2"), pair(m, p, 6), strict=True))
    if how.pop("scales", False):
        named["scale_base"] = 1 + draw(own, p, inputs, seed=8) / 4
        named["scale_sp"] = 1 + draw(own, p, inputs, seed=9) / 4
    return named | how


def foveal(grid, pool, kernel_size=3, b=1, h=2, d=5, e=4, without=()) -> Named:
    n, p, w = prod(grid), prod(pool), kernel_size**2
    named = as_layers_give(qkv(n, n + p, h=h, g=h, d=d, e=e, b=b))
    options = {
        "embedding": 0.3 * draw(h, d, seed=3),
        "scale": 1 + draw(h, n, seed=4).abs(),
        "local_bias": draw(h, w, seed=5),
        "pool_bias": draw(h, n, p, seed=6),
        "table": 0.5 * draw(b, h, n, w, seed=7),
    }
    named |= {name: x for name, x in options.items() if name not in without}
    return named | {"grid": grid, "pool": pool, "kernel_size": kernel_size}


def pictures(y=5, x=7, k=(7, 7), b=2, c=5, bias=True) -> Named:
    named = {"first": draw(b, c, y, x), "context": draw(b, c, y, x, seed=1)}
    named["weight"] = draw(c, 1, *k, seed=2)
    return named | ({"bias": draw(c, seed=3)} if bias else {}) | {"scale": 1 / 3}


def kernels_of_pixels(grid, small=3, large=0, b=2, g=2, e=5) -> Named:
    n, count = prod(grid), 2 if large else 1
    named = as_layers_give({"v": draw(b, count * g, n, e)})
    for seed, (name, size) in enumerate((("small", small), ("large", large)), 1):
        if size:  # as a 1 x 1 convolution leaves them: pixels side by side
            named[name] = draw(b, size**2, g, n, seed=seed).permute(0, 2, 3, 1).softmax(-1)
    return named | {"grid": grid}


def filtered(n=63, taps=3, h=2, e=1, b=2, own=False, without=(), waves=0, **how) -> Named:
    """Channels side by side in memory, as projections leave them."""
    named = as_layers_give({"v": draw(b, h, n, e)})
    filter = draw(*((b, h) if own else (h,)), taps, seed=1)
    named["filter"] = torch.fft.rfft(filter, n=waves) if waves else filter
    options = {
        "gate_in": draw(b, n, h, seed=2).mT,
        "gate_out": draw(b, n, h, seed=3).mT,
        "skip": draw(h, seed=4),
    }
    left = {"skip", *without} if own or waves else set(without)
    return named | {name: x for name, x in options.items() if name not in left} | how


@dataclass(frozen=True)
class Case:
    """One call of an op.

    naive      the op by its formula
    values     what the map multiplies, `b h m e`; None where the result has parts besides
    tolerance  of the largest difference as a part of the largest number, on Triton in float32
    small      stands for its op where one case is enough
    exact      the arguments that stay in float32 among halves
    kernel     whether its op's kernels take it; else only the reference does
    """

    op: Any
    naive: Callable[..., Tensor]
    arguments: Named
    tolerance: float = 1e-5
    small: bool = False
    exact: tuple[str, ...] = ()
    kernel: bool = True

    @property
    def moving(self) -> list[str]:
        """The arguments that take a gradient."""
        tensors = {n: x for n, x in self.arguments.items() if isinstance(x, Tensor)}
        return [name for name, x in tensors.items() if x.is_floating_point()]

    def wide(self) -> Named:
        """The arguments in float64, complex ones in complex128."""
        named = {n: x.double() if n in self.moving else x for n, x in self.arguments.items()}
        waves = {n: x.cdouble() for n, x in named.items() if torch.is_tensor(x) and x.is_complex()}
        return named | waves


def _attention() -> dict[str, Case]:
    n, m = 63, 100
    keep, gate = draw(1, m, seed=4) > 0, torch.tensor([0.2, 0.9])
    square = qkv(17, 33, h=4, g=2, d=8, e=4, b=2)
    slopes, factor = torch.tensor([0.5, 0.03]), 1 / torch.arange(1.0, n + 1)
    options: dict[str, Named] = {
        "plain": {},
        "scale": {"scale": -0.3},
        "causal": {"causal": True},
        "bias": {"bias": draw(2, n, m, seed=3)},
        "bias of keys": {"bias": draw(1, 1, 1, m, seed=3)},
        "bias of queries, sigmoid": {"bias": draw(2, n, 1, seed=3) - 3, "score": "sigmoid"},
        "keep": {"keep": keep},
        "bias, keep, causal": {"bias": draw(2, 1, m, seed=3), "keep": keep, "causal": True},
        "mask": {"mask": sparse(1, 2, n, m)},
        "mask of keys, bias": {"mask": sparse(2, 1, m), "bias": draw(2, n, m, seed=3)},
        "mask, keep, causal": {"mask": sparse(n, m), "keep": keep, "causal": True},
        "mask, sigmoid": {"mask": sparse(2, n, 1), "score": "sigmoid"},
        "mask, gated": {
            "mask": sparse(1, 2, n, m),
            "position": draw(2, n, m, seed=5),
            "gate": gate,
        },
        "sigmoid": {"score": "sigmoid", "bias": torch.full((1, 1, 1, 1), -2.8)},
        "sigmoid, causal": {"score": "sigmoid", "causal": True},
        "gated": {"position": 3 * draw(2, n, m, seed=5), "gate": gate},
        "gated, bias, keep, causal": {
            "position": draw(2, n, m, seed=5),
            "gate": torch.tensor([0.0, 0.7]),
            "bias": draw(n, m, seed=3),
            "keep": keep,
            "causal": True,
        },
    }
    options |= {
        "one bias": {"bias": torch.tensor([-1.5]), "score": "sigmoid"},
        "slopes": {"slopes": slopes},
        "slopes, causal": {"slopes": slopes, "causal": True},
        "slopes, sigmoid, keep": {"slopes": slopes, "score": "sigmoid", "keep": keep},
        "slopes, gated": {"slopes": slopes, "position": draw(2, n, m, seed=5), "gate": gate},
        "left": {"left": 9, "causal": True},
        "left, sigmoid": {"left": 40, "right": 3, "score": "sigmoid"},
        "left, gated": {"left": 9, "position": draw(2, n, m, seed=5), "gate": gate},
        "right": {"right": 11, "bias": draw(2, 1, m, seed=3)},
        "factors of rows": {"row_factor": draw(1, 2, n, seed=6)},
        "factors of rows, sigmoid": {"row_factor": factor, "score": "sigmoid", "causal": True},
        "factors of rows, gated": {
            "row_factor": draw(2, 1, seed=6),
            "position": draw(2, n, m, seed=5),
            "gate": gate,
        },
    }
    cases = {name: {**qkv(), **own} for name, own in options.items()}
    cases |= {
        "mask of pictures": {**square, "mask": sparse(2, 4, 17, 33)},
        "full tiles, mask": {**qkv(64, 96, h=1, d=16, e=32), "mask": sparse(1, 1, 64, 96)},
        "bias of pictures": {**square, "bias": draw(4, 17, 33, seed=3)},
        "bias, some shared": {**square, "bias": draw(2, 1, 17, 33, seed=3)},
        "full tiles": qkv(64, 96, h=1, d=16, e=32),
        "full tiles, causal": {**qkv(64, 96, h=1, d=16, e=32), "causal": True},
        "values of more heads": other_heads(17, 33, h=8, g=2, f=4),
        "values of fewer heads": other_heads(17, 33, h=4, g=2, f=1),
        "values of other heads, all else": {
            **other_heads(60, 80, h=4, g=1, f=4),
            "slopes": draw(4, seed=7).abs(),
            "row_factor": draw(4, 60, seed=6),
            "left": 31,
            "right": 7,
            "bias": draw(4, 60, 80, seed=3),
        },
        "values of other heads, gated": {
            **other_heads(20, 20, h=4, g=2, f=1),
            "position": draw(4, 20, 20, seed=5),
            "gate": draw(4, seed=6).sigmoid(),
        },
        "left, more queries than keys": {**qkv(70, 33, d=16, e=16), "left": 4},
        "left, long": {**qkv(150, 200, h=1, d=16, e=16), "left": 20, "causal": True},
        "more queries than keys": {**qkv(70, 33, d=16, e=16), "causal": True},
        "tiles": {**qkv(70, 70), "window": TILES, "bias": draw(2, 35, 35, seed=3)},
        "tiles, sigmoid": {
            **qkv(70, 70),
            "window": TILES,
            "bias": draw(1, 2, 2, 35, 35, seed=3),
            "score": "sigmoid",
        },
        "cells": {**qkv(70, 70), "window": CELLS},
        "cells, bias": {**qkv(70, 70), "window": CELLS, "bias": draw(35, 35, seed=3)},
        "halo": halo(HALO),
        "tiles, one bias, factors of rows": {
            **other_heads(70, 70, h=2, g=1, f=2),
            "window": TILES,
            "bias": draw(1, 1),
            "score": "sigmoid",
            "row_factor": draw(70, seed=6),
        },
        "wide halo": {**halo(WIDE_HALO), "bias": draw(2, 4, 64)},
        "thin halo": halo(THIN_HALO),
    }
    return {
        name: Case(attention, naive.attention, named, 2e-6) for name, named in cases.items()
    } | {
        "small": Case(
            attention,
            naive.attention,
            {**qkv(5, 7, h=2, d=8, e=8), "bias": draw(2, 5, 7, seed=3)},
            small=True,
        )
    }


def _neighborhood() -> dict[str, Case]:
    cases = {
        "line": neighbors((63,), 7),
        "line, dilated": neighbors((100,), 12, stride=5, dilation=3),
        "line, causal": neighbors((101,), 9, stride=4, causal=True, dilation=2),
        "two axes": neighbors((5, 7), (3, 5)),
        "two axes, one causal": neighbors((17, 13), 4, stride=(1, 3), causal=(True, False)),
        "blocks": neighbors((16, 16), 8, stride=8),
        "whole axis": neighbors((13, 11), (6, 11), stride=(6, 11)),
        "dilated": neighbors((14, 9), (7, 3), dilation=(2, 3)),
        "three axes": neighbors((3, 5, 9), (2, 3, 4), stride=(2, 1, 4)),
        "three axes, dilated": neighbors(
            (4, 4, 6), 2, dilation=(2, 1, 3), causal=(True, False, True)
        ),
        "shared and extra keys": neighbors((5, 7), 3, 4, 2, 5, 19, extra=37, b=2, scale=-0.7),
        "extra keys, causal": neighbors((90,), 5, 2, 1, extra=3, dilation=4, causal=True),
    }
    op, formula = neighborhood_attention, naive.neighborhood_attention
    small = Case(op, formula, neighbors((3, 4), 3, extra=2), small=True)
    return {name: Case(op, formula, named) for name, named in cases.items()} | {"small": small}


def _routed() -> dict[str, Case]:
    cases = {
        "regions": routed(24, 4, window=REGIONS),
        "regions, weighted": routed(24, 4, weighted=True, window=REGIONS),
        "regions by head": routed(24, 4, apart=True, weighted=True, window=REGIONS),
        "regions, few keys": routed(24, 4, m=8, h=1, weighted=True, window=REGIONS),
        "regions, pictures": routed(24, 4, b=2, h=1, d=20, e=3, window=REGIONS),
        "regions, long": routed(154, 2, h=1, weighted=True, window=LONG_REGIONS),
        "runs": routed(63, 3, h=1, block=21),
        "runs, few keys": routed(100, 2, m=26, h=1, block=50),
        "one run": routed(9, 1, m=63, h=1, block=9),
        "mask, causal": block_masked(70, 16),
        "mask, shared": block_masked(48, 16, h=3, g=3, b=2, apart=False),
        "mask, both ways": block_masked(37, 8, g=1, causal=False),
    }
    op, formula = routed_attention, naive.routed_attention
    small = Case(
        op, formula, routed(12, 4, h=1, weighted=True, block=3), small=True, exact=("weight",)
    )
    return {name: Case(op, formula, named) for name, named in cases.items()} | {"small": small}


def _scans() -> dict[str, Case]:
    ahead = {
        "ahead": scan(63),
        "ahead, long": scan(100),
        "back": scan(100, reverse=True),
        "few tokens": scan(5, d=3, e=1, b=2, scale=1.5),
        "few tokens, back": scan(5, d=3, e=1, b=2, scale=1.5, reverse=True),
    }
    both = {
        "both ways": scan(63, both=True),
        "few tokens": scan(5, d=3, e=1, b=2, both=True, scale=1.5),
        "wide heads": scan(9, d=70, e=100, both=True),
        "no decay": scan(30, d=16, e=16, strength=0.0, both=True),
        "strong decay": scan(30, d=16, e=16, strength=50.0, both=True),
    }
    one, two = gated_linear_attention, bidirectional_gla
    cases = {f"one way, {n}": Case(one, naive.gated_linear_attention, a) for n, a in ahead.items()}
    cases |= {n: Case(two, naive.bidirectional_gla, a, 2e-5) for n, a in both.items()}
    small = Case(two, naive.bidirectional_gla, scan(6, d=8, e=8, both=True), small=True)
    return cases | {"small": small}


def _taylor() -> dict[str, Case]:
    cases = {
        "one chunk": scores(63),
        "several segments": scores(150, d=5, e=4),
        "several segments, values in parts": scores(70, d=3, e=70),
        "several chunks, wide heads": scores(150, d=24, e=70),
        "few tokens, pictures": scores(5, d=3, e=1, b=3, h=2, scale=1.5),
        "large scores": scores(90, d=8, e=8, scale=3.0),
        "values in parts, a large eps": scores(40, d=8, e=150, eps=0.5),
    }
    op, formula = taylor_attention, naive.taylor_attention
    small = Case(op, formula, scores(6, d=8, e=8), 2e-5, small=True)
    return {name: Case(op, formula, named, 2e-5) for name, named in cases.items()} | {
        "small": small
    }


def _wkv() -> dict[str, Case]:
    cases = {
        "several chunks": decaying(41),
        "pictures": decaying(17, b=2),
        "many channels": decaying(20, c=70),
        "strong decay": decaying(33, strength=50.0),
        "no decay": decaying(33, strength=0.0),
        "loud keys": decaying(33, loud=30.0),
    }
    small = Case(wkv, naive.wkv, decaying(6, c=4), 2e-5, small=True)
    return {name: Case(wkv, naive.wkv, named, 2e-5) for name, named in cases.items()} | {
        "small": small
    }


def _aggregated() -> dict[str, Case]:
    options = ("embedding", "scale", "local_bias", "pool_bias", "table")
    cases = {
        "odd grid": foveal((5, 7), (2, 3)),
        "pictures": foveal((3, 4), (1, 2), b=3, h=1, d=8, e=8),
        "wide window": foveal((6, 5), (3, 2), 5, h=1),
        "a window wider than the grid": foveal((2, 3), (1, 1), 7, h=1),
        "a window of one cell": foveal((3, 5), (2, 2), 1),
        "more pooled keys than a tile": foveal((9, 8), (7, 6), h=1, d=24, e=24),
        "one row": foveal((1, 63), (1, 9), e=19),
        "wide heads": foveal((3, 4), (2, 2), h=1, d=70, e=100),
        "cosines alone": foveal((5, 4), (2, 2), without=options),
        **{f"no {name}": foveal((3, 4), (2, 2), h=1, without=(name,)) for name in options},
    }
    op, formula = aggregated_attention, naive.aggregated_attention
    small = Case(op, formula, foveal((3, 4), (2, 2), h=1), small=True)
    return {name: Case(op, formula, named) for name, named in cases.items()} | {"small": small}


def _others() -> dict[str, Case]:
    local = {
        "outlook: odd grid": looks((5, 7)),
        "outlook: wide": looks((9, 9), e=16),
        "outlook: every place": looks((7, 9), stride=1, e=3),
        "outlook: large kernel": looks((6, 5), 5, 3, 2, e=4),
        "outlook: even kernel": looks((7, 4), 2, 2, 0, e=1),
        "outlook: gaps": looks((5, 8), 2, 3, 0, e=7),
        "outlook: one row": looks((1, 3), stride=1, e=4),
        "outlook: channels in parts": looks((3, 2), e=150, h=1),
    }
    cases = {name: Case(outlook, naive.outlook, named) for name, named in local.items()}
    cases["outlook: small"] = Case(outlook, naive.outlook, looks((3, 3), h=1), small=True)
    gated = {
        "gated_convolution: odd picture": pictures(),
        "gated_convolution: one row": pictures(1, 63, (3, 3), bias=False),
        "gated_convolution: oblong kernel": pictures(10, 10, (3, 5)),
        "gated_convolution: smaller than its kernel": pictures(2, 1),
        "gated_convolution: large": pictures(27, 23, (3, 3)),
        "gated_convolution: many channels": pictures(4, 4, (3, 3), b=1, c=70),
    }
    op, formula = gated_convolution, naive.gated_convolution
    cases |= {name: Case(op, formula, named, 2e-5) for name, named in gated.items()}
    small = pictures(2, 3, (3, 3), b=1, c=2, bias=False)
    cases["gated_convolution: small"] = Case(op, formula, small, 2e-5, small=True)
    filtered = {"x": draw(2, 3, 6, 5), "weight": draw(3, 6, 3, 2, seed=1)}
    cases["global_filter: odd picture"] = Case(global_filter, naive.global_filter, filtered)
    return cases


def _context() -> dict[str, Case]:
    cases = {
        "two kernels": kernels_of_pixels((9, 11), 3, 5),
        "larger before smaller": kernels_of_pixels((7, 9), 7, 3, b=1, e=4),
        "whole picture": kernels_of_pixels((7, 7), 5, 7, g=3, e=3),
        "one row": kernels_of_pixels((1, 9), 1),
        "even kernel": kernels_of_pixels((6, 5), 4, b=1, e=1),
        "several tiles": kernels_of_pixels((19, 10), 3, 9, b=1, g=1, e=2),
        "channels in parts": kernels_of_pixels((3, 4), 3, b=1, g=1, e=150),
    }
    op, formula = context_convolution, naive.context_convolution
    small = Case(op, formula, kernels_of_pixels((3, 5), 1, 3, b=1, g=1, e=3), small=True)
    return {name: Case(op, formula, named) for name, named in cases.items()} | {"small": small}


def _kan() -> dict[str, Case]:
    on_triton = {
        "fourier": learned(63, h=1, d=24, e=40, r=12),
        "one frequency, pictures": learned(19, b=2, g=1),
        "more keys than queries": learned(33, m=50, h=1, r=3, g=2, scale=-0.3),
        "identity": learned(17, base="identity"),
        "silu, scales": learned(17, base="silu", scales=True),
        "gelu, scales, many frequencies": learned(40, h=1, r=20, g=11, base="gelu", scales=True),
        "gelu": learned(12, base="gelu", g=1),
        "simplex": learned(17, simplex=True),
        "some softmax": learned(17, h=4, own=2, softmax_heads=(0, 2)),
        "some softmax, simplex, silu": learned(
            9, h=3, own=2, softmax_heads=(1,), simplex=True, base="silu"
        ),
    }
    bases = {f"basis {name}": learned(9, basis=name) for name in BASES if name != "fourier"}
    written = bases | {
        "phi of w": learned(17, order="phi_w"),
        "phi of phi": learned(17, order="phi_phi", base="silu"),
        "full rank": learned(17, order="phi", base="silu", scales=True),
        "rational, phi of phi": learned(7, order="phi_phi", basis="rational"),
    }
    op, formula = kan_attention, naive.kan_attention
    small = Case(op, formula, learned(6, h=2, base="silu", scales=True), 2e-5, small=True)
    return {
        **{name: Case(op, formula, named, 2e-5) for name, named in on_triton.items()},
        **{name: Case(op, formula, named, kernel=False) for name, named in written.items()},
        "small": small,
    }


def _long_convolution() -> dict[str, Case]:
    gates = ("gate_in", "gate_out")
    on_triton = {
        "short": filtered(),
        "short, values share filters": filtered(40, 4, h=3, e=5),
        "short, by sample": filtered(33, 7, own=True),
        "short, circular": filtered(21, 9, circular=True),
        "short, circular, as long as the sequence": filtered(9, 9, own=True, circular=True),
        "more taps than tokens": filtered(5, 8),
        "many heads": filtered(10, 2, h=70, b=1, e=2),
        "many taps, long": filtered(600, 50, h=1, b=1),
        "no gates": filtered(20, 5, without=gates),
        "gate before, no skip": filtered(20, 5, without=("gate_out", "skip")),
        "gate behind": filtered(20, 5, without=("gate_in",)),
    }
    transformed = {
        "long": filtered(63, 63),
        "long, values share filters": filtered(50, 40, h=3, e=5),
        "long, by sample": filtered(70, 100, own=True),
        "long, circular": filtered(63, 40, circular=True),
        "long, circular, by sample": filtered(80, 80, own=True, circular=True),
        "spectrum": filtered(15, 30, waves=30),
        "spectrum, circular": filtered(15, 15, own=True, waves=15, circular=True),
    }
    op, formula = long_convolution, naive.long_convolution
    small = Case(op, formula, filtered(6, 3, e=2), 2e-5, small=True)
    return {
        **{name: Case(op, formula, named, 2e-5) for name, named in on_triton.items()},
        **{name: Case(op, formula, named, kernel=False) for name, named in transformed.items()},
        "small": small,
    }


FAMILIES = {
    "attention": _attention,
    "context_convolution": _context,
    "neighborhood": _neighborhood,
    "routed": _routed,
    "gated_linear": _scans,
    "kan": _kan,
    "long_convolution": _long_convolution,
    "aggregated": _aggregated,
    "taylor": _taylor,
    "wkv": _wkv,
}
CASES = {
    f"{family}: {name}": case for family, make in FAMILIES.items() for name, case in make().items()
} | _others()
ON_TRITON = {name: case for name, case in CASES.items() if case.op.fast and case.kernel}
SMALL = {case.op.face.name: case for case in ON_TRITON.values() if case.small}


def with_gradients(run: Callable[..., Tensor], named: Named, moving: list[str]) -> list[Tensor]:
    """The result, and the gradient of each moving argument for the same drawn one of the result."""
    leaves = {n: x.detach().requires_grad_() if n in moving else x for n, x in named.items()}
    out = run(**leaves)
    back = draw(*out.shape, seed=9).to(out)
    return [out, *torch.autograd.grad(out, [leaves[n] for n in moving], back)]


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference as a part of the largest number."""
    return float((a.double() - b).detach().abs().max() / b.detach().abs().max())


def on_triton(op: Any, named: Named, tolerance: float, truth: Callable | None = None) -> None:
    """Assert that result and every gradient on Triton are those of the reference in float64."""
    case = Case(op, truth or op.reference, named)
    found = with_gradients(op, named, case.moving)
    assert found[0].grad_fn.name() == "_LaunchBackward"
    assert found[0].dtype == named[case.moving[0]].dtype
    want = with_gradients(case.naive, case.wide(), case.moving)
    for name, a, b in zip(["out", *case.moving], found, want, strict=True):
        assert a.shape == b.shape, name
        assert apart(a, b) <= tolerance, (name, apart(a, b))
