"""HiLo attention: some heads see small windows, the others the whole map pooled."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ....kernels.attention import attention
from ....kernels.windows import Window
from ....probe.errors import OptionError
from ....probe.mark import mark


class HeadGroup(nn.Module):
    """One group of heads as a module of its own, so that its map and heads are sites; no weights.

    Ports: q, k, v and heads are `b h n d`, the map is `b h n m`; keys of Hi-Fi are all tokens, of
    Lo-Fi the pooled cells in raster order.
    """

    def __init__(self, scale: float | None) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, q: Tensor, k: Tensor, v: Tensor, window: Window | None = None) -> Tensor:
        return attention(q, k, v, scale=self.scale, window=window)


class HiLo(nn.Module):
    """Attention on a map `b y x c`: Hi-Fi heads within windows, Lo-Fi heads over pooled cells.

    With s the side of a window, head width d and scale d^-0.5:
    Hi-Fi  softmax(scale q k') v among the s^2 tokens of a window, then h_proj
    Lo-Fi  softmax(scale q k') v, q of every token, k and v of the means of s x s cells, then l_proj
    The channels are Hi-Fi's, then Lo-Fi's; there is no projection over both.

    alpha        int(heads alpha) of the heads are Lo-Fi; all of them where s is 1, where cells are
                 tokens: ordinary attention
    pad_windows  zeros below and to the right up to a multiple of s, cut off behind, as detectors
                 take pictures of any size; else a map that s does not divide is refused
    Ports: `hifi` and `lofi` are the two parts of the result, `b y x c`; the maps of the two groups
    are those of the modules `hifi` and `lofi`. Source: arXiv 2205.13213, section 3.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        alpha: float,
        *,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        pad_windows: bool = False,
    ) -> None:
        super().__init__()
        self.ws, self.pad = window_size, pad_windows
        self.h_heads, self.l_heads = split_heads(num_heads, alpha, window_size)
        self.head_dim = head_width(dim, num_heads)
        high, low = self.h_heads * self.head_dim, self.l_heads * self.head_dim
        if low:
            if window_size > 1:
                self.sr = nn.AvgPool2d(window_size, window_size)
            self.l_q = nn.Linear(dim, low, bias=qkv_bias)
            self.l_kv = nn.Linear(dim, 2 * low, bias=qkv_bias)
            self.l_proj = nn.Linear(low, low)
            self.lofi = HeadGroup(qk_scale or None)
        if high:
            self.h_qkv = nn.Linear(dim, 3 * high, bias=qkv_bias)
            self.h_proj = nn.Linear(high, high)
            self.hifi = HeadGroup(qk_scale or None)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[1:3]
        if self.pad:
            x = F.pad(x, (0, 0, 0, -columns % self.ws, 0, -rows % self.ws))
        _check_map(x, self.ws, self.h_heads)
        parts = []
        if self.h_heads:
            parts.append(mark("hifi", self.high(x)))
        if self.l_heads:
            parts.append(mark("lofi", self.low(x)))
        out = torch.cat(parts, -1) if len(parts) > 1 else parts[0]
        return out[:, :rows, :columns] if self.pad else out

    def high(self, x: Tensor) -> Tensor:
        """Windows of s x s tokens, each for itself."""
        grid = (x.shape[1], x.shape[2])
        q, k, v = _parted(self.h_qkv(x), 3, self.h_heads)
        out = self.hifi(q, k, v, Window("block", (self.ws, self.ws), grid))
        return self.h_proj(out.transpose(1, 2).flatten(2).unflatten(1, grid))

    def low(self, x: Tensor) -> Tensor:
        """Every token over the pooled cells."""
        cells = x
        if self.ws > 1:
            cells = self.sr(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        (q,) = _parted(self.l_q(x), 1, self.l_heads)
        k, v = _parted(self.l_kv(cells), 2, self.l_heads)
        out = self.lofi(q, k, v)
        return self.l_proj(out.transpose(1, 2).flatten(2).unflatten(1, x.shape[1:3]))


def _parted(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """`b y x (p h d)` as p tensors `b h n d`."""
    return x.flatten(1, 2).unflatten(2, (parts, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def split_heads(num_heads: int, alpha: float, window_size: int) -> tuple[int, int]:
    """How many heads are Hi-Fi and how many Lo-Fi. Raises OptionError."""
    if not 0 <= alpha <= 1:
        raise OptionError(f"alpha={alpha} is no share of the heads: give 0 (all Hi-Fi) to 1")
    if window_size < 1:
        raise OptionError(
            f"local_ws={window_size} of a stage with attention is no side of a window: give 1 or "
            "more, or leave attention out of the stage by has_msa"
        )
    low = num_heads if window_size == 1 else int(num_heads * alpha)
    return num_heads - low, low


def head_width(dim: int, num_heads: int) -> int:
    """Channels of a head. Raises OptionError."""
    if num_heads < 1 or dim % num_heads:
        raise OptionError(
            f"a width of {dim} does not divide into {num_heads} heads: change num_heads"
        )
    return dim // num_heads


def _check_map(x: Tensor, ws: int, h_heads: int) -> None:
    """Raise OptionError where windows do not tile a map, or not even one cell lies in it."""
    rows, columns = x.shape[1:3]
    if h_heads and (rows % ws or columns % ws):
        raise OptionError(
            f"a map of {rows} x {columns} tokens does not divide into windows of {ws} x {ws}: "
            "give a picture with such sides, another local_ws, or pad_windows=True"
        )
    if min(rows, columns) < ws:
        raise OptionError(
            f"a map of {rows} x {columns} tokens is smaller than a cell of {ws} x {ws}: give a "
            "larger picture or a smaller local_ws"
        )
