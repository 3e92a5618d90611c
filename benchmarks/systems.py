"""Systems with a task beside plain torch: forward, gradient map, relevance, memory, pages.

`python benchmarks/systems.py [speed] [memory] [pages] [--rounds 7]`: the sizes of the golden cases,
random weights. Times are medians of paired ratios of CPU time with one thread. A gradient map is
held to plain autograd of the same score, whose gradient it equals; PAM's memory to the map of all
positions; a page to the model's own passes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import memory
import torch
from measure import Ratio, Row, Work, close, machine, rounds
from PIL import Image
from torch import Tensor, nn

import limelight as ll
from limelight.kernels.attention import attention

GRADIENT, PAGE, SPACE = 1.15, 1.3, 0.2
POSITIONS = (4096, 16384)
QUERY_WIDTH, VALUE_WIDTH = 8, 64  # of position attention over 64 channels


@dataclass(frozen=True)
class System:
    """A system at the size of its golden case: its inputs, the score that is explained."""

    name: str
    given: Callable[[], Any]
    target: Any
    score: Callable[[Any], Tensor]
    hyper: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return ll.load(self.name, weights=None, **self.hyper).eval().requires_grad_(False)


def photo(height: int, width: int | None = None, channels: int = 3) -> Tensor:
    return torch.randn(1, channels, height, width or height)


def box(height: int, width: int) -> Tensor:
    mask = torch.zeros(1, 1, height, width)
    mask[..., height // 4 : height // 2, width // 4 : width // 2] = 1
    return mask


def total(channel: int) -> Callable[[Tensor], Tensor]:
    """The sum of a channel over its picture, which is what `ll.region` asks for."""
    return lambda out: out[0, channel].sum()


SYSTEMS = (
    System(
        "oat_amazon",
        lambda: (
            torch.rand(1, 24, 64, 64, 3),
            torch.randint(0, 24, (1,)),
            torch.tensor([[26, 2, 2, 5, 1]]),
        ),
        ll.choice(2, 3),
        lambda out: out[0, 2, 3],
        {"rows": 4, "cols": 6, "patch": (64, 64)},
    ),
    System(
        "relationnet2_retinanet_r50_fpn",
        lambda: photo(128),
        ll.box(0, 3, 4, 2, at="cls_score"),
        lambda out: out["cls_score"][0][0, 2, 3, 4],
        {"max_keypoint_num": 20, "cross_level_topk": 50},
    ),
    System(
        "sentence_attention_b3",
        lambda: (photo(128), torch.randn(1, 16)),
        ll.region(torch.ones(128, 128), 1),
        total(1),
        {"encode_dim": 16},
    ),
    System(
        "msguided_narrow",
        lambda: photo(128, channels=1),
        ll.region(torch.ones(128, 128), 3),
        total(3),
        {"width": 16, "inter_channels": 16},
    ),
    System(
        "garnet",
        lambda: (photo(128).tanh(), box(128, 128)),
        ll.region(torch.ones(128, 128), 1, at="up5"),
        lambda out: out["up5"][0, 1].sum(),
    ),
    System(
        "ffnet40S_BBB_mobile",
        lambda: photo(128),
        ll.region(torch.ones(32, 32), 3),
        total(3),
    ),
    System(
        "psa_hrnet_ocr_s",
        lambda: photo(64),
        ll.region(torch.ones(64, 64), 3),
        total(3),
        {"width": 16},
    ),
    System(
        "reid_lba",
        lambda: photo(128, 64),
        ll.similar(torch.ones(2048)),
        lambda out: torch.cosine_similarity(out, torch.ones_like(out)).sum(),
        {"locations": "0011"},
    ),
)


def call(model: nn.Module, x: Any) -> Any:
    return model(*x) if isinstance(x, tuple) else model(x)


def explained(x: Any, value: Tensor) -> Any:
    """The inputs with another tensor in the place of the first, which is explained."""
    return (value, *x[1:]) if isinstance(x, tuple) else value


def plain_gradient(system: System, model: nn.Module, x: Any) -> Tensor:
    """One gradient by torch alone."""
    value = (x[0] if isinstance(x, tuple) else x).clone().requires_grad_()
    return torch.autograd.grad(system.score(call(model, explained(x, value))), value)[0]


def speed(system: System, count: int) -> Iterator[Row]:
    """A forward under the probe, a gradient map and relevance, each over what torch needs."""
    model, x = system.build(), system.given()
    plain = plain_gradient(system, model, x)
    found = ll.maps(model, x, ll.use("gradient", reduce="norm"), target=system.target)[0]
    close(found.values.norm(), plain.norm(), 1e-3)  # norms over channels, wherever these lie

    def forward() -> object:
        with torch.no_grad():
            return call(model, x)

    def probed() -> object:
        with torch.no_grad(), ll.Probe(model):
            return call(model, x)

    works: dict[str, Work] = {
        "forward": forward,
        "probed": probed,
        "plain": partial(plain_gradient, system, model, x),
        "gradient": lambda: ll.maps(model, x, "gradient", target=system.target),
        "relevance": lambda: ll.maps(model, x, "lrp", target=system.target),
    }
    times = rounds(works, count)
    for what, work, unit in (
        ("forward under an idle probe", "probed", "forward"),
        ("gradient map", "gradient", "plain"),
        ("relevance map", "relevance", "plain"),
    ):
        ratio = Ratio.of(times[work], times[unit])
        over = f"{system.name}: {what} over {unit if unit == 'forward' else 'a plain gradient'}"
        if work == "relevance":
            yield Row(over, f"{ratio} x", "for comparison", True)
        else:
            yield Row.most(over, ratio.median, GRADIENT, ratio)


def position_attention(count: int) -> tuple[Tensor, ...]:
    """Queries, keys and values of PAM over a picture of so many positions."""
    draw = torch.Generator().manual_seed(count)
    widths = (QUERY_WIDTH, QUERY_WIDTH, VALUE_WIDTH)
    return tuple(torch.randn(1, 1, count, width, generator=draw) for width in widths)


def through_op(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return attention(q, k, v, scale=1.0)


def through_map(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-1) @ v


PAM = {"op": through_op, "map": through_map}


def spaces() -> Iterator[Row]:
    """Peak memory of position attention, forward, through the op and by its whole map."""
    small = position_attention(256)
    error = close(through_op(*small), through_map(*small), 1e-5)
    for count in POSITIONS:
        peaks = {
            name: memory.peak_of([sys.executable, __file__, "--child", name, str(count)])[0]
            for name in PAM
        }
        share = peaks["op"] / peaks["map"]
        figure = f"{peaks['op'] / 2**20:.1f} of {peaks['map'] / 2**20:.0f} MiB, {share:.3f}"
        what = f"PAM at {count} positions (error {error:.0e}): peak through attention over the map"
        yield Row.most(what, share, SPACE, figure)


def child(name: str, count: int) -> None:
    """Warm up small, wait, run once; see `memory.peak_of`."""
    torch.set_grad_enabled(False)
    PAM[name](*position_attention(256))
    given = position_attention(count)
    print(0, flush=True)
    sys.stdin.readline()
    PAM[name](*given)


def listed(x: tuple[Tensor, Tensor]) -> Path:
    """A listing of photos and masks, which lie beside it."""
    folder = Path(tempfile.mkdtemp())
    lines = ["photo,mask"]
    for n, (photo, mask) in enumerate(zip(*x, strict=True)):
        pixels = (photo.movedim(0, -1) * 127.5 + 127.5).byte().numpy()
        Image.fromarray(pixels).save(folder / f"{n}.png")
        Image.fromarray((mask[0] * 255).byte().numpy()).save(folder / f"mask{n}.png")
        lines.append(f"{n}.png,mask{n}.png")
    listing = folder / "photos.csv"
    listing.write_text("\n".join(lines))
    return listing


def pages(count: int) -> Iterator[Row]:
    """A page of ten photos with their masks beside the passes that it needs."""
    system = next(s for s in SYSTEMS if s.name == "garnet")
    model = system.build()
    x = (torch.rand(10, 3, 128, 128) * 2 - 1, box(128, 128).repeat(10, 1, 1, 1))
    listing = listed(x)
    samples = ll.samples(listing, inputs=["picture:photo", "mask:mask"])

    def passes() -> Tensor:
        value = x[0].clone().requires_grad_()
        score = call(model, explained(x, value))["up5"][:, 1].sum()
        return torch.autograd.grad(score, value)[0]

    def page() -> Path:
        made = ll.explain(model, samples, "gradient", target=system.target, size=(128, 128))
        return made.save(listing.with_name("page.html"))

    times = rounds({"passes": passes, "page": page}, count)
    ratio = Ratio.of(times["page"], times["passes"])
    yield Row.most(
        "garnet: a page of 10 photos with masks over one forward and backward of them",
        ratio.median, PAGE, ratio,
    )  # fmt: skip


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], int(sys.argv[3]))
        return 0
    parts = ("speed", "memory", "pages")
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", choices=[[], *parts], help="default: all")
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    wanted = asked.parts or parts
    print(machine())
    found: list[Row] = []

    def shown(rows: Iterator[Row]) -> None:
        for row in rows:
            found.append(row)
            print(
                f"{'ok  ' if row.met else 'MISS'} {row.what}: {row.figure} ({row.goal})", flush=True
            )

    if "speed" in wanted:
        for system in SYSTEMS:
            shown(speed(system, asked.rounds))
    if "memory" in wanted:
        shown(spaces())
    if "pages" in wanted:
        shown(pages(asked.rounds))
    return 0 if all(row.met for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
