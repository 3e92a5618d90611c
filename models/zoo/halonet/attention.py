"""Halo attention (arXiv 2103.12731): tiles of queries see their tile and a halo around it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ....kernels.attention import attention
from ....kernels.windows import Window
from ....probe.errors import OptionError
from ...layers import divisible


class RelativePosition(nn.Module):
    """Logits of a query for each row and column of its window, from its unscaled self."""

    def __init__(self, window: int, dim_head: int, scale: float) -> None:
        super().__init__()
        self.window = window
        self.height_rel = nn.Parameter(torch.empty(2 * window - 1, dim_head))
        self.width_rel = nn.Parameter(torch.empty(2 * window - 1, dim_head))
        for table in (self.height_rel, self.width_rel):
            nn.init.trunc_normal_(table, std=scale)

    def forward(self, q: Tensor, window: Window) -> tuple[Tensor, Tensor]:
        """q `b h n d` -> `b h n window` for rows and for columns."""
        local = window.place()[1].to(q.device)
        width = window.query_size[1]
        steps = torch.arange(self.window, device=q.device) + self.window - 1
        logits = []
        for table, at in ((self.height_rel, local // width), (self.width_rel, local % width)):
            index = (steps - at[:, None]).expand(*q.shape[:2], -1, -1)
            logits.append((q @ table.T).gather(-1, index))
        return logits[0], logits[1]


class HaloAttention(nn.Module):
    """Queries in tiles of a block, keys in the block and a halo of zeros or neighbours around it.

    Ports of the op: `rows` and `columns`, the relative logits. What the map's rows lack to 1 went
    to the zeros outside the picture.
    """

    def __init__(
        self,
        dim: int,
        dim_out: int | None = None,
        *,
        num_heads: int = 8,
        dim_head: int | None = None,
        block_size: int = 8,
        halo_size: int = 3,
        stride: int = 1,
        qk_ratio: float = 1.0,
        avg_down: bool = False,
        qkv_bias: bool = False,
        scale_pos_embed: bool = False,
    ) -> None:
        super().__init__()
        out = dim_out or dim
        if out % num_heads or stride not in (1, 2):
            raise OptionError(
                f"halo attention of {out} channels, {num_heads} heads and stride {stride}: give a "
                "width that divides by the heads, and stride 1 or 2"
            )
        self.num_heads, self.block_size, self.halo_size = num_heads, block_size, halo_size
        self.dim_qk = dim_head or divisible(out * qk_ratio) // num_heads
        self.scale, self.scale_pos_embed = self.dim_qk**-0.5, scale_pos_embed
        late = stride == 2 and (avg_down or block_size % 2 == 1)
        self.stride = 1 if late else stride
        keys = self.dim_qk * num_heads
        self.q = nn.Conv2d(dim, keys, 1, self.stride, bias=qkv_bias)
        self.kv = nn.Conv2d(dim, keys + out, 1, bias=qkv_bias)
        self.pos_embed = RelativePosition(block_size + 2 * halo_size, self.dim_qk, self.scale)
        self.pool = nn.AvgPool2d(2, 2) if late else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal by fan-in; biases 0."""
        for part in (self.q, self.kv):
            nn.init.trunc_normal_(part.weight, std=part.in_channels**-0.5)
            if part.bias is not None:
                nn.init.zeros_(part.bias)

    def forward(self, x: Tensor) -> Tensor:
        size = (self.block_size, self.block_size)
        grid = (x.shape[2], x.shape[3])
        window = Window("halo", size, grid, self.halo_size, self.stride)
        q = self._tokens(self.q(x))
        kv = self._tokens(self.kv(x))
        k, v = kv.split([self.dim_qk, kv.shape[-1] - self.dim_qk], -1)
        rows, columns = self.pos_embed(q, window)
        if self.scale_pos_embed:
            rows, columns = rows * self.scale, columns * self.scale
        out = attention(q, k, v, rows=rows, columns=columns, scale=self.scale, window=window)
        return self.pool(out.transpose(2, 3).flatten(1, 2).unflatten(2, window.query_grid))

    def _tokens(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (self.num_heads, -1)).flatten(3).transpose(2, 3)
