"""HorNet: recursive gated convolutions of growing order (arXiv 2207.14284), the authors' names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.overrides import has_torch_function_unary

from ...kernels.gated_convolution import gated_convolution, global_filter
from ...probe.errors import OptionError
from ...probe.mark import mark
from ..card import Card, Source, sides
from ..layers import ChannelNorm, Checkpointing, drop_rates, dropped, init_weights
from ..registry import Variant, register

Spatial = str | int | tuple[int, int] | None


class GlobalLocalFilter(nn.Module):
    """Half of the channels through a 3 x 3, half through a filter in frequency, interleaved.

    Ports: `local` and `global`, the two halves `b c y x` before the last norm.
    """

    def __init__(self, dim: int, size: tuple[int, int], eps: float) -> None:
        super().__init__()
        if dim % 2:
            raise OptionError(
                f"a global-local filter of {dim} channels has no halves: make it even"
            )
        half = dim // 2
        self.complex_weight = nn.Parameter(torch.empty(half, *size, 2))
        self.dw = nn.Conv2d(half, half, 3, padding=1, bias=False, groups=half)
        self.pre_norm = ChannelNorm(dim, eps)
        self.post_norm = ChannelNorm(dim, eps)
        nn.init.trunc_normal_(self.complex_weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        near, far = self.pre_norm(x).chunk(2, 1)
        near = mark("local", self.dw(near))
        far = mark("global", global_filter(far, self.complex_weight))
        return self.post_norm(torch.stack([near, far], 2).flatten(1, 2))


class RecursiveGate(nn.Module):
    """g^n convolution: p_0 = first * g_0, p_i = pws(p_{i-1}) * g_i, then a projection.

    Ports: `p0`, `p1`, ... are the products of each order and, under a probe, `dw0`, `dw1`, ...
    their gates, `b c y x`; `map` of each product is its own mixing map, channels as heads.
    """

    def __init__(
        self, dim: int, order: int, scale: float, spatial: tuple[int, int] | int, eps: float
    ) -> None:
        super().__init__()
        if order < 1 or dim % (1 << (order - 1)):
            raise OptionError(
                f"a width of {dim} cannot be halved {order - 1} times for order {order}: "
                "give a base_dim that is a multiple of 2^(order - 1)"
            )
        self.dims = [dim >> n for n in reversed(range(order))]
        self.scale, total = scale, sum(self.dims)
        self.proj_in = nn.Conv2d(dim, 2 * dim, 1)
        self.dwconv: nn.Module
        if isinstance(spatial, int):
            self.dwconv = nn.Conv2d(total, total, spatial, padding=spatial // 2, groups=total)
        else:
            self.dwconv = GlobalLocalFilter(total, spatial, eps)
        self.proj_out = nn.Conv2d(dim, dim, 1)
        self.pws = nn.ModuleList(
            nn.Conv2d(self.dims[n], self.dims[n + 1], 1) for n in range(order - 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        product, context = self.proj_in(x).split([self.dims[0], sum(self.dims)], 1)
        gates = self.gates(context)
        contexts = context.split(self.dims, 1)
        for n, part in enumerate(contexts):
            product = self.pws[n - 1](product) if n else product
            gate = None if gates is None else mark(f"dw{n}", gates[n])
            product = mark(f"p{n}", self.multiply(n, product, part, gate))
        return self.proj_out(product)

    def gates(self, context: Tensor) -> Sequence[Tensor] | None:
        """All gates as values; None where the op may form each beside its product."""
        plain = isinstance(self.dwconv, nn.Conv2d) and not self.dwconv._forward_hooks
        if plain and not has_torch_function_unary(context):
            return None
        return (self.dwconv(context) * self.scale).split(self.dims, 1)

    def multiply(self, n: int, product: Tensor, context: Tensor, gate: Tensor | None) -> Tensor:
        """The product of order n, through the op where its gates come from a convolution."""
        if not isinstance(self.dwconv, nn.Conv2d):
            return product if gate is None else product * gate
        start = sum(self.dims[:n])
        channels = slice(start, start + self.dims[n])
        weight, bias = self.dwconv.weight[channels], self.dwconv.bias
        bias = None if bias is None else bias[channels]
        return gated_convolution(product, context, weight, bias, gate, scale=self.scale)


class Block(nn.Module):
    """x + gamma1 gnconv(norm1(x)), then x + gamma2 MLP(norm2(x)); `b c y x`."""

    def __init__(
        self, gnconv: RecursiveGate, dim: int, hidden: int, *, gamma: float, drop: float, eps: float
    ) -> None:
        super().__init__()
        self.drop, start = drop, torch.full((dim,), float(gamma))
        self.gamma1 = nn.Parameter(start) if gamma > 0 else None
        self.gamma2 = nn.Parameter(start.clone()) if gamma > 0 else None
        self.norm1 = ChannelNorm(dim, eps)
        self.gnconv = gnconv
        self.norm2 = nn.LayerNorm(dim, eps)
        self.pwconv1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.gnconv(self.norm1(x))
        mixed = mixed if self.gamma1 is None else self.gamma1[:, None, None] * mixed
        x = x + dropped(mixed, self.drop, self.training)
        y = self.pwconv2(self.act(self.pwconv1(self.norm2(x.permute(0, 2, 3, 1)))))
        y = y if self.gamma2 is None else self.gamma2 * y
        return x + dropped(y.permute(0, 3, 1, 2), self.drop, self.training)


class HorNet(Checkpointing, nn.Module):
    """Stages of recursive gated convolutions; channels double where the map halves."""

    def __init__(
        self,
        stages: Sequence[Sequence[Block]],
        dims: Sequence[int],
        in_channels: int,
        num_classes: int,
        eps: float,
        head_scale: float,
    ) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(in_channels, dims[0], 4, 4), ChannelNorm(dims[0], eps))
        steps = [
            nn.Sequential(ChannelNorm(a, eps), nn.Conv2d(a, b, 2, 2)) for a, b in pairwise(dims)
        ]
        self.downsample_layers = nn.ModuleList([stem, *steps])
        self.stages = nn.ModuleList(nn.Sequential(*blocks) for blocks in stages)
        self.norm = nn.LayerNorm(dims[-1], eps)
        self.head = nn.Linear(dims[-1], num_classes)
        init_weights(self, nn.Conv2d, nn.Linear)
        with torch.no_grad():
            self.head.weight.mul_(head_scale)

    def forward(self, x: Tensor) -> Tensor:
        for down, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = down(x)
            for block in stage:  # type: ignore[attr-defined]
                x = self.through(block, x)
        return self.head(self.norm(x.mean((-2, -1))))


def hornet(
    *,
    depths: Sequence[int] = (2, 3, 18, 2),
    base_dim: int = 64,
    dims: Sequence[int] | None = None,
    orders: Sequence[int] = (2, 3, 4, 5),
    scale: float | Sequence[float] = 1 / 3,
    spatial: Sequence[Spatial] | str = "dw7",
    mlp_ratio: float = 4.0,
    layer_scale_init: float = 1e-6,
    head_init_scale: float = 1.0,
    drop_path: float = 0.0,
    img_size: int | tuple[int, int] = 224,
    in_channels: int = 3,
    num_classes: int = 1000,
    norm_eps: float = 1e-6,
) -> HorNet:
    """A HorNet.

    dims      width of each stage, instead of base_dim doubled from stage to stage
    orders    order of the recursive gate in each stage; scale: of its gates, one or one a stage
    spatial   one a stage, or one for all: "dw7" (depthwise 7 x 7), "gf" (global-local filter
              with the half spectrum of img_size) or "gf 14x8" (of that size); a filter is
              resized where the input's spectrum has another size
    layer_scale_init   start of gamma1 and gamma2; 0 leaves both out
    drop_path          share of dropped branches in the last block, growing from 0 in the first
    """
    count, size = len(depths), sides(img_size)
    widths = [base_dim << n for n in range(count)] if dims is None else list(dims)
    scales = [float(scale)] * count if isinstance(scale, int | float) else list(scale)
    words = [spatial] * count if isinstance(spatial, str) else list(spatial)
    _one_a_stage(count, dims=widths, orders=orders, scale=scales, spatial=words)
    rates = drop_rates(drop_path, depths)

    def block(s: int) -> Block:
        place = _place(words[s], size[0] >> (s + 2), size[1] >> (s + 2))
        gate = RecursiveGate(widths[s], orders[s], scales[s], place, norm_eps)
        hidden, drop = int(widths[s] * mlp_ratio), next(rates)
        return Block(gate, widths[s], hidden, gamma=layer_scale_init, drop=drop, eps=norm_eps)

    stages = [[block(s) for _ in range(depth)] for s, depth in enumerate(depths)]
    return HorNet(stages, widths, in_channels, num_classes, norm_eps, head_init_scale)


def _one_a_stage(count: int, **lists: Sequence[object]) -> None:
    """Raise OptionError unless each list has one entry a stage."""
    for name, values in lists.items():
        if len(values) != count:
            raise OptionError(f"{len(values)} {name} for {count} stages: give one a stage")


def _place(word: Spatial, rows: int, columns: int) -> int | tuple[int, int]:
    """The side of a depthwise kernel, or the size of a global-local filter."""
    if word is None:
        return 7
    if isinstance(word, int | tuple | list):
        return word if isinstance(word, int) else (int(word[0]), int(word[1]))
    match = re.fullmatch(r"(?:dw(\d*)|gf(?:\s*(\d+)\s*x\s*(\d+))?)(?:\s*\(.*\))?", word.strip())
    if match is None or int(match[1] or 1) % 2 == 0:
        raise OptionError(
            f"a stage of a HorNet has no spatial part {word!r}: write 'dw7' (or another odd side), "
            "'gf' or 'gf 14x8'"
        )
    if word.strip().startswith("dw"):
        return int(match[1] or 7)
    return (int(match[2]), int(match[3])) if match[2] else (rows, columns // 2 + 1)


LARGE = "ImageNet-22K; by its parameter count the published file has 10450 classes"
FILTERS: dict[int, tuple[Spatial, ...]] = {  # by the side of the input
    224: ("dw7", "dw7", "gf 14x8", "gf 7x4"),
    384: ("dw7", "dw7", "gf 24x13", "gf 12x7"),
}


def variant(
    name: str, *, base_dim: int, gf: bool = False, size: int = 224, file: str = "", top1: str = ""
) -> Variant:
    """A row; the fragment of the file's url gives it a name of its own on this machine.

    gf      filters in frequency in the last two stages
    top1    of the authors' README; without one trained on ImageNet-22K
    """
    large = base_dim == 192
    url = f"https://cloud.tsinghua.edu.cn/f/{file}/?dl=1#/{name}.pth"
    source = Source(url, key="model", card={"labels": ""} if large else {})
    return Variant(
        name,
        build={"base_dim": base_dim, "spatial": FILTERS[size] if gf else "dw7"},
        size=size,
        resize=max(256, size),
        weights={"imagenet22k" if large else "imagenet": source} if file else {},
        about=f"ImageNet top-1 {top1} (README)" if top1 else LARGE,
    )


VARIANTS = (
    variant("hornet_tiny_7x7", base_dim=64, file="bac9690c72944d19aca1", top1="82.8"),
    variant("hornet_tiny_gf", base_dim=64, gf=True, file="460e759c82324ea6bfa3", top1="83.0"),
    variant("hornet_small_7x7", base_dim=96, file="8ef64277da0e469ea857", top1="83.8"),
    variant("hornet_small_gf", base_dim=96, gf=True, file="959603ca287d4c09ad49", top1="84.0"),
    variant("hornet_base_7x7", base_dim=128, file="13a748487711492e9704", top1="84.2"),
    variant("hornet_base_gf", base_dim=128, gf=True, file="c212d1d8a3914b47a5c1", top1="84.3"),
    variant("hornet_base_gf_img384", base_dim=128, gf=True, size=384),
    variant("hornet_large_7x7", base_dim=192, file="c2fc23caae084a3aa73d"),
    variant("hornet_large_gf", base_dim=192, gf=True, file="8600206ebdfa485f98d0"),
    variant("hornet_large_gf_img384", base_dim=192, gf=True, size=384, file="eec48d5eca5a48d98fd2"),
)
register(
    hornet,
    Card(
        "HorNet",
        "HorNet: efficient high-order spatial interactions with recursive gated convolutions, "
        "arXiv 2207.14284",
        hidden=("stages.*.*",),
        classifier="head",
        interpolation="bicubic",
    ),
    VARIANTS,
)
