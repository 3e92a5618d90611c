"""S2AFormer (arXiv 2505.22195): strip self-attention, rebuilt from its description.

No code and no weights are published. What the abstract and reviews tell is kept: four stages, the
four steps of a block, queries and keys of few channels, keys and values at fewer places. Kernels,
norms, widths and depths are this zoo's choice, and so are the parameters' names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from torch import Tensor, nn

from ...kernels.attention import attention
from ...probe.errors import ModelError, OptionError
from ...probe.mark import mark
from ..card import CENTRE, Card, Figure
from ..layers import ChannelNorm, Checkpointing, Mlp, NormAct, drop_rates, dropped, init_weights
from ..registry import Variant, register

NORMS = ("bn", "ln")


class StripAttention(nn.Module):
    """softmax(q k' / sqrt(qk_dim)) v with qk_dim channels of q and k a head; `b c y x`.

    Keys and values are `reduction` times fewer along each side. With one channel a query of a
    head is a strip of n numbers, its scores have rank 1, and they cost h n^2 / reduction^2.
    Ports: `query` and `key` as pictures, `b (h d) y x`.
    """

    def __init__(self, dim: int, num_heads: int, qk_dim: int, reduction: int, eps: float) -> None:
        super().__init__()
        self.num_heads, self.reduction = num_heads, reduction
        self.q = nn.Linear(dim, num_heads * qk_dim)
        self.reduce: nn.Module = nn.Identity()
        if reduction > 1:
            conv = nn.Conv2d(dim, dim, reduction, reduction, groups=dim)
            self.reduce = nn.Sequential(conv, nn.BatchNorm2d(dim, eps))
        self.k = nn.Linear(dim, num_heads * qk_dim)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if height % self.reduction or width % self.reduction:
            raise ModelError(
                f"strip attention cannot reduce its map of {height} x {width} {self.reduction} "
                "times: give a picture whose sides are multiples of the stage's stride (4, 8, 16, "
                "32) times its sr_ratio"
            )
        reduced = self.reduce(x)
        q, k = mark("query", _mapped(self.q, x)), mark("key", _mapped(self.k, reduced))
        heads = [y.flatten(2).unflatten(1, (self.num_heads, -1)).mT for y in (q, k)]
        v = self.v(reduced.flatten(2).mT).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        out = attention(*heads, v).transpose(1, 2).flatten(2)
        return self.proj(out).mT.unflatten(2, (height, width))


def _mapped(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer over the channels of `b c y x`."""
    return layer(x.flatten(2).mT).mT.unflatten(2, x.shape[-2:])


class LocalInteraction(nn.Sequential):
    """Depthwise 3 x 3, batch norm, GELU, 1 x 1: neighbours and channels mix locally."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__(
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim),
            NormAct(dim, eps, "gelu"),
            nn.Conv2d(dim, dim, 1),
        )


class ChannelMlp(Mlp):
    """The MLP over the channels of `b c y x`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class HybridPerception(nn.Module):
    """x + DWConv(x), then x + SSA(LN(x)), x + LIM(LN(x)) and x + MLP(LN(x)); `b c y x`.

    What each step adds is the output of `dwconv`, `ssa`, `lim` and `mlp`.
    """

    def __init__(
        self, dim: int, ssa: StripAttention, hidden: int, *, drop: float, eps: float, bn_eps: float
    ) -> None:
        super().__init__()
        self.drop = drop
        self.dwconv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.norm1 = ChannelNorm(dim, eps)
        self.ssa = ssa
        self.norm2 = ChannelNorm(dim, eps)
        self.lim = LocalInteraction(dim, bn_eps)
        self.norm3 = ChannelNorm(dim, eps)
        self.mlp = ChannelMlp(dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dwconv(x) + x
        x = dropped(self.ssa(self.norm1(x)), self.drop, self.training) + x
        x = dropped(self.lim(self.norm2(x)), self.drop, self.training) + x
        return dropped(self.mlp(self.norm3(x)), self.drop, self.training) + x


class S2AFormer(Checkpointing, nn.Module):
    """Stages of hybrid perception blocks at strides 4, 8, 16, 32; the mean of the last map."""

    def __init__(
        self,
        stages: Sequence[Sequence[HybridPerception]],
        dims: Sequence[int],
        *,
        in_channels: int,
        num_classes: int,
        head_norm: str,
        eps: float,
        bn_eps: float,
    ) -> None:
        super().__init__()
        half = dims[0] // 2
        self.stem = nn.Sequential(
            *_conv_norm(in_channels, half, 2, "gelu", bn_eps),
            *_conv_norm(half, half, 1, "gelu", bn_eps),
            *_conv_norm(half, dims[0], 1, "", bn_eps),
        )
        steps = pairwise((dims[0], *dims))
        self.patch_embeds = nn.ModuleList(
            nn.Sequential(*_conv_norm(a, b, 2, "", bn_eps)) for a, b in steps
        )
        self.stages = nn.ModuleList(nn.Sequential(*blocks) for blocks in stages)
        last = dims[-1]
        self.norm = nn.BatchNorm2d(last, bn_eps) if head_norm == "bn" else ChannelNorm(last, eps)
        self.head = nn.Linear(last, num_classes)
        init_weights(self, nn.Linear)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                _draw_by_fan_out(part)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for embed, stage in zip(self.patch_embeds, self.stages, strict=True):
            x = embed(x)
            for block in stage:  # type: ignore[attr-defined]
                x = self.through(block, x)
        return self.head(self.norm(x).mean((-2, -1)))


def _conv_norm(inputs: int, out: int, stride: int, act: str, eps: float) -> Iterator[nn.Module]:
    yield nn.Conv2d(inputs, out, 3, stride, 1, bias=False)
    yield NormAct(out, eps, act)


def _draw_by_fan_out(conv: nn.Conv2d) -> None:
    """Normal, of variance 2 over the outputs that one input reaches; biases are 0."""
    reached = math.prod(conv.kernel_size) * conv.out_channels // conv.groups
    nn.init.normal_(conv.weight, std=(2 / reached) ** 0.5)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def s2aformer(
    *,
    embed_dims: Sequence[int] = (32, 64, 160, 256),
    depths: Sequence[int] = (2, 2, 6, 2),
    num_heads: Sequence[int] = (1, 2, 5, 8),
    qk_dim: int | Sequence[int] = 1,
    sr_ratios: Sequence[int] = (8, 4, 2, 1),
    mlp_ratio: float | Sequence[float] = 4.0,
    head_norm: str = "bn",
    in_channels: int = 3,
    num_classes: int = 1000,
    norm_eps: float = 1e-6,
    bn_eps: float = 1e-5,
    drop_path: float = 0.0,
) -> S2AFormer:
    """An S2AFormer.

    qk_dim      channels of queries and keys in each head, one number or one a stage; v keeps all
    sr_ratios   how many times fewer keys and values are along each side, one a stage
    head_norm   of the last map: "bn" or "ln"
    drop_path   share of dropped branches in the last block, growing from 0 in the first
    """
    count = len(depths)
    keys = [qk_dim] * count if isinstance(qk_dim, int) else list(qk_dim)
    ratios = [mlp_ratio] * count if isinstance(mlp_ratio, int | float) else list(mlp_ratio)
    check_stages(
        count, embed_dims=embed_dims, num_heads=num_heads, qk_dim=keys, sr_ratios=sr_ratios,
        mlp_ratio=ratios,
    )  # fmt: skip
    check_widths(embed_dims, num_heads, keys, sr_ratios, head_norm)
    rates = drop_rates(drop_path, depths)

    def block(s: int) -> HybridPerception:
        dim = embed_dims[s]
        ssa = StripAttention(dim, num_heads[s], keys[s], sr_ratios[s], bn_eps)
        hidden = int(dim * ratios[s])
        return HybridPerception(dim, ssa, hidden, drop=next(rates), eps=norm_eps, bn_eps=bn_eps)

    return S2AFormer(
        [[block(s) for _ in range(depth)] for s, depth in enumerate(depths)],
        embed_dims,
        in_channels=in_channels,
        num_classes=num_classes,
        head_norm=head_norm,
        eps=norm_eps,
        bn_eps=bn_eps,
    )


def check_stages(count: int, **lists: Sequence[float]) -> None:
    """Raise OptionError unless each list has one entry for each of the stages."""
    for name, values in lists.items():
        if len(values) != count:
            raise OptionError(
                f"{name}={list(values)} has {len(values)} entries for {count} stages of depths: "
                "give one a stage"
            )


def check_widths(
    dims: Sequence[int],
    heads: Sequence[int],
    keys: Sequence[int],
    reductions: Sequence[int],
    head_norm: str,
) -> None:
    """Raise OptionError for widths that do not divide, empty queries or an unknown norm."""
    bad = [f"{d} by {h}" for d, h in zip(dims, heads, strict=True) if h < 1 or d % h]
    if bad:
        raise OptionError(f"a width does not divide into its heads ({bad[0]}): change num_heads")
    if dims[0] % 2:
        raise OptionError(f"embed_dims begin with {dims[0]}, which the stem halves: make it even")
    if min(*keys, *reductions) < 1:
        raise OptionError(
            f"qk_dim={list(keys)} and sr_ratios={list(reductions)} must be at least 1 each: "
            "1 is a strip, and 1 reduces nothing"
        )
    if head_norm not in NORMS:
        raise OptionError(f"there is no head_norm={head_norm!r}: write 'bn' or 'ln'")


SMALLER = {"num_heads": (1, 2, 4, 8)}
VARIANTS = (
    Variant(
        "s2aformer_mini",
        build={"embed_dims": (32, 64, 128, 160), "depths": (2, 2, 4, 2), **SMALLER},
    ),
    Variant("s2aformer_t", build={"embed_dims": (32, 64, 160, 256)}),
    Variant("s2aformer_xs", build={"embed_dims": (48, 96, 192, 320), **SMALLER}),
    Variant("s2aformer_s", build={"embed_dims": (64, 128, 256, 448), **SMALLER}),
    Variant("s2aformer_m", build={"embed_dims": (64, 128, 320, 512)}),
)
register(
    s2aformer,
    Card(
        "S2AFormer",
        "S2AFormer: strip self-attention for efficient vision transformer, arXiv 2505.22195",
        hidden=("stages.*.*",),
        heads=("stages.*.*.ssa",),
        prefix=0,
        classifier="head",
        interpolation="bicubic",
        shows=(
            Figure(
                "Queries",
                "channels",
                sites=("**:query",),
                about="One number a token and head.",
            ),
            Figure(
                "Keys",
                "channels",
                sites=("**:key",),
                about="One number a reduced token and head; a score is the product of a query "
                "and a key.",
            ),
            CENTRE,
            Figure(
                "Rank of the scores",
                "heads",
                methods=("logit_rank",),
                about="At most the channels of a query, which are 1.",
            ),
        ),
        about="a reconstruction from the paper's description: no code or weights are published, "
        "sizes and details are this zoo's",
    ),
    VARIANTS,
)
