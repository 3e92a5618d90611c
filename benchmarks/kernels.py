"""Triton kernels beside torch's fused attention, FlexAttention and the torch references.

On a GPU, `python benchmarks/kernels.py` checks each kernel against its reference in float64, then
times forward and backward with CUDA events, variants interleaved, and writes the table into
RESULTS.md. Without one, `--tiny` proves the script on Triton's interpreter: the same checks on
small sizes, no times.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

TINY = "--tiny" in sys.argv
if TINY:  # both are read when the kernels are imported or called
    os.environ["TRITON_INTERPRET"] = "1"
    os.environ["LIMELIGHT_KERNELS"] = "triton"

import torch
import torch.nn.functional as F
from torch import Tensor

from limelight.kernels.aggregated import aggregated_attention
from limelight.kernels.attention import attention, attention_statistics
from limelight.kernels.context_convolution import context_convolution
from limelight.kernels.gated_convolution import gated_convolution
from limelight.kernels.gated_linear import bidirectional_gla, gated_linear_attention
from limelight.kernels.kan import kan_attention
from limelight.kernels.long_convolution import long_convolution
from limelight.kernels.neighborhood import neighborhood_attention
from limelight.kernels.neighborhood.axes import axes_of, visible
from limelight.kernels.outlook import outlook
from limelight.kernels.routed import routed_attention
from limelight.kernels.taylor import taylor_attention
from limelight.kernels.windows import Window
from limelight.kernels.wkv import wkv

RESULTS = Path(__file__).with_name("RESULTS.md")
COPY, MATMUL = 3.0e12, 798e12  # bytes a second and bf16 FLOP a second of an H100, both measured
ROUNDS, REPEATS = 7, 10
Named = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One kernel at one size.

    make    (dtype) -> the op's arguments
    peers   by name, what else computes the same, from the same arguments
    goals   by peer, its time over ours at least
    flops, moved   of one forward: what the roofline is made of
    """

    name: str
    op: Any
    make: Callable[[torch.dtype], Named]
    peers: dict[str, Callable[[Named], Tensor]] = field(default_factory=dict)
    goals: dict[str, float] = field(default_factory=dict)
    flops: float = 0.0
    moved: float = 0.0
    tolerance: float = 2e-2


def device() -> str:
    return "cpu" if TINY else "cuda"


def randn(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draw).to(device(), dtype)


def heads(b: int, h: int, n: int, d: int, dtype: torch.dtype, e: int | None = None) -> Named:
    sizes = {"q": d, "k": d, "v": e or d}
    return {
        name: randn(b, h, n, c, dtype=dtype, seed=i) for i, (name, c) in enumerate(sizes.items())
    }


def sdpa(named: Named) -> Tensor:
    return F.scaled_dot_product_attention(
        named["q"], named["k"], named["v"], is_causal=named.get("causal", False)
    )


def flex(mask: Tensor | None = None, bias: str = "") -> Callable[[Named], Tensor]:
    """FlexAttention on the same mask and bias, compiled once."""
    compiled: dict[str, Any] = {}

    def run(named: Named) -> Tensor:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        q, k, v = named["q"], named["k"], named["v"]
        if "call" not in compiled:
            compiled["call"] = torch.compile(flex_attention, dynamic=False)
            if mask is not None:
                seen = mask.to(q.device)
                sizes = (None, None, q.shape[2], k.shape[2])
                compiled["mask"] = create_block_mask(lambda b, h, i, j: seen[i, j], *sizes)
        table = named[bias] if bias else None
        add = None if table is None else (lambda s, b, h, i, j: s + table[h, i, j])
        return compiled["call"](q, k, v, score_mod=add, block_mask=compiled.get("mask"))

    return run


def window_mask(window: Window) -> Tensor:
    """Who sees whom in windows, `n m`."""
    at, keys = window.place()[0], window.key_index()
    count = window.grid[0] * window.grid[1]
    seen = torch.zeros(len(at), count + 1, dtype=torch.bool)
    return seen.scatter_(1, keys[at] % (count + 1), True)[:, :-1]


def attention_tasks() -> Iterator[Task]:
    b, h, d = (1, 2, 16) if TINY else (16, 12, 64)
    for side in (5,) if TINY else (14, 28, 56):
        n = side * side
        flops, moved = 4.0 * b * h * n * n * d, 8.0 * b * h * n * d
        size = f"B{b} H{h} N{n} d{d}"
        roof = {"flops": flops, "moved": moved}
        make = lambda t, n=n: heads(b, h, n, d, t)  # noqa: E731
        yield Task(f"softmax {size}", attention, make, {"sdpa": sdpa}, {"sdpa": 0.95}, **roof)
        causal = lambda t, n=n: {**heads(b, h, n, d, t), "causal": True}  # noqa: E731
        half = {"flops": flops / 2, "moved": moved}
        yield Task(f"causal {size}", attention, causal, {"sdpa": sdpa}, {}, **half)
        sigmoid = lambda t, n=n: {**heads(b, h, n, d, t), "score": "sigmoid"}  # noqa: E731
        yield Task(f"sigmoid {size}", attention, sigmoid, {"sdpa": sdpa}, {"sdpa": 1.1}, **roof)
        sloped = lambda t, n=n: {  # noqa: E731
            **heads(b, h, n, d, t),
            "k": randn(b, 1, n, d, dtype=t, seed=1),
            "slopes": torch.logspace(-1, -8, h, 2.0).to(device(), t),
            "row_factor": torch.ones(n, dtype=t, device=device()) / 2,
            "bias": torch.full((1,), -4.0, dtype=t, device=device()),
            "causal": True,
            "left": n // 2,
            "score": "sigmoid",
        }
        yield Task(
            f"sigmoid, slopes, band, one key head {size}", attention, sloped,
            {"reference": masked_reference}, {"reference": 1}, **half,
        )  # fmt: skip
        biased = lambda t, n=n: {  # noqa: E731
            **heads(b, h, n, d, t),
            "bias": randn(h, n, n, dtype=t, seed=3),
        }
        yield Task(
            f"bias {size}", attention, biased, {"flex": flex(bias="bias")}, {"flex": 1}, **roof
        )
        gated = lambda t, n=n: {  # noqa: E731
            **heads(b, h, n, d, t),
            "position": randn(h, n, n, dtype=t, seed=3),
            "gate": torch.rand(h).to(device(), t),
        }
        yield Task(f"gated positional {size}", attention, gated, {}, {}, **roof)
        masked = lambda t, n=n: {**heads(b, h, n, d, t), "mask": seen_by_each(b, h, n)}  # noqa: E731
        peers = {"sdpa": masked_sdpa, "reference": masked_reference, "routed": by_token()}
        yield Task(f"mask of a quarter {size}", attention, masked, peers, {"reference": 1}, **roof)
    yield from window_tasks(b, h, d)


def seen_by_each(b: int, h: int, n: int) -> Tensor:
    """A mask that shows each query a quarter of the keys, as Sparsifiner's do."""
    draw = torch.rand(b, h, n, n, generator=torch.Generator().manual_seed(4))
    index = draw.topk(-(-n // 4)).indices
    return torch.zeros_like(draw, dtype=torch.bool).scatter_(-1, index, True).to(device())


def masked_sdpa(named: Named) -> Tensor:
    return F.scaled_dot_product_attention(
        named["q"], named["k"], named["v"], attn_mask=named["mask"]
    )


def masked_reference(named: Named) -> Tensor:
    return attention.reference(**named)


def by_token() -> Callable[[Named], Tensor]:
    """The same by routed attention with blocks of one token; the index is made once."""
    made: dict[str, Tensor] = {}

    def run(named: Named) -> Tensor:
        mask = named["mask"]
        if "index" not in made:
            keys = mask.nonzero()[:, -1]
            made["index"] = keys.reshape(*mask.shape[:3], -1)
        return routed_attention(named["q"], named["k"], named["v"], made["index"], block=1)

    return run


def window_tasks(b: int, h: int, d: int) -> Iterator[Task]:
    side, part, block = (6, 3, 2) if TINY else (56, 7, 8)
    n = side * side
    for kind, size in (("block", part), ("grid", part)):
        window = Window(kind, (size, size), (side, side))  # type: ignore[arg-type]
        make = lambda t, w=window, s=size: {  # noqa: E731
            **heads(b, h, n, d, t),
            "window": w,
            "bias": randn(h, s * s, s * s, dtype=t, seed=3),
        }
        peers = {"flex": flex(window_mask(window))}
        flops = 4.0 * b * h * n * size * size * d
        name = f"{kind} windows {size} x {size} of {side} x {side}"
        yield Task(name, attention, make, peers, {"flex": 1}, flops, 8.0 * b * h * n * d)
    halo = Window("halo", (block, block), (side, side), halo=1 if TINY else 3)
    wide = halo.key_size[0]
    make = lambda t: {  # noqa: E731
        **heads(b, h, n, d, t),
        "window": halo,
        "rows": randn(b, h, n, wide, dtype=t, seed=3),
        "columns": randn(b, h, n, wide, dtype=t, seed=4),
    }
    peers = {"flex": flex(window_mask(halo))}
    flops = 4.0 * b * h * n * wide * wide * d
    name = f"halo windows {block} + 2 x {halo.halo} of {side} x {side}"
    yield Task(name, attention, make, peers, {"flex": 1}, flops, 8.0 * b * h * n * d)


def neighborhood_tasks() -> Iterator[Task]:
    b, h, d = (1, 2, 16) if TINY else (16, 2, 32)
    side, sizes = (6, (3,)) if TINY else (56, (7, 13))
    for size in sizes:
        grid, n = (side, side), side * side
        seen = visible(axes_of(grid, size))
        make = lambda t, s=size, g=grid, n=n: {  # noqa: E731
            **heads(b, h, n, d, t),
            "grid": g,
            "kernel_size": s,
        }
        flops, moved = 4.0 * b * h * n * size * size * d, 8.0 * b * h * n * d
        name = f"neighbourhood {size} x {size} of {side} x {side}"
        peers = {"flex": flex(seen)}
        yield Task(name, neighborhood_attention, make, peers, {"flex": 1.3}, flops, moved)


def routed_tasks() -> Iterator[Task]:
    b, h, d = (1, 2, 16) if TINY else (16, 2, 32)
    side, cells, chosen = (4, 2, 2) if TINY else (56, 7, 4)
    region = side // cells
    n, count = side * side, cells * cells
    window = Window("block", (region, region), (side, side))

    def make(t: torch.dtype) -> Named:
        draw = torch.Generator().manual_seed(5)
        index = torch.rand(b, count, count, generator=draw).argsort(-1)[..., :chosen]
        return {**heads(b, h, n, d, t), "index": index.to(device()), "window": window}

    flops = 4.0 * b * h * n * chosen * region * region * d
    name = f"routed {chosen} of {count} regions of {side} x {side}"
    yield Task(name, routed_attention, make, {}, {}, flops, 8.0 * b * h * n * d)
    yield sparse_task()


def sparse_task() -> Task:
    """A tenth of the causal blocks of a long prompt, as SeerAttention's gates choose them.

    The peer is dense causal attention: it computes more, and is what the blocks should beat.
    """
    b, h, d, n, block = (1, 2, 16, 40, 8) if TINY else (1, 32, 128, 32768, 64)
    count = -(-n // block)

    def make(t: torch.dtype) -> Named:
        draw = torch.Generator().manual_seed(6)
        mask = torch.rand(b, h, count, count, generator=draw) < 0.1
        mask = (mask | torch.eye(count, dtype=torch.bool)).tril()
        return {**heads(b, h, n, d, t), "mask": mask.to(device()), "block": block, "causal": True}

    flops = 0.1 * 2.0 * b * h * n * n * d
    name = f"routed blocks of {block}, density .1, causal H{h} N{n} d{d}"
    moved = 8.0 * b * h * n * d
    return Task(name, routed_attention, make, {"dense": sdpa}, {"dense": 4.0}, flops, moved)


def foveal(dtype: torch.dtype, *, b: int, h: int, side: int, pool: int, d: int = 24) -> Named:
    """Arguments of aggregated attention."""
    n, p = side * side, pool * pool
    return {
        "q": randn(b, h, n, d, dtype=dtype),
        "k": randn(b, h, n + p, d, dtype=dtype, seed=1),
        "v": randn(b, h, n + p, d, dtype=dtype, seed=2),
        "grid": (side, side),
        "pool": (pool, pool),
        "embedding": 0.02 * randn(h, d, dtype=dtype, seed=3),
        "scale": 1 + randn(h, n, dtype=dtype, seed=4).abs(),
        "local_bias": 0.02 * randn(h, 9, dtype=dtype, seed=5),
        "pool_bias": randn(h, n, p, dtype=dtype, seed=6),
        "table": 0.1 * randn(b, h, n, 9, dtype=dtype, seed=7),
    }


def aggregated_tasks() -> Iterator[Task]:
    """The aggregated stages of TransNeXt-Tiny at 224 pixels, the first one also at 384."""
    b, d = 1 if TINY else 16, 24
    for side, pool, h in (
        ((5, 2, 2),) if TINY else ((56, 7, 3), (28, 7, 6), (14, 7, 12), (96, 12, 3))
    ):
        n, p = side * side, pool * pool
        make = partial(foveal, b=b, h=h, side=side, pool=pool)
        moved = 2.0 * h * (b * (2 * n * d + 2 * (n + p) * d + 9 * n) + n * p)
        flops = 4.0 * b * h * n * (9 + p) * d
        name = f"aggregated {side} x {side} and {pool} x {pool} pooled H{h} d{d}"
        yield Task(name, aggregated_attention, make, {}, {}, flops, moved)


def scan_tasks() -> Iterator[Task]:
    b, h, d, e = (1, 2, 16, 16) if TINY else (2, 4, 128, 256)
    for n in (40,) if TINY else (2048, 4096, 16384, 32768):

        def make(t: torch.dtype, n: int = n) -> Named:
            return {
                **heads(b, h, n, d, t, e),
                "gate": F.logsigmoid(randn(b, h, n, d, dtype=t)) / 16,
            }

        moved = 2.0 * b * h * n * (3 * d + 2 * e)
        peers: dict[str, Callable[[Named], Tensor]] = {"fla": fla} if has_fla() else {}
        yield Task(
            f"gated linear B{b} H{h} N{n} d{d} e{e}",
            gated_linear_attention,
            make,
            peers,
            {"fla": 1.0},
            8.0 * b * h * n * d * e,
            moved,
        )
    n = 20 if TINY else 4096

    def both(t: torch.dtype) -> Named:
        own = heads(b, h, n, d, t, e)
        gates = (F.logsigmoid(randn(b, h, n, d, dtype=t, seed=s)) / 16 for s in (5, 6))
        return {**own, **dict(zip(("gate", "gate_back"), gates, strict=True))}

    moved = 2.0 * b * h * n * (4 * d + 2 * e)
    yield Task(f"gated linear both ways N{n}", bidirectional_gla, both, {}, {}, 0.0, moved)


def recurrent_tasks() -> Iterator[Task]:
    """Based at the sizes of its language models, RWKV at 1024 channels; the plain way beside."""
    b, h, d, e, c = (1, 2, 4, 8, 6) if TINY else (2, 16, 16, 64, 1024)
    for n in (70,) if TINY else (2048, 4096, 16384, 32768):

        def taylor(t: torch.dtype, n: int = n) -> Named:
            return heads(b, h, n, d, t, e)

        features = (d + 1) * (d + 2) // 2
        yield Task(
            f"taylor attention B{b} H{h} N{n} d{d} e{e}",
            taylor_attention,
            taylor,
            {"plain": plainly(taylor_attention)},
            {"plain": 1.0},
            4.0 * b * h * n * features * (e + 1),
            2.0 * b * h * n * (2 * d + 2 * e),
        )

        def channels(t: torch.dtype, n: int = n) -> Named:
            k, v = (randn(b, n, c, dtype=t, seed=seed).mT[..., None] for seed in (1, 2))
            decay = -randn(c, dtype=torch.float32, seed=3).exp()
            return {"k": k, "v": v, "decay": decay, "bonus": randn(c, dtype=torch.float32, seed=4)}

        moved = 6.0 * b * c * n
        plain = {"plain": plainly(wkv)}
        yield Task(f"wkv B{b} C{c} N{n}", wkv, channels, plain, {"plain": 1.0}, 0.0, moved)


def plainly(op: Any) -> Callable[[Named], Tensor]:
    """The reference of an op."""
    return lambda named: op.reference(**named)


def has_fla() -> bool:
    from importlib.util import find_spec

    return find_spec("fla") is not None


def fla(named: Named) -> Tensor:
    from fla.ops.gla import chunk_gla

    q, k, v, gate = (named[n].transpose(1, 2) for n in ("q", "k", "v", "gate"))
    return chunk_gla(q, k, v, gate)[0].transpose(1, 2)


def local_tasks() -> Iterator[Task]:
    b, h, e, side = (1, 2, 8, 5) if TINY else (16, 6, 32, 28)
    cells = -(-side // 2)
    make = lambda t: {  # noqa: E731
        "v": randn(b, h, side * side, e, dtype=t),
        "weight": randn(b, h, cells * cells, 9, 9, dtype=t, seed=1),
        "grid": (side, side),
        "stride": 2,
    }
    moved = 2.0 * b * h * (2 * side * side * e + cells * cells * 81)
    yield Task(f"outlook {side} x {side} C{h * e}", outlook, make, {}, {}, 0.0, moved)
    c, side = (4, 6) if TINY else (96, 56)
    make = lambda t: {  # noqa: E731
        "first": randn(b, c, side, side, dtype=t),
        "context": randn(b, c, side, side, dtype=t, seed=1),
        "weight": randn(c, 1, 7, 7, dtype=t, seed=2),
        "bias": randn(c, dtype=t, seed=3),
    }
    moved = 6.0 * b * c * side * side
    yield Task(
        f"gated convolution {side} x {side} C{c}", gated_convolution, make, {}, {}, 0.0, moved
    )


def context_tasks() -> Iterator[Task]:
    """OverLoCK-T's third stage at 224 and 448; kernels lie as convolutions leave them."""
    sizes = ((1, 2, 4, 7, 3, 5),) if TINY else ((32, 8, 16, 14, 5, 13), (32, 8, 16, 28, 5, 13))
    for b, g, e, side, small, large in sizes:
        n, taps = side * side, small**2 + large**2

        def make(
            t: torch.dtype, b: int = b, g: int = g, e: int = e, side: int = side,
            small: int = small, large: int = large,
        ) -> Named:  # fmt: skip
            sides = {"small": small, "large": large}
            kernels = {
                name: randn(b, k * k, g, side * side, dtype=t, seed=k)
                .permute(0, 2, 3, 1)
                .softmax(-1)
                for name, k in sides.items()
            }
            return {"v": randn(b, 2 * g, side * side, e, dtype=t), **kernels, "grid": (side, side)}

        flops, moved = 2.0 * b * g * n * e * taps, 2.0 * b * g * n * (4 * e + taps)
        name = f"context convolution {small}, {large} of {side} x {side} C{2 * g * e}"
        yield Task(name, context_convolution, make, {}, {}, flops, moved)


def learned_tasks() -> Iterator[Task]:
    """Learned maps at the sizes of ViT-Tiny and ViT-Base, and of many tokens."""
    r = 4 if TINY else 12
    sizes = ((1, 2, 9, 16, 2),) if TINY else ((16, 3, 197, 64, 3), (16, 12, 197, 64, 1))
    for b, h, n, d, g in (*sizes, *(() if TINY else ((4, 3, 3137, 64, 3),))):

        def make(
            t: torch.dtype, b: int = b, h: int = h, n: int = n, d: int = d, g: int = g
        ) -> Named:
            a, b_sin = (randn(h, r, n, g, dtype=t, seed=seed) for seed in (3, 4))
            w = randn(h, n, r, dtype=t, seed=5)
            return {**heads(b, h, n, d, t), "a": a, "b": b_sin, "W": w}

        flops = 2.0 * b * h * n * n * (d + 2 * g * r)
        name = f"learned maps B{b} H{h} N{n} d{d} G{g} r{r}"
        yield Task(name, kan_attention, make, {}, {}, flops, 8.0 * b * h * n * d)


def bare_transform(named: Named) -> Tensor:
    """The same by transforms of twice the tokens, gates and skip in products of their own."""
    v = (named["v"][..., 0] * named["gate_in"]).float()
    n = v.shape[-1]
    waves = torch.fft.rfft(v, n=2 * n) * torch.fft.rfft(named["filter"].float(), n=2 * n)
    out = torch.fft.irfft(waves, n=2 * n)[..., :n] + named["skip"].float()[:, None] * v
    return (out.to(named["v"].dtype) * named["gate_out"])[..., None]


def long_tasks() -> Iterator[Task]:
    """Gated convolutions of a Hyena's width: few taps, and as many as tokens."""
    b, c = (1, 4) if TINY else (4, 768)
    for n, taps in ((24, 3), (40, 40)) if TINY else ((2048, 4), (2048, 64), (2048, 2048)):

        def make(t: torch.dtype, n: int = n, taps: int = taps) -> Named:
            v, first, last = (randn(b, n, c, dtype=t, seed=i).mT for i in range(3))
            filter = randn(c, taps, dtype=t, seed=3) / taps**0.5
            gates = {"gate_in": first, "gate_out": last, "skip": randn(c, dtype=t, seed=4)}
            return {"v": v[..., None], "filter": filter, **gates}

        goals = {"transform": 0.9} if taps == n else {"transform": 1.0}
        name = f"gated convolution {taps} taps N{n} C{c}"
        moved = 8.0 * b * c * n
        peers = {"transform": bare_transform}
        yield Task(name, long_convolution, make, peers, goals, 2.0 * b * c * n * taps, moved)


def tasks() -> Iterator[Task]:
    families = (attention_tasks, neighborhood_tasks, routed_tasks, aggregated_tasks, scan_tasks)
    families = (*families, recurrent_tasks, local_tasks, context_tasks, learned_tasks, long_tasks)
    for family in families:
        yield from family()


def moving(named: Named) -> list[str]:
    """The arguments that take a gradient."""
    return [n for n, x in named.items() if isinstance(x, Tensor) and x.is_floating_point()]


def leaves(named: Named) -> Named:
    """The arguments, those that take a gradient as leaves of a graph."""
    return {n: x.detach().requires_grad_() if n in moving(named) else x for n, x in named.items()}


def with_gradients(
    run: Callable[[Named], Tensor], named: Named, back: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """The result and the gradients of leaves; that of the result is `back`, or drawn."""
    out = run(named)
    if back is None:
        back = randn(*out.shape, dtype=out.dtype, seed=9)
    inputs = [named[n] for n in moving(named)]
    return out, list(torch.autograd.grad(out, inputs, back, allow_unused=True))


def check(task: Task, dtype: torch.dtype) -> float:
    """The largest relative error of result and gradients against the reference in float64."""
    named = task.make(dtype)
    wide = {n: x.double() if n in moving(named) else x for n, x in named.items()}
    out, grads = with_gradients(lambda a: task.op(**a), leaves(named))
    out = out.detach()
    want, truths = with_gradients(lambda a: task.op.reference(**a), leaves(wide))
    want = want.detach()
    errors = [float((out.double() - want).norm() / want.norm())]
    for name, got, truth in zip(moving(named), grads, truths, strict=True):
        if truth is None or float(truth.norm()) == 0:
            continue
        if got is None:
            raise SystemExit(f"{task.name}: no gradient for {name}")
        errors.append(float((got.double() - truth).norm() / truth.norm()))
    return max(errors)


def timed(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median milliseconds of each variant, interleaved."""
    for run in runs.values():
        run()
    found: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(ROUNDS):
        for name in runs if turn % 2 else reversed(list(runs)):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(REPEATS):
                runs[name]()
            end.record()
            torch.cuda.synchronize()
            found[name].append(start.elapsed_time(end) / REPEATS)
    return {name: statistics.median(times) for name, times in found.items()}


def measure(task: Task, dtype: torch.dtype, mark: str) -> Iterator[str]:
    """One row for the forward and one for forward and backward; inputs are drawn beforehand."""
    torch.compiler.reset()  # each peer that compiles may do so for this size only
    named = task.make(dtype)
    moved = leaves(named)
    back = randn(*task.op(**named).shape, dtype=dtype, seed=9)
    variants = {"ours": lambda a: task.op(**a), **task.peers}
    variants["reference"] = lambda a: task.op.reference(**a)
    for what, backward in (("forward", False), ("both", True)):
        runs: dict[str, Callable[[], object]] = {
            name: (
                (lambda run=run: with_gradients(run, moved, back))
                if backward
                else (lambda run=run: run(named))
            )
            for name, run in variants.items()
        }
        times = timed(runs)
        ours = times.pop("ours")
        others = ", ".join(f"{n} {t / ours:.2f} x" for n, t in times.items())
        roof = max(task.flops / MATMUL, task.moved / COPY) * 1e3
        share = "" if backward or not roof else f"{roof / ours:.0%}"
        goals = ", ".join(f"{n} {g:g}" for n, g in task.goals.items())
        yield row(task.name + mark, short(dtype), what, f"{ours:.3f}", share, others, goals)


def row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def statistics_cost(dtype: torch.dtype) -> str:
    """What entropy and distance cost beside the result."""
    named = heads(16, 12, 784, 64, dtype)
    times = timed(
        {
            "plain": lambda: attention(**named),
            "measured": lambda: attention_statistics(**named, grid=(28, 28)),
        }
    )
    cost = f"{times['measured'] / times['plain']:.2f} x plain"
    name = "statistics beside softmax N784"
    return row(name, short(dtype), "forward", "", "", cost, "at most 1.10 x plain")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="check on the interpreter, no GPU")
    parser.add_argument("--only", default="", help="tasks whose name holds this word")
    parser.add_argument("--fp32", action="store_true", help="also in float32")
    options = parser.parse_args()
    if not options.tiny and not torch.cuda.is_available():
        raise SystemExit("there is no GPU here: --tiny checks the kernels on the interpreter")
    dtypes = [torch.float32] if TINY else [torch.bfloat16, *[torch.float32] * options.fp32]
    failed = 0
    for task in tasks():
        for dtype in dtypes if options.only in task.name else ():
            try:
                for line in run_task(task, dtype):
                    print(line, flush=True)
            except Exception as reason:  # of a kernel or a peer: the next task may run
                failed += 1
                print(f"{task.name} {short(dtype)}: {type(reason).__name__}: {reason}", flush=True)
    if not TINY and options.only in "statistics":
        write([statistics_cost(torch.bfloat16)])
    if failed:
        raise SystemExit(f"{failed} tasks failed: their lines say why")


def run_task(task: Task, dtype: torch.dtype) -> Iterator[str]:
    """Check one task and, on a GPU, time it; its rows are written as soon as they are there."""
    path, error = task.op.why(**task.make(dtype)).path, check(task, dtype)
    limit = 1e-4 if dtype == torch.float32 else task.tolerance
    mark = "" if error <= limit else f", ERROR {error:.1e}"
    yield f"{task.name} {short(dtype)}: {path}, error {error:.1e}, at most {limit:g}"
    if TINY and mark:
        raise ArithmeticError(f"an error of {error:.1e} where {limit:g} is allowed")
    if not TINY:
        rows = list(measure(task, dtype, mark))
        write(rows)
        yield from rows


def write(rows: list[str], results: Path = RESULTS, gpu: str = "") -> None:
    """Rows into the table under the heading of this GPU, in place of those of the same name."""
    gpu = gpu or torch.cuda.get_device_name()
    head = f"## Kernels on {gpu}, torch {torch.__version__}"
    columns = "| kernel | dtype | pass | ms | of the roofline | time of others over ours | goals |"
    text, _, table = results.read_text().partition("\n## Kernels on ")
    same = f"## Kernels on {table.partition(chr(10))[0]}" == head
    old = [line for line in table.splitlines() if line.startswith("| ")][2:] if same else []
    named = {tuple(line.split(" | ")[:3]): line for line in [*old, *rows]}
    lines = "\n".join([head, "", columns, "| --- " * 7 + "|", *named.values()])
    results.write_text(f"{text.rstrip()}\n\n{lines}\n")


if __name__ == "__main__":
    main()
