"""BiFormer's mixers on `b y x c`: attention routed between regions, full attention, convolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ....kernels.attention import attention
from ....kernels.routed import routed_attention
from ....kernels.windows import Window
from ....probe.errors import ModelError, OptionError
from ....probe.mark import mark


class QKV(nn.Module):
    """One linear map to queries, keys and values."""

    def __init__(self, dim: int, keys: int) -> None:
        super().__init__()
        self.keys = keys
        self.qkv = nn.Linear(dim, 2 * keys + dim)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.qkv(x).split([self.keys, self.keys, x.shape[-1]], -1)


class Router(nn.Module):
    """The regions each region attends to: the largest of (q_r scale) k_r'."""

    def __init__(self, keys: int, topk: int, scale: float, differentiable: bool, learned: bool):
        super().__init__()
        self.topk, self.scale, self.differentiable = topk, scale, differentiable
        self.emb = nn.Linear(keys, keys) if learned else nn.Identity()

    def forward(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Region means `b R c` -> weights and indices of the chosen regions, `b R t`."""
        if not self.differentiable:
            q, k = q.detach(), k.detach()
        affinity = mark("affinity", self.emb(q) * self.scale @ self.emb(k).transpose(-1, -2))
        best, index = affinity.topk(self.topk, -1)
        return mark("routing", best.softmax(-1)), index


POOLS: dict[str, Callable[[int, int], nn.Module]] = {
    "identity": lambda size, ratio: nn.Identity(),
    "ada_avgpool": lambda size, ratio: nn.AdaptiveAvgPool2d(size),
    "ada_maxpool": lambda size, ratio: nn.AdaptiveMaxPool2d(size),
    "avgpool": lambda size, ratio: nn.AvgPool2d(ratio) if ratio > 1 else nn.Identity(),
    "maxpool": lambda size, ratio: nn.MaxPool2d(ratio) if ratio > 1 else nn.Identity(),
}


class RoutedAttention(nn.Module):
    """Bi-level routing attention, with a depthwise convolution of v beside it.

    Ports: `affinity` of regions, `routing` weights, the op's `index`, and `lepe`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        keys: int,
        *,
        n_win: int,
        topk: int,
        side_dwconv: int,
        scale: float | None = None,
        pool: nn.Module | None = None,
        output: bool = True,
        auto_pad: bool = False,
        soft: bool = False,
        differentiable: bool = False,
        learned: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads, self.n_win, self.scale = num_heads, n_win, scale or keys**-0.5
        self.auto_pad, self.soft = auto_pad, soft
        self.lepe = depthwise(dim, side_dwconv)
        self.router = Router(keys, topk, self.scale, differentiable, learned)
        self.qkv = QKV(dim, keys)
        self.wo = nn.Linear(dim, dim) if output else nn.Identity()
        self.kv_down = nn.Identity() if pool is None else pool

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        x = self._padded(x)
        grid = (x.shape[1], x.shape[2])
        region = (grid[0] // self.n_win, grid[1] // self.n_win)
        q, k, v = self.qkv(x)
        weight, index = self.router(region_means(q, region), region_means(k, region))
        out = routed_attention(
            self._heads(q.flatten(1, 2)),
            self._heads(self._pooled(k, region)),
            self._heads(self._pooled(v, region)),
            index,
            weight=weight if self.soft else None,
            scale=self.scale,
            window=Window("block", region, grid),
        )
        out = out.transpose(1, 2).flatten(2).unflatten(1, grid)
        out = self.wo(plus_side(out, self.lepe, v))
        return out[:, :height, :width]

    def _padded(self, x: Tensor) -> Tensor:
        rest = [-side % self.n_win for side in x.shape[1:3]]
        if any(rest) and not self.auto_pad:
            raise ModelError(
                f"a map of {x.shape[1]} x {x.shape[2]} does not divide into {self.n_win} x "
                f"{self.n_win} regions: give another picture size, or build with auto_pad=True"
            )
        return F.pad(x, (0, 0, 0, rest[1], 0, rest[0])) if any(rest) else x

    def _pooled(self, x: Tensor, region: tuple[int, int]) -> Tensor:
        """Tokens `b m c`: in raster order, or pooled in each region and region by region."""
        if isinstance(self.kv_down, nn.Identity):
            return x.flatten(1, 2)
        b, n = len(x), self.n_win
        tiles = x.unflatten(2, (n, region[1])).unflatten(1, (n, region[0]))
        tiles = tiles.permute(0, 1, 3, 5, 2, 4).flatten(0, 2)
        return self.kv_down(tiles).flatten(2).transpose(1, 2).reshape(b, -1, x.shape[-1])

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class FullAttention(nn.Module):
    """Attention over all places; with a side convolution of its input, or without."""

    def __init__(self, dim: int, num_heads: int, side_dwconv: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)
        self.lepe = depthwise(dim, side_dwconv)

    def forward(self, x: Tensor) -> Tensor:
        grid = (x.shape[1], x.shape[2])
        qkv = self.qkv(x).flatten(1, 2).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        out = attention(*qkv.unbind(0)).transpose(1, 2).flatten(2).unflatten(1, grid)
        return self.proj(plus_side(out, self.lepe, x))


class ConvStandIn(nn.Sequential):
    """What takes the place of attention where topk is 0: 1 x 1, depthwise 5 x 5, 1 x 1."""

    def __init__(self, dim: int) -> None:
        middle = nn.Conv2d(dim, dim, 5, padding=2, groups=dim)
        super().__init__(
            nn.Identity(), nn.Conv2d(dim, dim, 1), middle, nn.Conv2d(dim, dim, 1), nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def mixer(
    dim: int,
    topk: int,
    *,
    head_dim: int,
    num_heads: int,
    side_dwconv: int,
    n_win: int,
    keys: int | None = None,
    **routing: Any,
) -> nn.Module:
    """The mixer that `topk` stands for: routed, 0 convolutions, -1 full, -2 full with a side."""
    if topk < -2:
        raise OptionError(
            f"topk={topk} stands for no mixer: write -2, -1, 0 or a number of regions"
        )
    if topk == 0:
        return ConvStandIn(dim)
    if topk < 0:
        check_heads(dim, num_heads, dim)
        return FullAttention(dim, num_heads, side_dwconv if topk == -2 else 0)
    keys = keys or dim
    heads = keys // head_dim
    check_heads(dim, heads, keys)
    if topk > n_win**2:
        raise OptionError(
            f"topk={topk} regions were asked for of {n_win} x {n_win}: give at most {n_win**2}"
        )
    return RoutedAttention(
        dim, heads, keys, n_win=n_win, topk=topk, side_dwconv=side_dwconv, **routing
    )


def check_heads(dim: int, heads: int, keys: int) -> None:
    """Raise OptionError where widths do not divide into heads."""
    if heads < 1 or dim % heads or keys % heads:
        raise OptionError(
            f"widths of {keys} for queries and {dim} for values do not divide into {heads} heads: "
            "change head_dim, num_heads or the widths"
        )


def depthwise(dim: int, side: int) -> nn.Module:
    """A depthwise convolution, or nothing."""
    return nn.Conv2d(dim, dim, side, padding=side // 2, groups=dim) if side else nn.Identity()


def plus_side(out: Tensor, lepe: nn.Module, x: Tensor) -> Tensor:
    """out + a side convolution of x, both `b y x c`, where there is one."""
    if isinstance(lepe, nn.Identity):
        return out
    return out + mark("lepe", lepe(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


def region_means(x: Tensor, region: tuple[int, int]) -> Tensor:
    """The mean of each region of `b y x c`, `b R c`."""
    return F.avg_pool2d(x.permute(0, 3, 1, 2), region).flatten(2).transpose(1, 2)
